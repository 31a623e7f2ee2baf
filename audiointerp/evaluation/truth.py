"""What is known of the parts of a clip: the evidence of metrics with ground truth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from audiointerp.processing import View


@dataclass(frozen=True)
class Truth:
    """The foreground and the background of a batch of clips, each analysed alone.

    Their waveforms sum to the clips.

    Attributes
    ----------
    foreground, background : View
        Cells, waveform and context of each part.
    """

    foreground: View
    background: View

    def __getitem__(self, clips: slice | Tensor) -> Truth:
        """Return the truth of some clips of the batch."""
        return Truth(self.foreground[clips], self.background[clips])
