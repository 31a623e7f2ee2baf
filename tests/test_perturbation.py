"""Occlusion, RISE, Sobol indices and surrogates against libraries, loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from networks import Network, sounds, wrap
from scipy import stats
from skimage.transform import resize
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from test_waveform import Convolutions
from test_waveform import sounds as short_sounds
from test_waveform import wrap as wrap_waveform
from torch import nn

from audiointerp.hiding import hide_by_neighbours
from audiointerp.interpretation import METHODS
from audiointerp.interpretation.game import Game, Request
from audiointerp.interpretation.hidden import BackgroundFilling
from audiointerp.interpretation.rise import SmoothMasks
from audiointerp.interpretation.segmentation import Grid, Time
from audiointerp.interpretation.sobol import Sobol
from audiointerp.interpretation.surrogates import ForestSurrogate, LinearSurrogate
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.processing import LogSTFTSpectrogram, View

NAMES = ("occlusion", "rise", "freqrise", "sobol", "linear_surrogate", "forest_surrogate")
SMALL = {
    "occlusion": {"window": (9, 20)},
    "rise": {"num_samples": 50},
    "freqrise": {"num_samples": 50},
    "sobol": {"num_designs": 4, "segmentation": Grid(3, 4)},
    "linear_surrogate": {"num_samples": 50},
    "forest_surrogate": {"num_samples": 50, "trees": 50},
}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 12 * 20, 4)
        ).double()


class LinearLogits(nn.Module):
    def __init__(self, bins: int, frames: int) -> None:
        super().__init__()
        self.register_buffer("weights", randn(2, bins, frames, seed=9).double())

    def forward(self, x):
        return torch.einsum("bft,cft->bc", x[:, 0], self.weights)


# --- the value function -------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("output", ["probability", "logit"])
def test_the_value_function_answers_every_request_in_full_batches(rows, output):
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.flatten(1)[:, :3]

    classifier = as_classifier(Watch())
    versions = [randn(count, 1, 2, 3, seed=count).double() for count in (4, 1, 0, 6)]
    target = torch.tensor([2, 0, 1])
    clips = [0, 2, 2, 1]
    view = View(randn(3, 1, 2, 3).double())
    game = Game(classifier, view, target, rows=rows, output=output)
    requests = [
        Request(clip, len(cells), lambda start, stop, cells=cells: cells[start:stop])
        for clip, cells in zip(clips, versions, strict=True)
    ]
    found = game.values(requests, total=11)
    for clip, cells, values in zip(clips, versions, found, strict=True):
        scores = cells.flatten(1)[:, :3]
        scores = scores.softmax(1) if output == "probability" else scores
        torch.testing.assert_close(values, scores[:, target[clip]])
    assert sum(seen) == 11
    assert all(size == rows for size in seen[:-1])
    assert game.values([]) == []


# --- occlusion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "stride"),
    [((3, 4), (3, 4)), ((4, 6), (2, 3)), ((5, 7), (3, 4)), ((12, 20), (1, 1)), ((1, 20), (1, 5))],
)
def test_occlusion_is_captums(window, stride, model):
    cells = 2 * randn(2, 1, 12, 20, seed=1).double()
    target = torch.tensor([1, 3])
    found = METHODS["occlusion"](
        model, window=window, stride=stride, base=-3.0, output="logit", batch_size=7
    ).explain(cells, target)
    expected = Occlusion(model).attribute(
        cells,
        sliding_window_shapes=(1, *window),
        strides=(1, *stride),
        baselines=-3.0,
        target=target,
    )
    # Captum's is of single precision.
    torch.testing.assert_close(found.attribution, expected.double(), rtol=1e-4, atol=1e-5)
    rows, columns = (
        -(-(cells - size) // step) + 1
        for cells, size, step in zip((12, 20), window, stride, strict=True)
    )
    assert (found.diagnostics["samples"] == 1 + rows * columns).all()


@pytest.mark.parametrize("hide", ["base", "road", BackgroundFilling(randn(3, 1, 12, 20, seed=4))])
def test_occlusion_is_a_loop_over_windows(hide, model):
    cells = randn(1, 1, 12, 20).double()
    interpreter = METHODS["occlusion"](model, window=(5, 6), stride=(4, 6), base=-2.0, hide=hide)
    found = interpreter.attribute(cells, 2)
    total, count = torch.zeros(12, 20).double(), torch.zeros(12, 20).double()
    with torch.no_grad():
        whole = model(cells).softmax(1)[0, 2]
        for row in range(0, 12, 4):
            for column in range(0, 20, 6):
                keep = torch.ones_like(cells, dtype=torch.bool)
                keep[..., row : row + 5, column : column + 6] = False
                if hide == "base":
                    version = torch.where(keep, cells, -2.0)
                elif hide == "road":
                    version = hide_by_neighbours(cells, keep, torch.tensor(-2.0))
                else:
                    version = torch.where(keep, cells, hide.cells.double())
                fall = whole - model(version).softmax(1)[0, 2]
                total[~keep[0, 0]] += fall
                count[~keep[0, 0]] += 1
                if row + 5 >= 12 and column + 6 >= 20:
                    break
            if row + 5 >= 12:
                break
    torch.testing.assert_close(found[0, 0], total / count)


def test_occlusion_of_single_cells_of_a_linear_network_is_its_weights():
    model = LinearLogits(4, 5)
    cells = randn(1, 1, 4, 5).double()
    interpreter = METHODS["occlusion"](
        model, window=(1, 1), stride=(1, 1), base=0.3, output="logit"
    )
    torch.testing.assert_close(
        interpreter.attribute(cells, 1)[0, 0], model.weights[1] * (cells[0, 0] - 0.3)
    )


# --- RISE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 5), (1, 3), (12, 20), (7, 7)])
def test_masks_are_enlarged_grids(grid):
    masks = SmoothMasks(6, grid, (12, 20), 0.5, seed=3)
    found = masks.masks(0, 6, torch.zeros(1)).numpy()
    step = [-(-cells // points) for cells, points in zip((12, 20), grid, strict=True)]
    for index in range(6):
        size = [(count + 1) * each for count, each in zip(grid, step, strict=True)]
        large = resize(
            masks.grids[index, 0].numpy(), size, order=1, mode="edge", anti_aliasing=False
        )
        row, column = masks.offsets[index].tolist()
        assert 0 <= row < step[0]
        assert 0 <= column < step[1]
        expected = large[row : row + 12, column : column + 20]
        np.testing.assert_allclose(found[index, 0], expected, atol=1e-5)
    part = masks.masks(2, 5, torch.zeros(1)).numpy()
    np.testing.assert_array_equal(part, found[2:5])
    assert set(masks.grids.unique().tolist()) <= {0.0, 1.0}


def test_cells_are_kept_with_the_given_probability():
    masks = SmoothMasks(4000, (7, 7), (20, 30), 0.3, seed=0).masks(0, 4000, torch.zeros(1))
    assert (masks.mean(0) - 0.3).abs().max() < 0.03


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("method", ["rise", "freqrise"])
def test_rise_is_a_plain_loop(method, centred):
    classifier = wrap(Network().double(), head="sigmoid")
    view = classifier.front_end.double().analyse(sounds(2).double())
    settings = {"num_samples": 40, "grid": (3, 4), "keep": 0.4, "seed": 5}
    interpreter = METHODS[method](classifier, centred=centred, batch_size=11, **settings)
    found = interpreter.attribute(view, 1)
    masks = SmoothMasks(40, (3, 4), tuple(view.cells.shape[2:]), 0.4, 5)
    for clip in range(2):
        values, kept = [], []
        for index in range(40):
            mask = masks.masks(index, index + 1, view.cells)
            cells = view.cells[clip : clip + 1]
            if method == "rise":
                masked = -100 + (cells + 100) * mask
            else:
                masked = 10 * (10 ** (cells / 10) * mask**2 + 1e-10 * (1 - mask**2)).log10()
            with torch.no_grad():
                values.append(classifier.network(masked).sigmoid()[0, 1])
            kept.append(mask[0, 0])
        values, kept = torch.stack(values), torch.stack(kept)
        if centred:
            weighted = ((values - values.mean())[:, None, None] * kept).sum(0)
            expected = weighted / kept.sum(0)
        else:
            expected = (values[:, None, None] * kept).mean(0) / 0.4
        torch.testing.assert_close(found[clip, 0], expected, rtol=1e-6, atol=1e-8)


def test_masks_over_frequency_are_the_same_in_all_frames():
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(1))
    interpreter = METHODS["freqrise"](classifier, over="frequency", num_samples=60)
    found = interpreter.attribute(view, 0)[0, 0]
    torch.testing.assert_close(found, found[:, :1].expand_as(found), rtol=1e-5, atol=1e-7)
    assert found[:, 0].std() > 0
    assert interpreter.settings()["over"] == "frequency"
    with pytest.raises(
        ValueError, match="over must be 'time-frequency' or 'frequency', got 'time'"
    ):
        METHODS["freqrise"](classifier, over="time")


def test_rise_of_a_linear_network_is_the_covariance_of_the_masks_times_what_cells_add():
    model = LinearLogits(5, 6)
    cells = randn(1, 1, 5, 6).double()
    interpreter = METHODS["rise"](
        model, num_samples=300, grid=(3, 4), base=0.4, output="logit", batch_size=64
    )
    masks = SmoothMasks(300, (3, 4), (5, 6), 0.5, 0).masks(0, 300, cells).flatten(1)
    covariance = torch.cov(masks.T, correction=0)
    added = (model.weights[0] * (cells[0, 0] - 0.4)).flatten()
    expected = (covariance @ added) / masks.mean(0)
    torch.testing.assert_close(interpreter.attribute(cells, 0).flatten(), expected)


# --- Sobol indices ------------------------------------------------------------------------------


def ishigami(x: np.ndarray) -> np.ndarray:
    x = np.pi * (2 * x - 1)
    return np.sin(x[0]) + 7 * np.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * np.sin(x[0])


def run(estimator, game, parts):
    design = estimator.design(parts)
    return estimator.estimate([design], [torch.from_numpy(game(design.numpy().T))])


def test_sobol_indices_of_ishigami_are_the_known_ones():
    found = run(Sobol(4096), ishigami, 3).values[0]
    np.testing.assert_allclose(found, [0.5576, 0.4424, 0.2437], atol=5e-3)


def test_sobol_indices_of_a_weighted_sum_are_the_squared_weights():
    weights = np.array([3.0, -2.0, 0.5, 0.0])
    found = run(Sobol(1024), lambda x: weights @ x, 4).values[0]
    np.testing.assert_allclose(found, weights**2 / (weights**2).sum(), atol=0.01)
    assert found[3] == 0


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_the_estimator_of_sobol_indices_is_scipys(parts):
    estimator = Sobol(16, seed=2)
    design = estimator.design(parts).numpy()
    coefficients = np.random.default_rng(0).normal(size=(parts, 3))

    def game(x):
        return np.sin(3 * coefficients.T @ x).sum(0) + (x**2).prod(0)

    first, second, mixed = design[:16], design[16:32], design[32:].reshape(parts, 16, parts)
    for part in range(parts):
        others = np.arange(parts) != part
        np.testing.assert_array_equal(mixed[part][:, others], first[:, others])
        np.testing.assert_array_equal(mixed[part][:, part], second[:, part])
    values = {
        "f_A": game(first.T)[None],
        "f_B": game(second.T)[None],
        "f_AB": np.stack([game(each.T)[None] for each in mixed]),
    }
    theirs = stats.sobol_indices(func=values, n=16)
    np.testing.assert_allclose(run(estimator, game, parts).values[0], theirs.total_order, rtol=1e-9)


def test_sobol_designs_are_even_and_follow_the_seed():
    design = Sobol(64).design(5)
    assert design.dtype == torch.float64
    assert len(design) == 64 * 7
    # A Sobol sequence puts as many points in every 64th of an axis.
    for column in design[:64].T:
        assert sorted((64 * column).long().tolist()) == list(range(64))
    assert torch.equal(design, Sobol(64).design(5))
    assert not torch.equal(design, Sobol(64, seed=1).design(5))


def test_sobol_indices_of_a_value_that_does_not_vary_are_0():
    assert (run(Sobol(8), lambda x: np.ones(x.shape[1]), 4).values[0] == 0).all()


def test_segments_are_hidden_in_part():
    model = LinearLogits(6, 8)
    cells = randn(1, 1, 6, 8).double()
    interpreter = METHODS["sobol"](
        model, num_designs=512, segmentation=Grid(2, 2), base=-0.4, output="logit"
    )
    found = interpreter.attribute(cells, 0)[0, 0]
    shares = (model.weights[0] * (cells[0, 0] + 0.4)).unfold(0, 3, 3).unfold(1, 4, 4).sum((2, 3))
    expected = shares.square() / shares.square().sum()
    torch.testing.assert_close(found[::3, ::4], expected, rtol=0, atol=0.02)


# --- surrogates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
@pytest.mark.parametrize("run_length", [1, 3])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_surrogates_hide_runs_of_segments(parts, run_length, share):
    design = LinearSurrogate(400, share, run_length).design(parts)
    hidden = (~design).sum(1)
    assert hidden[0] == 0
    most = max(1, int(share * parts))
    assert hidden[1:].min() == 1
    assert hidden.max() == most
    if parts == 50 and share == 0.2:
        often = (~design).double().mean(0)
        assert often.min() > 0.5 * often.mean()  # at the edges too
        changes = (design[:, 1:] != design[:, :-1]).sum(1).double()
        per_segment = changes[1:].sum() / hidden[1:].sum()
        assert per_segment < 1.2 if run_length == 3 else per_segment > 1.4


def test_a_linear_surrogate_is_scikit_learns_regression():
    estimator = LinearSurrogate(80)
    design = estimator.design(12)
    values = randn(80).double()
    found = estimator.estimate([design], [values])
    oracle = LinearRegression().fit(design.numpy(), values.numpy())
    np.testing.assert_allclose(found.values[0], oracle.coef_, atol=1e-10)
    fit = found.diagnostics["local_fit"][0].item()
    assert fit == pytest.approx(oracle.score(design.numpy(), values.numpy()))


def test_a_forest_surrogate_is_scikit_learns_forest():
    estimator = ForestSurrogate(80, seed=3, trees=60)
    design = estimator.design(12)
    values = (design.double() @ randn(12).double()).square() + 0.1 * randn(80).double()
    # Sums of such values are exact: in a forest, equal splits are frequent and rounding tips them.
    values = (values * 2**20).round() / 2**20
    found = estimator.estimate([design], [values])
    forest = RandomForestRegressor(60, random_state=3, oob_score=True)
    forest.fit(design.numpy(), values.numpy())
    np.testing.assert_allclose(found.values[0], forest.feature_importances_, atol=1e-12)
    assert found.values[0].sum().item() == pytest.approx(1)
    assert found.diagnostics["local_fit"][0].item() == pytest.approx(forest.oob_score_)


@pytest.mark.parametrize("estimator", [LinearSurrogate(50), ForestSurrogate(50, trees=50)])
def test_surrogates_of_values_that_do_not_vary_are_0(estimator):
    found = estimator.estimate([estimator.design(6)], [torch.full((50,), 0.3).double()])
    assert (found.values[0] == 0).all()
    assert found.diagnostics["local_fit"][0] == 0


def test_a_linear_network_gives_the_linear_surrogate_what_each_segment_adds():
    model = LinearLogits(5, 12)
    cells = randn(2, 1, 5, 12).double()
    explanation = METHODS["linear_surrogate"](
        model, num_samples=100, segmentation=Time(frames=3), base=0.2, output="logit"
    ).explain(cells, 1)
    for clip in range(2):
        added = (model.weights[1] * (cells[clip, 0] - 0.2)).unfold(1, 3, 3).sum((0, 2))
        expected = added.repeat_interleave(3).expand(5, 12)
        torch.testing.assert_close(explanation.attribution[clip, 0], expected)
    assert (explanation.diagnostics["local_fit"] > 1 - 1e-9).all()


def test_time_segments_follow_the_front_end():
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(1))
    explanation = METHODS["linear_surrogate"](classifier, num_samples=60).explain(view, 0)
    assert explanation.diagnostics["segments"][0] == 11  # 1 s and the last frame, at 0.1 s
    assert (explanation.attribution == explanation.attribution[:, :, :1]).all()


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", NAMES)
def test_a_waveform_network_hears_the_versions(method):
    """The map is that of a network on cells which makes the sound itself."""
    classifier = wrap_waveform(Convolutions().double())
    view = classifier.front_end.analyse(short_sounds(1, dtype=torch.float64))

    class OnCells(nn.Module):
        def forward(self, cells):
            same = view[torch.zeros(len(cells), dtype=torch.int64)]
            return classifier.network.eval()(classifier.front_end.synthesise(same, cells)[:, 0])

    settings = SMALL[method]
    if method == "freqrise":
        settings = settings | {"over": "frequency"}
    by_sound = METHODS[method](classifier, **settings).attribute(view, 1)
    if method in ("freqrise", "linear_surrogate", "forest_surrogate"):
        # These follow the front end, which a bare network does not have.
        own = classifier.front_end
        cells = LogSTFTSpectrogram(
            sample_rate=own.sample_rate, n_fft=own.n_fft, hop_length=own.hop_length
        )
        other = Classifier(OnCells(), cells)
    else:
        other = OnCells()
    on_cells = METHODS[method](other, **settings).attribute(view.cells, 1)
    torch.testing.assert_close(by_sound, on_cells)
    assert by_sound.std() > 0


@pytest.mark.parametrize("method", NAMES)
def test_a_method_explains_the_probability_of_the_head(method):
    """Two classes that exclude each other mirror, or share, what each method says."""
    view = wrap(Network()).front_end.double().analyse(sounds(1).double())
    classifier = wrap(Network(1).double(), head="binary")
    one, other = (
        METHODS[method](classifier, **SMALL[method]).attribute(view, target) for target in (0, 1)
    )
    sign = -1 if METHODS[method].facts.signed else 1
    torch.testing.assert_close(other, sign * one, rtol=1e-5, atol=1e-9)
    assert one.abs().max() > 0


@pytest.mark.parametrize("method", [name for name in NAMES if name != "occlusion"])
def test_the_seed_decides_what_is_hidden(method, model):
    cells = randn(1, 1, 12, 20).double()
    maps = [
        METHODS[method](model, **SMALL[method] | {"seed": seed, "base": -2.0}).attribute(cells, 0)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("method", NAMES)
def test_the_global_random_state_is_not_touched(method, model):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    METHODS[method](model, **SMALL[method]).attribute(randn(1, 1, 12, 20).double())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("method", ["occlusion", "rise", "freqrise"])
def test_methods_without_segments_cannot_hide_by_their_mean(method, model):
    with pytest.raises(ValueError, match=f"{method} has no segments, on which hide='mean' depends"):
        METHODS[method](model, hide="mean")


@pytest.mark.parametrize("method", ["rise", "freqrise", "sobol"])
def test_what_is_hidden_in_part_cannot_be_filled_from_neighbours(method, model):
    with pytest.raises(ValueError, match=f"{method} hides .* in part, which hide='road' cannot"):
        METHODS[method](model, hide="road")


@pytest.mark.parametrize(
    ("method", "setting", "message"),
    [
        ("occlusion", {"window": 3}, "window must be a pair of bins and frames, got 3"),
        ("occlusion", {"window": (0, 3)}, "window must be a whole number of at least 1, got 0"),
        ("occlusion", {"window": (2, 3), "stride": (3, 3)}, r"stride \(3, 3\) is larger than the"),
        ("rise", {"num_samples": 1}, "num_samples must be a whole number of at least 2"),
        ("rise", {"grid": 7}, "grid must be a pair of numbers of points, got 7"),
        ("rise", {"keep": 1.0}, "keep must be a probability between 0 and 1, got 1.0"),
        ("sobol", {"num_designs": 24}, "num_designs must be a power of two, .* got 24"),
        ("linear_surrogate", {"hidden_share": 0}, "hidden_share must be a share above 0"),
        ("linear_surrogate", {"run": 0}, "run must be a whole number of at least 1"),
        ("forest_surrogate", {"trees": 10}, "trees must be a whole number of at least 50"),
    ],
)
def test_bad_settings_are_named(method, setting, message):
    with pytest.raises(ValueError, match=message):
        METHODS[method](nn.Identity(), **setting)


def test_sizes_that_do_not_suit_the_clip_are_named(model):
    cells = randn(1, 1, 12, 20).double()
    with pytest.raises(ValueError, match=r"window \(13, 4\) is larger than the clip of 12 bins"):
        METHODS["occlusion"](model, window=(13, 4)).attribute(cells)
    with pytest.raises(ValueError, match=r"stride \(3, 2\) is larger than the window \(2, 2\)"):
        METHODS["occlusion"](model, stride=(3, 2)).attribute(cells)
    with pytest.raises(ValueError, match="Sobol sequences for 10600 parts at most, got 20000"):
        Sobol().design(20000)
