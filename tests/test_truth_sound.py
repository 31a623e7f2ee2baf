"""SI-SDR against torchmetrics, and of what masks keep of clips of known parts."""

from __future__ import annotations

import math

import pytest
import torch
from tones import RATE, front_end, small_model
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

import audiointerp as ai
from audiointerp.dataset import SyntheticDataset
from audiointerp.evaluation import (
    METRICS,
    Metric,
    Truth,
    best_iou,
    event_frames,
    si_sdr,
    sounding_frames,
    time_ranking,
)
from audiointerp.evaluation.localisation import FAMILY
from audiointerp.model.classifier import Classifier
from audiointerp.runs.clip import interpret_batch
from audiointerp.runs.job import Job
from audiointerp.runs.sets import interpret_set
from audiointerp.speed.scoring import Scorer, distinct_masks


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("level", [-40, -10, 0, 10, 60])
def test_si_sdr_is_that_of_torchmetrics(level):
    reference, rest = noise(4, 1, 4000), noise(4, 1, 4000, seed=1)
    estimate = 0.3 * reference + 10 ** (-level / 20) * rest + 0.1  # with a mean
    theirs = scale_invariant_signal_distortion_ratio(estimate, reference, zero_mean=False)
    torch.testing.assert_close(si_sdr(estimate, reference), theirs[:, 0], rtol=0, atol=1e-6)


def test_si_sdr_does_not_depend_on_levels():
    reference, rest = noise(1, 1, 4000), noise(1, 1, 4000, seed=1)
    found = si_sdr(reference + rest, reference)
    for scale in (1e-6, -3.0, 1e6):
        torch.testing.assert_close(si_sdr(scale * (reference + rest), reference), found)
        torch.testing.assert_close(si_sdr(reference + rest, scale * reference), found)


def test_si_sdr_without_a_finite_value_is_none():
    sound = noise(1, 1, 4000)
    silence = torch.zeros_like(sound)
    other = torch.cat([sound[..., 2000:], silence[..., :2000]], -1)
    for estimate, reference in (
        (silence, sound),
        (sound, silence),
        (sound, sound),
        (-2 * sound, sound),
        (torch.cat([sound[..., :2000], silence[..., :2000]], -1), other.roll(2000)),
    ):
        assert si_sdr(estimate, reference).isnan().all()
    with pytest.raises(ValueError, match="expected two sounds of one length"):
        si_sdr(sound, sound[..., :100])


# What masks keep.


@pytest.fixture(scope="module")
def clips():
    """Four clips of the synthetic set, whose parts are known."""
    return SyntheticDataset(5, sample_rate=RATE, duration=1.2, clips=4)


@pytest.fixture(scope="module")
def classifier(clips):
    model = small_model(classes=len(clips.classes)).eval()
    return Classifier(model, front_end(), classes=clips.classes, duration=1.2)


def measured(classifier, clips, attribution=None, target=None, **options):
    """Return the scores and the truth of all clips."""
    made = classifier.front_end
    waveform = torch.stack([clip.waveform for clip in clips])
    parts = [torch.stack(part) for part in zip(*map(clips.true_parts, range(4)), strict=True)]
    views = [made.analyse(part) for part in parts]
    times = made.times(views[0].cells.shape[3])
    active = sounding_frames(parts[0], times, RATE)
    labels = torch.zeros(4, len(clips.classes), dtype=torch.bool)
    own = torch.tensor(clips.labels)
    labels[torch.arange(4), own] = True
    truth = Truth(*views, made.log, active, labels)
    job = Job(classifier, ai.SaliencyInterpreter(classifier), **({"masks": ("bin",)} | options))
    view = made.analyse(waveform)
    attribution = truth.advantage_db if attribution is None else attribution
    scorer = Scorer(classifier)
    scores = interpret_batch(
        job,
        scorer,
        view,
        scorer(view.cells),
        own if target is None else target,
        attribution=attribution,
        truth=truth,
    )
    return scores, truth


