"""Sets by several methods: each clip is read and classified once; runs are completed."""

import errno
import json

import pandas as pd
import pytest
import torch

from audiointerp.dataset import ESC50Dataset, SyntheticDataset
from audiointerp.evaluation import METRICS, Metric
from audiointerp.interpretation import GradCAMInterpreter, SaliencyInterpreter
from audiointerp.model import build_model, classifier
from audiointerp.processing import LogSTFTSpectrogram
from audiointerp.runs.experiment import list_runs, mean_metrics
from audiointerp.runs.job import Job
from audiointerp.runs.sets import interpret_set, interpret_sets
from audiointerp.runs.targets import Above, Top

CLASSES = ("dog", "cat", "rain")
RATE = 8000


@pytest.fixture(scope="module")
def network():
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    made = build_model(settings, seed=1).eval()
    with torch.no_grad():
        made.classifier.weight.mul_(8)
    return made


@pytest.fixture
def make(network):
    """Return a maker of jobs by method: ``make("saliency", target=Top(2))``."""

    def job(method, *, head="softmax", **options):
        front_end = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
        model = classifier(network, front_end=front_end, classes=CLASSES, head=head, duration=1.0)
        kinds = {"saliency": SaliencyInterpreter, "gradcam": GradCAMInterpreter}
        return Job(model, kinds[method](model), masks=("bin", "topK_30"), **options)

    return job


@pytest.fixture
def clips(tiny_esc50):
    return ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=1.0, folds=[1, 2])


@pytest.fixture
def new_metric():
    """Register a metric while a test runs."""
    name = "loudest"
    METRICS[name] = Metric(
        name,
        title="loudest cell",
        meaning="level of the loudest cell",
        unit="dB",
        decimals=1,
        clip_decimals=1,
        better=1,
        bounds=lambda cells: (-100.0, 100.0),
        family="localisation",
        level="map",
        needs=frozenset({"view"}),
        compute=lambda evidence: evidence.view.cells.amax((1, 2, 3)),
    )
    yield name
    del METRICS[name]


def test_all_methods_share_reading_and_classification(make, clips, tmp_path, monkeypatch):
    read = []
    original = ESC50Dataset.__getitem__
    monkeypatch.setattr(
        ESC50Dataset, "__getitem__", lambda self, n: read.append(n) or original(self, n)
    )
    jobs = {tmp_path / m: make(m) for m in ("saliency", "gradcam")}
    done = interpret_set(jobs, clips, progress=False)
    assert sorted(read) == list(range(len(clips)))
    for method in ("saliency", "gradcam"):
        alone = interpret_set({tmp_path / "alone" / method: make(method)}, clips, progress=False)
        for key, table in next(iter(alone.values())).tables.items():
            pd.testing.assert_frame_equal(done[tmp_path / method].tables[key], table, atol=1e-6)


def test_a_method_added_later_is_done_for_what_it_misses(make, clips, tmp_path, monkeypatch):
    interpret_set({tmp_path / "saliency": make("saliency")}, clips, progress=False)
    jobs = {tmp_path / m: make(m) for m in ("saliency", "gradcam")}
    monkeypatch.setattr(jobs[tmp_path / "saliency"].interpreter, "explain", None)
    done = interpret_set(jobs, clips, progress=False)
    assert [result.interpreted for result in done.values()] == [0, 6]


def test_jobs_of_two_classifiers_are_refused(make, clips, tmp_path):
    jobs = {tmp_path / "a": make("saliency")}
    other = build_model(
        {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}, seed=2
    ).eval()
    front_end = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    model = classifier(other, front_end=front_end, classes=CLASSES, duration=1.0)
    jobs[tmp_path / "b"] = Job(model, SaliencyInterpreter(model), masks=("bin",))
    with pytest.raises(ValueError, match="several classifiers"):
        interpret_set(jobs, clips, progress=False)
    assert not any(tmp_path.glob("[ab]"))


