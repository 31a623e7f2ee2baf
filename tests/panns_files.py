"""The names and shapes of the files published with PANNs, written down apart from our models."""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram


def norm_shapes(name, channels):
    shapes = {
        f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return shapes | {f"{name}.num_batches_tracked": ()}


def block_shapes(name, before, after, kernel=3, convolutions=2):
    shapes = {}
    for n in range(1, convolutions + 1):
        shapes[f"{name}.conv{n}.weight"] = (after, before if n == 1 else after, kernel, kernel)
        shapes |= norm_shapes(f"{name}.bn{n}", after)
    return shapes


def cnn_shapes(channels, **kwargs):
    shapes = {}
    for n, (before, after) in enumerate(pairwise([1, *channels]), start=1):
        shapes |= block_shapes(f"conv_block{n}", before, after, **kwargs)
    return shapes


def resnet_shapes(depths):
    shapes = block_shapes("conv_block1", 1, 64)
    before = 64
    for layer, (depth, after) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
        for place in range(depth):
            name = f"resnet.layer{layer}.{place}"
            shapes |= block_shapes(name, before, after)
            if before != after:
                shapes[f"{name}.downsample.1.weight"] = (after, before, 1, 1)
                shapes |= norm_shapes(f"{name}.downsample.2", after)
            before = after
    return shapes | block_shapes("conv_block_after1", 512, 2048)


def mobilenet1_shapes():
    shapes = {"features.0.0.weight": (32, 1, 3, 3)} | norm_shapes("features.0.2", 32)
    channels = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    for place, (before, after) in enumerate(pairwise(channels), start=1):
        name = f"features.{place}"
        shapes |= {f"{name}.0.weight": (before, 1, 3, 3), f"{name}.4.weight": (after, before, 1, 1)}
        shapes |= norm_shapes(f"{name}.2", before) | norm_shapes(f"{name}.5", after)
    return shapes


def mobilenet2_shapes():
    shapes = {"features.0.0.weight": (32, 1, 3, 3)} | norm_shapes("features.0.2", 32)
    shapes |= {
        "features.1.conv.0.weight": (32, 1, 3, 3),
        "features.1.conv.4.weight": (16, 32, 1, 1),
    }
    shapes |= norm_shapes("features.1.conv.2", 32) | norm_shapes("features.1.conv.5", 16)
    channels = [16, 24, 24, *[32] * 3, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    for place, (before, after) in enumerate(pairwise(channels), start=2):
        name, hidden = f"features.{place}.conv", 6 * before
        shapes |= {
            f"{name}.0.weight": (hidden, before, 1, 1),
            f"{name}.3.weight": (hidden, 1, 3, 3),
            f"{name}.7.weight": (after, hidden, 1, 1),
        }
        shapes |= norm_shapes(f"{name}.1", hidden) | norm_shapes(f"{name}.5", hidden)
        shapes |= norm_shapes(f"{name}.8", after)
    shapes |= {"features.18.0.weight": (1280, 320, 1, 1)} | norm_shapes("features.18.1", 1280)
    return shapes


SHAPES = {
    "Cnn14": (cnn_shapes([64, 128, 256, 512, 1024, 2048]), 2048, 2048),
    "Cnn10": (cnn_shapes([64, 128, 256, 512]), 512, 512),
    "Cnn6": (cnn_shapes([64, 128, 256, 512], kernel=5, convolutions=1), 512, 512),
    "ResNet22": (resnet_shapes((2, 2, 2, 2)), 2048, 2048),
    "ResNet38": (resnet_shapes((3, 4, 6, 3)), 2048, 2048),
    "MobileNetV1": (mobilenet1_shapes(), 1024, 1024),
    "MobileNetV2": (mobilenet2_shapes(), 1280, 1024),
}


def panns_shapes(name):
    """Every key of a published file and its shape."""
    blocks, before_fc, embedding = SHAPES[name]
    return {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        **norm_shapes("bn0", 64),
        **blocks,
        "fc1.weight": (embedding, before_fc),
        "fc1.bias": (embedding,),
        "fc_audioset.weight": (527, embedding),
        "fc_audioset.bias": (527,),
    }


def panns_state(name, seed=0):
    """A state dict with the published names and shapes; each entry holds one random number.

    Expanded tensors keep even Cnn14's file small.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.tensor(600_000)
        if key.endswith("num_batches_tracked")
        else torch.rand(1, generator=generator).expand(shape)
        for key, shape in panns_shapes(name).items()
    }


def panns_front_end(**options):
    """PANNs' own front end, of torchlibrosa: waveform to power, power to decibels of mel bands."""
    size = {"n_fft": 1024} | {key: options.pop(key) for key in ("n_fft",) if key in options}
    mel = {"sr": 32000, "n_mels": 64, "fmin": 50, "fmax": 14000} | options
    plain = {"ref": 1.0, "amin": 1e-10, "top_db": None}
    spectrogram = Spectrogram(
        **size, hop_length=320, window="hann", center=True, pad_mode="reflect"
    )
    return spectrogram, LogmelFilterBank(**size, **mel, **plain)


def panns_tagger(name, seed=0, **front_end):
    """A state dict with the published names and shapes that makes a working network.

    Convolutions and layers are random, the front end is PANNs' own.
    """
    generator = torch.Generator().manual_seed(seed)

    def value(key, shape):
        if key.endswith("num_batches_tracked"):
            return torch.tensor(600_000)
        if key.startswith("bn0.running"):  # of decibels
            return torch.full(shape, -30.0 if key.endswith("mean") else 900.0)
        drawn = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return drawn * (2 / drawn[0].numel()) ** 0.5
        spread = 0.1 * drawn
        return 1 + spread.abs() if key.endswith(("weight", "running_var")) else spread

    spectrogram, mel = panns_front_end(**front_end)
    own = {
        **{f"spectrogram_extractor.{key}": each for key, each in spectrogram.state_dict().items()},
        **{f"logmel_extractor.{key}": each for key, each in mel.state_dict().items()},
    }
    return {key: value(key, shape) for key, shape in panns_shapes(name).items()} | own
