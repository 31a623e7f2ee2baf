"""Training on clips with holes: random masks that are independent of any explanation.

A network that never saw removed cells responds to holes rather than to sounds, and then fidelity
says little. One that was trained on clips with random holes takes them for what they are:
something that is not there.

References
----------
X. Zheng et al., "F-Fidelity: A Robust Framework for Faithfulness Evaluation of Explainable AI",
ICLR 2025, arXiv 2410.02970.
P. Hase et al., "The Out-of-Distribution Problem in Explainability and Search Methods for Feature
Importance Explanations", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from audiointerp.arguments import several
from audiointerp.registry import Registry, check_different

HoleFunction = Callable[[Tensor, torch.Generator | None], Tensor]
HOLES: Registry[HoleFunction] = Registry("kind of hole")
"""How cells are chosen: ``function(features, generator)`` returns a score for each cell, of the
features' shape, on the CPU; those with the lowest scores are removed."""


@HOLES.register("cells")
def _cells(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Single cells, each on its own."""
    return torch.rand(features.shape, generator=generator)


@HOLES.register("blobs")
def _blobs(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Smooth patches: a coarse random field of 2 to 16 points an axis, interpolated."""
    return _coarse(features, generator, (2, 16), "bilinear")


@HOLES.register("segments")
def _segments(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Rectangles: parts of the time axis, bands, or both, 2 to 24 an axis."""
    return _coarse(features, generator, (1, 24), "nearest")


@HOLES.register("loudness")
def _loudness(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Score by loudness, blurred: the quieter a cell, the more likely it is removed.

    The opposite is not among the kinds: a hole at the clip's loudest cells has the shape of its own
    sound and always comes with its class, so a network would learn to recognise the sound by it.
    """
    return _blurred(features, generator)


@HOLES.register("borrowed")
def _borrowed(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Score by the loudness of another clip of the batch, up or down as often, blurred.

    Holes in the shape of sounds, which say nothing about the clip's own class. A batch of one clip
    has no other, and the clip's own loudness is taken.
    """
    batch = len(features)
    shift = 1 + int(torch.randint(max(1, batch - 1), (), generator=generator))
    sign = torch.randint(2, (batch, 1, 1, 1), generator=generator) * 2 - 1
    return sign * _blurred(features.roll(shift, 0), generator)


def _blurred(features: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return features with noise of up to their own spread, which differs from clip to clip."""
    cells = features.detach().float().cpu()
    spread = cells.std(dim=(1, 2, 3), correction=0, keepdim=True)
    blur = torch.rand((len(cells), 1, 1, 1), generator=generator)
    return cells + blur * spread * torch.randn(cells.shape, generator=generator)


def _coarse(
    features: Tensor,
    generator: torch.Generator | None,
    points: tuple[int, int],
    mode: str,
) -> Tensor:
    """Return a random field for each clip, drawn on a grid of its own and enlarged to the cells."""
    low, high = points
    size = features.shape[2:]
    fields = []
    for _ in range(len(features)):
        rows, columns = torch.randint(low, high + 1, (2,), generator=generator).tolist()
        rows, columns = min(rows, size[0]), min(columns, size[1])
        if rows * columns == 1:
            columns = min(2, size[1])
        field = torch.rand((1, 1, rows, columns), generator=generator)
        corners = None if mode == "nearest" else True
        fields.append(interpolate(field, size=size, mode=mode, align_corners=corners))
    return torch.cat(fields)


class RandomHoles(nn.Module):
    """Remove random cells of some clips of a batch, in training mode only.

    Each clip that is drawn gets two kinds of holes, which may be the same, and one share of cells
    to keep, drawn for it alone: kept is what both keep. What is removed depends on no network and
    no explanation.

    Parameters
    ----------
    share : float
        Probability that a clip gets holes.
    kinds : str or sequence of str, optional
        Names in ``HOLES``, drawn with equal probability; all by default.
    keep : (float, float)
        Range of the share of cells that is drawn uniformly: the product of what each kind of hole
        keeps.
    level : float
        What a removed cell becomes: the masking base "floor" is the front end's ``floor``.

    Raises
    ------
    ValueError
        If a share is out of range or a kind is given twice.
    UnknownNameError
        If a kind is unknown.

    Examples
    --------
    >>> RandomHoles(1.0, level=-100.0)(torch.zeros(2, 1, 64, 501)).amin().item()
    -100.0
    """

    def __init__(
        self,
        share: float = 0.6,
        *,
        kinds: str | Sequence[str] | None = None,
        keep: tuple[float, float] = (0.1, 0.95),
        level: float,
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: expected a probability, 0 for no holes")
        low, high = keep
        if not 0 <= low <= high <= 1:
            raise ValueError(f"keep={keep}: expected two shares from 0 to 1, the lower one first")
        self.kinds = several(HOLES if kinds is None else kinds)
        for kind in self.kinds:
            HOLES[kind]
        check_different("kind of hole", self.kinds)
        self.share, self.keep, self.level = float(share), (float(low), float(high)), float(level)

    def extra_repr(self) -> str:
        """Name the settings, so that they can be compared and printed."""
        return f"share={self.share}, kinds={self.kinds}, keep={self.keep}, level={self.level}"

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the features with holes in some clips; in evaluation mode the features.

        Parameters
        ----------
        features : Tensor, shape (batch, 1, bins, frames)
        generator : torch.Generator, optional
            On the CPU, whatever the features' device, so that every device removes the same.

        Returns
        -------
        Tensor, shape (batch, 1, bins, frames)
        """
        if not self.training:
            return features
        clips = len(features)
        chosen = torch.rand(clips, generator=generator) < self.share
        kinds = torch.randint(len(self.kinds), (2, clips), generator=generator)
        low, high = self.keep
        kept = low + (high - low) * torch.rand(clips, generator=generator)
        first = torch.rand(clips, generator=generator)
        removed = torch.zeros(features.shape, dtype=torch.bool)
        for kind, power in zip(kinds, (first, 1 - first), strict=True):
            shares = 1 - kept**power
            for number, name in enumerate(self.kinds):
                places = (chosen & (kind == number)).nonzero()[:, 0]
                if len(places):
                    scores = HOLES[name](features, generator)[places]
                    removed[places] |= _lowest(scores, shares[places])
        return torch.where(removed.to(features.device), self.level, features)


def _lowest(scores: Tensor, share: Tensor) -> Tensor:
    """Return where the lowest scores of each clip are, in a share of its cells, rounded."""
    flat = scores.flatten(1)
    count = (share * flat.shape[1]).round().long()
    order = flat.argsort(dim=1, stable=True)
    removed = torch.zeros_like(flat, dtype=torch.bool)
    for row, number in enumerate(count.tolist()):
        removed[row, order[row, :number]] = True
    return removed.view_as(scores)
