"""Which channel of a sound is analysed, and what is said of channels that cancel."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from repository import REPOSITORY
from typer.testing import CliRunner

import audiointerp as ai
from audiointerp.cli.commands import app
from audiointerp.dataset import (
    CHANNELS,
    AudioError,
    AudioStream,
    CancellationWarning,
    Contamination,
    WaveformStream,
    load_audio,
    open_dataset,
    prepare_waveform,
)
from audiointerp.registry import UnknownNameError
from audiointerp.runs.files import compare_methods, interpret_files
from audiointerp.runs.windows import Windowing

RATE = 8000
DRAW = np.random.default_rng(3)
LEFT, RIGHT = (DRAW.uniform(-level, level, 2 * RATE).astype(np.float32) for level in (0.8, 0.3))
WEIGHTS = REPOSITORY / "weights" / "synthetic_logmel.safetensors"


def write(path: Path, *channels: np.ndarray, **options) -> Path:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT", **options)
    return path


def expected(channel: str, left: np.ndarray = LEFT, right: np.ndarray = RIGHT) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    sums = {"mid": (left + right) / 2, "left": left, "right": right, "side": (left - right) / 2}
    return sums[channel].astype(np.float32)


@pytest.fixture
def stereo(tmp_path) -> Path:
    return write(tmp_path / "stereo.wav", LEFT, RIGHT)


@pytest.mark.parametrize("channel", CHANNELS)
class TestEveryChannel:
    def test_a_file_and_a_waveform_give_it(self, stereo, channel):
        read, _ = load_audio(stereo, normalize=False, channel=channel)
        np.testing.assert_array_equal(read[0], expected(channel))
        both = np.stack([LEFT, RIGHT])
        made, _ = prepare_waveform(both, RATE, normalize=False, channel=channel)
        np.testing.assert_array_equal(made[0], expected(channel))
        for stream in (
            AudioStream(stereo, channel=channel),
            WaveformStream(both, RATE, channel=channel),
        ):
            np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), expected(channel))
            clip = stream.clip(1.0)[0]
            np.testing.assert_allclose(
                clip, expected(channel)[:RATE] / np.abs(expected(channel)[:RATE]).max(), rtol=1e-6
            )

    def test_a_mono_sound_gives_its_only_one(self, tmp_path, channel):
        path = write(tmp_path / "mono.wav", LEFT)
        if channel == "side":
            with pytest.raises(AudioError, match=r"mono\.wav: it has 1 channel, .*another channel"):
                load_audio(path, channel=channel)
            with pytest.raises(AudioError, match="given: it has 1 channel"):
                prepare_waveform(LEFT, RATE, channel=channel)
            return
        np.testing.assert_array_equal(
            load_audio(path, normalize=False, channel=channel)[0][0], LEFT
        )
        made = prepare_waveform(LEFT, RATE, normalize=False, channel=channel)[0][0]
        np.testing.assert_array_equal(made, LEFT)

    def test_a_set_reads_it_and_says_so(self, tmp_path, channel):
        for folder in ("dog", "cat"):
            (tmp_path / "set" / folder).mkdir(parents=True)
            write(tmp_path / "set" / folder / "1.wav", LEFT, RIGHT)
        data = open_dataset(
            f"{tmp_path / 'set'}?channel={channel}",
            sample_rate=RATE,
            duration=2.0,
            normalize=False,
            cache_dir=tmp_path / "cache",
        )
        for _ in range(2):  # decoded, and from the cache
            np.testing.assert_array_equal(data[0].waveform[0], expected(channel))
        assert data.settings().get("channel", "mid") == channel

    def test_a_noise_is_read_by_it(self, stereo, channel):
        noise = Contamination(stereo, channel=channel)
        np.testing.assert_array_equal(noise.noise(RATE, 2 * RATE)[0], expected(channel))
        assert noise.settings().get("channel", "mid") == channel


def test_the_cache_keeps_the_channels_apart(tmp_path):
    folder = tmp_path / "set" / "dog"
    folder.mkdir(parents=True)
    write(folder / "1.wav", LEFT, RIGHT)
    for channel in CHANNELS:
        data = ai.FolderDataset(
            tmp_path / "set", sample_rate=RATE, normalize=False, cache_dir=tmp_path / "cache",
            duration=2.0, channel=channel,
        )  # fmt: skip
        np.testing.assert_array_equal(data[0].waveform[0], expected(channel))


def test_settings_name_the_channel_only_where_it_is_not_the_mean(tmp_path):
    folder = tmp_path / "set" / "dog"
    folder.mkdir(parents=True)
    write(folder / "1.wav", LEFT, RIGHT)
    assert "channel" not in ai.FolderDataset(tmp_path / "set").settings()
    assert "channel" not in Contamination(folder / "1.wav").settings()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_side_is_of_two_channels_only(tmp_path, count):
    path = write(tmp_path / "a.wav", *[LEFT] * count)
    with pytest.raises(AudioError, match=f"it has {count} channel"):
        load_audio(path, channel="side")


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_audio(path, channel="centre"),
        lambda path: AudioStream(path, channel="centre"),
        lambda path: prepare_waveform(LEFT, RATE, channel="centre"),
        lambda path: Contamination(path, channel="centre"),
        lambda path: open_dataset(f"{path.parent.parent}?channel=centre"),
        lambda path: interpret_files([path], [WEIGHTS], path.parent / "out", channel="centre"),
    ],
)
def test_an_unknown_channel_is_an_error_before_anything_is_read(tmp_path, read):
    folder = tmp_path / "set" / "dog"
    folder.mkdir(parents=True)
    with pytest.raises(UnknownNameError, match="unknown channel 'centre': choose from mid, left"):
        read(write(folder / "1.wav", LEFT, RIGHT))
    assert not (folder / "out").exists()


class TestCancellation:
    """Stereo with right = -left has no mean."""

    WORDS = ("cancel out", "left 0.8", "right 0.8", "Choose the channel left, right or side")

    @pytest.fixture
    def opposed(self, tmp_path) -> Path:
        return write(tmp_path / "opposed.wav", LEFT, -LEFT)

    def says(self, error, *words):
        for word in words or self.WORDS:
            assert word in str(error.value)

    def test_it_is_explained_for_a_file(self, opposed):
        with pytest.raises(AudioError) as error:
            load_audio(opposed)
        self.says(error, "opposed.wav", *self.WORDS)

    def test_it_is_explained_for_a_stream(self, opposed):
        for stream in (AudioStream(opposed), WaveformStream(np.stack([LEFT, -LEFT]), RATE)):
            with pytest.raises(AudioError) as error:
                list(stream.windows(1.0))
            self.says(error)
            with pytest.raises(AudioError) as error:
                stream.clip(1.0)
            self.says(error)

    def test_it_is_explained_for_a_clip_of_a_set_clean_or_noisy(self, opposed, tmp_path):
        folder = tmp_path / "set" / "dog"
        folder.mkdir(parents=True)
        write(folder / "1.wav", LEFT, -LEFT)
        noise = Contamination(write(tmp_path / "noise.wav", RIGHT))
        for options in ({}, {"contamination": noise}, {"contamination": noise, "normalize": False}):
            data = ai.FolderDataset(tmp_path / "set", sample_rate=RATE, duration=2.0, **options)
            with pytest.raises(AudioError) as error:
                data[0]
            self.says(error, "1.wav", *self.WORDS)

    def test_it_is_explained_for_a_noise(self, opposed):
        with pytest.raises(AudioError) as error:
            Contamination(opposed)
        self.says(error, "opposed.wav: cannot be a background noise", *self.WORDS)

    def test_equal_channels_have_no_side(self, tmp_path):
        path = write(tmp_path / "a.wav", LEFT, LEFT)
        with pytest.raises(AudioError, match=r"side is silent: left and right are equal.*mid"):
            load_audio(path, channel="side")

    def test_one_silent_channel_is_named(self, tmp_path):
        path = write(tmp_path / "a.wav", np.zeros_like(LEFT), RIGHT)
        with pytest.raises(AudioError, match=r"the channel left is silent; .*right 0\.3"):
            load_audio(path, channel="left")

    @pytest.mark.parametrize(("below", "warned"), [(16, False), (24, True), (60, True)])
    def test_a_mean_far_below_the_channels_is_a_warning(self, tmp_path, below, warned):
        # The mean of (a, -a + 2 e a) is e a.
        rest = 10 ** (-below / 20)
        path = write(tmp_path / "near.wav", LEFT, (-1 + 2 * rest) * LEFT)
        reads = {
            "a file": lambda: load_audio(path),
            "a stream": lambda: AudioStream(path).peak(),
            "a waveform": lambda: prepare_waveform(soundfile.read(path)[0].T, RATE),
        }
        for read in reads.values():
            if warned:
                with pytest.warns(CancellationWarning, match=f"{below} dB below"):
                    read()
            else:
                read()  # a warning would be an error

    def test_the_channel_that_was_asked_for_is_no_cancellation(self, tmp_path):
        path = write(tmp_path / "a.wav", LEFT, 1e-3 * RIGHT)
        for channel in ("left", "right", "side"):
            load_audio(path, channel=channel)


class TestSilence:
    """What is silent is the part that was read; the rest of the file may sound."""

    def test_a_late_beginning_is_told_with_its_time(self, tmp_path):
        late = np.concatenate([np.zeros(12_000, np.float32), LEFT])
        path = write(tmp_path / "late.wav", late, late)
        for read in (
            lambda: load_audio(path, duration=1.0),
            lambda: load_audio(path, end=1.2),
            lambda: (
                AudioStream(path, end=1.2).peak() or next(AudioStream(path, end=1.2).windows(1))
            ),
            lambda: prepare_waveform(late, RATE, duration=1.0),
            lambda: next(WaveformStream(late, RATE, end=1.2).windows(1.0)),
        ):
            with pytest.raises(AudioError, match=r"silent.*from 0 to 1\.?2? s; .*from 1\.5 s on"):
                read()

    def test_sound_before_the_part_is_told(self, tmp_path):
        path = write(tmp_path / "early.wav", np.concatenate([LEFT, np.zeros(8000, np.float32)]))
        with pytest.raises(AudioError, match=r"silent.* from 2 s on, there is sound before"):
            load_audio(path, start=2.0)

    def test_a_file_without_any_sound_is_told_so(self, tmp_path):
        path = write(tmp_path / "mute.wav", np.zeros(16_000, np.float32))
        with pytest.raises(AudioError, match=r"all samples are zero.*empty\s+recording"):
            load_audio(path, duration=1.0)

    def test_a_clip_of_a_set_that_begins_late(self, tmp_path):
        folder = tmp_path / "set" / "dog"
        folder.mkdir(parents=True)
        write(folder / "1.wav", np.concatenate([np.zeros(12_000, np.float32), LEFT]))
        data = ai.FolderDataset(tmp_path / "set", sample_rate=RATE, duration=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ai.dataset.TruncationWarning)
            with pytest.raises(AudioError, match=r"1\.wav: silent.*there is sound from 1\.5 s on"):
                data[0]


class TestInterpreting:
    """The channel goes through to results and their names."""

    @pytest.fixture
    def file(self, tmp_path) -> Path:
        dog, rate = soundfile.read(REPOSITORY / "samples" / "dog.wav")
        horn, _ = soundfile.read(REPOSITORY / "samples" / "car_horn.wav")
        samples = min(len(dog), len(horn))
        path = tmp_path / "two.wav"
        soundfile.write(path, np.stack([dog[:samples], horn[:samples]], 1), rate, subtype="FLOAT")
        for number, name in enumerate(("left", "right")):
            alone = tmp_path / f"{name}.wav"
            soundfile.write(alone, soundfile.read(path)[0][:, number], rate, subtype="FLOAT")
        return path

    def test_one_channel_is_interpreted_as_if_it_were_alone(self, file):
        model, processor = ai.load(WEIGHTS)
        predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=["topK_30"])
        whole, rate = soundfile.read(file)
        for channel in ("left", "right"):
            alone = predict.predict(file.with_name(f"{channel}.wav"))
            for result in (
                predict.predict(file, channel=channel),
                predict.predict(whole.T, rate, channel=channel),
            ):
                assert torch.equal(result.attribution, alone.attribution)
                assert result.clip.endswith(f" ({channel})")
        assert predict.predict(file).clip == "two"

    def test_the_command_line_keeps_channels_apart(self, file, tmp_path):
        out = tmp_path / "out"
        common = ["interpret", str(file), "-w", str(WEIGHTS), "-m", "saliency", "--no-report"]
        common += ["--mask", "topK_30"]
        for channel in ("left", "right", "mid"):
            done = CliRunner().invoke(app, [*common, "--out", str(out), "--channel", channel])
            assert done.exit_code == 0, done.output
        saved = {path.name for path in (out / "synthetic_logmel" / "saliency").iterdir()}
        assert saved == {"two", "two (left)", "two (right)"}

    def test_a_recording_and_a_comparison_take_the_channel(self, file):
        compared = {
            name: compare_methods(
                path,
                WEIGHTS,
                channel=channel,
                methods=["saliency"],
                masks=["topK_30"],
                windowing=Windowing(window=2.0),
            ).results["saliency"]
            for name, path, channel in (
                ("stereo", file, "right"),
                ("alone", file.with_name("right.wav"), "mid"),
            )
        }
        assert compared["stereo"].clip.startswith("two (right), ")
        assert torch.equal(compared["stereo"].attribution, compared["alone"].attribution)
