"""Metrics and masks as SpeechBrain's recipe has them, against a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import Network, sounds, wrap

import audiointerp as ai
from audiointerp.evaluation import METRICS, Evidence, available_metrics, check_extra
from audiointerp.evaluation.speechbrain import twice_softmax_drop
from audiointerp.masking import apply_mask
from audiointerp.processing import STFTSpectrogram


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values)
    return powers / powers.sum(1, keepdims=True)


def test_the_drop_after_a_second_softmax_is_its_formula():
    random = np.random.default_rng(0)
    before, after = (random.dirichlet(np.ones(7), 20) for _ in range(2))
    target = before.argmax(1)
    rows = np.arange(20)
    first, second = softmax(before)[rows, target], softmax(after)[rows, target]
    expected = 100 * np.maximum(first - second, 0) / (first + 1e-10)
    found = twice_softmax_drop(torch.from_numpy(before), torch.from_numpy(after))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert (found > 0).any()
    assert (found == 0).any()
    other = torch.from_numpy(before.argmin(1))
    evidence = Evidence(torch.from_numpy(before), other, inside=torch.from_numpy(after))
    again = twice_softmax_drop(evidence.before, evidence.inside, other)
    assert torch.equal(METRICS["SB_AD"].compute(evidence), again)
    assert not torch.equal(again, found)


def test_half_of_a_certain_class_of_fifty_reads_39_percent():
    before, after = torch.zeros(1, 50).double(), torch.full((1, 50), 0.5 / 49).double()
    before[0, 3], after[0, 3] = 1, 0.5
    assert METRICS["AD"].compute(Evidence(before, torch.tensor([3]), inside=after)) == 50
    assert twice_softmax_drop(before, after).item() == pytest.approx(38.7, abs=0.05)
    with pytest.raises(ValueError, match="did you pass logits"):
        twice_softmax_drop(before, 5 * after + 1)


def test_it_is_computed_on_request_only():
    assert check_extra("speechbrain") == ("speechbrain",)
    assert "SB_AD" not in available_metrics({"inside"})
    assert "SB_AD" in available_metrics({"inside"}, ("speechbrain",))


def test_masks_multiply_the_logarithm_of_one_plus_magnitude():
    generator = torch.Generator().manual_seed(0)
    cells = torch.empty(2, 1, 5, 6).uniform_(-90, 60, generator=generator)
    mask = torch.rand(cells.shape, generator=generator)
    inside, outside = apply_mask(cells.double(), mask.double(), -300.0, domain="log1p")
    magnitude = 10 ** (cells.double().numpy() / 20)
    for found, share in ((inside, mask.double().numpy()), (outside, 1 - mask.double().numpy())):
        # There, what is removed is 0; -300 dB are as good.
        expected = np.expm1(share * np.log1p(magnitude))
        np.testing.assert_allclose(10 ** (found.numpy() / 20), expected, rtol=1e-6, atol=1e-12)


def test_a_run_has_such_masks_and_such_a_drop():
    classifier = wrap(Network())
    method = ai.SaliencyInterpreter(classifier)
    options = {"masks": ["sigmoid"], "domain": "log1p", "extra": "speechbrain"}
    result = ai.Predict(classifier, method, **options).predict(sounds(1)[0], 8000)
    mask = result.masks["sigmoid"]
    assert 0 < mask.min() < mask.max() < 1
    cells = result.view.cells.double().numpy()
    # The base is the front end's floor, of a magnitude of 1e-5.
    loud, quiet = (np.log1p(10 ** (level / 20)) for level in (cells, -100.0))
    kept = 20 * np.log10(np.expm1(quiet + (loud - quiet) * mask.double().numpy()))
    with torch.no_grad():
        before, after = (
            classifier.network(torch.from_numpy(each).float()).double().softmax(1).numpy()
            for each in (cells, kept)
        )
    label = before.argmax()
    first, second = softmax(before)[0, label], softmax(after)[0, label]
    expected = 100 * max(0.0, first - second) / first
    assert result.metrics.loc["sigmoid", "SB_AD"] == pytest.approx(expected, abs=1e-3)
    drop = 100 * max(0.0, before[0, label] - after[0, label]) / before[0, label]
    assert result.metrics.loc["sigmoid", "AD"] == pytest.approx(drop, abs=1e-3)


def test_a_front_end_of_power_has_no_such_domain():
    front_end = STFTSpectrogram(sample_rate=8000, n_fft=128, hop_length=64)
    classifier = wrap(Network(), front_end=front_end)
    with pytest.raises(ValueError, match="makes power already: domain='log1p'"):
        ai.Predict(classifier, ai.SaliencyInterpreter(classifier), domain="log1p")
