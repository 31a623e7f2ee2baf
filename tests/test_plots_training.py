"""Pictures of sets and trainings: every panel on one scale, every number where its names say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from audiointerp.plots import DYNAMIC_RANGE, plot_confusion, plot_spectrograms
from audiointerp.processing import LogMelSTFTSpectrogram, LogSTFTSpectrogram, STFTSpectrogram


def noises(processor, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"clip {place}": processor(
            0.1 * (place + 1) * torch.randn(1, 1, 16000, generator=generator)
        )
        for place in range(count)
    }


@pytest.mark.parametrize("processor", [LogMelSTFTSpectrogram(), LogSTFTSpectrogram()])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_spectrograms_stand_in_rows_of_five_on_one_scale(processor, count):
    clips = noises(processor, count)
    picture = plot_spectrograms(clips, processor, heading="clips")
    panels = [axes for axes in picture.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list(clips)
    peak = max(float(features.max()) for features in clips.values())
    for axes, features in zip(panels, clips.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), features[0, 0])
        assert axes.images[0].get_clim() == pytest.approx((peak - DYNAMIC_RANGE, peak))
    corners = [axes.get_position() for axes in panels]
    assert len({round(corner.y0, 6) for corner in corners}) == -(-count // 5)
    assert len({round(corner.x0, 6) for corner in corners}) == min(count, 5)


def test_only_outer_panels_carry_labels_and_none_is_without():
    processor = LogMelSTFTSpectrogram()
    panels = plot_spectrograms(noises(processor, 7), processor).axes[:7]
    seconds = [bool(axes.get_xlabel()) for axes in panels]
    hertz = [bool(axes.get_ylabel()) for axes in panels]
    assert seconds == [False, False, True, True, True, True, True]  # nothing stands below these
    assert hertz == [True, False, False, False, False, True, False]
    for axes, time, frequency in zip(panels, seconds, hertz, strict=True):
        assert any(label.get_text() for label in axes.get_xticklabels()) == time
        assert any(label.get_text() for label in axes.get_yticklabels()) == frequency


def test_power_shares_a_scale_in_decibels():
    processor = STFTSpectrogram()
    clips = noises(processor, 2)
    image = plot_spectrograms(clips, processor).axes[0].images[0]
    peak = max(float(features.max()) for features in clips.values())
    assert image.get_clim()[1] == pytest.approx(10 * np.log10(peak), abs=1e-4)


def test_no_spectrogram_is_no_picture():
    with pytest.raises(ValueError, match="no spectrograms"):
        plot_spectrograms({}, LogMelSTFTSpectrogram())


COUNTS = pd.DataFrame(
    [[7, 0, 1], [0, 0, 0], [3, 0, 1]], index=["dog", "cat", "rain"], columns=["dog", "cat", "rain"]
)


def test_confusion_writes_counts_and_colours_shares():
    axes = plot_confusion(COUNTS, heading="test").axes[0]
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "7", (2, 0): "1", (0, 2): "3", (2, 2): "1"}
    image = axes.images[0]
    np.testing.assert_allclose(
        image.get_array(), [[7 / 8, 0, 1 / 8], [0, 0, 0], [3 / 4, 0, 1 / 4]], rtol=1e-12
    )
    assert image.get_clim() == (0, 1)
    names = ["dog", "cat", "rain"]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "clip is")
    assert axes.yaxis_inverted()  # the first class is at the top


def test_confusion_says_how_many_of_each_class_are_right():
    (ends,) = plot_confusion(COUNTS).axes[0].child_axes
    labels = [label.get_text() for label in ends.get_yticklabels()]
    assert dict(zip(ends.get_yticks().tolist(), labels, strict=True)) == {
        0: "88 %",
        1: "no clip",
        2: "25 %",
    }


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_names_and_numbers_fit_their_cells_whatever_the_number_of_classes(classes):
    names = [f"crackling_fire{place}" for place in range(classes)]
    picture = plot_confusion(pd.DataFrame(np.full((classes, classes), 40), names, names))
    picture.draw_without_rendering()
    axes = picture.axes[0]
    cell = axes.get_window_extent().width / classes
    number = axes.texts[0].get_window_extent()
    assert number.width < cell
    assert number.height < cell
    for label in axes.get_xticklabels():
        assert label.get_window_extent().width < 1.05 * cell
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label in labels:
            box = label.get_window_extent()
            assert min(box.x0, box.y0) > 0


def test_confusion_of_other_columns_than_rows_is_refused():
    with pytest.raises(ValueError, match="expected the same classes in one order"):
        plot_confusion(COUNTS[["cat", "dog", "rain"]])
    with pytest.raises(ValueError, match="expected the same classes"):
        plot_confusion(pd.DataFrame())
