"""Clips and labels: ESC-50, the bundled synthetic set, background noise, sound files."""

from audiointerp.dataset.audio import AudioError, load_audio, save_audio
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.contamination import Contamination, contaminate
from audiointerp.dataset.esc50 import ESC50Dataset

__all__ = [
    "AudioError",
    "Clip",
    "ClipDataset",
    "Contamination",
    "ESC50Dataset",
    "contaminate",
    "load_audio",
    "save_audio",
]
