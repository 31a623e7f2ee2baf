"""Insertion, deletion and ROAD, against slow loops, the masks and grad-cam."""

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import nn

import audiointerp as ai
from audiointerp.dataset import SyntheticDataset
from audiointerp.evaluation import (
    METRICS,
    Evidence,
    area,
    check_extra,
    evaluate_evidence,
    families_on_request,
    masking_curves,
    road,
)
from audiointerp.masking import apply_mask, make_masks
from audiointerp.processing import View
from audiointerp.registry import UnknownNameError
from audiointerp.runs.recipe import Recipe
from audiointerp.runs.sets import interpret_set

BINS, FRAMES, CLASSES = 8, 10, 3
COUNT = 4


def network(inputs=BINS * FRAMES, classes=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes))
    return made.eval().requires_grad_(requires_grad=False)


NETWORK = network()


def probabilities(cells):
    return (NETWORK(cells) / 4).double().softmax(1)


class Counting:
    """The scoring of an evidence, which counts what it is asked."""

    def __init__(self):
        self.inputs, self.calls = 0, 0

    def __call__(self, cells, rows):
        assert len(cells) == len(rows)
        self.inputs, self.calls = self.inputs + len(cells), self.calls + 1
        return probabilities(cells)


def evidence(attribution=None, score=None):
    generator = torch.Generator().manual_seed(1)
    cells = 10 * torch.randn(COUNT, 1, BINS, FRAMES, generator=generator)
    if attribution is None:
        attribution = torch.randn(cells.shape, generator=generator)
    return Evidence(
        probabilities(cells),
        torch.tensor([0, 1, 2, 0]),
        attribution=attribution,
        view=View(cells),
        level=cells.amin((1, 2, 3), keepdim=True),
        score=score or Counting(),
    )


def test_curves_are_those_of_a_loop_over_clips_cells_and_steps():
    known = evidence()
    shares, curves = masking_curves(known, steps=16)
    assert shares.tolist() == [n / 16 for n in range(17)]
    for clip in range(COUNT):
        order = np.argsort(-known.attribution[clip].flatten().numpy(), kind="stable")
        values = {"insertion": [], "deletion": []}
        for count in range(0, 81, 5):
            whole, empty = known.view.cells[clip].flatten(), known.level[clip].flatten()
            inside, outside = empty.repeat(80), whole.clone()
            inside[order[:count]], outside[order[:count]] = whole[order[:count]], empty
            for name, cells in (("insertion", inside), ("deletion", outside)):
                p = probabilities(cells.view(1, 1, BINS, FRAMES))
                values[name].append(float(p[0, known.target[clip]]))
        for name, expected in values.items():
            np.testing.assert_allclose(curves[name][clip], expected, atol=1e-6)
            found = evaluate_evidence(known, [name])[name] if name == "insertion" else None
            assert area(shares, curves[name])[clip] == pytest.approx(
                np.trapezoid(expected, np.arange(17) / 16), abs=1e-6
            )
            assert found is None or found.shape == (COUNT,)


def test_a_share_keeps_the_cells_of_the_top_k_mask_equal_ones_by_position():
    attribution = torch.randn(COUNT, 1, BINS, FRAMES, generator=torch.Generator().manual_seed(3))
    known = evidence(attribution.round())
    shares, curves = masking_curves(known)
    for name, share in (("topK_5", 0.05), ("topK_30", 0.3), ("topK_50", 0.5)):
        mask = make_masks(known.attribution, [name])[name]
        place = int((shares - share).abs().argmin())
        parts = apply_mask(known.view.cells, mask, known.level)
        for part, curve in zip(parts, curves, strict=True):
            expected = probabilities(part).gather(1, known.target[:, None])[:, 0]
            torch.testing.assert_close(curves[curve][:, place], expected)


def test_every_distinct_version_is_scored_once_in_few_calls():
    score = Counting()
    known = evidence(score=score)
    evaluate_evidence(known, ["insertion", "deletion"])
    # 19 inner steps of both, and nothing at all; the whole clip is known.
    assert score.inputs == COUNT * (2 * 19 + 1)
    assert score.calls == 1


def test_the_ends_are_nothing_and_the_whole_clip():
    known = evidence()
    _, curves = masking_curves(known, steps=5)
    whole = known.before.gather(1, known.target[:, None])[:, 0]
    assert torch.equal(curves["insertion"][:, -1], whole)
    assert torch.equal(curves["deletion"][:, 0], whole)
    assert torch.equal(curves["insertion"][:, 0], curves["deletion"][:, -1])


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_road_is_grad_cams_with_its_noise_off(monkeypatch):
    monkeypatch.setattr("audiointerp.hiding.NOISE", 1e-9)  # solved to a thousandth of it
    known = evidence()
    imputer = NoisyLinearImputer(noise=0)
    shares = (0.25, 0.5, 0.75)
    for clip in range(COUNT):
        differences = []
        values = known.attribution[clip]
        for share in shares:
            scores = []
            for relevance in (-values, values):  # the highest of these are removed
                threshold = np.percentile(relevance.numpy(), 100 * (1 - share))
                kept = torch.from_numpy(np.float32(relevance.numpy() < threshold))
                cells = imputer(known.view.cells[clip], kept[0])
                scores.append(float(probabilities(cells[None])[0, known.target[clip]]))
            differences.append((scores[0] - scores[1]) / 2)
        assert float(road(known, shares)[clip]) == pytest.approx(np.mean(differences), abs=1e-6)


