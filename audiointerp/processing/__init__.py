"""Waveform ⇄ cells: the front ends of the models, and their inversion."""

from audiointerp.processing.filterbank import ClapLogMel, KaldiFilterbank, WhisperLogMel
from audiointerp.processing.front_end import FRONT_ENDS, FrontEnd, build_processor
from audiointerp.processing.spectrogram import (
    BandLogSTFTSpectrogram,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    MelSTFTSpectrogram,
    STFTSpectrogram,
)
from audiointerp.processing.taggers import PasstLogMel, YamnetLogMel
from audiointerp.processing.view import Axes, View
from audiointerp.processing.waveform import WaveformFrontEnd

__all__ = [
    "FRONT_ENDS",
    "Axes",
    "BandLogSTFTSpectrogram",
    "ClapLogMel",
    "FrontEnd",
    "KaldiFilterbank",
    "LogMelSTFTSpectrogram",
    "LogSTFTSpectrogram",
    "MelSTFTSpectrogram",
    "PasstLogMel",
    "STFTSpectrogram",
    "View",
    "WaveformFrontEnd",
    "WhisperLogMel",
    "YamnetLogMel",
    "build_processor",
]