def test_the_ideal_map_is_best_and_a_random_one_at_chance(classifier, clips):
    ideal, _ = measured(classifier, clips)
    found = ideal.metrics["features", "bin"]
    cells = [name for name, metric in METRICS.items() if metric.family == FAMILY]
    assert cells
    for name in cells:
        assert (found[name] == 1).all()
    shape = ideal.attribution.shape
    rows = [measured(classifier, clips, noise(*shape, seed=n).float())[0] for n in range(40)]
    facts = ideal.facts
    for name, values in found.items():
        if METRICS[name].family in (FAMILY, "localisation in time", "sound"):
            of_random = torch.stack([row.metrics["features", "bin"][name] for row in rows])
            known = ~values.isnan()
            assert (values[known] >= of_random.mean(0)[known]).all()
            assert (values[known] >= of_random[:, known] - 1e-9).float().mean() > 0.9
            if METRICS[name].chance:
                chance = facts[METRICS[name].chance][known]
                torch.testing.assert_close(of_random.mean(0)[known], chance, rtol=0, atol=0.25)
    # A random half of the cells lets no more foreground through than background.
    random = torch.stack([row.metrics["features", "bin"]["SI_SDRi"] for row in rows])
    assert (random.mean(0) < 0).all()
    assert (found["SI_SDRi"] > 0).all()


@pytest.mark.parametrize("on", [("features",), ("audio",), ("features", "audio")])
def test_what_a_mask_keeps_is_compared_with_the_clean_foreground(classifier, clips, on):
    scores, truth = measured(classifier, clips, masks=("bin", "topK_30", "minmax"), on=on)
    for place in on:
        for name, mask in scores.masks.items():
            view, made = scores.view, classifier.front_end
            kept = made.synthesise(view, torch.lerp(torch.tensor(-100.0), view.cells, mask))
            clean = truth.foreground.waveform
            theirs = scale_invariant_signal_distortion_ratio(
                kept.double(), clean.double(), zero_mean=False
            )[:, 0]
            whole = scale_invariant_signal_distortion_ratio(
                view.waveform.double(), clean.double(), zero_mean=False
            )[:, 0]
            found = scores.metrics[place, name]
            torch.testing.assert_close(found["SI_SDR"], theirs, rtol=0, atol=1e-3)
            torch.testing.assert_close(found["SI_SDRi"], theirs - whole, rtol=0, atol=1e-3)


def test_an_empty_mask_keeps_nothing_and_another_class_is_not_compared(classifier, clips):
    attribution = noise(4, 1, 32, 38).float()
    attribution[1] = -1
    target = torch.tensor(clips.labels)
    target[2] = (target[2] + 1) % len(clips.classes)
    scores, _ = measured(classifier, clips, attribution, target, masks=("bin", "topK_5"))
    for mask, missing in (("bin", [1, 2]), ("topK_5", [2])):
        for name in ("SI_SDR", "SI_SDRi"):
            values = scores.metrics["features", mask][name]
            assert values.isnan().nonzero()[:, 0].tolist() == missing
    assert scores.facts["true_class"].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("on", [("features",), ("features", "audio")])
def test_every_mask_is_made_audible_once(classifier, clips, monkeypatch, on):
    rows = []
    made = type(classifier.front_end)
    plain = made.synthesise
    monkeypatch.setattr(
        made,
        "synthesise",
        lambda self, view, cells: (rows.append(len(cells)), plain(self, view, cells))[1],
    )
    scores, _ = measured(classifier, clips, masks=("bin", "topK_30", "topK_30_pos"), on=on)
    distinct = len(distinct_masks(scores.masks).masks)
    assert 4 < distinct < 12
    # On features what is kept is heard only; on audio what is removed too.
    assert sum(rows) == distinct * (2 if "audio" in on else 1)


def test_sound_that_no_metric_needs_is_not_made(classifier, clips, monkeypatch):
    monkeypatch.setattr(
        type(classifier.front_end), "synthesise", lambda *_: pytest.fail("not needed")
    )
    known = dict(METRICS)
    try:
        for name in ("SI_SDR", "SI_SDRi"):
            del METRICS[name]
        assert "AUPRC" in measured(classifier, clips)[0].metrics["features", "bin"]
    finally:
        METRICS.clear()  # put back one by one, they would come last
        METRICS.update(known)


