"""Shapley values against enumeration, shapiq, shap and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import shap
import shapiq
import torch
from networks import Network, sounds, wrap
from test_waveform import Convolutions
from test_waveform import sounds as short_sounds
from test_waveform import wrap as wrap_waveform
from torch import nn

from audiointerp.interpretation import (
    KernelSHAPInterpreter,
    PermutationSHAPInterpreter,
    TopK,
)
from audiointerp.interpretation.segmentation import Grid
from audiointerp.interpretation.shapley import KernelSHAP, PermutationSHAP

ESTIMATORS = {"kernelshap": KernelSHAP, "permutation_shap": PermutationSHAP}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def game_of(parts: int, seed: int = 0):
    """Return a game with interactions of every order: a random value for every choice."""
    table = np.random.default_rng(seed).normal(size=2**parts)

    def game(kept: np.ndarray) -> np.ndarray:
        codes = (np.asarray(kept).astype(np.int64) * 2 ** np.arange(parts)).sum(-1)
        return table[codes]

    return game


def smooth_game(parts: int, seed: int = 0):
    """Return a game with few interactions, as classifiers are."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=parts)
    pairs = random.normal(size=(parts, parts)) / parts

    def game(kept: np.ndarray) -> np.ndarray:
        kept = np.asarray(kept).astype(float)
        return kept @ weights + np.einsum("ni,ij,nj->n", kept, pairs, kept)

    exact = weights + np.diag(pairs) + (pairs + pairs.T - 2 * np.diag(np.diag(pairs))).sum(1) / 2
    return game, exact


def by_enumeration(game, parts: int) -> np.ndarray:
    found = np.zeros(parts)
    for part in range(parts):
        others = [other for other in range(parts) if other != part]
        for size in range(parts):
            weight = math.factorial(size) * math.factorial(parts - size - 1) / math.factorial(parts)
            for chosen in itertools.combinations(others, size):
                without = np.zeros((1, parts), dtype=bool)
                without[0, list(chosen)] = True
                having = without.copy()
                having[0, part] = True
                found[part] += weight * (game(having) - game(without))[0]
    return found


def run(estimator, game, parts: int):
    design = estimator.design(parts)
    values = torch.from_numpy(game(design.numpy()))
    return estimator.estimate([design], [values])


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 8])
def test_kernelshap_with_few_parts_is_exact(parts):
    game = game_of(parts)
    estimate = run(KernelSHAP(), game, parts)
    expected = by_enumeration(game, parts)
    np.testing.assert_allclose(estimate.values[0].numpy(), expected, atol=1e-10)
    assert estimate.diagnostics["residual"][0] < 1e-12
    assert estimate.diagnostics["samples"][0] == 2**parts
    if parts > 1:
        exact = shapiq.ExactComputer(game, n_players=parts)("SV")
        np.testing.assert_allclose([exact[(part,)] for part in range(parts)], expected, atol=1e-10)
        by_shap = shap.KernelExplainer(game, np.zeros((1, parts)), silent=True)
        with np.errstate(all="ignore"):
            found = by_shap.shap_values(np.ones((1, parts)), l1_reg=0, silent=True)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_kernelshap_with_all_versions_of_all_sizes_is_shapiqs():
    game = game_of(7)
    budget = 2**7
    theirs = shapiq.KernelSHAP(n=7, random_state=0).approximate(budget, game)
    ours = run(KernelSHAP(num_samples=budget), game, 7).values[0]
    np.testing.assert_allclose(ours, [theirs[(part,)] for part in range(7)], atol=1e-6)


@pytest.mark.parametrize("parts", [20, 60])
def test_kernelshap_of_pairs_of_parts_is_exact_by_sampling_complements(parts):
    """Paired samples are exact for games of pairs, given enough of them."""
    game, exact = smooth_game(parts)
    found = run(KernelSHAP(num_samples=600), game, parts)
    np.testing.assert_allclose(found.values[0], exact, atol=1e-8)
    assert found.diagnostics["samples"][0] == 600


