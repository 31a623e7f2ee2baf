"""Read scores out of what a network returns: tensors, dicts, tuples, objects with ``.logits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 1e-2
FEWEST_VALUES = 20
"""How many values in (0, 1) make logits implausible, where nothing was declared."""


def pick_output(
    returned: Any,
    batch: int,
    output: str | int | Callable[[Any], Tensor] | None = None,
    expected: int | None = None,
) -> Tensor:
    """Return the scores (batch, outputs) in what a network returned.

    Parameters
    ----------
    returned : object
    batch : int
        Number of clips.
    output : str, int or callable, optional
        Where the scores are; see `audiointerp.model.classifier.classifier`.
    expected : int, optional
        Number of outputs, where it is known.

    Raises
    ------
    ValueError
        If nothing in it is one row of scores per clip, or more than one thing is.
    """
    if output is not None:
        scores = _declared(returned, output)
    elif isinstance(returned, Tensor):
        scores = returned
    else:
        scores = _found(returned, batch, expected)
    if not isinstance(scores, Tensor) or scores.ndim not in (1, 2) or len(scores) != batch:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        hint = ""
        if isinstance(scores, Tensor) and scores.ndim == 3:
            hint = ": scores per frame must be pooled over time first, in a module around it"
        raise ValueError(
            f"the model must return logits of shape ({batch}, classes) for {batch} clips, "
            f"got {got}{hint}"
        )
    if not scores.is_floating_point():
        raise ValueError(f"the model returned {scores.dtype}: expected floating-point scores")
    return scores[:, None] if scores.ndim == 1 else scores


def _declared(returned: Any, output: str | int | Callable[[Any], Tensor]) -> Any:
    if callable(output):
        return output(returned)
    if isinstance(output, str) and not isinstance(returned, Mapping):
        if not hasattr(returned, output):
            raise ValueError(
                f"the model returned {type(returned).__name__} without {output!r}, which was "
                "declared as its output"
            )
        return getattr(returned, output)
    try:
        return returned[output]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"the model returned {_contents(returned)}: there is no {output!r}, which was "
            "declared as its output"
        ) from error


def _found(returned: Any, batch: int, expected: int | None) -> Any:
    logits = getattr(returned, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(returned, Mapping):
        if isinstance(returned.get("logits"), Tensor):
            return returned["logits"]
        candidates = dict(returned)
    elif isinstance(returned, Sequence):
        candidates = dict(enumerate(returned))
    else:
        raise ValueError(
            f"the model returned {type(returned).__name__}: expected a tensor, a dict, a tuple or "
            "an object with .logits; say where the scores are by output=…"
        )
    fitting = {
        name: each
        for name, each in candidates.items()
        if isinstance(each, Tensor)
        and each.ndim == 2
        and len(each) == batch
        and expected in (None, each.shape[1])
    }
    if len(fitting) != 1:
        wanted = f"({batch}, {'classes' if expected is None else expected})"
        raise ValueError(
            f"the model returned {_contents(returned)}, of which {len(fitting)} have the shape "
            f"{wanted}: say which are the scores, by output=… ({', '.join(map(repr, candidates))})"
        )
    return next(iter(fitting.values()))


def _contents(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a dict of {', '.join(map(repr, returned))}"
    if isinstance(returned, Sequence):
        return f"{len(returned)} values"
    return type(returned).__name__


@torch.no_grad()
def looks_like_probabilities(scores: Tensor, *, fewest: int = FEWEST_VALUES) -> bool:
    """Return whether scores are too much like probabilities to be taken for logits.

    They are if all lie in [0, 1] and each row of several sums to 1, or if all lie strictly within
    (0, 1) and there are enough of them.

    Parameters
    ----------
    scores : Tensor, shape (batch, outputs)
    fewest : int
        How many values are enough.
    """
    values = scores.detach()
    if not values.numel() or not values.isfinite().all():
        return False
    if not (values.min() >= 0 and values.max() <= 1):
        return False
    single = values.dtype in (torch.float32, torch.float64)
    tolerance = _SUM_TOLERANCE if single else _HALF_SUM_TOLERANCE
    if values.shape[1] > 1 and ((values.double().sum(1) - 1).abs() <= tolerance).all():
        return True
    return values.numel() >= fewest and bool(((values > 0) & (values < 1)).all())


class LogProbability(nn.Module):
    """Logits of probabilities that sum to 1: their logarithm, of which softmax makes them again.

    Zeros become the logarithm of the smallest normal number.
    """

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return log p, in single precision or better.

        Raises
        ------
        ValueError
            If a value lies outside [0, 1].
        """
        values = _checked(probabilities)
        return values.clamp(min=torch.finfo(values.dtype).tiny).log()


class Logit(nn.Module):
    """Logits of independent probabilities, log(p / (1 - p)).

    Zeros and ones are moved inside by the precision of their dtype.
    """

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return log(p / (1 - p)), in single precision or better.

        Raises
        ------
        ValueError
            If a value lies outside [0, 1].
        """
        values = _checked(probabilities)
        return torch.logit(values, eps=torch.finfo(values.dtype).eps)


def _checked(probabilities: Tensor) -> Tensor:
    low, high = probabilities.detach().aminmax()
    if not (low >= 0 and high <= 1 + 1e-5):
        raise ValueError(
            f"the outputs were declared as probabilities and run from {low:g} to {high:g}: "
            "declare outputs='logits'"
        )
    return probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
