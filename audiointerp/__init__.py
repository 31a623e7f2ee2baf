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

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from audiointerp.model import HEADS, MODELS, Classifier, TransferCnn14, classifier, load_panns
    from audiointerp.model.weights import load, save_weights
    from audiointerp.predict import Predict
    from audiointerp.processing import (
        FRONT_ENDS,
        LogMelSTFTSpectrogram,
        LogSTFTSpectrogram,
        MelSTFTSpectrogram,
        STFTSpectrogram,
        View,
        WaveformFrontEnd,
    )
    from audiointerp.runs.recording import RecordingInterpretation
    from audiointerp.runs.result import Interpretation
    from audiointerp.runs.targets import Above, Top
    from audiointerp.runs.windows import Windowing
    from audiointerp.version import __version__

__all__ = [
    "FRONT_ENDS",
    "HEADS",
    "MASKS",
    "METHODS",
    "METRICS",
    "MODELS",
    "Above",
    "Classifier",
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
    "RecordingInterpretation",
    "SHAPInterpreter",
    "STFTSpectrogram",
    "SaliencyInterpreter",
    "SyntheticDataset",
    "TableDataset",
    "Top",
    "TransferCnn14",
    "View",
    "WaveformFrontEnd",
    "Windowing",
    "__version__",
    "apply_mask",
    "classifier",
    "load",
    "load_audio",
    "load_panns",
    "make_masks",
    "open_dataset",
    "save_weights",
]

_HOMES = {
    "audiointerp.dataset": (
        "Contamination",
        "ESC50Dataset",
        "FolderDataset",
        "SyntheticDataset",
        "TableDataset",
        "load_audio",
        "open_dataset",
    ),
    "audiointerp.interpretation": (
        "METHODS",
        "GradCAMInterpreter",
        "Interpreter",
        "LIMEInterpreter",
        "SaliencyInterpreter",
        "SHAPInterpreter",
    ),
    "audiointerp.masking": ("MASKS", "apply_mask", "make_masks"),
    "audiointerp.metrics": ("METRICS",),
    "audiointerp.model": (
        "HEADS",
        "MODELS",
        "Classifier",
        "TransferCnn14",
        "classifier",
        "load_panns",
    ),
    "audiointerp.model.weights": ("load", "save_weights"),
    "audiointerp.predict": ("Predict",),
    "audiointerp.processing": (
        "FRONT_ENDS",
        "LogMelSTFTSpectrogram",
        "LogSTFTSpectrogram",
        "MelSTFTSpectrogram",
        "STFTSpectrogram",
        "View",
        "WaveformFrontEnd",
    ),
    "audiointerp.runs.recording": ("RecordingInterpretation",),
    "audiointerp.runs.result": ("Interpretation",),
    "audiointerp.runs.targets": ("Above", "Top"),
    "audiointerp.runs.windows": ("Windowing",),
    "audiointerp.version": ("__version__",),
}
"""Where the names are, which are imported when they are first used: torch takes seconds."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return a public name or a module of the package, imported now."""
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
