"""Pictures: spectrograms in Hz and seconds, masks, interpretations, learning curves.

Every function returns a picture that shows itself in a notebook and saves itself with ``savefig``.
Those of sounds take tensors and a front end, which knows the axes.
"""

from audiointerp.plots.cells import DYNAMIC_RANGE, draw_cells, frequency_ticks, in_db, time_ticks
from audiointerp.plots.clip import (
    plot_interpretation,
    plot_masks,
    plot_spectrogram,
    plot_spectrograms,
)
from audiointerp.plots.evidence import plot_evidence
from audiointerp.plots.methods import plot_attributions, plot_comparison, plot_probabilities
from audiointerp.plots.picture import PRINT_DPI, PRINT_WIDTH, Picture, share_in_words
from audiointerp.plots.plane import draw_plane, plot_plane
from audiointerp.plots.profile import frequency_shares, plot_frequency_profiles
from audiointerp.plots.recording import plot_recording
from audiointerp.plots.sanity import plot_curves, plot_sanity
from audiointerp.plots.training import plot_confusion, plot_learning_curves

__all__ = [
    "DYNAMIC_RANGE",
    "PRINT_DPI",
    "PRINT_WIDTH",
    "Picture",
    "draw_cells",
    "draw_plane",
    "frequency_shares",
    "frequency_ticks",
    "in_db",
    "plot_attributions",
    "plot_comparison",
    "plot_confusion",
    "plot_curves",
    "plot_evidence",
    "plot_frequency_profiles",
    "plot_interpretation",
    "plot_learning_curves",
    "plot_masks",
    "plot_plane",
    "plot_probabilities",
    "plot_recording",
    "plot_sanity",
    "plot_spectrogram",
    "plot_spectrograms",
    "share_in_words",
    "time_ticks",
]
