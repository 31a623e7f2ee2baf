"""Two runs at once: the second is told who holds what it would write, or both are right."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from system import holding

from audiointerp.cli import main
from audiointerp.dataset import ESC50Dataset
from audiointerp.dataset import synthetic as synthetic_set
from audiointerp.dataset.download import SAMPLES, copy_samples
from audiointerp.model import build_model
from audiointerp.model.checkpoint import PANNS_FILES, PannsFile, download_panns
from audiointerp.model.weights import save_weights
from audiointerp.plots import Picture
from audiointerp.processing import LogSTFTSpectrogram
from audiointerp.storage import ClaimedError
from audiointerp.training import recipe

RATE = 8000
EXPERIMENT = ("experiment", "--weights", "tiny.safetensors", "--data", "esc50", "-m", "saliency")
TRAIN = ("train", "--data", "esc50", "--width", 0.0625, "--epochs", 1, "--device", "cpu",
         "--front-end", "LogSTFTSpectrogram", "--clips", 3)  # fmt: skip


@pytest.fixture
def workplace(tmp_path, tiny_esc50, tone, monkeypatch):
    """Return the current folder: a set, a sound, weights, a small experiment and a result."""
    monkeypatch.chdir(tmp_path)
    processor = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    classes = ("dog", "cat", "rain")
    model = build_model(settings, seed=0)
    save_weights("tiny.safetensors", model, processor, classes=classes, duration=1.0)
    soundfile.write("tone.wav", tone(440), RATE)
    return tmp_path


def run(monkeypatch, *arguments):
    """Run the command line; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@pytest.mark.parametrize(
    ("held", "command"),
    [
        ("results/tiny/saliency_clean/run.json", (*EXPERIMENT, "--mask", "bin")),
        ("out/summary.csv", ("interpret", "tone.wav", "-w", "tiny.safetensors", "-m", "saliency",
                             "--out", "out", "--mask", "bin", "--no-report")),
        ("a/model.safetensors", (*TRAIN, "--out", "a/model.safetensors")),
        ("results/training/a/model.safetensors/last.ckpt",
         (*TRAIN, "--out", "a/model.safetensors")),
        ("set", ("data", "synthetic", "set")),
    ],
)  # fmt: skip
def test_a_command_says_who_writes_what_it_would_and_goes_on_when_that_is_killed(
    workplace, monkeypatch, capsys, held, command
):
    monkeypatch.setattr(synthetic_set, "SyntheticDataset", _FewClips)
    for plot in ("plot_masks", "plot_interpretation"):
        monkeypatch.setattr(f"audiointerp.runs.result.{plot}", _draw_nothing)
    with holding(workplace / held) as other:
        assert run(monkeypatch, *command) == 2
        said = capsys.readouterr().err
        assert f"error: {workplace / held}: another run is writing it (process {other.pid}" in said
        written = [path for path in (workplace / held).parent.rglob("*") if path.is_file()]
        assert not [path for path in written if path.name.startswith((held[:3], "best", "run"))]
    assert run(monkeypatch, *command) == 0
    left = workplace.rglob(".*")
    assert not [path for path in left if path.name.endswith((".lock", ".new", ".old"))]


def _draw_nothing(*_, **__):
    return Picture(figsize=(1, 1))


class _FewClips(synthetic_set.SyntheticDataset):
    def __init__(self, **options):
        super().__init__(**(options | {"clips_per_class": 5}))
        self._numbers = self._numbers[:1]


def test_a_table_or_a_page_that_another_run_writes_is_refused(workplace, monkeypatch, capsys):
    assert run(monkeypatch, *EXPERIMENT, "--mask", "bin") == 0
    for held, command in (
        ("tables/tables.pdf", ("tables", "results")),
        ("results/report.html", ("report", "results")),
    ):
        with holding(workplace / held) as other:
            assert run(monkeypatch, *command) == 2
            assert f"(process {other.pid}" in capsys.readouterr().err
            assert not (workplace / held).exists()


def test_a_figure_that_another_run_writes_is_refused(tmp_path):
    with (
        holding(tmp_path / "figure.png") as other,
        pytest.raises(ClaimedError, match=f"process {other.pid} "),
    ):
        _draw_nothing().save_print(tmp_path / "figure")
    assert [path.name for path in tmp_path.iterdir()] == [".figure.png.lock"]
    _draw_nothing().save_print(tmp_path / "figure")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.pdf", "figure.png"}


def test_a_run_with_its_results_is_read_where_nothing_can_be_written(workplace, monkeypatch):
    assert run(monkeypatch, *EXPERIMENT, "--mask", "bin") == 0
    folder = workplace / "results" / "tiny" / "saliency_clean"
    monkeypatch.setattr("audiointerp.storage.Path.open", _refuse)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(monkeypatch, *EXPERIMENT, "--mask", "bin") == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def _refuse(path, mode="r", *_, **__):
    if mode == "ab":
        raise PermissionError(13, "Permission denied", str(path))
    return open(path, mode)


