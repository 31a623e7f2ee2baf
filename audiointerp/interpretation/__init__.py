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
from audiointerp.interpretation.lime import LIMEInterpreter, Quickshift
from audiointerp.interpretation.shap import (
    AdditivityError,
    AdditivityWarning,
    SHAPInterpreter,
    select_background,
)

from audiointerp.interpretation.lrp import (  # isort: skip (after the published four)
    AttnLRPInterpreter,
    EpsilonLRPInterpreter,
    FlatLRPInterpreter,
    GammaLRPInterpreter,
    LRPInterpreter,
    WSquareLRPInterpreter,
    ZPlusLRPInterpreter,
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
    "AdditivityError",
    "AdditivityWarning",
    "AttnLRPInterpreter",
    "EdgeReference",
    "EnergyReference",
    "EpsilonLRPInterpreter",
    "ExcessReference",
    "Explanation",
    "FlatLRPInterpreter",
    "GammaLRPInterpreter",
    "GradCAMInterpreter",
    "IdealReference",
    "Interpreter",
    "LIMEInterpreter",
    "LRPInterpreter",
    "Quickshift",
    "RandomReference",
    "Reference",
    "SHAPInterpreter",
    "SaliencyInterpreter",
    "UnsupportedLayerError",
    "WSquareLRPInterpreter",
    "ZPlusLRPInterpreter",
    "is_reference",
    "method_label",
    "select_background",
]