def test_kernelshap_converges():
    parts = 12
    game = game_of(parts, seed=3)
    expected = by_enumeration(game, parts)
    errors = [
        np.abs(run(KernelSHAP(num_samples=n), game, parts).values[0].numpy() - expected).max()
        for n in (60, 500, 4095)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


@pytest.mark.parametrize("num_samples", [4, 5, 9, 30])
def test_kernelshap_of_too_few_samples_still_adds_up(num_samples):
    game, _ = smooth_game(40)
    found = run(KernelSHAP(num_samples=num_samples), game, 40)
    assert found.values[0].isfinite().all()
    assert found.diagnostics["residual"][0] < 1e-9
    assert num_samples - 1 <= found.diagnostics["samples"][0] <= num_samples


def test_all_choices_of_a_size_are_taken_before_larger_ones_are_drawn():
    design = KernelSHAP(num_samples=150).design(20)
    sizes = design.sum(1)
    assert design[0].all()
    assert not design[1].any()
    assert (sizes[2:] == 1).sum() == (sizes[2:] == 19).sum() == 20
    assert len(design.unique(dim=0)) == len(design) == 150
    drawn = design[42:]
    assert torch.equal(drawn[::2], ~drawn[1::2])
    assert ((sizes[42:] > 1) & (sizes[42:] < 19)).all()


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("orders", [1, 3])
def test_walks_are_a_plain_loop(parts, orders):
    game = game_of(parts)
    estimator = PermutationSHAP(orders)
    found = run(estimator, game, parts)
    design = estimator.design(parts)
    walks = design[2:].reshape(2 * orders, parts - 1, parts)
    total = np.zeros(parts)
    for walk in walks.numpy():
        before = np.zeros((1, parts), dtype=bool)
        for after in [*walk[:, None], np.ones((1, parts), dtype=bool)]:
            (added,) = np.flatnonzero(before != after)
            assert after[0, added]
            total[added] += (game(after) - game(before))[0]
            before = after
    expected = total / (2 * orders) if parts > 1 else game(np.ones((1, 1))) - game(np.zeros((1, 1)))
    np.testing.assert_allclose(found.values[0], expected, atol=1e-12)
    assert found.diagnostics["residual"][0] < 1e-9
    assert len(design) == 2 + 2 * orders * (parts - 1)


def test_a_walk_and_its_reverse_are_exact_for_games_of_pairs():
    game, exact = smooth_game(15)
    np.testing.assert_allclose(run(PermutationSHAP(1), game, 15).values[0], exact, atol=1e-10)


def test_permutations_converge():
    game = game_of(6, seed=5)
    found = run(PermutationSHAP(4000), game, 6).values[0]
    np.testing.assert_allclose(found, by_enumeration(game, 6), atol=0.05)


# --- stopping -----------------------------------------------------------------------------------


def test_the_highest_parts_are_settled_by_a_t_test():
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(10, 6, generator=generator, dtype=torch.float64)
    clear = noise + torch.tensor([3.0, 2.0, 0.0, 0, 0, 0])
    stop = TopK(k=2, confidence=0.9)
    assert stop.is_settled(clear, looks=10)
    assert not stop.is_settled(clear[:1], looks=10)
    assert not stop.is_settled(noise, looks=10)
    assert not TopK(k=1, confidence=0.9999999).is_settled(5 * noise + clear, looks=10)
    assert TopK(k=6).is_settled(noise, looks=10)
    # Ties are never settled.
    assert not TopK(k=1).is_settled(torch.zeros(10, 3).double(), looks=1)


def test_a_wrong_order_is_rarely_settled():
    """Of equal parts, none is called higher than another, but for the share of errors allowed."""
    wrong = 0
    for seed in range(200):
        samples = randn(30, 4, seed=seed).double()
        wrong += any(TopK(1, 0.9).is_settled(samples[:count], 30) for count in range(2, 31))
    assert wrong <= 0.1 * 200


def stop_model():
    """Return a network whose class 1 hears the first columns and, with strong interactions, all."""

    class Columns(nn.Module):
        def forward(self, x):
            energy = x[:, 0].mean(1)
            score = 4 * energy[:, 0] + 3 * energy[:, 5] + 0.3 * (energy * energy.roll(1, 1)).sum(1)
            return torch.stack([torch.zeros_like(score), score], 1)

    return Columns()


def test_a_clip_stops_when_its_highest_parts_are_settled():
    cells = randn(3, 1, 4, 12).double().abs()
    cells[1] = 0
    settings = {"segmentation": Grid(1, 12), "base": 0.0, "output": "logit"}
    stopping = PermutationSHAPInterpreter(
        stop_model(), num_permutations=40, stop=TopK(k=2), **settings
    )
    whole = PermutationSHAPInterpreter(stop_model(), num_permutations=40, **settings)
    explanation = stopping.explain(cells, 1)
    samples = explanation.diagnostics["samples"]
    assert (samples[[0, 2]] < 2 + 40 * 22).all()
    assert samples[1] == 2 + 40 * 22  # a silent clip never settles
    assert (explanation.diagnostics["residual"] < 1e-9).all()
    for index in range(3):
        alone = stopping.explain(cells[index : index + 1], 1)
        torch.testing.assert_close(alone.attribution[0], explanation.attribution[index])
        assert alone.diagnostics["samples"][0] == samples[index]
        used = int((samples[index] - 2) // 22)
        fewer = PermutationSHAPInterpreter(stop_model(), num_permutations=used, **settings)
        orders = whole.estimator._orders(12)[:used]
        assert len(orders) == used
        if used == 40:
            torch.testing.assert_close(
                whole.attribute(cells[index : index + 1], 1)[0], explanation.attribution[index]
            )
        assert fewer.explain(cells[:1], 1).diagnostics["samples"][0] == 2 + 22 * used
    highest = explanation.attribution[0, 0, 0].argsort(descending=True)[:2]
    assert set(highest.tolist()) == {0, 5}


def test_stopping_is_recorded_and_checked():
    model = stop_model()
    settings = PermutationSHAPInterpreter(model, stop=TopK(2, 0.9)).settings()
    assert settings["stop"] == {"k": 2, "confidence": 0.9}
    with pytest.raises(ValueError, match="stop must be None or a TopK, got 3"):
        PermutationSHAPInterpreter(model, stop=3)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 1"):
        TopK(confidence=1)


# --- through a classifier -----------------------------------------------------------------------


class LinearLogits(nn.Module):
    def __init__(self, bins: int, frames: int) -> None:
        super().__init__()
        self.register_buffer("weights", randn(2, bins, frames, seed=9).double())

    def forward(self, x):
        return torch.einsum("bft,cft->bc", x[:, 0], self.weights)


METHODS = {"kernelshap": KernelSHAPInterpreter, "permutation_shap": PermutationSHAPInterpreter}


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_network_gives_back_what_each_segment_adds(method):
    model = LinearLogits(8, 12)
    cells = randn(2, 1, 8, 12).double()
    base = -0.7
    interpreter = METHODS[method](model, segmentation=Grid(2, 3), base=base, output="logit")
    explanation = interpreter.explain(cells, torch.tensor([0, 1]))
    for clip in range(2):
        shares = model.weights[clip] * (cells[clip, 0] - base)
        for row in range(0, 8, 4):
            for column in range(0, 12, 4):
                part = slice(row, row + 4), slice(column, column + 4)
                found = explanation.attribution[clip, 0][part]
                torch.testing.assert_close(found, shares[part].sum().expand(4, 4))
    assert (explanation.diagnostics["residual"] < 1e-9).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("segmentation", [Grid(2, 2), "harmonic_percussive"])
def test_values_are_those_of_a_game_by_hand(method, head, segmentation):
    """By enumeration, with versions that are made by masks and probabilities of the head."""
    classifier = wrap(Network().double(), head=head)
    view = classifier.front_end.double().analyse(sounds(1).double())
    interpreter = METHODS[method](
        classifier,
        segmentation=segmentation,
        **({"num_permutations": 200} if method == "permutation_shap" else {}),
    )
    explanation = interpreter.explain(view, 2)
    parts = interpreter.segment(view)
    if parts.ndim == 2:
        parts = np.arange(4)[:, None, None] == parts
    weights = torch.from_numpy(parts).double()

    @torch.no_grad()
    def game(kept: np.ndarray) -> np.ndarray:
        gain = torch.einsum("ns,sft->nft", torch.as_tensor(kept).double(), weights)[:, None]
        power = 10 ** (view.cells / 10) * gain**2 + 1e-10 * (1 - gain**2)
        logits = classifier.network(10 * power.log10())
        return (logits.softmax(1) if head == "softmax" else logits.sigmoid())[:, 2].numpy()

    phi = torch.from_numpy(by_enumeration(game, len(weights)))
    expected = torch.einsum("s,sft->ft", phi, weights)
    tolerance = 1e-6 if method == "kernelshap" else 0.1 * float(phi.abs().max())
    torch.testing.assert_close(explanation.attribution[0, 0], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_a_waveform_network_hears_the_versions(method):
    classifier = wrap_waveform(Convolutions().double())
    view = classifier.front_end.analyse(short_sounds(2, dtype=torch.float64))
    interpreter = METHODS[method](
        classifier,
        segmentation=Grid(2, 2),
        **({"num_permutations": 300} if method == "permutation_shap" else {}),
    )
    explanation = interpreter.explain(view, 1)
    clip = view[1:2]
    labels = torch.from_numpy(interpreter.segment(clip))

    @torch.no_grad()
    def game(kept: np.ndarray) -> np.ndarray:
        found = []
        for row in kept:
            cells = torch.where(torch.as_tensor(row)[labels], clip.cells, -100.0)
            sound = classifier.front_end.synthesise(clip, cells)[:, 0]
            found.append(classifier.network.eval()(sound).softmax(1)[0, 1].item())
        return np.array(found)

    phi = torch.from_numpy(by_enumeration(game, 4))
    tolerance = 1e-9 if method == "kernelshap" else 0.1 * float(phi.abs().max())
    torch.testing.assert_close(explanation.attribution[1, 0], phi[labels], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_samples": 3}, "num_samples must be a whole number of at least 4, got 3"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"output": "score"}, "output must be 'probability' or 'logit', got 'score'"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        KernelSHAPInterpreter(nn.Identity(), **setting)
