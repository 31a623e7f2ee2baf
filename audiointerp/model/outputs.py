"""Extract scores from what a network returns: tensors, dicts, tuples, objects with ``.logits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiointerp.device import to_double

_SUM_TOLERANCE, _COARSE_SUM_TOLERANCE = 1e-5, 1e-2  # bfloat16 has three digits
FEWEST_VALUES = 20
"""How many values in (0, 1) make logits implausible, where nothing was declared."""


def pick_output(
    returned: Any,
    batch: int,
    output: str | int | Callable[[Any], Tensor] | None = None,
    suits: Callable[[int], bool] | None = None,
) -> Tensor:
    """Return the scores (batch, outputs) in what a network returned.

    Parameters
    ----------
    returned : object
    batch : int
        Number of clips.
    output : str, int or callable, optional
        Where the scores are; see `audiointerp.model.classifier.classifier`.
    suits : callable, optional
        ``suits(count)`` says whether the scores can be so many outputs; by default any.

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
        scores = _found(returned, batch, suits or (lambda count: True))
    if isinstance(scores, Tensor) and scores.ndim == 0 and batch == 1:
        scores = scores[None]
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


def _found(returned: Any, batch: int, suits: Callable[[int], bool]) -> Any:
    logits = getattr(returned, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(returned, Mapping):
        if isinstance(returned.get("logits"), Tensor):
            return returned["logits"]
        candidates = dict(returned)
    elif isinstance(returned, Sequence) and not isinstance(returned, str):
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
        and suits(each.shape[1])
    }
    if len(fitting) != 1:
        raise ValueError(
            f"the model returned {_contents(candidates)}, of which {len(fitting)} can be scores "
            f"({batch}, classes): say which are, by output=…"
        )
    return next(iter(fitting.values()))


def _contents(returned: Any) -> str:
    if isinstance(returned, Mapping):
        named = returned.items()
    elif isinstance(returned, Sequence):
        named = enumerate(returned)
    else:
        return type(returned).__name__
    return ", ".join(
        f"{name!r}: {tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__}"
        for name, each in named
    )


@torch.no_grad()
def looks_like_probabilities(scores: Tensor, *, fewest: int = FEWEST_VALUES) -> bool:
    """Return whether scores are too much like probabilities to be taken for logits.

    They are if all lie in [0, 1] and each row of several sums to 1, or if all lie in [0, 1], differ
    and there are enough of them.

    Parameters
    ----------
    scores : Tensor, shape (batch, outputs)
    fewest : int
        How many values are enough.
    """
    values = scores.detach()
    if not values.numel() or not values.isfinite().all():
        return False
    low, high = values.aminmax()
    if not (low >= 0 and high <= 1):
        return False
    # Last layers that start at zero return the same for everything.
    return _sum_to_one(values) or (values.numel() >= fewest and bool(low < high))


def describe_probabilities(scores: Tensor) -> str:
    """Return what is wrong with outputs that look like probabilities, and what to declare."""
    summed = _sum_to_one(scores.detach())
    head = "'softmax'" if summed else "'sigmoid'"
    if scores.shape[1] == 1:
        head += " (or 'binary', for two classes of one output)"
    return (
        f"the outputs look like probabilities ({scores.min():.3g} to {scores.max():.3g}"
        f"{', each row sums to 1' if summed else ''}): another softmax or sigmoid would be "
        f"applied to them. Declare what they are by audiointerp.classifier(module, front_end=…, "
        f"classes=…): outputs='probabilities' with head={head}, or outputs='logits' if they are "
        "logits all the same"
    )


def _sum_to_one(values: Tensor) -> bool:
    """Say whether each row has several entries and sums to 1."""
    sums = to_double(values).sum(1)
    single = values.dtype in (torch.float32, torch.float64)
    tolerance = _SUM_TOLERANCE if single else _COARSE_SUM_TOLERANCE
    return values.shape[1] > 1 and bool(((sums - 1).abs() <= tolerance).all())


class LogProbability(nn.Module):
    """Logits of probabilities that sum to 1: their logarithm, of which softmax makes them again.

    Zeros become the logarithm of the smallest normal number.
    """

    def forward(self, probabilities: Tensor) -> Tensor:
        """Return log p, in single precision or better.

        Raises
        ------
        ValueError
            If a value lies outside [0, 1], or a row does not sum to 1.
        """
        values = _checked(probabilities)
        if not _sum_to_one(probabilities.detach()):
            sums = values.detach().sum(1)
            raise ValueError(
                f"the outputs were declared as probabilities of one class of several, whose rows "
                f"sum to 1, and sum to {sums.min():.4g} to {sums.max():.4g}: declare "
                "head='sigmoid' for labels that are independent of each other"
            )
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
