"""A classifier whose answers are known, and a night of sounds for it."""

import numpy as np
import torch
from torch import nn

import audiointerp as ai

RATE = 8000
CLASSES = ("low", "high", "hiss")


class Bands(nn.Module):
    """Score 'low', 'high' and 'hiss' by how loud some bands are, so that answers are known."""

    def forward(self, cells):
        loud = cells.mean(3)[:, 0] / 10
        low, high = loud[:, 2:10].amax(1), loud[:, 20:30].amax(1)
        return torch.stack([low, high, loud.amin(1) + 2], 1)


def make_front_end():
    return ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=64, hop_length=32)


def tone(hertz, seconds, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def scene(rate=RATE):
    """Return 6 s: a low tone, a high one from 3 s to 4 s, silence from 5 s on."""
    sound = 0.1 * tone(700, 6, rate)
    sound[3 * rate : 4 * rate] = 0.8 * tone(3000, 1, rate)
    sound[5 * rate :] = 0
    return sound.astype(np.float32)
