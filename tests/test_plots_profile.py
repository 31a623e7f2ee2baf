"""Attribution over frequency: the shares, and that they are drawn where the axis says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiointerp.plots import Picture, frequency_shares, plot_frequency_profiles
from audiointerp.processing import LogMelSTFTSpectrogram, LogSTFTSpectrogram

PROCESSORS = [LogMelSTFTSpectrogram(), LogSTFTSpectrogram()]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_shares_are_those_of_the_positive_attribution(processor):
    maps = torch.randn(3, 1, processor.num_bins, 11, generator=torch.Generator().manual_seed(0))
    expected = np.zeros(processor.num_bins)
    for one in maps[:, 0].double().tolist():
        sums = np.array([sum(max(value, 0) for value in row) for row in one])
        expected += sums / sums.sum() / 3
    np.testing.assert_allclose(frequency_shares(maps, processor), expected)
    np.testing.assert_allclose(frequency_shares(7 * maps, processor), expected)
    assert frequency_shares(maps[0, 0], processor).sum() == pytest.approx(1)


def test_maps_without_positive_attribution_are_left_out():
    processor = PROCESSORS[0]
    maps = torch.rand(2, 1, processor.num_bins, 5)
    maps[1] = -1
    np.testing.assert_array_equal(
        frequency_shares(maps, processor), frequency_shares(maps[:1], processor)
    )
    assert np.isnan(frequency_shares(maps[1:], processor)).all()
    assert isinstance(plot_frequency_profiles({"none": maps[1:]}, processor), Picture)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_tone_is_drawn_at_its_frequency(processor):
    frequencies = processor.frequencies
    for hz in (500.0, 2000.0, 4000.0):
        cells = torch.zeros(processor.num_bins, 9)
        cells[(frequencies - hz).abs().argmin()] = 1
        picture = plot_frequency_profiles({"a method": cells}, processor, bands=[(400, 600)])
        axes = picture.axes[0]
        line = next(each for each in axes.get_lines() if len(each.get_ydata()) > 2)
        assert line.get_ydata().max() == pytest.approx(100)
        place = line.get_xdata()[line.get_ydata().argmax()]
        names = [label.get_text() for label in axes.get_xticklabels()]
        marks = [1000 * float(name[:-1]) if name.endswith("k") else float(name) for name in names]
        order = np.argsort(marks)
        found = np.interp(place, axes.get_xticks()[order], np.array(marks)[order])
        step = float(frequencies.diff().abs().max())
        assert found == pytest.approx(hz, abs=max(0.12 * hz, step))
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a method"]


def test_more_methods_than_colours_are_told_apart():
    processor = PROCESSORS[0]
    maps = {f"method {n}": torch.rand(processor.num_bins, 5) for n in range(12)}
    lines = plot_frequency_profiles(maps, processor).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "there are no attribution maps to draw"),
        ({"a": torch.ones(5, 4)}, r"maps of shape \(5, 4\): expected \(..., 64, frames\)"),
        ({"a": torch.ones(64)}, r"maps of shape \(64,\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(maps, message):
    with pytest.raises(ValueError, match=message):
        plot_frequency_profiles(maps, PROCESSORS[0])
