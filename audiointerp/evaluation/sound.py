"""Sound quality: how close the masked sound is to the clean foreground."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from audiointerp.evaluation.arithmetic import si_sdr
from audiointerp.evaluation.record import METRICS, Evidence, Metric


def _sdr(evidence: Evidence) -> Tensor:
    """Return the SI-SDR of what each mask keeps; NaN where it keeps nothing to listen to."""

    def compute() -> Tensor:
        found = si_sdr(evidence.sound, evidence.truth.foreground.waveform)
        keeps = evidence.mask.flatten(1).amax(1).to(found.device) > 0
        known = keeps & evidence.truth.is_of(evidence.target).to(found.device)
        return torch.where(known, found, torch.nan)

    return evidence.once("SI-SDR", compute)


FAMILY = "sound"

METRICS["SI_SDR"] = Metric(
    "SI_SDR",
    title="scale-invariant signal-to-distortion ratio",
    meaning="level of the clean foreground in what the mask keeps, over the rest of it",
    unit="dB",
    decimals=1,
    clip_decimals=1,
    better=1,
    bounds=lambda cells: (-math.inf, math.inf),
    family=FAMILY,
    level="sound",
    needs=frozenset({"parts", "mask", "sound"}),
    compute=_sdr,
)
METRICS["SI_SDRi"] = Metric(
    "SI_SDRi",
    title="improvement of the SI-SDR",
    meaning="how much further the clean foreground is above the rest in what the mask keeps than "
    "in the whole clip",
    unit="dB",
    decimals=1,
    clip_decimals=1,
    better=1,
    bounds=lambda cells: (-math.inf, math.inf),
    family=FAMILY,
    level="sound",
    needs=frozenset({"parts", "mask", "sound"}),
    compute=lambda evidence: _sdr(evidence) - evidence.truth.mixture_sdr,
)