def test_road_is_about_zero_for_random_maps_and_turns_with_the_sign():
    known = evidence()
    turned = evidence(-known.attribution)
    torch.testing.assert_close(road(known), -road(turned))


def test_what_is_no_share_step_or_curve_is_refused():
    known = evidence()
    for shares in ((), (0.0, 0.5), (1.2,)):
        with pytest.raises(ValueError, match="expected some between 0 and 1"):
            road(known, shares)
    for steps in (0, 81):
        with pytest.raises(ValueError, match="expected 1 to 80"):
            masking_curves(known, steps=steps)
    with pytest.raises(UnknownNameError, match="unknown curve"):
        masking_curves(known, ["insert"])
    with pytest.raises(UnknownNameError, match="unknown way to hide cells"):
        masking_curves(known, hide="blur")


def test_metrics_on_request_are_computed_only_if_their_family_is_asked_for():
    assert "curves" in families_on_request()
    assert not {"insertion", "deletion", "ROAD"} & set(evaluate_evidence(evidence()))
    assert check_extra("curves") == ("curves",)
    with pytest.raises(UnknownNameError, match="unknown family of metrics on request 'curve'"):
        check_extra("curve")
    with pytest.raises(UnknownNameError, match="Did you mean 'curves'"):
        Recipe(extra=["curvs"])
    with pytest.raises(ValueError, match="given twice"):
        Recipe(extra=["curves", "curves"])


@pytest.fixture(scope="module")
def classifier():
    front_end = ai.LogSTFTSpectrogram(sample_rate=8000, n_fft=64, hop_length=32)
    sounds = SyntheticDataset(folds=5, clips=2, sample_rate=8000, duration=1.0)
    cells = front_end(sounds[0].waveform[None])
    made = network(cells.numel(), len(sounds.classes))
    return ai.classifier(made, front_end=front_end, classes=sounds.classes, duration=1.0)


def open_clips():
    return SyntheticDataset(folds=5, clips=10, sample_rate=8000, duration=1.0)


def test_a_set_has_curves_on_features_and_on_sound_and_goes_on_with_them(classifier, tmp_path):
    def run(**options):
        recipe = Recipe("saliency", "topK_30", on=("features", "audio"), progress=False, **options)
        jobs = {tmp_path / "m" / "saliency_x": recipe.jobs(classifier)["saliency"]}
        (done,) = interpret_set(jobs, open_clips(), progress=False).values()
        return done

    plain = run()
    assert plain.interpreted == 10
    assert "insertion" not in plain.tables["features", "topK_30"]
    curves = run(extra="curves")
    assert curves.interpreted == 10  # measured again, by the saved maps
    again = run()  # a run that has them keeps them
    assert again.interpreted == 0
    for on in ("features", "audio"):
        table = again.tables[on, "topK_30"]
        pd.testing.assert_frame_equal(table, curves.tables[on, "topK_30"], check_dtype=False)
        assert table[["insertion", "deletion", "ROAD"]].notna().all(axis=None)
        same = ["clip", "FF", "SPS"]
        pd.testing.assert_frame_equal(table[same], plain.tables[on, "topK_30"][same])
    heard, seen = (again.tables[on, "topK_30"]["insertion"] for on in ("audio", "features"))
    assert not np.allclose(heard.astype(float), seen.astype(float))


def test_whole_curves_have_the_areas_of_the_metrics(classifier):
    clips = torch.stack([clip.waveform for clip in open_clips()][:2])
    recipe = Recipe(["saliency", "random"], "topK_30", on=("features", "audio"), extra="curves")
    few = ai.measure_curves(classifier, clips, hide=("base", "road"), steps=2, recipe=recipe)
    assert len(few) == 2 * 2 * 2 * 2 * 2 * 3
    found = ai.measure_curves(classifier, clips, recipe=recipe)
    job = recipe.jobs(classifier)["saliency"]
    predict = ai.Predict(
        classifier, job.interpreter, masks=["topK_30"], on=("features", "audio"), extra="curves"
    )
    (result,) = predict.predict_batch(clips[:1], ["0"])
    for on in ("features", "audio"):
        rows = found[
            (found["method"] == "saliency")
            & (found["clip"] == "0")
            & (found["hide"] == "base")
            & (found["on"] == on)
        ]
        for curve, line in rows.groupby("curve"):
            expected = result.metrics_on[on].loc["topK_30", curve]
            area_below = np.trapezoid(line["probability"], line["share"])
            assert area_below == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["insertion", "deletion", "ROAD"])
def test_records_are_of_the_map_and_on_request(name):
    metric = METRICS[name]
    assert (metric.family, metric.level, metric.on_request) == ("curves", "map", True)
