"""PANNs' networks re-implemented slowly, through plain formulas on a state dict of PANNs' names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def norm(x, state, name):
    mean, var, weight, bias = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def conv(x, state, name, groups=1):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)


def plain_block(x, state, name, convolutions=2):
    for n in range(1, convolutions + 1):
        x = norm(conv(x, state, f"{name}.conv{n}"), state, f"{name}.bn{n}").clamp(min=0)
    return x


def slow_cnn(x, state, *, blocks, convolutions, pooled):
    for n in range(1, blocks + 1):
        x = plain_block(x, state, f"conv_block{n}", convolutions)
        x = F.avg_pool2d(x, 2) if n <= pooled else x
    return x


def slow_resnet(x, state, *, depths):
    x = F.avg_pool2d(plain_block(x, state, "conv_block1"), 2)
    for layer, depth in enumerate(depths, start=1):
        for place in range(depth):
            name = f"resnet.layer{layer}.{place}"
            shortcut = x
            if layer > 1 and place == 0:
                x = F.avg_pool2d(x, 2)
                shortcut = norm(
                    conv(x, state, f"{name}.downsample.1"), state, f"{name}.downsample.2"
                )
            x = norm(conv(x, state, f"{name}.conv1"), state, f"{name}.bn1").clamp(min=0)
            x = norm(conv(x, state, f"{name}.conv2"), state, f"{name}.bn2")
            x = (x + shortcut).clamp(min=0)
    return plain_block(F.avg_pool2d(x, 2), state, "conv_block_after1")


def slow_stem(x, state, ceiling):
    x = F.avg_pool2d(conv(x, state, "features.0.0"), 2)
    return norm(x, state, "features.0.2").clamp(0, ceiling)


def slow_mobilenet1(x, state):
    x = slow_stem(x, state, math.inf)
    for place, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
        name = f"features.{place}"
        x = F.avg_pool2d(conv(x, state, f"{name}.0", groups=x.shape[1]), stride)
        x = norm(x, state, f"{name}.2").clamp(min=0)
        x = norm(conv(x, state, f"{name}.4"), state, f"{name}.5").clamp(min=0)
    return x


def slow_mobilenet2(x, state):
    x = slow_stem(x, state, 6)
    strides = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1)
    for place, stride in enumerate(strides, start=1):
        name, shortcut = f"features.{place}.conv", x
        first = 0
        if place > 1:
            x = norm(conv(x, state, f"{name}.0"), state, f"{name}.1").clamp(0, 6)
            first = 3
        x = F.avg_pool2d(conv(x, state, f"{name}.{first}", groups=x.shape[1]), stride)
        x = norm(x, state, f"{name}.{first + 2}").clamp(0, 6)
        x = norm(conv(x, state, f"{name}.{first + 4}"), state, f"{name}.{first + 5}")
        if place in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16):
            x = x + shortcut
    return norm(conv(x, state, "features.18.0"), state, "features.18.1").clamp(0, 6)


SLOW = {
    "Cnn14": lambda x, s: slow_cnn(x, s, blocks=6, convolutions=2, pooled=5),
    "Cnn10": lambda x, s: slow_cnn(x, s, blocks=4, convolutions=2, pooled=4),
    "Cnn6": lambda x, s: slow_cnn(x, s, blocks=4, convolutions=1, pooled=4),
    "ResNet22": lambda x, s: slow_resnet(x, s, depths=(2, 2, 2, 2)),
    "ResNet38": lambda x, s: slow_resnet(x, s, depths=(3, 4, 6, 3)),
    "MobileNetV1": slow_mobilenet1,
    "MobileNetV2": slow_mobilenet2,
}


def slow_embedding(name: str, features: torch.Tensor, state: dict) -> torch.Tensor:
    """Return the embeddings (batch, embedding) of features (batch, 1, freq, time)."""
    x = norm(features.permute(0, 2, 3, 1), state, "bn0").permute(0, 3, 2, 1)
    x = SLOW[name](x, state).mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    return (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)


def slow_tagger(name: str, features: torch.Tensor, state: dict) -> torch.Tensor:
    """Return PANNs' clipwise output: the probability of every class of AudioSet."""
    x = slow_embedding(name, features, state)
    return torch.sigmoid(x @ state["fc_audioset.weight"].T + state["fc_audioset.bias"])
