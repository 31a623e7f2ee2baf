"""A set that any classifier can learn, and a small model and front end for it."""

from __future__ import annotations

import numpy as np
import torch

from audiointerp.dataset.base import ClipDataset
from audiointerp.model import TransferCnn14
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
        self.taken += 1
        if self.breaks_after is not None and self.taken > self.breaks_after:
            raise OSError("the disk is gone")
        return super().__getitem__(index)

    def _source(self, index):
        return f"tone{self.first + index}"

    def _decode(self, index):
        noise = np.random.default_rng(self.first + index)
        time = np.arange(self.num_samples) / self.sample_rate
        tone = np.sin(2 * np.pi * (2500 if index % 2 else 400) * time)
        sound = tone + 0.05 * noise.standard_normal(self.num_samples)
        return torch.from_numpy(sound[None].astype(np.float32))


def small_model(seed: int = 0, classes: int = 2, bins: int = 32) -> TransferCnn14:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TransferCnn14(classes, bins, width=1 / 16)


def front_end() -> LogMelSTFTSpectrogram:
    return LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=512, hop_length=256, n_mels=32, f_max=4000.0
    )
