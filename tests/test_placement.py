"""Where the evidence of a map lies, and what makes it suspicious: closed forms and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import sounds, stft

from audiointerp.evaluation.placement import (
    bin_edges,
    effective_share,
    narrowest,
    place_evidence,
    similarity,
)
from audiointerp.evaluation.suspicion import NO_EVIDENCE, measure_suspicion, place_in_words

FRONT_END = stft()  # bins every 62.5 Hz, frames every 8 ms
VIEW = FRONT_END.analyse(sounds(1))
BINS, FRAMES = VIEW.cells.shape[2:]


def placed(attribution, view=VIEW):
    return place_evidence(attribution, view, FRONT_END)


def drawn(batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, BINS, FRAMES, generator=generator)


class TestPlacement:
    def test_a_steady_line(self):
        attribution = torch.zeros_like(VIEW.cells)
        attribution[:, :, 16] = 0.3
        found = placed(attribution)
        assert found.band[0].tolist() == found.wide_band[0].tolist() == [968.75, 1031.25]
        assert found.band_bins[0].tolist() == [16, 17]
        assert found.bandwidth[0].item() == pytest.approx(1 / BINS)
        assert found.steadiness[0].item() == pytest.approx(1)
        edge = max(1, int(0.05 * FRAMES))
        assert found.start[0].item() == pytest.approx(edge / FRAMES)
        assert found.end[0].item() == pytest.approx(edge / FRAMES)
        power = 10 ** (VIEW.cells[0, 0].double() / 10)
        assert found.band_energy[0].item() == pytest.approx((power[16].sum() / power.sum()).item())

    def test_a_burst(self):
        attribution = torch.zeros_like(VIEW.cells)
        attribution[:, :, 10:12, 50:60] = 2.0
        attribution[:, :, 40] = -5.0  # what speaks against the class is no evidence
        found = placed(attribution)
        # Half of it are one of two equal bins and five of ten equal frames: the first of them.
        assert found.band_bins[0].tolist() == [10, 11]
        assert found.wide_band[0].tolist() == [593.75, 718.75]
        times = FRONT_END.times(FRAMES).double()
        step = (times[1] - times[0]).item()
        start, end = found.wide_span[0].tolist()
        assert start == pytest.approx(times[50].item() - step / 2)
        assert end == pytest.approx(times[58].item() + step / 2)  # nine of ten hold 90 %
        assert found.steadiness[0].item() == pytest.approx(10 / FRAMES)
        assert found.bandwidth[0].item() == pytest.approx(2 / BINS)

    def test_evidence_that_is_the_energy_overlaps_it(self):
        power = 10 ** (VIEW.cells / 10)
        found = placed(power)
        assert found.overlap[0].item() == pytest.approx(1, abs=1e-6)
        assert torch.allclose(found.profile, found.energy, atol=1e-6)

    def test_even_evidence_takes_all_of_the_clip(self):
        found = placed(torch.ones_like(VIEW.cells))
        assert found.bandwidth[0].item() == pytest.approx(1)
        assert found.steadiness[0].item() == pytest.approx(1)
        assert found.wide_band[0, 0] == 0
        assert (found.band_bins[0, 1] - found.band_bins[0, 0]).item() == math.ceil(BINS / 2)

    def test_silence(self):
        waveform = sounds(1).clone()
        waveform[..., 4000:] = 0
        view = FRONT_END.analyse(waveform)
        attribution = torch.zeros_like(view.cells)
        attribution[..., -20:] = 1.0
        assert placed(attribution, view).silence[0].item() == pytest.approx(1)
        assert placed(attribution.flip(3), view).silence[0].item() < 0.01

    def test_a_map_without_positive_cells_has_no_evidence(self):
        found = placed(-torch.ones_like(VIEW.cells))
        for name, value in vars(found).items():
            if name == "band_bins":
                assert value[0].tolist() == [0, 0]
            elif name not in ("energy", "edge_energy"):
                assert value.isnan().all(), name

    @settings(deadline=None)
    @given(st.integers(0, 20), st.floats(1e-6, 1e6))
    def test_scaling_a_map_changes_nothing(self, seed, factor):
        attribution = drawn(seed=seed).double()
        for one, other in zip(
            vars(placed(attribution)).values(),
            vars(placed(factor * attribution)).values(),
            strict=True,
        ):
            assert torch.allclose(one.double(), other.double(), rtol=1e-9, atol=1e-12)

    def test_no_clip_depends_on_the_others(self):
        view, attribution = FRONT_END.analyse(sounds(3)), drawn(3)
        together = placed(attribution, view)
        for row in range(3):
            part = slice(row, row + 1)
            for one, other in zip(
                vars(placed(attribution[part], view[part])).values(),
                vars(together).values(),
                strict=True,
            ):
                assert torch.allclose(one, other[part], rtol=1e-12)

    @pytest.mark.parametrize(
        ("attribution", "message"),
        [
            (torch.ones(1, 1, 3, 3), r"shape \(1, 1, 3, 3\)"),
            (torch.full_like(VIEW.cells, math.nan), "NaN or infinite"),
        ],
    )
    def test_unusable_maps_are_refused(self, attribution, message):
        with pytest.raises(ValueError, match=message):
            placed(attribution)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(sum), st.floats(0.05, 1))
def test_the_narrowest_stretch_is_that_of_all_stretches(counts, wanted):
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    first, last = narrowest(shares[None], wanted)[0].tolist()
    stretches = [
        (end - start, -round(float(shares[start:end].sum()), 9), start)
        for start in range(len(counts))
        for end in range(start + 1, len(counts) + 1)
        if shares[start:end].sum() >= wanted - 1e-9
    ]
    width, _, start = min(stretches)
    assert (first, last) == (start, start + width)


def test_edges_lie_half_way_between_centres():
    assert bin_edges(torch.tensor([1.0, 3.0, 7.0])).tolist() == [0, 2, 5, 9]
    assert bin_edges(torch.tensor([5.0])).tolist() == [0, 10]


def test_the_effective_share_of_equal_places_is_how_many_they_are():
    values = torch.zeros(3, 10, dtype=torch.float64)
    values[0, :4] = 7
    values[1] = 1e-200
    assert effective_share(values)[:2].tolist() == pytest.approx([0.4, 1])
    assert effective_share(values)[2].isnan()


def test_similarity_is_pearsons_correlation():
    one, other = np.random.default_rng(0).random((2, 4, 9))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]
    assert similarity(*map(torch.from_numpy, (one, other))).tolist() == pytest.approx(expected)
    assert similarity(torch.ones(1, 3), torch.rand(1, 3)).isnan().all()


class TestSuspicion:
    def measure(self, profiles, groups=None, files=None, *, edge=None, energy=None, silence=None):
        profiles = np.array(profiles, dtype=float)
        n = len(profiles)
        bandwidth = effective_share(torch.from_numpy(profiles)).numpy()
        return measure_suspicion(
            groups or ["g"] * n,
            files or list(range(n)),
            profiles,
            bandwidth,
            np.full(n, 0.1) if edge is None else np.array(edge),
            np.zeros(n) if energy is None else np.array(energy),
            np.zeros(n) if silence is None else np.array(silence),
        )

    def test_the_same_line_in_every_recording_is_as_suspicious_as_it_is_narrow(self):
        found = self.measure(np.eye(10)[[3, 3, 3]])
        assert found.suspicion == pytest.approx([0.9] * 3)
        assert found.largest == ["same_narrow_band"] * 3

    def test_lines_at_different_places_are_not_suspicious(self):
        assert self.measure(np.eye(10)[[1, 4, 7]]).suspicion == pytest.approx([0, 0, 0])

    def test_broad_evidence_is_not_suspicious_however_equal(self):
        assert self.measure(np.full((3, 10), 0.1)).suspicion == pytest.approx([0, 0, 0])

    def test_one_recording_shows_no_sameness_however_many_detections_it_has(self):
        found = self.measure(np.eye(10)[[3, 3]], files=["a", "a"])
        assert np.isnan(found.sameness).all()
        assert found.suspicion == pytest.approx([0, 0])

    def test_other_groups_do_not_count(self):
        profiles = np.eye(10)[[3, 3, 8]]
        alone = self.measure(profiles[:2]).suspicion
        assert self.measure(profiles, groups=["g", "g", "h"]).suspicion[:2] == pytest.approx(alone)

    def test_edges_count_beyond_chance_and_silence_as_it_is(self):
        broad = np.full((2, 10), 0.1)
        found = self.measure(broad, edge=[0.1, 0.55], silence=[0.7, 0.0])
        assert found.suspicion == pytest.approx([0.7, 0.5])
        assert found.largest == ["silence", "edge"]

    def test_a_sound_at_the_edge_is_not_suspicious_there(self):
        broad = np.full((3, 10), 0.1)
        found = self.measure(broad, edge=[0.8, 0.8, 1.0], energy=[0.9, 0.6, 1.0])
        assert found.suspicion == pytest.approx([0, 0.5, 0])

    def test_no_evidence_has_no_value_and_spoils_none(self):
        profiles = np.concatenate([np.eye(10)[[3, 3]], np.full((1, 10), np.nan)])
        found = self.measure(profiles, silence=[0, 0, np.nan], edge=[0.1, 0.1, np.nan])
        assert found.suspicion[:2] == pytest.approx([0.9, 0.9])
        assert np.isnan(found.suspicion[2])
        assert found.largest[2] == ""

    @settings(deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_the_order_of_detections_does_not_matter(self, random):
        profiles = np.random.default_rng(1).dirichlet(np.ones(6), size=8)
        groups, files = list("ggghhhgh"), list("aabbcdde")
        before = self.measure(profiles, groups, files).suspicion
        order = list(range(8))
        random.shuffle(order)
        after = self.measure(
            profiles[order], [groups[n] for n in order], [files[n] for n in order]
        ).suspicion
        assert after == pytest.approx(before[order])

    def test_nothing_at_all(self):
        found = measure_suspicion([], [], np.zeros((0, 5)), *np.zeros((4, 0)))
        assert found.suspicion.shape == (0,)

    @pytest.mark.parametrize(
        ("place", "words"),
        [
            ((1000, 0.9, 0.05, 0.05), ("steady", 5)),
            ((999, 0.5, 0.0, 0.0), ("steady", 4)),
            ((1999, 0.49, 0.0, 0.0), ("bursts", 5)),
            ((0, 0.1, 0.6, 0.1), ("start of the window", 0)),
            ((40, 0.1, 0.1, 0.5), ("end of the window", 0)),
            ((math.nan, math.nan, math.nan, math.nan), (NO_EVIDENCE, 0)),
        ],
    )
    def test_words(self, place, words):
        assert place_in_words(*place) == words
