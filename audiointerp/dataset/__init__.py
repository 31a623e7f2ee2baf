"""Clips and labels: ESC-50, folders, tables, the bundled synthetic set; noise; sound files."""

from audiointerp.dataset.audio import AudioError, load_audio, prepare_waveform, save_audio
from audiointerp.dataset.audioset import AudioSetDataset, audioset_classes
from audiointerp.dataset.base import Clip, ClipDataset, Event
from audiointerp.dataset.cells import TableError
from audiointerp.dataset.channels import CHANNELS, CancellationWarning
from audiointerp.dataset.choose import LAYOUTS, open_dataset
from audiointerp.dataset.contamination import Contamination, contaminate
from audiointerp.dataset.download import copy_samples, download_esc50
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.dataset.events import EventTable, EventWarning
from audiointerp.dataset.files import FileClip, FileDataset, TruncationWarning
from audiointerp.dataset.folder import FolderDataset
from audiointerp.dataset.stream import AudioStream, SoundStream, WaveformStream, Window
from audiointerp.dataset.synthetic import SyntheticDataset
from audiointerp.dataset.table import TableDataset
from audiointerp.dataset.urbansound8k import UrbanSound8KDataset

__all__ = [
    "CHANNELS",
    "LAYOUTS",
    "AudioError",
    "AudioSetDataset",
    "AudioStream",
    "CancellationWarning",
    "Clip",
    "ClipDataset",
    "Contamination",
    "ESC50Dataset",
    "Event",
    "EventTable",
    "EventWarning",
    "FileClip",
    "FileDataset",
    "FolderDataset",
    "SoundStream",
    "SyntheticDataset",
    "TableDataset",
    "TableError",
    "TruncationWarning",
    "UrbanSound8KDataset",
    "WaveformStream",
    "Window",
    "audioset_classes",
    "contaminate",
    "copy_samples",
    "download_esc50",
    "load_audio",
    "open_dataset",
    "prepare_waveform",
    "save_audio",
]
