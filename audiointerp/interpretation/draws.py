"""Random numbers that depend only on a clip and a seed."""

from __future__ import annotations

import hashlib

import torch

from audiointerp.processing import View


def clip_generator(view: View, clip: int, seed: int) -> torch.Generator:
    """Return a generator on the CPU that is seeded by a clip's content and a number.

    The content is the SHA-256 of the clip's waveform, or of its cells where there is no sound, both
    in single precision. What is drawn depends neither on the other clips of the batch nor on the
    device, which only rounds cells.

    Parameters
    ----------
    view : View
    clip : int
        The clip's place in the view.
    seed : int

    Returns
    -------
    torch.Generator
    """
    clips = view.cells if view.waveform is None else view.waveform
    values = clips[clip].detach().float().cpu().contiguous()
    content = hashlib.sha256(values.numpy().tobytes())
    content.update(str(seed).encode())
    number = int.from_bytes(content.digest()[:8], "big", signed=True)
    return torch.Generator().manual_seed(number)
