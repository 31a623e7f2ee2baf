"""Ctrl-C, a request to terminate and a closed pipe end a command in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import soundfile
from repository import REPOSITORY

from audiointerp.cli import main
from audiointerp.cli.commands import app
from audiointerp.cli.stop import GO_ON, Stopped, ending_in_order
from audiointerp.model import build_model
from audiointerp.model.weights import save_weights
from audiointerp.processing import LogSTFTSpectrogram

AGAIN = "interrupted: run the same command again; files that were written are whole\n"


def send(number=signal.SIGINT):
    """Send this process a signal, and wait until it has come."""
    signal.raise_signal(number)
    time.sleep(0)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("experiment", "interrupted: the same command goes on with what is missing\n"),
        ("train", "interrupted: the same command with --resume goes on after the last finished"),
        ("data", "interrupted: run the same command again; a download goes on where it was\n"),
        ("interpret", AGAIN),
        ("", AGAIN),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_line_says_how_to_go_on(capsys, command, line, number):
    with pytest.raises(SystemExit) as stop, ending_in_order([command] if command else []):
        send(number)
    assert stop.value.code == 128 + number
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_the_advice_is_for_commands_that_there_are():
    groups = {group.name for group in app.registered_groups}
    commands = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert set(GO_ON) <= groups | commands


def test_what_a_library_makes_of_an_interruption_is_still_one(capsys):
    def load():
        try:
            send()
        except BaseException as error:
            raise ImportError("numpy._core.multiarray failed to import") from error

    with pytest.raises(SystemExit) as stop, ending_in_order(["interpret"]):
        load()
    assert stop.value.code == 130
    assert capsys.readouterr().err == AGAIN


def test_signals_mean_afterwards_what_they_meant_and_ignored_ones_stay_ignored():
    before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_in_order([]):
            send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is before[0]
    finally:
        signal.signal(signal.SIGTERM, before[1])


def test_an_error_that_no_signal_caused_passes():
    with pytest.raises(KeyError), ending_in_order([]):
        raise KeyError


def test_no_library_takes_it_for_an_interruption_that_it_handles():
    assert not issubclass(Stopped, (Exception, KeyboardInterrupt))


@pytest.fixture
def workplace(tmp_path, tiny_esc50, tone):
    processor = LogSTFTSpectrogram(sample_rate=8000, n_fft=128, hop_length=64)
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    model, classes = build_model(settings, seed=0), ("dog", "cat", "rain")
    save_weights(tmp_path / "tiny.safetensors", model, processor, classes=classes, duration=1.0)
    soundfile.write(tmp_path / "tone.wav", tone(440), 8000)
    return tmp_path


def start(folder, *words):
    """Start the command line in a group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "audiointerp", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process, happened):
    while not happened():
        assert process.poll() is None
        time.sleep(0.002)


EXPERIMENT = ("experiment", "-w", "tiny.safetensors", "-d", "esc50", "-m", "lime", "--mask", "bin")


def has_torch(process):
    with open(f"/proc/{process.pid}/maps") as maps:
        return "torch" in maps.read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    ("words", "moment", "code"),
    [
        (("interpret", "tone.wav", "-w", "tiny.safetensors"), has_torch, 130),
        (EXPERIMENT, "results/tiny/lime_clean/csvs/bin.csv", 130),
    ],
)
def test_a_command_that_is_interrupted_leaves_one_line_and_whole_files(
    workplace, words, moment, code
):
    """While torch is imported, and while clips are explained, read and written."""
    with start(workplace, *words) as process:
        happened = moment if callable(moment) else lambda _: (workplace / moment).is_file()
        wait_for(process, lambda: happened(process))
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    lines = [line for line in said.replace("\r", "\n").splitlines() if line and "|" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("interrupted: ")
    assert not [path for path in workplace.rglob(".*")]


def test_a_closed_pipe_ends_a_command_without_a_word(workplace, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        monkeypatch.setattr(sys, "argv", ["audiointerp", "--help"])
        with pytest.raises(SystemExit) as stop:
            main()
        monkeypatch.undo()
    assert stop.value.code == 1
    assert capfd.readouterr().err == ""
