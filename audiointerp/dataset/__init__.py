"""Clips and labels: ESC-50, the bundled synthetic set, background noise, sound files."""

from audiointerp.dataset.audio import AudioError, load_audio, prepare_waveform, save_audio
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.choose import open_dataset
from audiointerp.dataset.contamination import Contamination, contaminate
from audiointerp.dataset.download import copy_samples, download_esc50
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.dataset.stream import AudioStream, Window
from audiointerp.dataset.synthetic import SyntheticDataset

__all__ = [
    "AudioError",
    "AudioStream",
    "Clip",
    "ClipDataset",
    "Contamination",
    "ESC50Dataset",
    "SyntheticDataset",
    "Window",
    "contaminate",
    "copy_samples",
    "download_esc50",
    "load_audio",
    "open_dataset",
    "prepare_waveform",
    "save_audio",
]
