"""Layer-wise relevance propagation, implemented as a modified backward pass.

The network runs in a `Propagation`, a mode of torch in which functions such as ``conv2d`` and
``relu`` have rules of relevance in place of their derivatives. One backward pass then carries the
relevance of a class's logit to the network's input. Rules belong to functions, not to modules, so a
network may call them as it likes: as layers or functions, once or several times, in place, with or
without control flow. An operation without a rule is refused by name.

`rules` has the rules of layers with weights: a new one is a class with a method ``share``.
`propagation` has the mode and the functions without weights, `attention` those of transformers.
`attending` takes calls of attention apart, for these rules and for `observing`, a mode that sees
the weights of attention.
"""

from __future__ import annotations

from audiointerp.interpretation.relevance.attention import AttentionPropagation
from audiointerp.interpretation.relevance.propagation import (
    ELEMENTWISE,
    MAXIMA,
    MEANS,
    REARRANGING,
    Propagation,
)
from audiointerp.interpretation.relevance.rules import (
    VALUE_FREE,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Layer,
    Rule,
    WSquare,
    ZPlus,
)

__all__ = [
    "ELEMENTWISE",
    "MAXIMA",
    "MEANS",
    "REARRANGING",
    "VALUE_FREE",
    "AttentionPropagation",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Layer",
    "Propagation",
    "Rule",
    "WSquare",
    "ZPlus",
]
