"""Public names of `audiointerp`."""

from __future__ import annotations

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
    DEFAULT_METHODS,
    METHODS,
    GradCAMInterpreter,
    Interpreter,
    L2IInterpreter,
    LIMEInterpreter,
    LMACInterpreter,
    SaliencyInterpreter,
    SHAPInterpreter,
    load_interpreter,
    save_interpreter,
)
from audiointerp.masking import MASKS, apply_mask, make_masks
from audiointerp.metrics import METRICS
from audiointerp.model import (
    HEADS,
    MODELS,
    Classifier,
    TransferCnn14,
    classifier,
    from_transformers,
    load_panns,
)
from audiointerp.model.families import FAMILIES, from_package
from audiointerp.model.families.batdetect import from_batdetect2
from audiointerp.model.families.crepe import from_torchcrepe
from audiointerp.model.families.silero import from_silero_vad
from audiointerp.model.onnx import from_onnx
from audiointerp.model.vision import SpectrogramImage, from_vision
from audiointerp.model.weights import load, save_weights
from audiointerp.predict import Predict
from audiointerp.processing import (
    FRONT_ENDS,
    ClapLogMel,
    KaldiFilterbank,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    MelSTFTSpectrogram,
    STFTSpectrogram,
    View,
    WaveformFrontEnd,
    WhisperLogMel,
)
from audiointerp.report.audit import Audit, audit
from audiointerp.runs.curves import measure_curves
from audiointerp.runs.recording import RecordingInterpretation
from audiointerp.runs.result import Interpretation
from audiointerp.runs.sanity import check_sanity
from audiointerp.runs.targets import Above, Top, TrueLabels
from audiointerp.runs.windows import Windowing
from audiointerp.version import __version__

__all__ = [
    "DEFAULT_METHODS",
    "FAMILIES",
    "FRONT_ENDS",
    "HEADS",
    "MASKS",
    "METHODS",
    "METRICS",
    "MODELS",
    "Above",
    "Audit",
    "ClapLogMel",
    "Classifier",
    "Contamination",
    "ESC50Dataset",
    "FolderDataset",
    "GradCAMInterpreter",
    "Interpretation",
    "Interpreter",
    "KaldiFilterbank",
    "L2IInterpreter",
    "LIMEInterpreter",
    "LMACInterpreter",
    "LogMelSTFTSpectrogram",
    "LogSTFTSpectrogram",
    "MelSTFTSpectrogram",
    "Predict",
    "RecordingInterpretation",
    "SHAPInterpreter",
    "STFTSpectrogram",
    "SaliencyInterpreter",
    "SpectrogramImage",
    "SyntheticDataset",
    "TableDataset",
    "Top",
    "TransferCnn14",
    "TrueLabels",
    "View",
    "WaveformFrontEnd",
    "WhisperLogMel",
    "Windowing",
    "__version__",
    "apply_mask",
    "audit",
    "check_sanity",
    "classifier",
    "from_batdetect2",
    "from_onnx",
    "from_package",
    "from_silero_vad",
    "from_torchcrepe",
    "from_transformers",
    "from_vision",
    "load",
    "load_audio",
    "load_interpreter",
    "load_panns",
    "make_masks",
    "measure_curves",
    "open_dataset",
    "save_interpreter",
    "save_weights",
]