def test_a_metric_of_the_sound_needs_nothing_that_is_scored_later():
    facts = {
        "title": "t",
        "meaning": "m",
        "unit": "dB",
        "decimals": 1,
        "clip_decimals": 1,
        "better": 1,
        "bounds": lambda cells: (-math.inf, math.inf),
        "family": "sound",
        "compute": lambda evidence: evidence.target,
    }
    with pytest.raises(ValueError, match="heard before it is scored"):
        Metric("S", level="sound", needs=frozenset({"sound", "inside"}), **facts)
    with pytest.raises(ValueError, match='its level is "sound"'):
        Metric("S", level="mask", needs=frozenset({"sound"}), **facts)


# Whole sets.


def test_a_set_of_known_parts_has_all_metrics_of_the_truth(classifier, clips, tmp_path):
    jobs = {
        tmp_path / name: Job(
            classifier, ai.SaliencyInterpreter(classifier), masks=("bin", "topK_30"), target=target
        )
        for name, target in (("true", ai.TrueLabels()), ("predicted", None))
    }
    done = interpret_set(jobs, clips, progress=False)
    expected, _ = measured(
        classifier,
        clips,
        ai.SaliencyInterpreter(classifier)
        .explain(
            classifier.front_end.analyse(torch.stack([clip.waveform for clip in clips])),
            torch.tensor(clips.labels),
        )
        .attribution,
        masks=("bin", "topK_30"),
    )
    rows = done[tmp_path / "true"].tables["features", "topK_30"]
    for name, values in expected.metrics["features", "topK_30"].items():
        torch.testing.assert_close(
            torch.tensor(rows[name].to_numpy()),
            values.double(),
            rtol=1e-3,
            atol=1e-3,
            equal_nan=True,
        )
    predicted = done[tmp_path / "predicted"].tables["features", "topK_30"]
    assert predicted["AUPRC"].isna().tolist() == [not each for each in predicted["is_correct"]]
    assert not predicted["is_correct"].all()


def test_events_of_a_table_are_those_of_the_explained_class(classifier, clips, tmp_path):
    own = clips.classes[clips.labels[0]]
    other = clips.classes[clips.labels[1]]
    lines = ["filename,onset,offset,event_label"]
    lines += [f"{clips.clip_ids[0]}.wav,0.2,0.5,{own}", f"{clips.clip_ids[0]}.wav,0.7,0.9,{other}"]
    lines += [f"{clip},0.3,0.6,{other}" for clip in clips.clip_ids[1:]]
    table = tmp_path / "events.csv"
    table.write_text("\n".join(lines))
    data = ai.open_dataset(
        "synthetic", folds=5, sample_rate=RATE, duration=1.2, clips=4, events=table
    )
    job = Job(
        classifier, ai.SaliencyInterpreter(classifier), masks=("bin",), target=ai.TrueLabels()
    )
    (done,) = interpret_set({tmp_path / "run": job}, data, progress=False).values()
    view = classifier.front_end.analyse(clips[0].waveform[None])
    attribution = job.interpreter.explain(view, torch.tensor(clips.labels[:1])).attribution
    times = classifier.front_end.times(view.cells.shape[3])
    expected = best_iou(time_ranking(attribution, event_frames([(0.2, 0.5)], times)[None]))
    rows = done.tables["features", "bin"]
    assert rows["time_IoU"].iloc[0] == pytest.approx(expected.item(), abs=1e-3)
    same = [clips.labels[n] == clips.labels[1] for n in range(4)]
    assert rows["time_IoU"].notna().tolist() == [True, *same[1:]]
    assert rows["AUPRC"].notna().all()
    settings = data.settings()["events"]
    assert settings["file"] == "events.csv"
    assert len(settings["sha256"]) == 64
