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
from audiointerp.interpretation.gradcam import GradCAMInterpreter
from audiointerp.interpretation.lime import LIMEInterpreter
from audiointerp.interpretation.rescale import UnsupportedLayerError
from audiointerp.interpretation.segmentation import SEGMENTATIONS, Quickshift
from audiointerp.interpretation.shap import (
    AdditivityError,
    AdditivityWarning,
    SHAPInterpreter,
    select_background,
)

from audiointerp.interpretation.input_gradient import InputGradientInterpreter  # isort: skip
from audiointerp.interpretation.integrated_gradients import (  # isort: skip
    IntegratedGradientsInterpreter,
)
from audiointerp.interpretation.expected_gradients import (  # isort: skip
    ExpectedGradientsInterpreter,
)
from audiointerp.interpretation.smoothgrad import (  # isort: skip
    SmoothGradInterpreter,
    SquaredSmoothGradInterpreter,
    VarGradInterpreter,
)
from audiointerp.interpretation.guided import (  # isort: skip
    GuidedBackpropInterpreter,
    GuidedGradCAMInterpreter,
)
from audiointerp.interpretation.deeplift import DeepLIFTInterpreter  # isort: skip
from audiointerp.interpretation.fullgrad import FullGradInterpreter  # isort: skip
from audiointerp.interpretation.cams import (  # isort: skip (after the published four)
    EigenCAMInterpreter,
    EigenGradCAMInterpreter,
    FinerCAMInterpreter,
    GradCAMPlusPlusInterpreter,
    HiResCAMInterpreter,
    LayerCAMInterpreter,
    XGradCAMInterpreter,
)
from audiointerp.interpretation.scorecam import ScoreCAMInterpreter  # isort: skip
from audiointerp.interpretation.ablationcam import AblationCAMInterpreter  # isort: skip
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
    "AblationCAMInterpreter",
    "AdditivityError",
    "AdditivityWarning",
    "DeepLIFTInterpreter",
    "EdgeReference",
    "EigenCAMInterpreter",
    "EigenGradCAMInterpreter",
    "EnergyReference",
    "ExcessReference",
    "ExpectedGradientsInterpreter",
    "Explanation",
    "FinerCAMInterpreter",
    "ForestSurrogateInterpreter",
    "FreqRISEInterpreter",
    "FullGradInterpreter",
    "GradCAMInterpreter",
    "GradCAMPlusPlusInterpreter",
    "GuidedBackpropInterpreter",
    "GuidedGradCAMInterpreter",
    "HiResCAMInterpreter",
    "IdealReference",
    "InputGradientInterpreter",
    "IntegratedGradientsInterpreter",
    "Interpreter",
    "KernelSHAPInterpreter",
    "LIMEInterpreter",
    "LayerCAMInterpreter",
    "LinearSurrogateInterpreter",
    "OcclusionInterpreter",
    "PermutationSHAPInterpreter",
    "Quickshift",
    "RISEInterpreter",
    "RandomReference",
    "Reference",
    "SHAPInterpreter",
    "SaliencyInterpreter",
    "ScoreCAMInterpreter",
    "SmoothGradInterpreter",
    "SobolInterpreter",
    "SquaredSmoothGradInterpreter",
    "TopK",
    "UnsupportedLayerError",
    "VarGradInterpreter",
    "XGradCAMInterpreter",
    "is_reference",
    "method_label",
    "select_background",
]
