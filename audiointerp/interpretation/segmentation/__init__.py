"""Segmentations: the parts of a clip that perturbation methods hide, by name in `SEGMENTATIONS`.

A segmentation is a function of the clip's cells (freq, time), a NumPy array. One that needs more of
the clip, such as its times in seconds, is a `ClipSegmentation`, a function of the `Clip`. Both
return hard segments, integer labels (freq, time), or soft components, weights (components, freq,
time) that sum to 1 in every cell. A new one is a frozen dataclass under ``SEGMENTATIONS.register``
in the module of its kind: `image`, `plane` or `components`.
"""

from __future__ import annotations

from audiointerp.interpretation.segmentation.base import (
    SEGMENTATIONS,
    Clip,
    ClipSegmentation,
    Segmentation,
    as_segmentation,
    clip_of,
    segment_ahead,
    segment_clip,
)

# In the order of the registry.
# isort: off
from audiointerp.interpretation.segmentation.image import Felzenszwalb, Quickshift, Slic
from audiointerp.interpretation.segmentation.plane import (
    FRAMES_PER_SECOND,
    Frequency,
    Grid,
    Onsets,
    Time,
)
from audiointerp.interpretation.segmentation.components import (
    NMF,
    HarmonicPercussive,
    component_sounds,
)
# isort: on

__all__ = [
    "FRAMES_PER_SECOND",
    "NMF",
    "SEGMENTATIONS",
    "Clip",
    "ClipSegmentation",
    "Felzenszwalb",
    "Frequency",
    "Grid",
    "HarmonicPercussive",
    "Onsets",
    "Quickshift",
    "Segmentation",
    "Slic",
    "Time",
    "as_segmentation",
    "clip_of",
    "component_sounds",
    "segment_ahead",
    "segment_clip",
]
