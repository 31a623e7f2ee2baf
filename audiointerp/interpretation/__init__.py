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
from audiointerp.interpretation.rescale import UnsupportedLayerError
from audiointerp.interpretation.segmentation import SEGMENTATIONS, Quickshift
from audiointerp.interpretation.trained.files import load_interpreter, save_interpreter

# In the order of tables: the published four, families of methods, references.
# isort: off
from audiointerp.interpretation.saliency import SaliencyInterpreter
from audiointerp.interpretation.gradcam import GradCAMInterpreter
from audiointerp.interpretation.lime import LIMEInterpreter
from audiointerp.interpretation.shap import (
    AdditivityError,
    AdditivityWarning,
    SHAPInterpreter,
    select_background,
)
from audiointerp.interpretation.input_gradient import InputGradientInterpreter
from audiointerp.interpretation.integrated_gradients import (
    IntegratedGradientsInterpreter,
)
from audiointerp.interpretation.expected_gradients import (
    ExpectedGradientsInterpreter,
)
from audiointerp.interpretation.smoothgrad import (
    SmoothGradInterpreter,
    SquaredSmoothGradInterpreter,
    VarGradInterpreter,
)
from audiointerp.interpretation.guided import (
    GuidedBackpropInterpreter,
    GuidedGradCAMInterpreter,
)
from audiointerp.interpretation.deeplift import DeepLIFTInterpreter
from audiointerp.interpretation.fullgrad import FullGradInterpreter
from audiointerp.interpretation.cams import (
    EigenCAMInterpreter,
    EigenGradCAMInterpreter,
    FinerCAMInterpreter,
    GradCAMPlusPlusInterpreter,
    HiResCAMInterpreter,
    LayerCAMInterpreter,
    XGradCAMInterpreter,
)
from audiointerp.interpretation.scorecam import ScoreCAMInterpreter
from audiointerp.interpretation.ablationcam import AblationCAMInterpreter
from audiointerp.interpretation.lrp import (
    AttnLRPInterpreter,
    EpsilonLRPInterpreter,
    FlatLRPInterpreter,
    GammaLRPInterpreter,
    LRPInterpreter,
    WSquareLRPInterpreter,
    ZPlusLRPInterpreter,
)
from audiointerp.interpretation.attention import (
    AttentionRolloutInterpreter,
    GradientAttentionInterpreter,
)
from audiointerp.interpretation.shapley import (
    KernelSHAPInterpreter,
    PermutationSHAPInterpreter,
    TopK,
)
from audiointerp.interpretation.occlusion import OcclusionInterpreter
from audiointerp.interpretation.rise import FreqRISEInterpreter, RISEInterpreter
from audiointerp.interpretation.sobol import SobolInterpreter
from audiointerp.interpretation.surrogates import (
    ForestSurrogateInterpreter,
    LinearSurrogateInterpreter,
)
from audiointerp.interpretation.trained.lmac import LMACInterpreter
from audiointerp.interpretation.trained.l2i import L2IInterpreter
from audiointerp.interpretation.references import (
    EdgeReference,
    EnergyReference,
    ExcessReference,
    IdealReference,
    RandomReference,
    Reference,
    SmoothExcessReference,
)
# isort: on

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "SEGMENTATIONS",
    "AblationCAMInterpreter",
    "AdditivityError",
    "AdditivityWarning",
    "AttentionRolloutInterpreter",
    "AttnLRPInterpreter",
    "DeepLIFTInterpreter",
    "EdgeReference",
    "EigenCAMInterpreter",
    "EigenGradCAMInterpreter",
    "EnergyReference",
    "EpsilonLRPInterpreter",
    "ExcessReference",
    "ExpectedGradientsInterpreter",
    "Explanation",
    "FinerCAMInterpreter",
    "FlatLRPInterpreter",
    "ForestSurrogateInterpreter",
    "FreqRISEInterpreter",
    "FullGradInterpreter",
    "GammaLRPInterpreter",
    "GradCAMInterpreter",
    "GradCAMPlusPlusInterpreter",
    "GradientAttentionInterpreter",
    "GuidedBackpropInterpreter",
    "GuidedGradCAMInterpreter",
    "HiResCAMInterpreter",
    "IdealReference",
    "InputGradientInterpreter",
    "IntegratedGradientsInterpreter",
    "Interpreter",
    "KernelSHAPInterpreter",
    "L2IInterpreter",
    "LIMEInterpreter",
    "LMACInterpreter",
    "LRPInterpreter",
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
    "SmoothExcessReference",
    "SmoothGradInterpreter",
    "SobolInterpreter",
    "SquaredSmoothGradInterpreter",
    "TopK",
    "UnsupportedLayerError",
    "VarGradInterpreter",
    "WSquareLRPInterpreter",
    "XGradCAMInterpreter",
    "ZPlusLRPInterpreter",
    "is_reference",
    "load_interpreter",
    "method_label",
    "save_interpreter",
    "select_background",
]
