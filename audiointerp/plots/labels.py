"""Labels of points in a plot, placed without overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike, NDArray

from audiointerp.plots.words import as_written

_NEAR, _GROWTH = 1.5, 1.12
"""Points from a marker to its name, at least, and how much farther the next ring of places is."""
_ROOM = 2.5
"""Points kept free around a name."""
_MARKER = 4.0
"""Points from the middle of a marker to its edge."""
_LINE_FROM = 4.0
"""Points from a marker to its name from which on a line joins them."""
_COVERS, _NEARER, _CROSSES, _STRIKES, _AWAY = 12.0, 20.0, 30.0, 100.0, 2.0
"""Points that a name goes farther rather than cover something, be nearer to another point, have its
line cross another, have a line through a name, or stand anywhere but up and to the right."""
_LEFT_OUT = 10_000.0
_ROUNDS = 4
"""How often each name is placed, the others where they went last."""


def place_labels(
    axes: Axes,
    points: ArrayLike,
    texts: Sequence[str],
    *,
    keep_free: Sequence[Bbox] = (),
    avoid: ArrayLike = (),
    fontsize: float = 7,
) -> list[Annotation]:
    """Write a name near each point, with a thin line to it where it is not right beside.

    The names are placed one after the other, and again with the others in place: from left, from
    right and with the most crowded first, of which the best counts. Each goes to the best place
    where it stays inside the axes and touches no other name, no named point and nothing to be kept
    free. What is to be avoided is covered, and a line drawn through another line or name, only for
    want of another place close by. Points that touch and have the same name share it.

    Parameters
    ----------
    axes : Axes
        Drawn into; its limits and its place in the figure must be final.
    points : array, shape (points, 2)
        In the units of the axes.
    texts : sequence of str
        One for each point.
    keep_free : sequence of Bbox
        Pixels that no name may touch, such as a legend's ``get_window_extent()``.
    avoid : array, shape (marks, 2)
        Other points of the picture, in the units of the axes.
    fontsize : float
        Of the names, points.

    Returns
    -------
    list of Annotation
        The names, in the order of the points. One that finds no room anywhere is not there.
    """
    pixels = axes.figure.dpi / 72
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    named = _first_of_each(axes.transData.transform(points) / pixels, texts)
    points, texts = points[named], [texts[number] for number in named]
    places = axes.transData.transform(points) / pixels
    marks = axes.transData.transform(np.asarray(avoid, dtype=float).reshape(-1, 2)) / pixels
    sizes = [_measure(axes, text, fontsize) / pixels for text in texts]
    frame = axes.get_window_extent().extents / pixels
    blocks = [box.extents / pixels for box in keep_free]
    choices = [
        _Choices.of(number, places, size, frame, blocks, marks) for number, size in enumerate(sizes)
    ]
    arranged = [_arrange(order, choices) for order in _orders(places)]
    chosen, _ = min(arranged, key=lambda pair: pair[1])
    return [
        _write(axes, texts[number], points[number], place, sizes[number], fontsize)
        for number, place in sorted(chosen.items())
    ]


def _first_of_each(places: NDArray, texts: Sequence[str]) -> list[int]:
    """Return the points to name: the first of those that touch and have the same name."""
    first: list[int] = []
    for number, (place, text) in enumerate(zip(places, texts, strict=True)):
        same = [other for other in first if texts[other] == text]
        if all(np.hypot(*(place - places[other])) > 2 * _MARKER for other in same):
            first.append(number)
    return first


@dataclass(frozen=True)
class _Choices:
    """Where a name may go.

    Attributes
    ----------
    point : array, shape (2,)
        What is named.
    middles, boxes : array, shape (choices, 2) and (choices, 4)
        The middle of the name; left, bottom, right and top with some room around it.
    costs : array, shape (choices,)
        How bad each is, whatever the other names do; infinite where it cannot be.
    """

    point: NDArray
    middles: NDArray
    boxes: NDArray
    costs: NDArray

    @classmethod
    def of(
        cls,
        number: int,
        places: NDArray,
        size: NDArray,
        frame: NDArray,
        blocks: Sequence[NDArray],
        marks: NDArray,
    ) -> _Choices:
        """Return the choices of one of several points."""
        point = places[number]
        offsets = _offsets(size, frame)
        middles = point + offsets
        boxes = np.concatenate([middles - size / 2 - _ROOM, middles + size / 2 + _ROOM], axis=1)
        free = (boxes[:, :2] >= frame[:2]).all(axis=1) & (boxes[:, 2:] <= frame[2:]).all(axis=1)
        offsets, middles, boxes = offsets[free], middles[free], boxes[free]
        far = _gap(boxes, point)
        costs = far + _AWAY * (1 - offsets.sum(axis=1) / np.abs(offsets).sum(axis=1))
        for other in blocks:
            costs[_overlap(boxes, other)] = np.inf
            costs += _STRIKES * _meet(point, middles, other)
        for other in places:
            marker = np.concatenate([other - _MARKER, other + _MARKER])
            costs[_overlap(boxes, marker)] = np.inf
            costs += _NEARER * (_gap(boxes, other) < far)
        covered = (boxes[:, None, :2] < marks) & (boxes[:, None, 2:] > marks)
        costs += _COVERS * covered.all(axis=2).sum(axis=1)
        return cls(point, middles, boxes, costs)

    def beside(self, others: Iterable[tuple[_Choices, int]]) -> NDArray:
        """Return the costs with some choices of other names made."""
        costs = self.costs.copy()
        for other, choice in others:
            line, box = (other.point, other.middles[choice]), other.boxes[choice]
            costs[_overlap(self.boxes, box)] = np.inf
            costs += _STRIKES * _meet(*line, self.boxes)
            costs += _STRIKES * _meet(self.point, self.middles, box)
            costs += _CROSSES * _cross(self.point, self.middles, *line)
        return costs


def _arrange(order: Iterable[int], choices: Sequence[_Choices]) -> tuple[dict[int, NDArray], float]:
    """Return where each name goes, as seen from its point, and how bad that is altogether."""
    made: dict[int, int] = {}
    costs: dict[int, float] = {}
    for number in [*order] * _ROUNDS:
        made.pop(number, None)
        options = choices[number].beside((choices[other], made[other]) for other in made)
        best = int(options.argmin()) if len(options) else 0
        costs[number] = _LEFT_OUT
        if len(options) and np.isfinite(options[best]):
            made[number], costs[number] = best, options[best]
    found = {number: choices[number].middles[best] for number, best in made.items()}
    offsets = {number: middle - choices[number].point for number, middle in found.items()}
    return offsets, sum(costs.values())


def _orders(places: NDArray) -> list[list[int]]:
    """Return orders to place names in: from left, from right, the most crowded first."""
    apart = np.hypot(*(places[:, None] - places[None]).T)
    crowd = np.sort(apart, axis=1)[:, :3].sum(axis=1)
    from_left = np.lexsort(places.T[::-1]).tolist()
    return [from_left, from_left[::-1], np.argsort(crowd, kind="stable").tolist()]


def _measure(axes: Axes, text: str, fontsize: float) -> NDArray:
    """Return width and height of a text, pixels."""
    drawn = as_written(axes.text(0, 0, text, fontsize=fontsize))
    box = drawn.get_window_extent()
    drawn.remove()
    return np.array([box.width, box.height])


def _offsets(size: NDArray, frame: NDArray) -> NDArray:
    """Return places for the middle of a name as seen from its point, ring by ring.

    A ring is a rectangle: all names on it are as far from the point, above, below or beside.
    """
    reach = max(frame[2] - frame[0], frame[3] - frame[1])
    angles = math.pi / 4 + np.linspace(0, 2 * math.pi, 32, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    around /= np.abs(around).max(axis=1, keepdims=True)
    nearest = _MARKER + _ROOM + _NEAR
    count = math.ceil(math.log(reach / nearest, _GROWTH))
    rings = nearest * _GROWTH ** np.arange(max(1, count))[:, None, None]
    return (around * (size / 2 + rings)).reshape(-1, 2)


def _gap(boxes: NDArray, point: NDArray) -> NDArray:
    """Return how far a point is from boxes, points."""
    outside = np.maximum(boxes[:, :2] - point, point - boxes[:, 2:]).clip(min=0)
    return np.hypot(*outside.T)


def _overlap(boxes: NDArray, other: NDArray) -> NDArray:
    left, bottom, right, top = boxes.T
    return (left < other[2]) & (bottom < other[3]) & (right > other[0]) & (top > other[1])


def _meet(starts: NDArray, ends: NDArray, boxes: NDArray) -> NDArray:
    """Return whether lines meet boxes: many lines (from one point) one box, or one many boxes."""
    steps = ends - starts
    steps = np.where(steps == 0, 1e-12, steps)
    # When each line passes the four sides, 0 at its start and 1 at its end.
    left, bottom, right, top = (
        (boxes[..., side] - starts[..., side % 2]) / steps[..., side % 2] for side in range(4)
    )
    enters = np.maximum(np.minimum(left, right), np.minimum(bottom, top))
    leaves = np.minimum(np.maximum(left, right), np.maximum(bottom, top))
    return (enters <= leaves) & (leaves >= 0) & (enters <= 1)


def _cross(starts: NDArray, ends: NDArray, start: NDArray, end: NDArray) -> NDArray:
    """Return whether many lines cross one."""

    def side(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
        first, second = b - a, c - a
        return np.sign(first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])

    return (side(start, end, starts) * side(start, end, ends) < 0) & (
        side(starts, ends, start) * side(starts, ends, end) < 0
    )


def _write(
    axes: Axes, text: str, point: NDArray, offset: NDArray, size: NDArray, fontsize: float
) -> Annotation:
    far = (np.abs(offset) - size / 2).max() - _MARKER
    line = {"arrowstyle": "-", "color": "0.45", "linewidth": 0.5, "shrinkA": 0, "shrinkB": _MARKER}
    name = axes.annotate(
        text,
        point,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=fontsize,
        arrowprops=line if far > _LINE_FROM else None,
    )
    return as_written(name)