def test_several_labels_of_a_clip_are_rows_of_their_own(make, clips, tmp_path):
    job = make("saliency", head="sigmoid", target=Top(2))
    (result,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    table = result.tables["features", "bin"]
    assert len(table) == 2 * len(clips)
    assert table.groupby("clip")["explained"].nunique().eq(2).all()
    assert (
        table.drop_duplicates("clip")["explained"] == table.drop_duplicates("clip")["predicted"]
    ).all()
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["target"] == {"top": 2}
    assert settings["model"]["head"] == {"name": "sigmoid", "threshold": 0.5}
    assert len(list((tmp_path / "run" / "attributions").iterdir())) == 2 * len(clips)
    for label, rows in table.groupby("explained"):
        named = make("saliency", head="sigmoid", target=label)
        folder = tmp_path / label
        (alone,) = interpret_set({folder: named}, clips, progress=False).values()
        alone = alone.tables["features", "bin"].set_index("clip")
        for metric in ("FF", "AI", "AD", "AG", "FidIn"):
            expected = alone.loc[rows["clip"], metric].to_numpy()
            assert rows[metric].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_a_run_of_several_labels_that_was_cut_off_goes_on(make, clips, tmp_path):
    job = make("saliency", head="sigmoid", target=Top(2))
    (whole,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    table = tmp_path / "run" / "csvs" / "bin.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:4]) + "\n")  # three rows of twelve
    (again,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    assert again.interpreted == 5
    for key, expected in whole.tables.items():
        order = ["clip", "explained"]
        pd.testing.assert_frame_equal(
            again.tables[key].sort_values(order, ignore_index=True),
            expected.sort_values(order, ignore_index=True),
            atol=1e-5,
        )


def test_a_clip_without_a_label_above_the_threshold_is_reported(make, clips, tmp_path):
    job = make("saliency", head="sigmoid", target=Above(0.999999))
    (result,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    explained = set(result.tables["features", "bin"]["clip"])
    assert set(result.failures) == set(clips.clip_ids) - explained
    assert result.failures
    assert "no label reaches" in next(iter(result.failures.values()))


def test_a_run_made_before_a_metric_existed_is_completed(
    make, clips, tmp_path, monkeypatch, request
):
    folder = tmp_path / "run"
    (before,) = interpret_set({folder: make("saliency")}, clips, progress=False).values()
    name = request.getfixturevalue("new_metric")
    job = make("saliency")
    monkeypatch.setattr(job.interpreter, "explain", None)  # the maps are there
    (after,) = interpret_set({folder: job}, clips, progress=False).values()
    for key, table in after.tables.items():
        assert table[name].notna().all()
        pd.testing.assert_frame_equal(table.drop(columns=name), before.tables[key], atol=1e-6)


def test_completing_a_run_for_some_of_its_clips_is_refused(make, tiny_esc50, tmp_path, request):
    folder = tmp_path / "run"
    both, one = (
        ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=1.0, folds=1, clips=clips)
        for clips in (3, 1)
    )
    interpret_set({folder: make("saliency")}, both, progress=False)
    before = (folder / "csvs" / "bin.csv").read_text()
    request.getfixturevalue("new_metric")
    with pytest.raises(ValueError, match="ask for all of them to complete the run"):
        interpret_set({folder: make("saliency")}, one, progress=False)
    assert (folder / "csvs" / "bin.csv").read_text() == before


def test_a_metric_that_is_not_registered_any_more_is_named(make, clips, tmp_path, new_metric):
    folder = tmp_path / "run"
    interpret_set({folder: make("saliency")}, clips, progress=False)
    kept = METRICS.pop(new_metric)
    try:
        with pytest.raises(ValueError, match=r"its columns are .*loudest.*registered\?"):
            interpret_set({folder: make("saliency")}, clips, progress=False)
    finally:
        METRICS[new_metric] = kept


def test_a_metric_with_ground_truth_gets_the_parts_of_every_clip(network, tmp_path):
    name = "foreground share"
    METRICS[name] = Metric(
        name,
        title="foreground share",
        meaning="share of the clip's energy that is foreground",
        unit="",
        decimals=2,
        clip_decimals=2,
        better=1,
        bounds=lambda cells: (0.0, 1.0),
        family="localisation",
        level="map",
        needs=frozenset({"truth"}),
        compute=_foreground_share,
    )
    try:
        front_end = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
        data = SyntheticDataset(5, sample_rate=RATE, duration=1.0, clips=3)
        model = classifier(network, front_end=front_end, classes=[*data.classes[:3]], duration=1.0)
        job = Job(model, SaliencyInterpreter(model), masks=("bin",))
        (result,) = interpret_set({tmp_path / "run": job}, data, progress=False).values()
    finally:
        del METRICS[name]
    found = result.tables["features", "bin"].set_index("clip")[name]
    for index, clip in enumerate(data.clip_ids):
        foreground, background = (each.double() for each in data.foreground_background(index))
        energy = [float(each.square().sum()) for each in (foreground, background)]
        assert found[clip] == pytest.approx(energy[0] / sum(energy), abs=1e-5)


def _foreground_share(evidence):
    both = (evidence.truth.foreground, evidence.truth.background)
    foreground, background = (each.waveform.double().square().sum((1, 2)) for each in both)
    return foreground / (foreground + background)


class Fussy(LogSTFTSpectrogram):
    """A front end that fails on one of the clips, as a clip's own error would."""

    refused = None
    error = RuntimeError("no such sound")

    def analyse(self, waveform):
        refused = self.refused
        if refused is not None and any(torch.equal(refused, each) for each in waveform):
            raise self.error
        return super().analyse(waveform)


@pytest.fixture
def fussy(network):
    front_end = Fussy(sample_rate=RATE, n_fft=128, hop_length=64)
    return classifier(network, front_end=front_end, classes=CLASSES, duration=1.0)


def saliency(model, **options):
    return Job(model, SaliencyInterpreter(model), masks=("bin", "topK_30"), **options)


def test_a_clip_that_fails_costs_no_other_its_rows(fussy, clips, tmp_path):
    (whole,) = interpret_set({tmp_path / "whole": saliency(fussy)}, clips, progress=False).values()
    bad = clips.clip_ids[2]
    fussy.front_end.refused = clips[2].waveform
    folder = tmp_path / "run"
    (result,) = interpret_set({folder: saliency(fussy)}, clips, progress=False).values()
    assert result.failures == {bad: "RuntimeError: no such sound"}
    assert result.interpreted == 5
    assert json.loads((folder / "run.json").read_text())["report"]["failures"] == result.failures
    for key, table in whole.tables.items():
        expected = table[table["clip"] != bad].reset_index(drop=True)
        pd.testing.assert_frame_equal(result.tables[key], expected, atol=1e-5)
    # It fails alone, and is no reason to end a run that has others.
    (again,) = interpret_set({folder: saliency(fussy)}, clips, progress=False).values()
    assert again.failures == result.failures
    fussy.front_end.refused = None
    (mended,) = interpret_set({folder: saliency(fussy)}, clips, progress=False).values()
    for key, table in whole.tables.items():
        pd.testing.assert_frame_equal(mended.tables[key], table, atol=1e-5)


def test_a_clip_that_one_method_fails_on_is_complete_in_the_others(
    make, clips, tmp_path, monkeypatch
):
    jobs = {tmp_path / method: make(method) for method in ("saliency", "gradcam")}
    interpreter = jobs[tmp_path / "saliency"].interpreter
    explain, refused = interpreter.explain, clips[1].waveform

    def fail(view, target, **known):
        if any(torch.equal(refused, each) for each in view.waveform):
            raise RuntimeError("no gradient")
        return explain(view, target, **known)

    monkeypatch.setattr(interpreter, "explain", fail)
    done = interpret_set(jobs, clips, progress=False)
    assert done[tmp_path / "gradcam"].failures == {}
    assert done[tmp_path / "saliency"].failures == {clips.clip_ids[1]: "RuntimeError: no gradient"}
    assert [len(each.tables["features", "bin"]) for each in done.values()] == [5, 6]


def test_a_mistake_that_fails_every_clip_is_raised_as_it_is(fussy, clips, tmp_path, monkeypatch):
    job = saliency(fussy)
    monkeypatch.setattr(job.interpreter, "explain", lambda view, target, **known: {}["gain"])
    with pytest.raises(KeyError, match="gain"):
        interpret_set({tmp_path / "run": job}, clips, progress=False)


def test_a_full_disk_ends_the_run(fussy, clips, tmp_path, monkeypatch):
    job = saliency(fussy)
    seen = []

    def fail(view, target, **known):
        seen.append(len(target))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(job.interpreter, "explain", fail)
    with pytest.raises(OSError, match="No space left"):
        interpret_set({tmp_path / "run": job}, clips, progress=False)
    assert seen == [6]


class Overflowing(torch.nn.Module):
    """Scores that are NaN for one clip."""

    refused = None

    def forward(self, cells):
        level = cells.mean((1, 2, 3)) / 50
        scores = torch.stack([level, -level, 0 * level], 1)
        if self.refused is None:
            return scores
        is_refused = (cells == self.refused).flatten(1).all(1)
        return torch.where(is_refused[:, None], torch.nan, scores)


def test_a_clip_that_a_model_has_no_number_for_is_reported_and_has_no_row(clips, tmp_path):
    front_end = LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    model = classifier(Overflowing(), front_end=front_end, classes=CLASSES, duration=1.0)
    model.network.refused = front_end(clips[3].waveform[None])
    (result,) = interpret_set({tmp_path / "run": saliency(model)}, clips, progress=False).values()
    assert list(result.failures) == [clips.clip_ids[3]]
    assert "the model returns NaN or infinite scores" in result.failures[clips.clip_ids[3]]
    for table in result.tables.values():
        assert clips.clip_ids[3] not in set(table["clip"])
        assert len(table) == 5


def test_all_is_checked_before_the_first_set(make, clips, tmp_path):
    other = ESC50Dataset(clips.root, sample_rate=RATE, duration=1.0, folds=[3])
    interpret_set({tmp_path / "b": make("saliency", base="quiet")}, other, progress=False)
    kept = {path: path.read_bytes() for path in tmp_path.glob("b/**/*.*")}
    requests = [
        ({tmp_path / "a": make("saliency")}, clips),
        ({tmp_path / "b": make("saliency")}, other),
    ]
    with pytest.raises(ValueError, match=r"other settings \(base\)"):
        interpret_sets(requests, progress=False)
    assert not (tmp_path / "a").exists()
    requests[1] = ({tmp_path / "c": make("saliency")}, SyntheticDataset(folds=5, sample_rate=RATE))
    with pytest.raises(ValueError, match="classes that the model does not know"):
        interpret_sets([({tmp_path / "b": make("saliency")}, other), requests[1]], overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("b/**/*.*")} == kept


def test_a_folder_that_cannot_be_written_is_found_first(make, clips, tmp_path):
    (tmp_path / "file").touch()
    jobs = {tmp_path / "run": make("saliency"), tmp_path / "file" / "run": make("gradcam")}
    with pytest.raises(OSError, match="cannot write into the folder"):
        interpret_set(jobs, clips, progress=False)
    assert not (tmp_path / "run").exists()


def test_clips_too_short_for_the_model_are_refused_before_anything_is_written(
    make, tiny_esc50, tmp_path
):
    short = ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=0.005, folds=1)
    with pytest.raises(ValueError, match=r"the model fails on sounds of 0\.005 s, 40 samples"):
        interpret_set({tmp_path / "run": make("saliency")}, short, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a/b", "x" * 201])
def test_clips_that_cannot_be_filed_are_refused(make, clips, tmp_path, name):
    clips.clip_ids[0] = name
    with pytest.raises(ValueError, match="attribution maps are filed by the clips' names"):
        interpret_set({tmp_path / "run": make("saliency")}, clips, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["horse", 3, Top(4), ["dog", "cow"]])
def test_a_target_that_the_model_does_not_know_makes_no_job(make, target):
    with pytest.raises(ValueError, match=r"horse|target 3|top 4|cow"):
        make("saliency", target=target)


class Zero(SaliencyInterpreter):
    """Looks at nothing in the first clip of a batch."""

    name = "zero"

    def _explain(self, view, target):
        found = super()._explain(view, target)
        found.attribution[0] = 0
        return found


def test_degenerate_maps_are_reported_per_clip(make, clips, tmp_path):
    regular = make("saliency")
    job = Job(regular.classifier, Zero(regular.classifier), masks=("bin", "topK_30"))
    (result,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    said = pd.read_csv(tmp_path / "run" / "diagnostics.csv", index_col="clip")
    assert said["constant_map"].tolist() == [1, 0, 0, 0, 0, 0]
    assert said["positive_cells"].iloc[0] == 0
    assert said["tied_topK_30"].iloc[0] == 1
    assert (said["tied_topK_30"].iloc[1:] < 0.01).all()
    # The metrics stay as they are defined: the first 30 % of the cells are kept.
    row = result.tables["features", "topK_30"].iloc[0]
    assert row["SPS"] == pytest.approx(0.7, abs=0.01)
    assert result.tables["features", "bin"]["SPS"].iloc[0] == 0


def test_maps_of_an_earlier_version_are_described_when_they_are_measured_again(
    make, clips, tmp_path, new_metric
):
    folder = tmp_path / "run"
    del METRICS[new_metric]
    interpret_set({folder: make("saliency")}, clips, progress=False)
    path = folder / "diagnostics.csv"
    facts = pd.read_csv(path)
    facts[["clip"]].assign(residual=0.5).to_csv(path, index=False)
    METRICS[new_metric] = Metric(
        new_metric,
        title="mean",
        meaning="mean level",
        unit="dB",
        decimals=1,
        clip_decimals=1,
        better=1,
        bounds=lambda cells: (-200.0, 200.0),
        family="localisation",
        level="map",
        needs=frozenset({"view"}),
        compute=lambda evidence: evidence.view.cells.mean((1, 2, 3)),
    )
    interpret_set({folder: make("saliency")}, clips, progress=False)
    again = pd.read_csv(path)
    assert again["residual"].tolist() == [0.5] * 6
    pd.testing.assert_frame_equal(again[facts.columns], facts)


def test_means_say_what_they_are_over(make, clips, tmp_path):
    job = make("saliency", head="sigmoid", target=Top(2))
    (result,) = interpret_set({tmp_path / "run": job}, clips, progress=False).values()
    means = result.mean_metrics()
    assert means["rows"].tolist() == [12, 12]
    assert means["FF"].loc["bin"] == result.tables["features", "bin"]["FF"].mean()
    assert (result.clips, list_runs({tmp_path / "run": result})["clips"].item()) == (6, 6)
    result.tables["features", "bin"].loc[3, "FF"] = float("nan")
    assert result.mean_metrics()["FF_n"].to_dict() == {"bin": 11, "topK_30": 12}


def test_means_of_runs_of_different_clips_say_how_many(make, clips, tmp_path):
    folders = [tmp_path / "m" / f"{name}_clean" for name in ("saliency", "gradcam")]
    jobs = {folder: make(folder.name.split("_")[0]) for folder in folders}
    done = interpret_set(jobs, clips, progress=False)
    assert "clips" not in mean_metrics(done, ["bin"])
    tables = done[folders[0]].tables
    table = tables["features", "bin"] = tables["features", "bin"][:4]  # as if two clips had failed
    means = mean_metrics(done, ["bin"]).droplevel(["mask", "model", "experiment"])
    assert means["clips"].to_dict() == {"saliency": 4, "gradcam": 6}
    assert means["FF"]["saliency"] == pytest.approx(table["FF"].mean())
