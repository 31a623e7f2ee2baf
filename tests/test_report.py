"""The page of saved interpretations: it holds what was saved; what a browser does with it."""

import csv
import io
import json
import math
import re
import shutil
import sys

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from matplotlib import colormaps
from pages import decode, picture, read_data
from PIL import Image

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.masking import MASKS
from audiointerp.model import build_model
from audiointerp.plots import Picture
from audiointerp.report import write_report
from audiointerp.report.page import fill_page
from audiointerp.runs.clip import job_metrics

RATE = 8000
CLASSES = ('</script><script>hacked="class"</script>', "a 'cat' & \"dog\"", "<b>rain</b>")
CLIPS = ("<img src=x onerror=hacked=2>", 'O\'Neill "$data" & ünï')
METHODS = {"saliency": ai.SaliencyInterpreter, "gradcam": ai.GradCAMInterpreter}
AUDIBLE = ["topK_5", "minmax"]
FRONT_ENDS = {
    "mel<i>": ai.LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=256, hop_length=64, n_mels=32, f_min=100, f_max=4000
    ),
    "stft": ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a folder of results with names that try to break out of the page."""
    root = tmp_path_factory.mktemp("report") / "<title>results"
    with pytest.MonkeyPatch.context() as patch:
        # The page takes none of the pictures, which are slow to draw.
        for plot in ("plot_masks", "plot_interpretation"):
            patch.setattr(
                f"audiointerp.runs.result.{plot}", lambda *_, **__: Picture(figsize=(1, 1))
            )
        save_results(root)
    loud = root / "stft" / "saliency" / CLIPS[1] / "topK_5_in.wav"
    soundfile.write(loud, np.linspace(-2, 2, RATE, dtype="float32"), RATE, subtype="FLOAT")
    return root


def save_results(root):
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.3 * torch.randn(len(CLIPS), 1, RATE, generator=generator)
    waveforms[:, :, RATE // 2 :] *= 0.1
    for name, processor in FRONT_ENDS.items():
        settings = {"name": "Cnn14", "num_classes": 3, "num_bins": processor.num_bins}
        model = build_model(settings | {"width": 1 / 16}, seed=0).eval()
        with torch.no_grad():
            model.classifier.weight.normal_(std=4, generator=generator)
        for method, interpreter in METHODS.items():
            predict = ai.Predict(
                model, processor, interpreter(model), on=("features", "audio"), classes=CLASSES
            )
            for clip, waveform in zip(CLIPS, waveforms, strict=True):
                predict.predict(waveform, RATE).save(root / name / method / clip, AUDIBLE)


@pytest.fixture(scope="module")
def page(results):
    return write_report(results)


@pytest.fixture(scope="module")
def data(page):
    return read_data(page)


def each_method(data, results):
    for scene in data["scenes"]:
        for name, method in scene["methods"].items():
            yield method, scene, results / scene["model"] / name / scene["clip"]


def test_the_page_is_one_file_that_refers_to_nothing_outside(page, results):
    text = page.read_text()
    assert page == results / "report.html"
    assert not re.search(r"https?:|//[a-z]+\.|@import|\burl\(|\bimport\(|fetch\(", text)
    assert set(re.findall(r"<(script|link|img|iframe|style|audio)\b", text)) == {"script", "style"}
    assert "default-src 'none'" in text
    assert "unsafe" not in text


def test_names_stay_text(page):
    text = page.read_text()
    for name in (*CLASSES, *CLIPS, "mel<i>", "<title>results"):
        assert name not in text
    assert text.count("</script>") == text.count("<script") == 2
    assert text.count("<title>") == text.count("</title>") == 1


def test_every_model_method_and_clip_is_there_once(data):
    assert [(scene["model"], scene["clip"]) for scene in data["scenes"]] == [
        (model, clip) for model in FRONT_ENDS for clip in sorted(CLIPS)
    ]
    for scene in data["scenes"]:
        assert list(scene["methods"]) == [name for name in ai.METHODS if name in METHODS]
        assert scene["classes"] == list(CLASSES)


@pytest.mark.parametrize(("place", "ending"), [("features", ""), ("audio", "_audio")])
def test_numbers_are_those_of_the_tables(data, results, place, ending):
    assert [metric["name"] for metric in data["metrics"]] == list(job_metrics())
    for method, _, folder in each_method(data, results):
        table = method["tables"][place]
        with (folder / f"metrics{ending}.csv").open(newline="") as file:
            rows = {row.pop("mask"): row for row in csv.DictReader(file)}
        assert list(table) == list(rows) == list(MASKS)
        for mask, row in rows.items():
            assert table[mask]["metrics"] == [float(row[name]) for name in job_metrics()]
        with (folder / f"probabilities{ending}.csv").open(newline="") as file:
            lines = list(csv.reader(file))[1:]
        assert len(lines) == 2 * len(MASKS)
        for mask, part, *values in lines:
            assert table[mask][part] == [float(value) for value in values]


def test_probabilities_before_masking_are_the_models(data, results):
    for _, scene, folder in each_method(data, results):
        summary = json.loads((folder / "summary.json").read_text())
        assert scene["probabilities"] == [summary["probabilities"][name] for name in CLASSES]
        assert scene["label"] == CLASSES[int(np.argmax(scene["probabilities"]))]


def test_sounds_are_those_that_were_saved(data, results):
    loudest = 0
    for method, scene, folder in each_method(data, results):
        assert set(method["sounds"]) == set(AUDIBLE)
        embedded = {"original": scene["sound"]}
        for mask, parts in method["sounds"].items():
            embedded |= {f"{mask}_{part}": sound for part, sound in parts.items()}
        for name, sound in embedded.items():
            heard, rate = soundfile.read(io.BytesIO(decode(sound["source"], "audio/wav")))
            saved, saved_rate = soundfile.read(folder / f"{name}.wav")
            assert rate == saved_rate
            level = 10 ** (sound["turned_down"] / 20)
            assert len(heard) == len(saved)
            assert np.abs(level * heard - saved).max() <= 1.01 * level / 2**15
            loudest = max(loudest, sound["turned_down"])
    assert loudest == pytest.approx(20 * math.log10(2))


def test_the_spectrogram_is_that_of_the_sound(data, results):
    scene = next(scene for scene in data["scenes"] if scene["model"] == "stft")
    wave, _ = soundfile.read(results / "stft" / "saliency" / scene["clip"] / "original.wav")
    stft = librosa.stft(wave, n_fft=128, hop_length=64, pad_mode="reflect")
    level = 20 * np.log10(np.abs(stft) + 1e-30)
    shade = np.clip((level - level.max()) / 80 + 1, 0, 1) * 255
    drawn = Image.open(io.BytesIO(decode(scene["spectrogram"], "image/png"))).convert("RGB")
    drawn = np.asarray(drawn)[::-1].astype(int)
    assert drawn.shape[:2] == shade.shape == (65, scene["frames"])
    # A level may round to the next of the 256 colours.
    colours = 255 * colormaps["magma"](np.arange(256))[:, :3]
    nearby = [colours[np.clip(shade.round().astype(int) + n, 0, 255)] for n in (-1, 0, 1)]
    assert np.min([np.abs(drawn - colour).max(-1) for colour in nearby], axis=0).max() <= 0.51


def test_masks_are_those_of_the_attribution_map(data, results):
    for method, _, folder in each_method(data, results):
        attribution = np.load(folder / "attribution.npy")
        assert set(method["masks"]) == set(MASKS)
        assert np.array_equal(picture(method["masks"]["bin"]) > 0, attribution > 0)
        count = math.ceil(attribution.size * 5 / 100)
        largest = np.zeros(attribution.size, bool)
        largest[np.argsort(-attribution.ravel(), kind="stable")[:count]] = True
        top = picture(method["masks"]["topK_5"]) > 0
        assert np.array_equal(top.ravel(), largest)
        assert method["kept"]["topK_5"] == pytest.approx(count / attribution.size)
        share = (attribution - attribution.min()) / np.ptp(attribution)
        assert np.abs(picture(method["masks"]["minmax"]) / 255 - share).max() <= 1 / 62 + 1 / 509


def test_axes_are_in_seconds_and_hz(data):
    mel, stft = (next(s for s in data["scenes"] if s["model"] == name) for name in FRONT_ENDS)
    frames = RATE // 64 + 1
    for scene in (mel, stft):
        assert scene["duration"] == 1
        for label, place in scene["times"]:
            # The frame at that time has its middle there.
            assert place * frames - 0.5 == pytest.approx(float(label) * RATE / 64)
    for label, place in stft["frequencies"]:
        hz = float(label.replace("k", "")) * (1000 if "k" in label else 1)
        assert place * 65 - 0.5 == pytest.approx(hz / (RATE / 2) * 64)
    bands = librosa.mel_frequencies(34, fmin=100, fmax=4000)[1:-1]
    for label, place in mel["frequencies"]:
        hz = float(label.replace("k", "")) * (1000 if "k" in label else 1)
        assert np.interp(place * 32 - 0.5, np.arange(32), bands) == pytest.approx(hz, rel=0.01)


@pytest.mark.parametrize(("form", "kind"), [("flac", "audio/wav"), ("mp3", "audio/mpeg")])
def test_sounds_saved_in_another_format_are_the_same_sounds(results, tmp_path, form, kind):
    one = results / "stft" / "saliency" / CLIPS[0]
    compared = results / "stft" / "gradcam" / CLIPS[0]
    shutil.copytree(compared, tmp_path / "stft" / "gradcam" / "dog")
    folder = tmp_path / "stft" / "saliency" / "dog"
    shutil.copytree(one, folder)
    peak, rate = soundfile.read(one / "minmax_in.wav")[0].max(), RATE
    turned_down = {"original.flac": 3.0, f"minmax_in.{form}": 6.0}
    for name, ending in (("original", "flac"), ("minmax_in", form), ("minmax_out", form)):
        wave, _ = soundfile.read(folder / f"{name}.wav")
        level = 10 ** (-turned_down.get(f"{name}.{ending}", 0) / 20)
        subtype = {"subtype": "PCM_24"} if ending == "flac" else {}
        soundfile.write(folder / f"{name}.{ending}", level * wave, rate, **subtype)
        (folder / f"{name}.wav").unlink()
    edit_summary(folder, turned_down_db=turned_down)
    data = read_data(write_report(tmp_path, sound="wav"))
    (scene,) = data["scenes"]
    sound = scene["methods"]["saliency"]["sounds"]["minmax"]["in"]
    heard, _ = soundfile.read(io.BytesIO(decode(sound["source"], kind)))
    loud = 10 ** (sound["turned_down"] / 20) * heard.max()
    assert loud == pytest.approx(peak, rel=1e-3 if form == "flac" else 0.2)
    assert ("saved as MP3" in data["footer"]) == (form == "mp3")


def test_mp3_is_smaller_and_sounds_alike(results, tmp_path, data):
    one = results / "stft" / "gradcam" / CLIPS[0]
    page = write_report(one, out=tmp_path / "page.html", sound="mp3")
    (scene,) = read_data(page)["scenes"]
    packed = decode(scene["sound"]["source"], "audio/mpeg")
    heard, rate = soundfile.read(io.BytesIO(packed))
    saved, _ = soundfile.read(one / "original.wav")
    assert rate == RATE
    heard = heard[: len(saved)]
    assert np.corrcoef(heard, saved[: len(heard)])[0, 1] > 0.9
    assert len(packed) < len(decode(data["scenes"][0]["sound"]["source"], "audio/wav"))


def test_a_large_page_takes_mp3_and_says_so(results, tmp_path, monkeypatch, data):
    monkeypatch.setattr("audiointerp.report.media.LOSSLESS_LIMIT", 20_000)
    large = read_data(write_report(results, out=tmp_path / "large.html"))
    assert all(scene["sound"]["source"].startswith("data:audio/mpeg") for scene in large["scenes"])
    assert "MP3" in large["footer"]
    assert "lossless" in data["footer"]


def test_a_part_of_the_results_has_the_same_names(results, tmp_path):
    for folder in (results / "stft", results / "stft" / "gradcam" / CLIPS[0]):
        (scene, *_) = read_data(write_report(folder, out=tmp_path / "p.html"))["scenes"]
        assert (scene["model"], scene["clip"]) == ("stft", CLIPS[0])


def test_a_result_saved_anywhere_makes_a_page(results, tmp_path):
    shutil.copytree(results / "stft" / "gradcam" / CLIPS[0], tmp_path / "mine" / "dog")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "dog"):
        (scene,) = read_data(write_report(folder, out=tmp_path / "p.html"))["scenes"]
        assert (scene["model"], scene["clip"], list(scene["methods"])) == ("", "dog", ["gradcam"])


def edit_summary(folder, **changes):
    summary = json.loads((folder / "summary.json").read_text()) | changes
    kept = {name: value for name, value in summary.items() if value is not None}
    (folder / "summary.json").write_text(json.dumps(kept))


def test_results_without_a_metric_or_with_an_unknown_one_make_a_page(results, tmp_path):
    for method in METHODS:
        clip = tmp_path / "mel" / method / "dog"
        shutil.copytree(results / "stft" / method / CLIPS[0], clip)
    with_all, without = (tmp_path / "mel" / method / "dog" / "metrics.csv" for method in METHODS)
    table = pd.read_csv(without)
    table.rename(columns={"COMP": "mine"}).to_csv(without, index=False)
    with pytest.warns(UserWarning) as found:  # noqa: PT030 (two of them)
        page = read_data(write_report(tmp_path))
    texts = sorted(str(warning.message) for warning in found)
    assert len(texts) == 2
    assert f"mine ({without.parent})" in texts[0]
    assert f"COMP ({without.parent})" in texts[1]
    assert [metric["name"] for metric in page["metrics"]] == list(job_metrics())
    (scene,) = page["scenes"]
    for path, value in ((with_all, pd.read_csv(with_all).loc[0, "COMP"]), (without, None)):
        shown = scene["methods"][path.parents[1].name]["tables"]["features"]["bin"]["metrics"]
        assert shown[-1] == value
        assert shown[0] == pytest.approx(pd.read_csv(path).loc[0, "FF"], rel=1e-15)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no result of `audiointerp interpret`"),
        (lambda folder: edit_summary(folder, front_end=None), "kept too little for a page"),
        (lambda folder: (folder / "summary.json").write_text("{"), "summary.json: is not JSON"),
        (lambda folder: (folder / "original.wav").unlink(), "original.wav: cannot be read"),
        (lambda folder: (folder / "metrics.csv").unlink(), "has no metrics.csv"),
    ],
)
def test_a_folder_without_a_usable_result_is_refused(results, tmp_path, spoil, message):
    folder = tmp_path / "out" / "m" / "gradcam" / "dog"
    shutil.copytree(results / "stft" / "gradcam" / CLIPS[0], folder)
    (folder / "metrics_audio.csv").unlink()
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_results_of_two_clips_with_one_name_are_never_mixed(results, tmp_path):
    shutil.copytree(results / "stft" / "gradcam" / CLIPS[0], tmp_path / "m" / "gradcam" / "dog")
    shutil.copytree(results / "stft" / "saliency" / CLIPS[1], tmp_path / "m" / "saliency" / "dog")
    with pytest.raises(ValueError, match="called the same"):
        write_report(tmp_path)


def test_an_unknown_format_is_refused(results):
    with pytest.raises(ValueError, match="unknown sound format 'ogg'"):
        write_report(results, sound="ogg")


def test_the_command_line_makes_a_page_and_says_where(results, tmp_path, monkeypatch, capsys):
    target = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["audiointerp", "report", str(results), "--out", str(target)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == str(target)
    assert read_data(target)["scenes"]


def load(browser, page, width=1440, height=1000, **options):
    browser.open(page, width, height, **options)
    browser.until("document.querySelectorAll('#y-axis span').length > 2")


@pytest.mark.parametrize(("width", "height", "dark"), [(360, 800, False), (1440, 1000, True)])
def test_the_page_fits_and_loads_nothing_in_a_browser(browser, page, tmp_path, width, height, dark):
    load(browser, page, width, height, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("typeof hacked") == "undefined"
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    shot = np.asarray(Image.open(browser.picture(tmp_path / "shot.png")).convert("RGB"))
    assert shot.shape == (height, width, 3)
    assert (shot[2, 2].mean() < 60) == dark
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 200


def test_names_are_shown_letter_by_letter(browser, page):
    load(browser, page)
    shown = browser.run(
        "[...document.querySelectorAll('#probabilities tbody th')].map(e => e.innerText)"
    )
    assert sorted(shown) == sorted(CLASSES)
    assert browser.run("[...byId('clip').options].map(e => e.text)") == sorted(CLIPS)
    assert browser.run("document.title").startswith("<title>results")


def test_the_keyboard_plays_and_the_cursor_runs(browser, page):
    load(browser, page)
    where = "parseFloat(byId('cursor').style.left)"
    start = browser.run(where)
    browser.run("players.original.button.focus()")
    browser.press(" ", "Space", 32, " ")
    browser.until(f"{where} > {start} + 5")
    assert browser.run("players.original.playing()")
    browser.press("2", "Digit2", 50, "2")
    browser.until("players.in.playing()")
    assert not browser.run("players.original.playing()")
    assert browser.run("players.in.time()") > 0.04
    browser.until("players.in.audio.ended")
    assert browser.run(where) == pytest.approx(100 * (125 + 0.5) / 126, abs=1)
    browser.press("Tab", "Tab", 9)
    assert browser.run("document.activeElement === players.original.slider")
    at = browser.run("players.original.time()")
    browser.press("ArrowLeft", "ArrowLeft", 37)
    assert browser.run("players.original.time()") == pytest.approx(max(0, at - 0.25), abs=0.01)


def test_the_mask_lies_over_the_spectrogram_as_opaque_as_asked(browser, page, data):
    load(browser, page)
    browser.run("byId('mask').value = 'minmax'; byId('mask').dispatchEvent(new Event('change'))")
    shown = browser.run("shown.method")
    method = data["scenes"][0]["methods"][shown]
    mask = picture(method["masks"]["minmax"]).astype(int)[::-1]
    alpha = (
        "[...byId('overlay').getContext('2d').getImageData(0, 0, byId('overlay').width, "
        "byId('overlay').height).data].filter((_, i) => i % 4 === 3)"
    )
    slide = "byId('opacity').value = {}; byId('opacity').dispatchEvent(new Event('input'))"
    for opacity in (100, 40, 0):
        browser.run(slide.format(opacity))
        browser.until(f"byId('opacity-value').textContent === '{opacity} %'")
        browser.run("await new Promise((done) => setTimeout(done, 200))")
        expected = opacity / 100 * (255 - mask).ravel()
        assert np.abs(np.array(browser.run(alpha)) - expected).max() <= 1
    browser.run(f"byId('styles').querySelector('[value=tint]').click(); {slide.format(100)}")
    browser.run("await new Promise((done) => setTimeout(done, 200))")
    assert np.abs(np.array(browser.run(alpha)) - mask.ravel()).max() <= 1


def test_the_table_sorts_and_a_row_shows_its_mask(browser, page, data):
    load(browser, page)
    browser.run("byId('all-masks').click()")
    values = "[...byId('metrics').tBodies[0].rows].map(r => Number(r.cells[2].title))"
    expected = [
        table["metrics"][0]
        for method in data["scenes"][0]["methods"].values()
        for table in method["tables"]["features"].values()
    ]
    assert browser.run(values) == expected
    heading = "byId('metrics').tHead.rows[0].cells[2]"
    for direction, order in (("descending", True), ("ascending", False)):
        browser.run(f"{heading}.querySelector('button').click()")
        assert browser.run(values) == sorted(expected, reverse=order)
        assert browser.run(f"{heading}.getAttribute('aria-sort')") == direction
    browser.run(
        "[...byId('metrics').querySelectorAll('tbody button')]"
        ".find(b => b.textContent === 'gradcam · topK_50').click()"
    )
    assert browser.run("[shown.method, byId('mask').value]") == ["gradcam", "topK_50"]
    assert browser.run("players.in.button.disabled")
    assert "minmax" in browser.run("players.in.note.textContent")
    now = data["scenes"][0]["methods"]["gradcam"]["tables"]["features"]["topK_50"]["out"]
    cells = "[...byId('probabilities').tBodies[0].rows].map(r => Number(r.cells[3].title))"
    assert sorted(browser.run(cells)) == sorted(now)


def test_every_sound_plays_to_its_length(browser, page):
    load(browser, page)
    lengths = browser.run(
        """await Promise.all(page.scenes.flatMap((scene) => [scene.sound,
        ...Object.values(scene.methods)
        .flatMap((method) => Object.values(method.sounds).flatMap(({in: a, out: b}) => [a, b]))])
        .map((sound) => new Promise((done, fail) => {
          const audio = new Audio(sound.source);
          audio.onloadedmetadata = () => done(audio.duration);
          audio.onerror = fail;
        })))"""
    )
    assert len(lengths) == 4 * (1 + 2 * 2 * 2)
    assert lengths == pytest.approx([1.0] * len(lengths), abs=0.01)


def test_everything_to_press_has_a_name_and_can_be_reached(browser, page):
    load(browser, page)
    nameless = browser.run(
        """[...document.querySelectorAll("button, select, input")].filter((e) => e.offsetParent
        && !(e.getAttribute("aria-label") || e.labels?.length || e.textContent.trim())
        || e.tabIndex < 0).map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_a_degenerate_map_is_named_in_a_browser(results, browser, tmp_path):
    folder = tmp_path / "saved"
    shutil.copytree(results / "stft" / "gradcam" / CLIPS[1], folder)
    saved = np.load(folder / "attribution.npy")
    np.save(folder / "attribution.npy", np.zeros_like(saved))
    page = write_report(folder)
    said = next(iter(read_data(page)["scenes"][0]["methods"].values()))["degenerate"]
    assert said["map"] == "constant, 0 in every cell"
    load(browser, page)
    text = browser.run("document.getElementById('degenerate').textContent")
    assert "The map is degenerate: constant, 0 in every cell." in text
    assert browser.run("document.getElementById('degenerate').hidden") is False


@pytest.mark.parametrize(
    ("out", "page"),
    [("new/page", "new/page.html"), ("v1.2", "v1.2.html"), ("a.HTM", "a.HTM"), ("", "report.html")],
)
def test_a_page_is_named_as_asked_and_ends_in_html(results, tmp_path, out, page):
    (saved, *_) = (path.parent for path in results.rglob("summary.json"))
    assert write_report(saved, out=tmp_path / out) == tmp_path / page
    assert (tmp_path / page).read_bytes().startswith(b"<!doctype html>")


def test_a_page_shows_the_codes_of_control_characters():
    page = fill_page("saved", "a\udcff\u202eb", {"names": ["c\x1b", ("d\u202e",)], "e\x00": [1.5]})
    page.encode()
    assert r"a\udcff\u202eb" in page
    content = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    shown = json.loads(content)
    assert "random" in shown.pop("references")
    assert shown == {"names": [r"c\x1b", [r"d\u202e"]], r"e\x00": [1.5]}
