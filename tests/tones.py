"""A set that any classifier can learn, and a small model and front end for it."""

from __future__ import annotations

import numpy as np
import torch

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.model import TransferCnn14, build_head
from audiointerp.processing import LogMelSTFTSpectrogram

RATE = 8000


class Tones(ClipDataset):
    """Low and high tones in noise, told apart by any classifier; can break down on purpose."""

    def __init__(self, clips: int, first: int = 0, *, rate: int = RATE, classes=("low", "high")):
        super().__init__(
            clip_ids=[f"tone{first + place}" for place in range(clips)],
            labels=[place % 2 for place in range(clips)],
            folds=[1] * clips,
            classes=classes,
            sample_rate=rate,
            duration=1.2,
        )
        self.first = first
        self.taken = 0
        self.breaks_after: int | None = None

    def __getitem__(self, index):
        self._count()
        return super().__getitem__(index)

    def _count(self):
        self.taken += 1
        if self.breaks_after is not None and self.taken > self.breaks_after:
            raise OSError("the disk is gone")

    def _source(self, index):
        return f"tone{self.first + index}"

    def _decode(self, index):
        noise = np.random.default_rng(self.first + index)
        time = np.arange(self.num_samples) / self.sample_rate
        tone = np.sin(2 * np.pi * (2500 if index % 2 else 400) * time)
        sound = tone + 0.05 * noise.standard_normal(self.num_samples)
        return torch.from_numpy(sound[None].astype(np.float32))


class Chords(Tones):
    """Up to three tones at once, in all combinations: any number of labels per clip, or none."""

    frequencies = (400, 1200, 2500)

    def __init__(self, clips: int, first: int = 0, *, rate: int = RATE):
        super().__init__(clips, first, rate=rate, classes=("low", "middle", "high"))
        self.label_sets = [
            tuple(tone for tone in range(3) if (first + place) >> tone & 1)
            for place in range(clips)
        ]

    @property
    def label_sets(self):
        return self._label_sets

    @label_sets.setter
    def label_sets(self, label_sets):
        self._label_sets = label_sets

    def __getitem__(self, index):
        self._count()
        label = torch.zeros(3)
        label[list(self.label_sets[index])] = 1
        return Clip(sum(self.parts(index)), label, self.clip_ids[index])

    def _decode(self, index):
        noise = np.random.default_rng(self.first + index)
        time = np.arange(self.num_samples) / self.sample_rate
        tones = [
            np.sin(2 * np.pi * self.frequencies[tone] * time) for tone in self.label_sets[index]
        ]
        sound = sum(tones) + 0.05 * noise.standard_normal(self.num_samples)
        return torch.from_numpy(sound[None].astype(np.float32))


def small_model(
    seed: int = 0, classes: int = 2, bins: int = 32, head: str = "softmax"
) -> TransferCnn14:
    made = build_head(head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TransferCnn14(made.num_outputs(classes), bins, width=1 / 16)
    model.head = made
    return model


def front_end() -> LogMelSTFTSpectrogram:
    return LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=512, hop_length=256, n_mels=32, f_max=4000.0
    )
