"""Waveform ⇄ features: the front ends of the models, and their inversion."""

from audiointerp.processing.spectrogram import (
    FRONT_ENDS,
    Analysis,
    LogMelSTFTSpectrogram,
    LogSTFTSpectrogram,
    MelSTFTSpectrogram,
    STFTSpectrogram,
    build_processor,
)

__all__ = [
    "FRONT_ENDS",
    "Analysis",
    "LogMelSTFTSpectrogram",
    "LogSTFTSpectrogram",
    "MelSTFTSpectrogram",
    "STFTSpectrogram",
    "build_processor",
]