def test_samples_that_another_run_copies_are_refused(tmp_path, monkeypatch):
    source = tmp_path / "audio" / "x.wav"
    source.parent.mkdir()
    soundfile.write(source, np.zeros(100), RATE)
    name = next(iter(SAMPLES))
    monkeypatch.setattr("audiointerp.dataset.download.check_root", lambda root: root)
    monkeypatch.setattr("audiointerp.dataset.download._find_samples", lambda *_: {name: source})
    monkeypatch.setattr("audiointerp.dataset.download._read_sample", lambda *_: None)
    with (
        holding(tmp_path / "to" / f"{name}.wav") as other,
        pytest.raises(ClaimedError, match=f"process {other.pid} "),
    ):
        copy_samples(tmp_path, tmp_path / "to", [name])
    copy_samples(tmp_path, tmp_path / "to", [name])
    assert (tmp_path / "to" / f"{name}.wav").read_bytes() == source.read_bytes()


def test_a_download_waits_for_the_run_that_fetches_the_same_file(tmp_path, monkeypatch, capsys):
    content = b"weights"
    digest = "6a7bd7e9f2eb4cd8ac2ab9f8ad2ed1cb"
    monkeypatch.setitem(PANNS_FILES, "Cnn6", PannsFile("small.pth", digest))

    def fetch(url, **_):
        said = capsys.readouterr().err
        assert f"waiting: {tmp_path / 'small.pth'}: another run is writing it" in said
        assert other.poll() is not None
        (tmp_path / "small.pth").write_bytes(content)
        return str(tmp_path / "small.pth")

    monkeypatch.setattr("audiointerp.model.checkpoint.pooch.retrieve", fetch)
    monkeypatch.setattr("audiointerp.storage.time.sleep", lambda seconds: other.kill())
    with holding(tmp_path / "small.pth") as other:
        path = download_panns("Cnn6", tmp_path)
    assert path.read_bytes() == content


def test_a_set_that_another_run_fetches_is_waited_for(workplace, monkeypatch, capsys):
    monkeypatch.setattr("audiointerp.storage.time.sleep", lambda seconds: other.kill())
    with holding(workplace / "esc50") as other:
        assert run(monkeypatch, "data", "esc50", "esc50") == 0
    assert f"waiting: {workplace / 'esc50'}: another run is writing it" in capsys.readouterr().err


def test_two_trainings_to_files_of_one_name_are_both_right(workplace, monkeypatch):
    """As two people start them: the runs have folders of their own."""
    commands = {
        name: [*map(str, TRAIN), "--seed", seed, "--out", f"{name}/model.safetensors"]
        for name, seed in (("a", "1"), ("b", "2"))
    }
    with subprocess.Popen([sys.executable, "-m", "audiointerp", *commands["a"]]) as other:
        assert run(monkeypatch, *commands["b"]) == 0
    assert other.returncode == 0
    found = {name: load_file(workplace / name / "model.safetensors") for name in commands}
    for name, weights in found.items():
        checkpoint = workplace / "results" / "training" / name / "model.safetensors" / "best.ckpt"
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(torch.equal(value, state[f"model.{key}"]) for key, value in weights.items())
    assert any(not torch.equal(found["a"][key], found["b"][key]) for key in found["a"])


def test_a_training_of_an_earlier_version_is_found_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [recipe.run_folder(recipe.Path(out)) for out in ("a/x.safetensors", "x.safetensors")]
    assert len(set(folders)) == 2
    earlier = tmp_path / "results" / "training" / "x"
    earlier.mkdir(parents=True)
    (earlier / "last.ckpt").touch()
    assert recipe.run_folder(recipe.Path("a/x.safetensors")).resolve() == earlier
    (tmp_path / folders[0]).mkdir(parents=True)
    (tmp_path / folders[0] / "last.ckpt").touch()
    assert recipe.run_folder(recipe.Path("a/x.safetensors")) == folders[0]


CACHING = """
import sys
from pathlib import Path
from audiointerp.dataset import ESC50Dataset
print("ready", flush=True)
for _ in range(8):
    for path in Path("cache").glob("[!.]*.npy"):
        path.unlink(missing_ok=True)
    clips = ESC50Dataset("esc50", sample_rate=8000, duration=1.0, cache_dir="cache")
    for place in range(len(clips)):
        clips[place]
"""


def test_two_processes_that_fill_one_cache_get_the_same_clips(workplace):
    """Without a claim: an entry is whole, and its bytes depend on nothing but its name."""
    options = {"sample_rate": RATE, "duration": 1.0}
    plain = [clip.waveform for clip in map(ESC50Dataset("esc50", **options).__getitem__, range(15))]
    with subprocess.Popen([sys.executable, "-c", CACHING], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        while other.poll() is None:
            clips = ESC50Dataset("esc50", cache_dir="cache", **options)
            for place, waveform in enumerate(plain):
                assert torch.equal(clips[place].waveform, waveform)
    assert other.returncode == 0
    assert all(name.endswith(".npy") and name[0] != "." for name in os.listdir("cache"))
