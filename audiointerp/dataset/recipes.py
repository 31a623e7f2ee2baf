"""Synthesis recipes of the synthetic set: one per class, one per kind of background.

A recipe is a function of a random generator alone. It draws everything that varies within its
class (pitch, formants, tempo, number and onset of repetitions, timbre, durations) and returns five
seconds of float64 audio at 44.1 kHz, of any level: :mod:`audiointerp.dataset.synthetic` sets the
levels, places the sound in a room and adds it to a background.

``RECIPES`` maps ESC-50 class names to event recipes, ``BACKGROUNDS`` the names of background kinds
to theirs. One more class is one more function with its registry line and its ESC-50 number in
:data:`TARGETS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal

from audiointerp.registry import Registry

Array = NDArray[np.float64]
Recipe = Callable[[np.random.Generator], Array]
Peaks = Sequence[tuple[ArrayLike, float, float]]

RATE = 44100
"""Hz, at which every sound is made."""

SECONDS = 5.0
"""Length of every sound, s."""

SAMPLES = int(RATE * SECONDS)

TOP = 17000.0
"""Hz, above which no harmonic is made: no recipe aliases."""

RECIPES: Registry[Recipe] = Registry("class of the synthetic set")
BACKGROUNDS: Registry[Recipe] = Registry("background")

TARGETS = {
    "dog": 0,
    "cat": 5,
    "crow": 9,
    "sea_waves": 11,
    "clapping": 22,
    "clock_tick": 38,
    "helicopter": 40,
    "siren": 42,
    "car_horn": 43,
    "church_bells": 46,
}
"""ESC-50's own numbers of the classes the set has."""


# --- building blocks ---------------------------------------------------------------------------


