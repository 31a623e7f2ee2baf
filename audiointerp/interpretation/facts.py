"""Facts about a method: family, cost, guarantees and known failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "gradient", "CAM", "relevance", "attention", "perturbation", "trained", "reference"
]


@dataclass(frozen=True)
class Facts:
    """The facts of a method with its default settings; the matrix of methods is made of them.

    Attributes
    ----------
    family : {"gradient", "CAM", "relevance", "attention", "perturbation", "trained", "reference"}
        What it belongs to in tables.
    passes : str
        Passes through the network for a clip, such as "1 forward, 1 backward".
    source : str
        Authors, year and venue, in short.
    fails : str
        Known failures: when its map says something else than users expect. Starts with a capital
        letter, without a full stop.
    sums_to : str
        What the cells of a map add up to, in words, where the method promises that; ``""`` where
        it does not. The explanation's diagnostics then hold the ``"residual"`` of every clip.
    sums_within : float
        How large the residual of a small network may be in double precision: 1e-6, which is
        rounding, but for methods that approximate an integral.
    draws : bool
        Whether it draws at random. It then takes a seed, and two calls give the same map.
    class_sensitive : bool
        Whether another class can have another map.
    signed : bool
        Whether cells can be negative, which speak against the class.
    """

    family: Family
    passes: str
    source: str
    fails: str
    sums_to: str = ""
    sums_within: float = 1e-6
    draws: bool = False
    class_sensitive: bool = True
    signed: bool = True

    @property
    def opens_network(self) -> bool:
        """Whether the method takes gradients or layers of the network.

        Perturbation methods and references look at outputs only, if at anything.
        """
        return self.family not in ("perturbation", "reference")
