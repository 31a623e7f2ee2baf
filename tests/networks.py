"""Small networks of a user's own, sounds for them, and what their heads are."""

from __future__ import annotations

import torch
from torch import nn

import audiointerp as ai

RATE = 8000
SECONDS = 1.0
NAMES = ("rain", "dog", "cat")


class Network(nn.Module):
    """A small network on dB cells, its scores passed through `after`."""

    def __init__(self, outputs=3, after=lambda scores: scores, seed=0, scale=4.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 8, 5, stride=2)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d((4, 4))
            self.flatten = nn.Flatten()
            self.linear = nn.Linear(128, outputs)
        self.outputs = outputs
        self.scale = scale
        self.after = after

    def forward(self, cells):
        hidden = self.pool(self.relu(self.conv(cells / 50 + 1)))
        return self.after(self.scale * self.linear(self.flatten(hidden)))


def stft() -> ai.LogSTFTSpectrogram:
    return ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)


def sounds(count=3, seed=0) -> torch.Tensor:
    """Return clips of noise whose level and colour differ, (count, 1, samples)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, int(RATE * SECONDS), generator=generator)
    smooth = nn.functional.avg_pool1d(noise, 9, 1, 4)
    mix = torch.linspace(0, 1, count)[:, None, None]
    return (0.3 * (mix * noise + (1 - mix) * smooth)).clamp(-1, 1)


def wrap(network, **options) -> ai.Classifier:
    binary = options.get("head") == "binary"
    return ai.classifier(
        network,
        **{
            "front_end": stft(),
            "classes": ("other", "dog") if binary else NAMES[: getattr(network, "outputs", 3)],
            "duration": SECONDS,
            **options,
        },
    )


def probabilities(classifier, clips) -> torch.Tensor:
    view = classifier.front_end.analyse(clips)
    with torch.no_grad():
        return classifier.probabilities(classifier.logits(view.cells, view))


HEADS = {
    "softmax": (3, lambda s: s.softmax(1)),
    "sigmoid": (3, lambda s: s.sigmoid()),
    "binary": (1, lambda s: s.sigmoid()),
}