def contour(points: Sequence[float] | Array, samples: int) -> Array:
    """Smooth curve through equally spaced `points`, `samples` long, without overshoot."""
    values = np.asarray(points, dtype=float)
    # Reckoned at about every 32nd sample, with straight lines between.
    position = np.linspace(0, len(values) - 1, samples // 32 + 2)
    left = np.minimum(position.astype(int), len(values) - 2)
    step = position - left
    step = step * step * (3 - 2 * step)
    knots = values[left] * (1 - step) + values[left + 1] * step
    return np.interp(np.linspace(0, len(values) - 1, samples), position, knots)


def wander(rng: np.random.Generator, samples: int, per_second: float) -> Array:
    """Slow random curve of about unit variance with `per_second` independent values a second."""
    turns = int(np.ceil(samples / RATE * per_second)) + 2
    return contour(rng.standard_normal(turns), samples)


def fade(samples: int, attack: float, release: float) -> Array:
    """Envelope that rises from 0 within `attack` s, holds 1 and falls to 0 within `release` s."""
    time = np.arange(samples) / RATE
    rise = np.clip(time / attack, 0, 1)
    fall = np.clip((samples / RATE - time) / release, 0, 1)
    return (np.sin(np.pi / 2 * rise) * np.sin(np.pi / 2 * fall)) ** 2


def place(track: Array, event: Array, onset: float) -> None:
    """Add `event` to `track` from `onset` s on; what runs past the end is cut."""
    start = round(onset * RATE)
    stop = min(len(track), start + len(event))
    if start < stop:
        track[start:stop] += event[: stop - start]


def voiced(pitch: Array, peaks: Peaks, *, tilt: float = 0.0) -> Array:
    """Harmonic sound of a gliding pitch under (gliding) formants.

    Harmonic k has the amplitude of the formants at k times the pitch, times k^-tilt; so the sound
    is band-limited whatever the pitch does.

    Parameters
    ----------
    pitch : array of shape (samples,)
        Fundamental frequency, Hz.
    peaks : sequence of (centre, bandwidth, gain)
        Formants: centre in Hz (a number, or a curve as long as `pitch`), bandwidth in Hz.
    tilt : float
        Exponent of the fall with the harmonic's number.
    """
    samples, block = len(pitch), 128
    # Amplitudes move slowly: reckoned every 128 samples and interpolated between.
    knots = np.minimum(np.arange(-(-samples // block) + 1) * block, samples - 1)
    number = np.arange(1, int(TOP / pitch.min()) + 1)[:, None]
    frequency = number * pitch[knots]
    amplitude = np.full_like(frequency, 0.004)
    for centre, bandwidth, gain in peaks:
        middle = np.asarray(centre)[knots] if np.ndim(centre) else centre
        amplitude += gain / (1 + ((frequency - middle) / (bandwidth / 2)) ** 2)
    amplitude *= number ** float(-tilt) * np.clip((TOP - frequency) / 3000, 0, 1)
    audible = amplitude.max(1) > 2e-3 * amplitude.max()

    rotation = np.exp(2j * np.pi / RATE * np.cumsum(pitch))
    ramp = np.arange(block) / block
    power = np.ones_like(rotation)
    sound = np.zeros(samples)
    for row in range(len(number)):
        power *= rotation
        if audible[row]:
            level = amplitude[row, :-1, None] + np.diff(amplitude[row])[:, None] * ramp
            sound += level.reshape(-1)[:samples] * power.imag
    return sound


def breath(rng: np.random.Generator, samples: int, peaks: Peaks) -> Array:
    """Noise under fixed formants, of unit RMS: the rough, toneless part of a voice."""
    length = 1 << (samples - 1).bit_length()
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    response = np.full_like(frequency, 0.01)
    for centre, bandwidth, gain in peaks:
        response += gain / (1 + ((frequency - np.mean(centre)) / (bandwidth / 2)) ** 2)
    return shaped_noise(rng, response, length)[:samples]


def shaped_noise(rng: np.random.Generator, response: Array, samples: int = SAMPLES) -> Array:
    """Gaussian noise of unit RMS whose amplitude spectrum follows `response` (rfft bins)."""
    spectrum = rng.standard_normal(len(response)) + 1j * rng.standard_normal(len(response))
    sound = np.fft.irfft(spectrum * response, samples)
    return sound / np.sqrt(np.mean(sound**2))


def band(low: float, high: float, samples: int = SAMPLES) -> Array:
    """Amplitude response, at the rfft bins of `samples`, of a band from `low` to `high` Hz."""
    squared = np.fft.rfftfreq(samples, 1 / RATE) ** 2
    below, above = squared / low**2, squared / high**2
    return below / np.sqrt((1 + below * below) * (1 + above * above))


def ringing(
    frequencies: ArrayLike, decays: ArrayLike, gains: ArrayLike, samples: int = SAMPLES
) -> Array:
    """Sum of damped sinusoids that start together, as a struck piece of metal makes them.

    Parameters
    ----------
    frequencies : array-like of shape (partials,)
        In Hz; those above `TOP` are left out.
    decays : array-like of shape (partials,)
        Time in which each falls by 60 dB, s; infinite for a steady tone.
    gains : array-like of shape (partials,)
        Amplitudes; complex ones set the phase, real ones start at zero.
    samples : int
        Length of the result.
    """
    frequencies, decays, gains = np.broadcast_arrays(
        *map(np.atleast_1d, (frequencies, decays, gains))
    )
    rate = (-np.log(1000) / decays + 2j * np.pi * frequencies) / RATE
    # exp(rate·n) with n = 512·row + column is a product of two short tables, summed by a matmul.
    rows = np.exp(np.outer(np.arange(-(-samples // 512)) * 512, rate)) * gains * (frequencies < TOP)
    columns = np.exp(np.outer(rate, np.arange(512)))
    return (rows @ columns).imag.reshape(-1)[:samples]


def spread(rng: np.random.Generator, lengths: Sequence[float], gap: tuple[float, float]) -> Array:
    """Onsets (s) of events of the given `lengths` (s), in turn, with random gaps between.

    Gaps are drawn from the range `gap` and shrunk where the events would not fit; the whole group
    begins at a random time that lets the last event end within the clip.
    """
    lengths = np.asarray(lengths, dtype=float)
    gaps = rng.uniform(*gap, len(lengths) - 1)
    room = max(0.0, SECONDS - 0.1 - lengths.sum())
    gaps *= min(1.0, room / gaps.sum()) if len(gaps) else 1.0
    start = rng.uniform(0.02, max(0.03, room - gaps.sum()))
    return start + np.concatenate([[0.0], np.cumsum(lengths[:-1] + gaps)])


# --- classes -----------------------------------------------------------------------------------


@RECIPES.register("dog")
def dog(rng: np.random.Generator) -> Array:
    """Barks: short pitched bursts that jump up and glide down, rough, with breath."""
    size = rng.uniform(0.0, 1.0)  # 0 a large dog, 1 a small one
    pitch = 240 * 3.0**size * rng.uniform(0.9, 1.1)
    throat = 0.75 + 0.6 * size
    roughness, noise = rng.uniform(0.01, 0.05), rng.uniform(0.15, 0.5)
    usual = rng.uniform(0.09, 0.26)
    lengths = usual * rng.uniform(0.8, 1.25, rng.integers(1, 9))
    drop = rng.uniform(0.45, 0.7)
    peaks = [
        (throat * rng.uniform(550, 850), 300 * throat, 1.0),
        (throat * rng.uniform(1100, 1700), 420 * throat, rng.uniform(0.4, 0.9)),
        (throat * rng.uniform(2300, 3200), 700 * throat, rng.uniform(0.1, 0.4)),
    ]
    track = np.zeros(SAMPLES)
    for onset, length in zip(spread(rng, lengths, (0.08, 0.7)), lengths, strict=True):
        samples = int(length * RATE)
        bend = contour([0.75, 1.0, 0.95, 0.8, drop], samples) * rng.uniform(0.93, 1.07)
        glide = pitch * bend * (1 + roughness * wander(rng, samples, 90))
        tone = voiced(np.maximum(glide, 80), peaks, tilt=0.3)
        rasp = breath(rng, samples, peaks) * np.sqrt(np.mean(tone**2)) * noise
        shape = fade(samples, rng.uniform(0.008, 0.025), 0.6 * length)
        place(track, (tone + rasp) * shape * rng.uniform(0.6, 1.0), onset)
    return track


@RECIPES.register("cat")
def cat(rng: np.random.Generator) -> Array:
    """Meows: long glides up and down while the mouth opens and closes."""
    pitch = rng.uniform(420, 900)
    lengths = rng.uniform(0.5, 1.5) * rng.uniform(0.8, 1.2, rng.integers(1, 4))
    opening = rng.uniform(900, 1300)
    peak_at = rng.integers(1, 3)
    vibrato, depth = rng.uniform(5, 9), rng.uniform(0.0, 0.015)
    track = np.zeros(SAMPLES)
    for onset, length in zip(spread(rng, lengths, (0.15, 1.2)), lengths, strict=True):
        samples = int(length * RATE)
        bend = np.array([0.75, 0.92, 0.95, 0.85, rng.uniform(0.55, 0.75)])
        bend[peak_at] = rng.uniform(1.0, 1.15)
        time = np.arange(samples) / RATE
        glide = pitch * contour(bend, samples) * (1 + depth * np.sin(2 * np.pi * vibrato * time))
        glide *= 1 + 0.006 * wander(rng, samples, 30)
        peaks = [
            (contour([450, opening, 0.95 * opening, 0.7 * opening, 480], samples), 450, 1.0),
            (contour([2500, 2100, 1800, 1500, 1000], samples), 600, rng.uniform(0.3, 0.8)),
            (rng.uniform(3300, 4300), 900, rng.uniform(0.1, 0.3)),
        ]
        tone = voiced(glide, peaks, tilt=0.2)
        air = breath(rng, samples, peaks) * np.sqrt(np.mean(tone**2)) * rng.uniform(0.02, 0.1)
        shape = fade(samples, 0.2 * length, 0.4 * length)
        place(track, (tone + air) * shape * rng.uniform(0.7, 1.0), onset)
    return track


@RECIPES.register("crow")
def crow(rng: np.random.Generator) -> Array:
    """Caws: nearly level tones of 300-600 Hz, torn by a fast rattle, strongest at 1-3 kHz."""
    pitch = rng.uniform(300, 600)
    rattle, depth = rng.uniform(35, 95), rng.uniform(0.5, 0.95)
    noise = rng.uniform(0.2, 0.6)
    lengths = rng.uniform(0.18, 0.5) * rng.uniform(0.85, 1.15, rng.integers(1, 8))
    peaks = [
        (rng.uniform(1000, 1500), 500, 1.0),
        (rng.uniform(1700, 2500), 600, rng.uniform(0.5, 1.0)),
        (rng.uniform(3000, 4200), 900, rng.uniform(0.1, 0.35)),
    ]
    track = np.zeros(SAMPLES)
    for onset, length in zip(spread(rng, lengths, (0.12, 0.8)), lengths, strict=True):
        samples = int(length * RATE)
        bend = contour([0.85, 1.0, 1.02, 0.98, 0.85], samples) * rng.uniform(0.96, 1.04)
        glide = pitch * bend * (1 + 0.02 * wander(rng, samples, 150))
        tone = voiced(glide, peaks)
        rasp = breath(rng, samples, peaks) * np.sqrt(np.mean(tone**2)) * noise
        beat = 2 * np.pi / RATE * np.cumsum(rattle * (1 + 0.1 * wander(rng, samples, 40)))
        torn = 1 - depth * (0.5 + 0.5 * np.cos(beat)) ** 2
        shape = fade(samples, rng.uniform(0.02, 0.05), 0.3 * length)
        place(track, (tone + rasp) * torn * shape * rng.uniform(0.7, 1.0), onset)
    return track


@RECIPES.register("sea_waves")
def sea_waves(rng: np.random.Generator) -> Array:
    """Surf: noise that swells, breaks bright and runs out, over a steady rumble."""
    time = np.arange(SAMPLES) / RATE
    period = rng.uniform(2.2, 6.0)
    crest, wave = rng.uniform(-0.5, 1.0) * period, np.zeros(SAMPLES)
    while crest < SECONDS + period:
        rise, run_out = rng.uniform(0.25, 0.5) * period, rng.uniform(0.3, 0.7) * period
        width = np.where(time < crest, rise, run_out)
        wave += rng.uniform(0.5, 1.0) * np.exp(-np.abs(time - crest) / width * 2)
        crest += period * rng.uniform(0.75, 1.25)
    wave = wave / wave.max()
    split, bright = rng.uniform(500, 1100), rng.uniform(3500, 9000)
    rumble = shaped_noise(rng, band(rng.uniform(60, 120), split)) * (0.25 + 0.75 * wave)
    surf = shaped_noise(rng, band(0.7 * split, 0.5 * bright)) * wave
    # Foam: the hiss follows the crest and comes and goes faster than the swell.
    foam = shaped_noise(rng, band(0.4 * bright, 1.3 * bright)) * wave**2
    foam *= np.clip(1 + 0.35 * wander(rng, SAMPLES, 12), 0.1, None)
    return (
        rumble * rng.uniform(0.4, 0.9) + surf * rng.uniform(0.5, 1) + foam * rng.uniform(0.15, 0.5)
    )


@RECIPES.register("clapping")
def clapping(rng: np.random.Generator) -> Array:
    """Hands of one person or of many: dense, exponentially decaying bursts of band-passed noise."""
    people = int(rng.choice([1, 2, 3, 5, 8, 12, 16]))
    pace = rng.uniform(2.4, 5.5)
    length = int(0.08 * RATE)
    time = np.arange(length) / RATE
    together = people <= 3
    first, last = (rng.uniform(0.0, 0.8), rng.uniform(4.0, 5.0)) if together else (0.0, SECONDS)
    track = np.zeros(SAMPLES)
    for _ in range(people):
        tempo = pace * rng.uniform(0.8, 1.2)
        steps = rng.normal(1, 0.04 if people == 1 else 0.1, 40).clip(0.6, 1.4) / tempo
        onsets = first + rng.uniform(0, 1 / tempo) + np.cumsum(steps) - steps[0]
        onsets = onsets[onsets < last]
        hollow, decay = rng.uniform(700, 2200), rng.uniform(0.004, 0.014)
        bursts = rng.standard_normal((len(onsets), length)) * np.exp(-time / decay)
        # One resonance of the cupped hands, one of the slap.
        cup = signal.iirpeak(hollow, rng.uniform(1.2, 3.0), RATE)
        slap = signal.butter(2, [1.4 * hollow, rng.uniform(5000, 10000)], "bandpass", fs=RATE)
        bursts = signal.lfilter(*cup, bursts) + rng.uniform(0.2, 0.5) * signal.lfilter(
            *slap, bursts
        )
        loudness = rng.uniform(0.4, 1.0)
        for onset, burst in zip(onsets, bursts, strict=True):
            place(track, burst * loudness * rng.uniform(0.6, 1.0), onset)
    return track


@RECIPES.register("clock_tick")
def clock_tick(rng: np.random.Generator) -> Array:
    """Clockwork: regular ticks, each a pair of tiny rings of small metal parts."""
    pace = float(rng.choice([1.0, 2.0, 2.5, 4.0, 5.0])) * rng.uniform(0.95, 1.05)
    lag, after = rng.uniform(0.008, 0.04), rng.uniform(0.15, 0.7)
    voices = [(rng.uniform(1800, 8000, 5), rng.uniform(0.008, 0.05, 5), rng.uniform(0.2, 1, 5))]
    if rng.random() < 0.6:  # a tock beside the tick
        frequencies, decays, gains = voices[0]
        voices.append((frequencies * rng.uniform(0.75, 0.92), decays, gains[::-1]))
    body = rng.uniform(300, 900), rng.uniform(0.02, 0.08), rng.uniform(0.05, 0.3)
    onsets = rng.uniform(0, 1 / pace) + np.arange(int(SECONDS * pace) + 1) / pace
    onsets = onsets + rng.normal(0, 0.001, len(onsets))
    track = np.zeros(SAMPLES)
    for turn, voice in enumerate(voices):
        metal = ringing(*voice, samples=RATE // 8) + ringing(*body, samples=RATE // 8)
        for onset in onsets[turn :: len(voices)]:
            force = rng.uniform(0.8, 1.0)
            # A strike is a burst half a millisecond long, not one sample: metal meets metal.
            for delay, gain in ((0.0, 1.0), (lag, after)):
                burst = rng.standard_normal(24) * np.hanning(24)
                place(track, force * gain * np.convolve(metal, burst), max(onset, 0.0) + delay)
    return track


@RECIPES.register("helicopter")
def helicopter(rng: np.random.Generator) -> Array:
    """Rotor: thumps of 10-22 a second with a blade hiss chopped by them and an engine whine."""
    pace = rng.uniform(10, 22)
    turn = np.cumsum(pace * (1 + 0.01 * wander(rng, SAMPLES, 1.0))) / RATE
    phase = turn % 1.0
    sharpness = rng.uniform(6, 16)
    chop = np.exp(-sharpness * phase) * np.clip(phase * 25, 0, 1)
    thump = shaped_noise(rng, band(rng.uniform(40, 70), rng.uniform(180, 420))) * chop
    # The same slap every turn: what makes the rotor's line spectrum.
    slap = np.sin(2 * np.pi * rng.uniform(60, 130) * phase / pace) * chop
    hiss = shaped_noise(rng, band(rng.uniform(400, 900), rng.uniform(2000, 5000)))
    hiss *= rng.uniform(0.15, 0.5) + chop
    time = np.arange(SAMPLES) / RATE
    whine = np.sin(2 * np.pi * rng.uniform(500, 2600) * (time + 0.0005 * wander(rng, SAMPLES, 2)))
    distance = contour(rng.uniform(0.45, 1.0, rng.integers(2, 4)), SAMPLES)
    sound = thump + rng.uniform(0.4, 1.0) * slap + rng.uniform(0.1, 0.45) * hiss
    return (sound + rng.uniform(0.0, 0.06) * whine) * distance


@RECIPES.register("siren")
def siren(rng: np.random.Generator) -> Array:
    """Emergency vehicle: a slow wail, a fast yelp or two tones in turn, through a horn."""
    time = np.arange(SAMPLES) / RATE
    start = rng.random()
    low = rng.uniform(450, 750)
    high = low * rng.uniform(1.7, 2.4)
    kind = rng.choice(["wail", "yelp", "two tones"])
    if kind == "two tones":
        low, high = rng.uniform(400, 620), rng.uniform(1.18, 1.42)
        cycle = (time / rng.uniform(0.7, 1.5) + start) % 1.0
        # The change from tone to tone takes some 20 ms.
        upper = 1 / (1 + np.exp(-np.clip(np.sin(2 * np.pi * cycle) * 60, -50, 50)))
        pitch = low * high**upper
    else:
        period = rng.uniform(1.8, 5.0) if kind == "wail" else rng.uniform(0.22, 0.5)
        cycle = (time / period + start) % 1.0
        share = rng.uniform(0.35, 0.65)  # of the period that the rise takes
        rising = np.where(cycle < share, cycle / share, (1 - cycle) / (1 - share))
        pitch = low * (high / low) ** (0.5 - 0.5 * np.cos(np.pi * rising))
    pitch = pitch * np.linspace(1.0, rng.uniform(0.97, 1.03), SAMPLES)  # driving by
    peaks = [
        (rng.uniform(700, 1300), 1400, 1.0),
        (rng.uniform(2000, 3200), 900, rng.uniform(0.15, 0.6)),
    ]
    near = contour(rng.uniform(0.3, 1.0, 3), SAMPLES)
    return voiced(pitch, peaks, tilt=rng.uniform(0.6, 1.2)) * near


@RECIPES.register("car_horn")
def car_horn(rng: np.random.Generator) -> Array:
    """Honks: two (or three) steady, bright tones about a third apart, begun and ended at once."""
    low = rng.uniform(300, 480)
    ratios = [1.0, rng.choice([1.19, 1.25, 1.26, 1.33])]
    if rng.random() < 0.25:
        ratios.append(1.5)
    kind = rng.choice(["one", "taps", "mixed"])
    lengths = {
        "one": lambda: rng.uniform(1.0, 3.5, 1),
        "taps": lambda: rng.uniform(0.12, 0.35) * rng.uniform(0.9, 1.1, rng.integers(2, 6)),
        "mixed": lambda: rng.uniform(0.15, 1.3, rng.integers(2, 4)),
    }[str(kind)]()
    peaks = [
        (rng.uniform(500, 900), 900, 1.0),
        (rng.uniform(1700, 2600), 900, rng.uniform(0.5, 1.2)),
        (rng.uniform(3200, 4500), 1300, rng.uniform(0.15, 0.5)),
    ]
    gains = rng.uniform(0.6, 1.0, len(ratios))
    tuning = rng.normal(0, 0.004, len(ratios))
    track = np.zeros(SAMPLES)
    for onset, length in zip(spread(rng, lengths, (0.06, 0.6)), lengths, strict=True):
        samples = int(length * RATE)
        time = np.arange(samples) / RATE
        settle = 1 - 0.03 * np.exp(-time / 0.02)  # the membrane comes up to pitch
        shape = fade(samples, rng.uniform(0.008, 0.02), rng.uniform(0.02, 0.05))
        honk = sum(
            gain * voiced(low * ratio * (1 + detune) * settle, peaks, tilt=0.25)
            for ratio, gain, detune in zip(ratios, gains, tuning, strict=True)
        )
        place(track, honk * shape, onset)
    return track


PARTIALS = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.3])
"""A bell's partials over its prime: hum, prime, minor third, fifth, nominal and above."""


@RECIPES.register("church_bells")
def church_bells(rng: np.random.Generator) -> Array:
    """One to four tuned bells, struck in turn, their many inharmonic partials ringing on."""
    prime = rng.uniform(260, 620)
    steps = rng.choice([0, 2, 4, 5, 7, 9], rng.integers(1, 5), replace=False)
    pause = rng.uniform(0.45, 1.7)
    onsets = np.arange(rng.uniform(0.0, 0.5 * pause), SECONDS - 0.3, pause)
    onsets = onsets + rng.normal(0, 0.02, len(onsets)).clip(-0.05, 0.05)
    gains = rng.uniform(0.3, 1.0, len(PARTIALS)) * [0.5, 0.8, 0.9, 0.4, 1, 0.5, 0.4, 0.5, 0.4, 0.25]
    ring = rng.uniform(2.0, 6.0)
    softness = rng.uniform(2500, 7000)  # Hz, above which the clapper excites little
    track = np.zeros(SAMPLES)
    for turn, step in enumerate(steps):
        partials = prime * 2 ** (step / 12) * PARTIALS * (1 + rng.normal(0, 0.004, len(PARTIALS)))
        bell = ringing(partials, ring / (0.5 + PARTIALS), gains / (1 + (partials / softness) ** 2))
        # The bell takes a millisecond or two to speak; the clapper's clank is first heard.
        bell *= fade(SAMPLES, 0.002, 0.001)
        clank = signal.butter(2, [2.5 * partials[4], 8000], "bandpass", fs=RATE)
        for onset in onsets[turn :: len(steps)]:
            clapper = rng.standard_normal(3000) * np.exp(-np.arange(3000) / 150)
            force = rng.uniform(0.7, 1.0)
            place(track, force * bell, max(onset, 0.0))
            place(track, 0.5 * force * signal.lfilter(*clank, clapper), max(onset, 0.0))
    return track


# --- backgrounds -------------------------------------------------------------------------------


def _coloured(rng: np.random.Generator, slope: tuple[float, float], bumps: int) -> Array:
    """Amplitude response falling by `slope` (exponent of the power) with random broad bumps."""
    frequency = np.maximum(np.fft.rfftfreq(SAMPLES, 1 / RATE), 30.0)
    octave = np.log2(frequency / 1000)
    level = -0.5 * rng.uniform(*slope) * octave * np.log(2)
    for centre, width, height in rng.uniform([-4, 0.3, -0.6], [3.5, 1.5, 0.9], (bumps, 3)):
        level += height * np.exp(-0.5 * ((octave - centre) / width) ** 2)
    return np.exp(level)


@BACKGROUNDS.register("noise")
def noise(rng: np.random.Generator) -> Array:
    """Steady noise between white, pink and brown."""
    return shaped_noise(rng, _coloured(rng, (0.2, 2.0), 3))


@BACKGROUNDS.register("hum")
def hum(rng: np.random.Generator) -> Array:
    """Mains hum and its harmonics over pinkish hiss."""
    mains = float(rng.choice([50.0, 60.0])) * (1 + rng.normal(0, 0.001))
    number = np.arange(1, rng.integers(8, 24))
    gains = rng.uniform(0.1, 1.0, len(number)) * number ** -rng.uniform(0.4, 1.2)
    gains[1::2] *= rng.uniform(0.2, 1.0)
    phases = np.exp(2j * np.pi * rng.uniform(0, 1, len(number)))
    tone = ringing(number * mains, np.inf, gains * phases)
    tone /= np.sqrt(np.mean(tone**2))
    return tone * rng.uniform(0.4, 1.2) + shaped_noise(rng, _coloured(rng, (0.3, 1.3), 3))


@BACKGROUNDS.register("room")
def room(rng: np.random.Generator) -> Array:
    """Room tone: ventilation, a few narrow room modes, all nearly still."""
    response = _coloured(rng, (1.0, 2.0), 4)
    frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    for centre in rng.uniform(60, 700, rng.integers(2, 6)):
        width = rng.uniform(3, 15)
        response *= 1 + rng.uniform(1, 4) / (1 + ((frequency - centre) / width) ** 2)
    air = shaped_noise(rng, band(rng.uniform(200, 800), rng.uniform(1500, 6000)))
    still = 1 + rng.uniform(0.02, 0.1) * wander(rng, SAMPLES, 1.5)
    return shaped_noise(rng, response) * still + rng.uniform(0.1, 0.6) * air


@BACKGROUNDS.register("wind")
def wind(rng: np.random.Generator) -> Array:
    """Gusts: low noise of restless level, brighter when strong."""
    gust = np.exp(0.5 * wander(rng, SAMPLES, rng.uniform(0.8, 3.0)))
    low = shaped_noise(rng, band(45, rng.uniform(200, 500))) * gust
    high = shaped_noise(rng, band(rng.uniform(250, 600), rng.uniform(1200, 4500))) * gust**2
    floor = shaped_noise(rng, _coloured(rng, (0.5, 1.2), 2))
    return low + rng.uniform(0.2, 0.8) * high + rng.uniform(0.15, 0.4) * floor


@BACKGROUNDS.register("traffic")
def traffic(rng: np.random.Generator) -> Array:
    """Distant street: a rumble, and tyres that swell and pass."""
    time = np.arange(SAMPLES) / RATE
    sound = shaped_noise(rng, _coloured(rng, (1.2, 2.0), 3))
    for _ in range(rng.integers(1, 4)):
        passing = np.exp(-0.5 * ((time - rng.uniform(0, 5)) / rng.uniform(0.5, 1.5)) ** 2)
        tyres = shaped_noise(rng, band(rng.uniform(300, 800), rng.uniform(1500, 4000)))
        sound += rng.uniform(0.2, 0.7) * passing * tyres
    return sound


@BACKGROUNDS.register("rain")
def rain(rng: np.random.Generator) -> Array:
    """Steady rain: bright hiss and scattered drops."""
    hiss = shaped_noise(rng, band(rng.uniform(400, 1500), rng.uniform(5000, 12000)))
    drops = (rng.random(SAMPLES) < rng.uniform(20, 120) / RATE) * rng.exponential(1.0, SAMPLES)
    drop = ringing(rng.uniform(1500, 5000), rng.uniform(0.004, 0.015), 1.0, samples=1024)
    drops = signal.oaconvolve(drops, drop)[:SAMPLES]
    loudest = np.abs(drops).max()
    drops *= rng.uniform(0.5, 3.0) / loudest if loudest > 0 else 0.0
    low = shaped_noise(rng, _coloured(rng, (0.8, 1.6), 2))
    return hiss + drops + rng.uniform(0.2, 0.6) * low


@BACKGROUNDS.register("murmur")
def murmur(rng: np.random.Generator) -> Array:
    """Many people talking far off: speech bands, each restless at the pace of syllables."""
    sound = shaped_noise(rng, _coloured(rng, (0.8, 1.6), 3)) * rng.uniform(0.3, 0.7)
    edges = np.geomspace(rng.uniform(150, 250), rng.uniform(2500, 4500), 4)
    for low, high in itertools.pairwise(edges):
        level = np.exp(0.45 * wander(rng, SAMPLES, rng.uniform(4, 8)))
        sound += shaped_noise(rng, band(low, high)) * level * (low / edges[0]) ** -0.5
    return sound


# --- one-off sounds ----------------------------------------------------------------------------


def horse(rng: np.random.Generator) -> Array:
    """Whinny: high harmonic tones that fall in pitch while they shake strongly, then a snort."""
    track = np.zeros(SAMPLES)
    lengths = [1.7, 1.4, 0.5]
    onsets = [0.25, 2.3, 4.2]
    for onset, length, pitch in zip(onsets[:2], lengths[:2], (1250, 1050), strict=True):
        samples = int(length * RATE)
        # The shake slows down from 13 to 7 Hz and widens as the tone falls.
        shake = np.sin(2 * np.pi * np.cumsum(contour([13, 11, 7], samples)) / RATE)
        fall = contour([0.7, 1.0, 0.9, 0.65, 0.4], samples)
        width = contour([0.02, 0.08, 0.14, 0.16], samples)
        glide = pitch * fall * (1 + width * shake) * (1 + 0.01 * wander(rng, samples, 60))
        peaks = [
            (contour([900, 1400, 1100, 800], samples), 800, 1.0),
            (2400, 900, 0.5),
            (3900, 1200, 0.2),
        ]
        tone = voiced(glide, peaks, tilt=0.2)
        air = breath(rng, samples, peaks) * np.sqrt(np.mean(tone**2)) * 0.2
        shape = fade(samples, 0.12, 0.5) * (1 + 0.35 * shake)
        place(track, (tone + air) * shape, onset)
    samples = int(lengths[2] * RATE)
    flutter = 0.5 + 0.5 * np.sin(2 * np.pi * 26 * np.arange(samples) / RATE)
    peaks = [(500, 500, 1.0), (1300, 900, 0.6)]
    loudness = 0.5 * np.sqrt(np.mean(track[track != 0] ** 2))
    snort = breath(rng, samples, peaks) * flutter * fade(samples, 0.05, 0.3) * loudness
    place(track, snort, onsets[2])
    return track
