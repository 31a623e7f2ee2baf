"""SHAP against hand computation, shap.DeepExplainer, captum and its own additivity."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import shap
import torch
from captum.attr import DeepLift
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from audiointerp.interpretation import AdditivityWarning, SHAPInterpreter, select_background
from audiointerp.interpretation import shap as shap_module
from audiointerp.interpretation.rescale import ELEMENTWISE, MAXIMA, Elementwise, RescaleRule
from audiointerp.model import MODELS, build_model
from audiointerp.model.layers import MaxOverTime
from audiointerp.model.outputs import Logit, LogProbability
from audiointerp.processing import View
from audiointerp.processing.spectrogram import LogMelSTFTSpectrogram
from audiointerp.speed.precision import computing

DATA = Path(
    os.environ.get("AUDIOINTERP_DATA", Path(__file__).resolve().parents[1] / "../shared/data")
)
pytestmark = pytest.mark.filterwarnings("error::audiointerp.interpretation.AdditivityWarning")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double().eval()


def cells(*values: float) -> torch.Tensor:
    """One clip of one band."""
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def head(*layers: nn.Module) -> nn.Module:
    """Layers over the cells, summed into one logit."""

    class Sum(nn.Module):
        def forward(self, x):
            return x.flatten(1).sum(1, keepdim=True)

    return nn.Sequential(*layers, Sum())


def phi(model: nn.Module, x: torch.Tensor, background: torch.Tensor) -> list[float]:
    return SHAPInterpreter(model, background).attribute(x, 0).flatten().tolist()


def test_relu_by_hand():
    # Kept, cut, switched on, switched off, not moved: each gets its Δout.
    x, b = cells(3, -2, 2, -1, 5), cells(1, -4, -4, 3, 5)
    assert phi(head(nn.ReLU()), x, b) == pytest.approx([2, 0, 2, -3, 0])


def test_relu_keeps_its_digits_where_the_clip_hardly_differs_from_the_background():
    x, b = cells(1e-3, 1 + 1e-9), cells(-1000, 1)
    assert phi(head(nn.ReLU()), x, b) == pytest.approx([1e-3, 1e-9], rel=1e-6)


def test_max_pooling_by_hand():
    # Window 1: the clip's 5 beats the background's 4 and gets all of Δmax = 1 (Δin there is 3).
    # Window 2: the background's 6 wins and its position gets Δmax = 3 - 6 (Δin there is -5).
    x, b = cells(5, 1, 3, 1), cells(2, 4, 0, 6)
    assert phi(head(nn.MaxPool2d((1, 2))), x, b) == pytest.approx([1, 0, 0, -3])


def test_overlapping_windows_add_up():
    # The 5 is the maximum of three windows, whose maxima were 2, 2 and 0.
    x, b = cells(0, 0, 5, 0, 0), cells(0, 2, 0, 0, 0)
    pool = nn.MaxPool2d((1, 3), stride=1)
    assert phi(head(pool), x, b) == pytest.approx([0, 0, 3 + 3 + 5, 0, 0])


def test_the_maximum_over_time_by_hand():
    class Squeeze(nn.Module):
        def forward(self, x):
            return x[:, 0]

    x = torch.tensor([[1.0, 7, 2], [3, 0, 1]], dtype=torch.float64).reshape(1, 1, 2, 3)
    b = torch.tensor([[4.0, 0, 0], [0, 0, 9]], dtype=torch.float64).reshape(1, 1, 2, 3)
    model = head(Squeeze(), MaxOverTime())
    assert phi(model, x, b) == pytest.approx([0, 3, 0, 0, 0, -6])


def test_two_layers_by_hand():
    # f = 4·relu(2·x0 - x1) - relu(x1): h = (4, 1) here, (-1, 3) there; Δ of the first is 4 for
    # Δin 5, so its inputs get 4·(4/5)·(2·Δx0) and 4·(4/5)·(-Δx1).
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    first.weight.data = torch.tensor([[2.0, -1], [0, 1]])
    last.weight.data = torch.tensor([[4.0, -1]])
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).double()
    x, b = cells(2.5, 1), cells(1, 3)
    expected = [4 * (4 / 5) * 2 * 1.5, 4 * (4 / 5) * 2 - (1 - 3)]
    assert phi(model, x, b) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 5), batch=st.integers(1, 3))
def test_a_linear_model_gets_weight_times_difference_to_the_mean_background(seed, count, batch):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), seed)
    features, background = randn(batch, 1, 3, 4, seed=seed), randn(count, 1, 3, 4, seed=seed + 1)
    target = torch.arange(batch) % 3
    expected = model[1].weight[target].detach().reshape(features.shape)
    expected = expected * (features - background.mean(0))
    got = SHAPInterpreter(model, background).attribute(features, target)
    torch.testing.assert_close(got, expected)


def pooling_net(activation=nn.ReLU) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        activation(),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.Conv2d(4, 6, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(2),
        MaxOverTime(),
        nn.Linear(6, 5),
        activation(),
        nn.Linear(5, 3),
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 100),
    count=st.integers(1, 4),
)
def test_it_adds_up_whatever_the_weights(seed, scale, count):
    model = seeded(pooling_net, seed)
    features = scale * randn(2, 1, 9, 11, seed=seed)
    background = scale * randn(count, 1, 9, 11, seed=seed + 1)
    attribution = SHAPInterpreter(model, background).attribute(features, 1)
    with torch.no_grad():
        change = model(features)[:, 1] - model(background)[:, 1].mean()
    torch.testing.assert_close(attribution.sum((1, 2, 3)), change, rtol=1e-6, atol=1e-9)


# With arguments, or for probabilities: tried in tests of their own.
ELSEWHERE = {nn.Threshold, Elementwise, Logit, LogProbability}


@pytest.mark.parametrize(
    "activation", [nn.ReLU, *sorted(ELEMENTWISE - ELSEWHERE, key=lambda kind: kind.__name__)]
)
def test_every_activation_adds_up(activation):
    model = seeded(lambda: pooling_net(activation))
    features, background = 3 * randn(2, 1, 9, 11), 3 * randn(3, 1, 9, 11, seed=1)
    explanation = SHAPInterpreter(model, background).explain(features)
    assert explanation.diagnostics["residual"].max() < 1e-6


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=1, padding=1, dilation=1),
        nn.MaxPool2d((2, 3), dilation=2),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3, stride=2)),
        nn.Sequential(nn.Flatten(2), nn.AdaptiveMaxPool1d(4)),
        nn.Sequential(nn.Flatten(2), MaxOverTime()),
    ],
)
def test_every_maximum_adds_up(pool):
    model = head(nn.Conv2d(1, 3, 3).double(), pool)
    features, background = randn(2, 1, 9, 11), randn(3, 1, 9, 11, seed=1)
    explanation = SHAPInterpreter(model, background).explain(features, 0)
    assert explanation.diagnostics["residual"].max() < 1e-9


def test_every_rule_is_tried_by_a_test_above():
    tried = {nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, MaxOverTime}
    assert set(MAXIMA) == tried


def test_threshold_adds_up():
    model = seeded(lambda: pooling_net(lambda: nn.Threshold(0.1, -2.0)))
    features, background = randn(2, 1, 9, 11), randn(3, 1, 9, 11, seed=1)
    explanation = SHAPInterpreter(model, background).explain(features)
    assert explanation.diagnostics["residual"].max() < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_captum_agrees_on_one_baseline():
    # Without max pooling: captum 0.9's rule for that does not add up, shap's (below) does.
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 1 * 2, 5),
            nn.ELU(),
            nn.Linear(5, 3),
            nn.Sigmoid(),
        )
    )
    features, baseline = randn(3, 1, 8, 10), randn(1, 1, 8, 10, seed=1)
    expected = DeepLift(model).attribute(features.clone(), baseline, target=2)
    got = SHAPInterpreter(model, baseline).attribute(features, 2)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-8, atol=1e-12)


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().amax() / expected.abs().amax()).item()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_shap_library_itself_agrees():
    # Only layers that shap has rules for; straight through its own interface.
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 3 * 4, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )
    )
    features, background = randn(3, 1, 8, 10), randn(4, 1, 8, 10, seed=1)
    got = SHAPInterpreter(model, background).attribute(features, 1)
    expected = shap.DeepExplainer(model, background).shap_values(features)[..., 1]
    assert largest_difference(got, torch.as_tensor(expected)) < 1e-9


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["Cnn14", "MobileNetV2"])
def test_the_shap_backend_agrees_to_1e_4_on_panns(name):
    if name not in MODELS:
        pytest.skip(f"{name} is not registered")
    model = panns(name)
    features, background = log_mel_like(3, seed=1), log_mel_like(2, seed=2)
    target = torch.tensor([0, 1, 0])
    ours = SHAPInterpreter(model, background).explain(features, target)
    theirs = SHAPInterpreter(model, background, backend="shap").explain(features, target)
    assert largest_difference(ours.attribution, theirs.attribution) < 1e-4
    assert theirs.diagnostics["residual"].max() < 0.01
    assert not any(hasattr(module, "x") for module in model.modules())


def panns(name: str) -> nn.Module:
    shape = {"name": name, "num_classes": 4, "num_bins": 64}
    model = build_model(shape | ({"width": 0.125} if name == "Cnn14" else {}), seed=0)
    # Statistics of real-looking input, else activations die or explode on the way up.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(log_mel_like(4, seed=9))
    return model.eval()


def log_mel_like(count: int, frames: int = 96, seed: int = 0) -> torch.Tensor:
    return 10 * randn(count, 1, 64, frames, seed=seed, dtype=torch.float32) - 40


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_adds_up_to_one_percent(name):
    explanation = SHAPInterpreter(panns(name), log_mel_like(2, seed=3)).explain(log_mel_like(2))
    assert explanation.diagnostics["residual"].max() < 0.01


def test_real_clips_add_up_to_one_percent():
    folder = DATA / "published" / "samples"
    if not folder.is_dir():
        pytest.skip(f"real recordings are not at {folder}")
    import soundfile

    processor = LogMelSTFTSpectrogram()
    features = []
    for path in sorted(folder.glob("*.wav")):
        waveform, _ = soundfile.read(path, dtype="float32", always_2d=True)
        features.append(processor(torch.from_numpy(waveform[None, None, :48000, 0]))[..., :96])
    features = torch.cat(features)
    explanation = SHAPInterpreter(panns("Cnn14"), features[-2:]).explain(features[:-2])
    assert explanation.diagnostics["residual"].max() < 0.01


def test_a_module_used_twice_adds_up():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8)

        def forward(self, x):
            return self.relu(self.last(self.relu(self.first(x.flatten(1)))))

    model = seeded(Twice)
    features, background = 3 * randn(2, 1, 3, 4), 3 * randn(3, 1, 3, 4, seed=1)
    explanation = SHAPInterpreter(model, background).explain(features)
    assert explanation.diagnostics["residual"].max() < 1e-9


def test_a_model_that_takes_other_steps_for_other_clips_is_an_error():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(x.flatten(1))
            return self.relu(x) if x.sum() > 100 else x

    interpreter = SHAPInterpreter(Moody(), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="ReLU runs differently for the clip"):
        interpreter.attribute(torch.full((1, 1, 2, 2), 99.0))


def test_the_background_itself_gets_zero():
    model = seeded(pooling_net)
    background = randn(1, 1, 9, 11)
    explanation = SHAPInterpreter(model, background).explain(background)
    assert (explanation.attribution == 0).all()
    assert explanation.diagnostics["residual"].item() < 1e-6


def test_several_baselines_are_averaged_and_their_order_and_chunks_do_not_matter():
    model = seeded(pooling_net)
    features, background = randn(5, 1, 9, 11), randn(4, 1, 9, 11, seed=1)
    each = [SHAPInterpreter(model, b[None]).attribute(features, 0) for b in background]
    expected = torch.stack(each).mean(0)
    for batch_size in (1, 2, 3, 100):
        got = SHAPInterpreter(model, background.flip(0), batch_size=batch_size)
        torch.testing.assert_close(got.attribute(features, 0), expected)


def test_folding_the_batch_norm_changes_nothing_but_rounding():
    model = panns("Cnn14")
    features, background = log_mel_like(2), log_mel_like(2, seed=1)
    folded = SHAPInterpreter(model, background).attribute(features)
    plain = SHAPInterpreter(model, background, fold_batch_norm=False).attribute(features)
    assert largest_difference(folded, plain) < 1e-4


def test_residual_measures_any_attribution():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False)).double()
    model[1].weight.data = torch.tensor([[2.0, -1]], dtype=torch.float64)
    interpreter = SHAPInterpreter(model, torch.cat([cells(0, 0), cells(1, 0)]))
    # f(x) = 5, mean f(b) = 1: the attribution has to sum to 4.
    x = cells(3, 1)
    assert interpreter.residual(x, cells(5, -1), 0).item() == pytest.approx(0)
    assert interpreter.residual(x, cells(5, 0), 0).item() == pytest.approx(0.25)
    exact = interpreter.explain(x, 0)
    assert exact.diagnostics["residual"].item() == pytest.approx(0)
    with pytest.raises(ValueError, match="one shape"):
        interpreter.residual(x, cells(5), 0)


def test_the_rule_restores_forwards_and_in_place_flags():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten())
    mine = model[0].forward
    model[0].forward = mine  # a user's own override stays
    with RescaleRule(model) as rule:
        assert not model[0].inplace
        assert model[0].forward is not mine
        rule.record(torch.zeros(1, 1, 1, 2))
    assert model[0].inplace
    assert vars(model[0])["forward"] is mine


@pytest.fixture
def recorded(monkeypatch):
    """The number of background clips of every recording that is made."""
    counts = []
    record = RescaleRule.record

    def counted(self, baselines):
        counts.append(len(baselines))
        return record(self, baselines)

    monkeypatch.setattr(RescaleRule, "record", counted)
    return counts


def small_network() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, 3)).double().eval()


def _scale_weights(interpreter):
    interpreter.model[0].weight.data.mul_(2)


def _change_background(interpreter):
    interpreter.background.cells.mul_(0.5)


def _replace_background(interpreter):
    interpreter.background = View(interpreter.background.cells + 1)


def test_the_backgrounds_activations_are_computed_once(recorded):
    interpreter = SHAPInterpreter(small_network(), randn(5, 1, 6, 8), batch_size=2)
    first = interpreter.attribute(randn(3, 1, 6, 8, seed=1), 0)
    assert recorded == [2, 2, 1]
    assert torch.equal(interpreter.attribute(randn(3, 1, 6, 8, seed=1), 0), first)
    interpreter.attribute(randn(7, 1, 6, 8, seed=2))
    assert recorded == [2, 2, 1]


@pytest.mark.parametrize("change", [_scale_weights, _change_background, _replace_background])
def test_and_again_when_the_model_or_the_background_has_changed(recorded, change):
    interpreter = SHAPInterpreter(small_network(), randn(5, 1, 6, 8))
    features = randn(3, 1, 6, 8, seed=1)
    before = interpreter.attribute(features, 0)
    change(interpreter)
    after = interpreter.attribute(features, 0)
    assert recorded == [5, 5]
    fresh = SHAPInterpreter(interpreter.model, interpreter.background)
    assert torch.equal(after, fresh.attribute(features, 0))
    assert not torch.allclose(after, before)


def test_and_again_in_another_precision(recorded):
    interpreter = SHAPInterpreter(small_network().float(), randn(5, 1, 6, 8).float())
    features = randn(3, 1, 6, 8, seed=1).float()
    exact = interpreter.attribute(features, 0)
    with computing("bfloat16", features.device), warnings.catch_warnings():
        warnings.simplefilter("ignore", AdditivityWarning)  # 7 bits do not add up to 1 %
        coarse = interpreter.attribute(features, 0)
    assert recorded == [5, 5]
    assert not torch.allclose(coarse, exact, rtol=1e-4)
    assert torch.equal(interpreter.attribute(features, 0), exact)


@pytest.mark.parametrize("fold_batch_norm", [True, False])
def test_what_does_not_fit_and_what_may_change_is_not_kept(recorded, monkeypatch, fold_batch_norm):
    if fold_batch_norm:
        monkeypatch.setattr(shap_module, "bytes_to_keep", lambda device: 100)
    settings = {"fold_batch_norm": fold_batch_norm, "batch_size": 3}
    interpreter = SHAPInterpreter(small_network(), randn(5, 1, 6, 8), **settings)
    features = randn(3, 1, 6, 8, seed=1)
    first = interpreter.attribute(features, 0)
    assert torch.equal(interpreter.attribute(features, 0), first)
    assert recorded == [3, 2, 3, 2]


def test_settings_identify_the_background():
    model, background = nn.Identity(), randn(3, 1, 2, 2)
    settings = SHAPInterpreter(model, background).settings()
    assert settings["background_clips"] == 3
    other = SHAPInterpreter(model, background + 1).settings()
    assert settings["background_sha256"] != other["background_sha256"]
    again = SHAPInterpreter(model, background.clone()).settings()
    assert settings == again


@pytest.mark.parametrize(
    ("background", "options", "error", "message"),
    [
        (torch.zeros(2, 3, 4), {}, ValueError, r"background must have the shape"),
        (torch.full((2, 1, 3, 4), np.nan), {}, ValueError, r"background of clips \[0, 1\].*NaN"),
        ([1, 2], {}, TypeError, "background must be a Tensor"),
        (torch.zeros(2, 1, 3, 4), {"backend": "deep"}, ValueError, "choose from rescale, shap"),
        (torch.zeros(2, 1, 3, 4), {"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_bad_settings_are_named(background, options, error, message):
    with pytest.raises(error, match=message):
        SHAPInterpreter(nn.Identity(), background, **options)


def test_features_of_another_shape_than_the_background_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 5\).*background \(1, 3, 4\).*processor"):
        SHAPInterpreter(nn.Flatten(), torch.zeros(2, 1, 3, 4)).attribute(torch.zeros(2, 1, 3, 5))


def test_the_background_is_even_over_the_classes():
    labels = [3] * 10 + [0] * 5 + [7] * 2
    chosen = select_background(labels, 2, seed=4)
    assert sorted(labels[i] for i in chosen) == [0, 0, 3, 3, 7, 7]
    assert chosen == sorted(set(chosen))
    assert chosen == select_background(labels, 2, seed=4)
    assert any(select_background(labels, 2, seed=seed) != chosen for seed in range(5))


def test_a_classs_background_does_not_depend_on_the_other_classes():
    both = select_background([0] * 9 + [1] * 9, 3)
    assert [i for i in both if i < 9] == select_background([0] * 9, 3)


@pytest.mark.parametrize(
    ("labels", "per_class", "message"),
    [
        ([0, 0, 1], 2, "class 1 has 1 clips, 2 are wanted"),
        ([], 2, "non-empty"),
        ([0.5, 1.5], 1, "sequence of ints"),
        ([0, 0], 0, "per_class"),
    ],
)
def test_a_background_that_cannot_be_chosen_is_named(labels, per_class, message):
    with pytest.raises(ValueError, match=message):
        select_background(labels, per_class)
