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
from audiointerp.interpretation.trained.files import load_interpreter, save_interpreter
from audiointerp.interpretation.trained.lmac import LMACInterpreter

from audiointerp.interpretation.trained.l2i import L2IInterpreter  # isort: skip (table order)

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
    "EdgeReference",
    "EnergyReference",
    "ExcessReference",
    "Explanation",
    "GradCAMInterpreter",
    "IdealReference",
    "Interpreter",
    "L2IInterpreter",
    "LIMEInterpreter",
    "LMACInterpreter",
    "Quickshift",
    "RandomReference",
    "Reference",
    "SHAPInterpreter",
    "SaliencyInterpreter",
    "UnsupportedLayerError",
    "is_reference",
    "load_interpreter",
    "method_label",
    "save_interpreter",
    "select_background",
]
