"""The page of saved interpretations where some are windows of a recording."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from pages import decode, read_data
from PIL import Image

import audiointerp as ai
from audiointerp.model import build_model
from audiointerp.plots import Picture
from audiointerp.report import write_report
from audiointerp.runs.files import interpret_files
from audiointerp.runs.windows import Windowing

RATE = 8000
METHODS = ["saliency", "gradcam"]
CLASSES = ("</script>dog", "cat", "rain")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a folder with a recording, part of it silent, and a clip."""
    root = tmp_path_factory.mktemp("page")
    front_end = ai.LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=256, hop_length=64, n_mels=32, f_min=100, f_max=4000
    )
    kind = {"name": "Cnn14", "num_classes": 3, "num_bins": 32, "width": 1 / 16}
    model = build_model(kind, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.classifier.weight.normal_(std=4, generator=generator)
    weights = root / "tiny.safetensors"
    ai.save_weights(weights, model, front_end, classes=CLASSES, duration=1.0)
    noise = 0.3 * torch.randn(12 * RATE, generator=generator).numpy()
    noise *= np.repeat(np.linspace(0.05, 1, 12), RATE)
    noise[2 * RATE : 4 * RATE] = 0
    files = [root / "night.wav", root / "clip.wav"]
    for file, sound in zip(files, (noise, noise[-RATE:]), strict=True):
        soundfile.write(file, sound, RATE, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("result.plot_masks", "result.plot_interpretation", "recording.plot_recording"):
            patch.setattr(f"audiointerp.runs.{name}", lambda *_, **__: Picture(figsize=(1, 1)))
        interpret_files(
            files,
            [weights],
            root / "out",
            methods=METHODS,
            masks=["topK_30"],
            windowing=Windowing(hop=1.0, windows=4),
            progress=False,
        )
    return root / "out"


@pytest.fixture(scope="module")
def page(results):
    return write_report(results)


@pytest.fixture(scope="module")
def data(page):
    return read_data(page)


def test_windows_of_a_recording_are_grouped_in_the_order_of_time(data, results):
    clip, *windows = data["scenes"]
    assert clip["clip"] == "clip"
    assert "recording" not in clip
    starts = [scene["start"] for scene in windows]
    assert len(starts) == 4
    assert starts == sorted(starts)
    for scene in windows:
        assert scene["recording"] == 0
        assert scene["why"] == "night"
        assert scene["clip"] == f"night, {scene['start']:g}–{scene['end']:g} s"
        assert list(scene["methods"]) == [name for name in ai.METHODS if name in METHODS]
        labels = [float(text) for text, _ in scene["times"]]
        assert scene["start"] <= labels[0] < labels[-1] <= scene["end"]
        place = (labels[-1] - scene["start"]) / scene["step"]
        assert scene["times"][-1][1] == pytest.approx((place + 0.5) / scene["frames"])


def test_the_timeline_is_what_was_saved(data, results):
    (recording,) = data["recordings"]
    folder = results / "tiny" / "saliency" / "night"
    table = pd.read_csv(folder / "timeline.csv", keep_default_na=False)
    assert recording["name"] == "night"
    assert recording["about"] == "12 s, 12 windows of 1 s every 1 s, 4 interpreted"
    assert recording["windows"] == table[["start", "end"]].to_numpy().tolist()
    assert recording["silent"] == [2, 3]
    assert sorted(curve["name"] for curve in recording["curves"]) == sorted(CLASSES)
    for curve in recording["curves"]:
        assert curve["values"] == pytest.approx(table[f"p({curve['name']})"].tolist(), abs=1e-4)
    peaks = [max(curve["values"]) for curve in recording["curves"]]
    assert peaks == sorted(peaks, reverse=True)
    overview = Image.open(io.BytesIO(decode(recording["overview"], "image/png")))
    assert overview.size == np.load(folder / "overview.npy").shape[::-1]


def test_one_window_or_recording_alone_makes_a_page(results, tmp_path):
    folder = results / "tiny" / "saliency" / "night"
    alone = read_data(write_report(folder, out=tmp_path / "a.html"))
    assert len(alone["scenes"]) == 4
    assert alone["recordings"][0]["name"] == "night"
    window = next(path for path in folder.iterdir() if path.is_dir())
    alone = read_data(write_report(window, out=tmp_path / "b.html"))
    assert len(alone["scenes"]) == len(alone["recordings"]) == 1


def test_recordings_with_other_windows_are_never_mixed(results, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(results, copy)
    file = copy / "tiny" / "gradcam" / "night" / "probabilities.npy"
    np.save(file, np.load(file) * 0.9)
    with pytest.raises(ValueError, match="called the same and are not of the same windows"):
        write_report(copy)
    file.unlink()
    with pytest.raises(ValueError, match=r"probabilities\.npy: is missing; interpret the clip"):
        write_report(copy)


def load(browser, page, width=1440, height=1000, **options):
    browser.open(page, width, height, **options)
    browser.until("document.querySelectorAll('#y-axis span').length > 2")


SPOKEN = "byId('track').getAttribute('aria-valuetext')"


def test_a_clip_of_its_own_has_no_timeline(browser, page):
    load(browser, page)
    assert browser.run("byId('timeline').hidden")
    browser.press("ArrowRight", "ArrowRight", 39)
    assert browser.run("shown.scene.clip") == "clip"


def test_arrow_keys_and_clicks_jump_between_windows(browser, page, data):
    load(browser, page)
    windows = [scene["clip"] for scene in data["scenes"][1:]]
    browser.run("byId('next').click()")
    assert not browser.run("byId('timeline').hidden")
    assert browser.run("byId('timeline-title').textContent") == "night"
    assert browser.run("shown.scene.clip") == windows[0]
    browser.run("document.activeElement.blur()")
    for key, number, expected in (
        ("ArrowLeft", 37, 0),
        ("ArrowRight", 39, 1),
        ("ArrowRight", 39, 2),
        ("ArrowLeft", 37, 1),
    ):
        browser.press(key, key, number)
        assert browser.run("shown.scene.clip") == windows[expected]
    browser.run("byId('track').focus()")
    browser.press("End", "End", 35)
    assert browser.run("shown.scene.clip") == windows[-1]
    assert browser.run("byId('track').getAttribute('aria-valuenow')") == "4"
    browser.press("Home", "Home", 36)
    assert browser.run("shown.scene.clip") == windows[0]
    scene = data["scenes"][1]
    assert browser.run(SPOKEN).startswith(f"{scene['start']:.1f} to {scene['end']:.1f} s: ")
    # A player in focus keeps the arrow keys for itself.
    browser.run("players.original.slider.focus()")
    browser.press("ArrowRight", "ArrowRight", 39)
    assert browser.run("shown.scene.clip") == windows[0]
    for place, scene in enumerate(data["scenes"][1:]):
        middle = (scene["start"] + scene["end"]) / 2 / 12
        browser.run(
            f"""(() => {{ const box = byId("track").getBoundingClientRect();
            byId("track").dispatchEvent(new MouseEvent("click",
            {{ clientX: box.left + {middle} * box.width, bubbles: true }})); }})()"""
        )
        assert browser.run("shown.scene.clip") == windows[place]
        left = browser.run("parseFloat(byId('here').style.left)")
        assert left == pytest.approx(100 * scene["start"] / 12, abs=0.01)


@pytest.mark.parametrize(("width", "height", "dark"), [(360, 800, False), (1440, 1000, True)])
def test_the_timeline_is_drawn_and_fits(browser, page, data, tmp_path, width, height, dark):
    load(browser, page, width, height, dark=dark)
    browser.run("byId('next').click()")
    browser.until("document.querySelector('#overview img').naturalWidth > 0")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    curves = browser.run(
        "[...document.querySelectorAll('#curves polyline')].map(e => e.getAttribute('points'))"
    )[::-1]
    recording = data["recordings"][0]
    for points, curve in zip(curves, recording["curves"], strict=True):
        pairs = np.array([pair.split(",") for pair in points.split()], dtype=float)
        middles = np.mean(recording["windows"], axis=1) / 12
        np.testing.assert_allclose(pairs[:, 0], 1000 * middles, atol=0.01)
        np.testing.assert_allclose(pairs[:, 1], 100 - 100 * np.array(curve["values"]), atol=0.01)
    assert browser.run("document.querySelectorAll('#curves .silent').length") == 2
    assert "2 silent windows" in browser.run("byId('about-timeline').textContent")
    assert browser.run("document.querySelectorAll('#stops span').length") == 4
    names = browser.run("[...document.querySelectorAll('#curve-names li')].map(e => e.innerText)")
    chances = dict(
        zip(data["scenes"][1]["classes"], data["scenes"][1]["probabilities"], strict=True)
    )
    for name, curve in zip(names, recording["curves"], strict=True):
        assert name.startswith(curve["name"])
        assert f"{100 * chances[curve['name']]:.1f} %" in name
    box = browser.run("[byId('track').clientWidth, byId('curves').clientWidth]")
    assert box[0] == box[1] > 200
    shot = np.asarray(Image.open(browser.picture(tmp_path / "shot.png")).convert("RGB"))
    assert (shot[2, 2].mean() < 60) == dark
