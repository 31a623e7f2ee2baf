"""Attribution methods: which cells of a spectrogram speak for a class.

A new method is one file with an `Interpreter` filed in `METHODS`, and its import here.
`audiointerp.interpretation.references` has what methods are compared with.
"""

from __future__ import annotations

from audiointerp.interpretation.base import (
    DEFAULT_METHODS,
    METHODS,
    Explanation,
    Interpreter,
    is_reference,
    method_label,
)

from audiointerp.interpretation.saliency import SaliencyInterpreter  # isort: skip (table order)
from audiointerp.interpretation.deeplift import UnsupportedLayerError
from audiointerp.interpretation.gradcam import GradCAMInterpreter
from audiointerp.interpretation.lime import LIMEInterpreter
from audiointerp.interpretation.segmentation import SEGMENTATIONS, Quickshift
from audiointerp.interpretation.shap import (
    AdditivityError,
    AdditivityWarning,
    SHAPInterpreter,
    select_background,
)

from audiointerp.interpretation.shapley import (  # isort: skip (after the published four)
    KernelSHAPInterpreter,
    PermutationSHAPInterpreter,
    TopK,
)
from audiointerp.interpretation.occlusion import OcclusionInterpreter  # isort: skip
from audiointerp.interpretation.rise import FreqRISEInterpreter, RISEInterpreter  # isort: skip
from audiointerp.interpretation.sobol import SobolInterpreter  # isort: skip
from audiointerp.interpretation.surrogates import (  # isort: skip
    ForestSurrogateInterpreter,
    LinearSurrogateInterpreter,
)

from audiointerp.interpretation.references import (  # isort: skip (after the methods in tables)
    EdgeReference,
    EnergyReference,
    ExcessReference,
    IdealReference,
    RandomReference,
    Reference,
)

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "SEGMENTATIONS",
    "AdditivityError",
    "AdditivityWarning",
    "EdgeReference",
    "EnergyReference",
    "ExcessReference",
    "Explanation",
    "ForestSurrogateInterpreter",
    "FreqRISEInterpreter",
    "GradCAMInterpreter",
    "IdealReference",
    "Interpreter",
    "KernelSHAPInterpreter",
    "LIMEInterpreter",
    "LinearSurrogateInterpreter",
    "OcclusionInterpreter",
    "PermutationSHAPInterpreter",
    "Quickshift",
    "RISEInterpreter",
    "RandomReference",
    "Reference",
    "SHAPInterpreter",
    "SaliencyInterpreter",
    "SobolInterpreter",
    "TopK",
    "UnsupportedLayerError",
    "is_reference",
    "method_label",
    "select_background",
]
