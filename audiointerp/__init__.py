"""Post-hoc interpretation of audio classifiers: see, hear and measure what a model listened to.

The first ten lines::

    import audiointerp as ai
    model, processor = ai.load("weights/esc10_logmel.safetensors")
    predict = ai.Predict(model, processor, ai.GradCAMInterpreter(model))
    result = predict.predict("samples/dog.wav")
    result.label, result.probability
    result.metrics
    result.plot("topK_30")
    result.audio("topK_30")
    result.save("results/dog")
"""

from audiointerp.dataset import (
    Contamination,
    ESC50Dataset,
    FolderDataset,
    SyntheticDataset,
    TableDataset,
    load_audio,
    open_dataset,
)
from audiointerp.interpretation import (
    METHODS,
    GradCAMInterpreter,
    Interpreter,
    LIMEInterpreter,
    SaliencyInterpreter,
    SHAPInterpreter,
)
from audiointerp.masking import MASKS, apply_mask, make_masks
from audiointerp.metrics import METRICS
from audiointerp.model import MODELS, TransferCnn14
from audiointerp.model.weights import load, save_weights
from audiointerp.predict import Predict
from audiointerp.processing import (
    FRONT_ENDS,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    MelSTFTSpectrogram,
    STFTSpectrogram,
)
from audiointerp.runs.result import Interpretation
from audiointerp.version import __version__

__all__ = [
    "FRONT_ENDS",
    "MASKS",
    "METHODS",
    "METRICS",
    "MODELS",
    "Contamination",
    "ESC50Dataset",
    "FolderDataset",
    "GradCAMInterpreter",
    "Interpretation",
    "Interpreter",
    "LIMEInterpreter",
    "LogMelSTFTSpectrogram",
    "LogSTFTSpectrogram",
    "MelSTFTSpectrogram",
    "Predict",
    "SHAPInterpreter",
    "STFTSpectrogram",
    "SaliencyInterpreter",
    "SyntheticDataset",
    "TableDataset",
    "TransferCnn14",
    "__version__",
    "apply_mask",
    "load",
    "load_audio",
    "make_masks",
    "open_dataset",
    "save_weights",
]
