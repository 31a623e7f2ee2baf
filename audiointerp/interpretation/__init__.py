"""Attribution methods: which cells of a spectrogram speak for a class.

A new method is one file with an `Interpreter` filed in `METHODS`, and its import here.
"""

from __future__ import annotations

from audiointerp.interpretation.base import METHODS, Explanation, Interpreter

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

__all__ = [
    "METHODS",
    "AdditivityError",
    "AdditivityWarning",
    "Explanation",
    "GradCAMInterpreter",
    "Interpreter",
    "LIMEInterpreter",
    "Quickshift",
    "SHAPInterpreter",
    "SaliencyInterpreter",
    "UnsupportedLayerError",
    "select_background",
]
