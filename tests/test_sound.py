"""Sounds: what a format keeps, what is turned down, what a player holds and a browser plays."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import numpy as np
import pytest
import soundfile
import torch
from browser import CHROMIUM, Browser
from IPython.core.formatters import DisplayFormatter
from repository import REPOSITORY

from audiointerp.dataset import load_audio
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.registry import UnknownNameError
from audiointerp.sound import SOUND_FORMATS, Html, Sound, players

RATE = 32000


def chirp(seconds: float = 0.5, level: float = 0.5, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * (300 + 2000 * time) * time)).astype("f4")


def decode(content: bytes) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(content), dtype="float32")


def held(markup: str) -> tuple[str, bytes]:
    """Return the media type and content of the one sound in some markup."""
    ((kind, content),) = re.findall(r'src="data:([a-z/]+);base64,([A-Za-z0-9+/=]+)"', markup)
    return kind, base64.b64decode(content, validate=True)


@pytest.mark.parametrize(("form", "step"), [("wav", 2.0**-15), ("flac", 2.0**-23)])
def test_lossless_formats_keep_every_sample_but_for_rounding(form, step):
    sound = Sound(chirp(), RATE)
    heard, rate = decode(sound.encode(form))
    assert rate == RATE
    assert heard.shape == sound.waveform.shape
    assert 0 < np.abs(heard - sound.waveform).max() <= step


@pytest.mark.parametrize("samples", [1, 777, 8000])
@pytest.mark.parametrize("form", SOUND_FORMATS)
def test_every_format_keeps_rate_length_and_timing(form, samples):
    wave = np.zeros(samples, "f4")
    wave[samples // 2 :] = 0.5 * np.cos(np.arange(samples - samples // 2))
    heard, rate = decode(Sound(wave, 16000).encode(form))
    assert rate == 16000
    assert heard.shape == wave.shape
    if samples > 1:
        assert np.correlate(heard, wave, "same").argmax() == samples // 2


@pytest.mark.parametrize("clip", ["dog", "cat", "sea_waves"])
def test_mp3_stays_near_what_was_scored(clip):
    waveform, _ = load_audio(REPOSITORY / "samples" / f"{clip}.wav", RATE, 5.0)
    wave = waveform[0].numpy()
    packed = Sound(wave, RATE).encode("mp3")
    assert len(packed) < len(Sound(wave, RATE).encode("wav")) / 4
    heard = decode(packed)[0]
    assert 10 * np.log10((wave**2).sum() / ((wave - heard) ** 2).sum()) > 19
    front_end = LogMelSTFTSpectrogram()
    before, after = (front_end(torch.from_numpy(w)[None, None]) for w in (wave, heard))
    change = (before - after).abs()[before > before.max() - 60]
    assert change.median() < 0.31
    assert change.quantile(0.95) < 1


@pytest.mark.parametrize("form", SOUND_FORMATS)
@pytest.mark.parametrize(("level", "excess"), [(2.0, 20 * np.log10(2)), (0.1, 0.0)])
def test_a_loud_sound_is_turned_down_and_a_quiet_one_stays_quiet(form, level, excess):
    sound = Sound(chirp(level=level), RATE)
    assert sound.excess_db == pytest.approx(excess, abs=1e-3)
    heard = decode(sound.encode(form))[0]
    peak = min(level, 1.0)
    assert np.abs(heard).max() == pytest.approx(peak, rel=0.03)
    # Turned down, not clipped: a clipped sine would have a third harmonic.
    assert np.corrcoef(heard, sound.waveform)[0, 1] > 0.999


def test_silence_is_a_sound_too():
    sound = Sound(np.zeros(1000, "f4"), RATE)
    assert sound.excess_db == 0
    for form in SOUND_FORMATS:
        assert np.abs(decode(sound.encode(form))[0]).max() < 1e-6


@pytest.mark.parametrize(
    ("rate", "form", "kind"),
    [
        (32000, None, "audio/mpeg"),
        (16000, None, "audio/mpeg"),
        (20000, None, "audio/wav"),
        (32000, "wav", "audio/wav"),
        (32000, "flac", "audio/flac"),
    ],
)
def test_a_player_is_mp3_where_it_can_be_unless_lossless_is_asked_for(rate, form, kind):
    sound = Sound(chirp(rate=rate), rate)
    found, content = held(sound.player(form))
    assert found == kind
    assert decode(content)[1] == rate
    if form is None:
        assert sound._repr_html_() == sound.player()


def test_a_name_cannot_break_out_of_the_markup():
    player = Sound(chirp(0.05), RATE).player(name='"><script>', width='1em"><b>')
    assert 'aria-label="&quot;&gt;&lt;script&gt;"' in player
    assert 'style="width: 1em&quot;&gt;&lt;b&gt;"' in player
    assert player.count("<") == 2
    assert isinstance(player, Html)
    assert player._repr_html_() == player


def test_players_stand_under_their_names_in_order():
    sounds = {"<dog>": Sound(chirp(), RATE), "cat": Sound(chirp(level=0.1), RATE)}
    markup = players(sounds, "wav")
    assert isinstance(markup, Html)
    cells = re.findall(r"<div>(.*?)<br>(<audio .*?</audio>)</div>", markup)
    assert [name for name, _ in cells] == ["&lt;dog&gt;", "cat"]
    for (_, player), (name, sound) in zip(cells, sounds.items(), strict=True):
        assert player == sound.player("wav", name=name)


@pytest.mark.parametrize("ending", SOUND_FORMATS)
def test_a_file_is_what_its_name_says_the_same_every_time(tmp_path, ending):
    sound = Sound(chirp(), RATE)
    first, second = (sound.save(tmp_path / f"{n}.{ending}") for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert soundfile.info(first).format == ending.upper()
    assert len(soundfile.read(first)[0]) == len(sound.waveform)


def test_a_wav_file_keeps_every_value_also_beyond_full_scale(tmp_path):
    sound = Sound(chirp(level=3), RATE)
    saved, _ = soundfile.read(sound.save(tmp_path / "a.wav"), dtype="float32")
    assert np.array_equal(saved, sound.waveform)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda s, d: s.encode("ogg"), UnknownNameError, "unknown sound format 'ogg': choose from"),
        (lambda s, d: s.player("aiff"), UnknownNameError, "unknown sound format 'aiff'"),
        (lambda s, d: s.encode("mp3"), ValueError, "MP3 has no sampling rate of 20000 Hz, .*wav"),
        (lambda s, d: s.save(d / "a.mp3"), ValueError, "MP3 has no sampling rate"),
        (lambda s, d: s.save(d / "a.ogg"), ValueError, "must end in .wav, .flac, .mp3"),
        (lambda s, d: s.save(d / "no" / "a.flac"), FileNotFoundError, "folder .*no does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, action, error, message):
    with pytest.raises(error, match=message):
        action(Sound(chirp(rate=20000), 20000), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_holds_a_player_once():
    player = Sound(chirp(), RATE).player()
    shown, _ = DisplayFormatter().format(player)
    assert shown["text/html"] == player
    assert len(shown["text/plain"]) < 100


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to play in")
def test_players_of_a_notebook_made_a_page_play_in_a_browser(tmp_path):
    from nbconvert import HTMLExporter

    waves = {form: chirp(0.2 * n) for n, form in enumerate(SOUND_FORMATS, 2)}
    cells = []
    for form, wave in waves.items():
        markup = Sound(wave, RATE).player(form)
        shown = nbformat.v4.new_output("display_data", data={"text/html": str(markup)})
        cells.append(nbformat.v4.new_code_cell("", outputs=[shown]))
    notebook = nbformat.v4.new_notebook(cells=cells)
    page = tmp_path / "page.html"
    page.write_text(HTMLExporter(template_name="basic").from_notebook_node(notebook)[0])
    with Browser() as browser:
        browser.open(page, 800, 600)
        players = "document.querySelectorAll('audio')"
        browser.until(f"[...{players}].every((player) => player.readyState > 0 || player.error)")
        assert browser.run(f"[...{players}].map((player) => player.error)") == [None] * len(waves)
        lengths = browser.run(f"[...{players}].map((player) => player.duration)")
        assert lengths == pytest.approx([len(wave) / RATE for wave in waves.values()], abs=0.03)
        heard = browser.run(
            f"""await Promise.all([...{players}].map(async (player) => {{
              const bytes = Uint8Array.from(atob(player.src.split(",")[1]), (c) => c.charCodeAt());
              const context = new OfflineAudioContext(1, 1, {RATE});
              const decoded = await context.decodeAudioData(bytes.buffer);
              return Array.from(decoded.getChannelData(0));
            }}))"""
        )
    for wave, samples in zip(waves.values(), heard, strict=True):
        # A browser may keep an encoder's padding at the end, but not at the start.
        assert len(samples) >= len(wave)
        assert np.corrcoef(samples[: len(wave)], wave)[0, 1] > 0.99


ULTRASOUND = 256000


def test_ultrasound_is_played_ten_times_slower_and_the_player_says_so():
    sound = Sound(chirp(0.1, rate=ULTRASOUND), ULTRASOUND)
    heard = sound.audible()
    assert (heard.sample_rate, heard.slowed) == (ULTRASOUND // 10, 10)
    assert heard.audible() is heard
    np.testing.assert_array_equal(heard.waveform, sound.waveform)
    markup = sound.player(name="a bat")
    kind, content = held(markup)
    played, rate = decode(content)
    assert (kind, rate, len(played)) == ("audio/wav", 25600, 25600)
    assert "<small>played 10 times slower</small>" in markup
    assert 'aria-label="a bat, played 10 times slower"' in markup
    assert "played 10 times slower" in players({"a bat": sound})
    # A tone of 40 kHz is one of 4 kHz.
    time = np.arange(ULTRASOUND // 10) / ULTRASOUND
    tone = Sound(np.sin(2 * np.pi * 40e3 * time).astype("f4"), ULTRASOUND)
    played, rate = decode(held(tone.player())[1])
    assert np.abs(np.fft.rfft(played)).argmax() * rate / len(played) == pytest.approx(4000)


@pytest.mark.parametrize("rate", [8000, 48000, 96000, 192000])
def test_what_players_take_is_played_as_it_is(rate):
    sound = Sound(chirp(0.02, rate=rate), rate)
    assert sound.audible() is sound
    assert "slower" not in sound.player("wav")


def test_sounds_are_slowed_down_by_whole_numbers():
    sound = Sound(chirp(0.01), RATE)
    assert sound.slow_down(2).slow_down(2) == Sound(sound.waveform, RATE // 4, 4)
    for times in (0, -1, 10 * RATE):
        with pytest.raises(ValueError, match=f"cannot be slowed down {times} times"):
            sound.slow_down(times)


def test_ultrasound_is_saved_at_its_own_rate(tmp_path):
    sound = Sound(chirp(0.02, rate=ULTRASOUND), ULTRASOUND)
    for ending in ("wav", "flac"):
        saved, rate = soundfile.read(sound.save(tmp_path / f"a.{ending}"), dtype="float32")
        assert rate == ULTRASOUND
        np.testing.assert_allclose(saved, sound.waveform, atol=2**-22)
    with pytest.raises(ValueError, match="MP3 has no sampling rate of 256000 Hz"):
        sound.save(tmp_path / "a.mp3")
    assert decode(sound.slow_down(16).encode("mp3"))[1] == 16000
