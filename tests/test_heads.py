"""Metrics of every head, computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from networks import HEADS, RATE, Network, sounds, stft, wrap

import audiointerp as ai
from audiointerp.model import build_head


@pytest.mark.parametrize(
    ("head", "threshold"), [("sigmoid", 0.5), ("sigmoid", 0.8), ("binary", 0.5)]
)
def test_metrics_of_every_head_are_those_computed_by_hand(head, threshold):
    network = Network(HEADS[head][0], scale=12.0)
    with torch.no_grad():
        # Half of the clips on either side of a probability of a half.
        network.linear.bias -= network(stft()(sounds(6))).quantile(0.5, dim=0) / network.scale
    given = build_head({"name": "sigmoid", "threshold": threshold}) if head == "sigmoid" else head
    classifier = wrap(network, head=given)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier))

    def chances(cells):
        with torch.no_grad():
            scores = network(cells).double().sigmoid()[0].numpy()
        return np.array([1 - scores[0], scores[0]]) if head == "binary" else scores

    decisions_kept = set()
    for clip, label in itertools.product(sounds(6), [0, 1]):
        result = predict.predict(clip, RATE, target=label)
        whole = chances(result.view.cells)
        np.testing.assert_allclose(result.probabilities, whole, atol=1e-5)
        for mask, (kept, left) in result.masked.items():
            inside, outside = chances(kept), chances(left)
            p, p_in, p_out = whole[label], inside[label], outside[label]
            if head == "binary":
                same = inside.argmax() == label
            else:
                same = (p >= threshold) == (p_in >= threshold)
            expected = {
                "FF": p - p_out,
                "AI": 100.0 * (p_in > p + 1e-6),
                "AD": 100 * max(0, p - p_in) / p,
                "AG": 100 * max(0, p_in - p) / (1 - p),
                "FidIn": float(same),
            }
            found = result.metrics.loc[mask, list(expected)].to_dict()
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), mask
            decisions_kept.add(bool(same))
    assert decisions_kept == {True, False}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.5}, "head settings without a 'name'"),
        ({"name": ["sigmoid"]}, "unknown head"),
        ({"name": "sigmoid", "threshold": "half"}, "do not fit the head 'sigmoid'"),
        ({"name": "softmax", "threshold": 0.5}, "the head 'softmax' has no setting threshold"),
    ],
)
def test_settings_that_are_of_no_head_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head(settings)


def test_a_label_that_is_not_decided_for_is_kept_by_staying_so():
    head = build_head("sigmoid")
    before = torch.tensor([[0.2, 0.9], [0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)
    after = torch.tensor([[0.4, 0.9], [0.6, 0.9], [0.6, 0.2]], dtype=torch.float64)
    target = torch.tensor([0, 0, 0])
    assert head.keeps(before, after, target).tolist() == [True, False, True]
