"""Names beside points: none over another, whatever the points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from audiointerp.plots import plot_plane
from audiointerp.plots.labels import place_labels


def axes_of(width: float = 7.0, height: float = 4.6):
    axes = Figure(figsize=(width, height)).add_axes((0.1, 0.1, 0.85, 0.8))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return axes


def box_of(text, dpi: float):
    """Return the extent of the letters alone, without the line."""
    axes = text.axes
    axes.figure.dpi = dpi
    bare = axes.text(0, 0, text.get_text(), fontsize=text.get_fontsize())
    size = bare.get_window_extent()
    bare.remove()
    middle = axes.transData.transform(text.xy) + np.array(text.xyann) * dpi / 72
    half = np.array([size.width, size.height]) / 2
    return np.array([*(middle - half), *(middle + half)])


def overlap(first, second) -> bool:
    return bool((first[:2] < second[2:]).all() and (second[:2] < first[2:]).all())


def check(labels, points, dpi: float = 100.0) -> None:
    boxes = [box_of(label, dpi) for label in labels]
    for first, second in itertools.combinations(boxes, 2):
        assert not overlap(first, second)
    for box in boxes:
        frame = labels[0].axes.get_window_extent().extents
        assert (box[:2] >= frame[:2]).all()
        assert (box[2:] <= frame[2:]).all()
        for place in labels[0].axes.transData.transform(points):
            assert not overlap(box, np.array([*(place - 2), *(place + 2)]))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=14,
        unique_by=lambda point: (round(point[0], 2), round(point[1], 2)),
    )
)
def test_names_never_touch_each_other_nor_a_point(points):
    axes = axes_of()
    labels = place_labels(axes, points, [f"mask_{n}_pos" for n in range(len(points))])
    assert [label.get_text() for label in labels] == [f"mask_{n}_pos" for n in range(len(points))]
    check(labels, points)


def test_a_crowd_is_spread_out_and_joined_to_its_points_by_lines():
    points = [(0.9 + 0.02 * math.cos(n), 0.05 + 0.02 * math.sin(n)) for n in range(10)]
    axes = axes_of()
    labels = place_labels(axes, points, [f"pos_thresh_{n}" for n in range(10)])
    assert len(labels) == 10
    check(labels, points)
    check(labels, points, dpi=200)  # and at another resolution
    check(labels, points, dpi=72)
    assert sum(label.arrow_patch is not None for label in labels) >= 6


def test_a_lone_name_stands_right_beside_its_point_up_and_to_the_right():
    (label,) = place_labels(axes_of(), [(0.5, 0.5)], ["bin"])
    assert label.arrow_patch is None
    assert (np.array(label.xyann) > 0).all()
    box = box_of(label, 72)
    x, y = label.axes.transData.transform((0.5, 0.5))
    gap = math.hypot(max(box[0] - x, 0), max(box[1] - y, 0))
    assert 4 < gap < 10


def test_what_is_to_be_kept_free_is():
    axes = axes_of()
    block = axes.get_window_extent().frozen()
    block.x0 += 0.4 * block.width
    (label,) = place_labels(axes, [(0.42, 0.5)], ["topK_30, topK_30_pos"], keep_free=[block])
    assert not overlap(box_of(label, 100), block.extents)


def test_what_is_to_be_avoided_is_not_covered_where_there_is_room():
    axes = axes_of()
    (free,) = place_labels(axes, [(0.5, 0.5)], ["topK_30"])
    box = box_of(free, 100)
    mark = axes.transData.inverted().transform((box[:2] + box[2:]) / 2)
    (label,) = place_labels(axes, [(0.5, 0.5)], ["topK_30"], avoid=[mark])
    place = axes.transData.transform(mark)
    assert not overlap(box_of(label, 100), np.tile(place, 2))


def test_touching_points_of_one_name_share_it():
    points = [(0.5, 0.5), (0.501, 0.5), (0.8, 0.5), (0.501, 0.501)]
    labels = place_labels(axes_of(), points, ["a", "a", "a", "b"])
    assert sorted(label.get_text() for label in labels) == ["a", "a", "b"]


def test_no_names_and_no_room():
    assert place_labels(axes_of(), [], []) == []
    narrow = axes_of(width=0.5)
    assert place_labels(narrow, [(0.5, 0.5)], ["a name that is far too long"]) == []


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_masks_on_a_crowded_front_are_all_named_and_readable(shift):
    # A front of 14 steps in a corner, and as many points below it.
    steps = np.arange(14)
    front = pd.DataFrame(
        {"simplicity": 0.6 + steps / 60, "fidelity": shift + 0.3 - steps / 60, "front": True}
    )
    below = front.assign(fidelity=front["fidelity"] - 0.05, front=False)
    plane = pd.concat([front, below]).assign(
        method=["lime"] * 14 + ["shap"] * 14, mask=[f"topK_{n}_pos" for n in steps] * 2
    )
    figure = plot_plane(plane, heading="crowd")
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in names] == [f"topK_{n}_pos" for n in steps]
    check(names, front[["simplicity", "fidelity"]].to_numpy())
    legend = axes.get_legend().get_window_extent().extents
    assert not any(overlap(box_of(text, figure.dpi), legend) for text in names)


def test_the_line_of_a_front_bounds_what_it_beats():
    plane = pd.DataFrame(
        {
            "method": "lime",
            "mask": ["a", "b", "c"],
            "simplicity": [0.2, 0.5, 0.9],
            "fidelity": [0.8, 0.4, 0.1],
            "front": True,
        }
    )
    line = plot_plane(plane).axes[0].lines[0]
    corners = [(0.2, 0.8), (0.2, 0.4), (0.5, 0.4), (0.5, 0.1), (0.9, 0.1)]
    assert line.get_xydata() == pytest.approx(np.array(corners))
