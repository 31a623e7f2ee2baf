"""The page of runs: its numbers, its sounds, what it refuses."""

import io
import json
import re
import shutil
import statistics
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from pages import decode, picture, read_data
from runs import (
    CLASSES,
    CLIPS,
    EXPERIMENTS,
    HEARD,
    METHODS,
    RATE,
    folder_of,
    open_set,
    read_rows,
    write_set,
)

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.masking import MASKS
from audiointerp.model import build_model
from audiointerp.model.weights import load
from audiointerp.report import write_report
from audiointerp.runs.clip import job_metrics


def test_every_run_is_there_in_the_order_of_the_tables(data):
    found = [(run["model"], run["experiment"], run["method"]) for run in data["runs"]]
    assert found == [("tiny", name, method) for name in EXPERIMENTS for method in METHODS]


@pytest.mark.parametrize(("place", "folder"), [("features", "csvs"), ("audio", "csvs_audio")])
def test_numbers_are_those_of_the_tables(data, workshop, place, folder):
    names = [metric["name"] for metric in data["metrics"]]
    assert names == list(job_metrics(parts=True, events=True))  # one experiment has noise
    for run in data["runs"]:
        assert sorted(run["tables"][place]) == sorted(MASKS)
        for mask, values in run["tables"][place].items():
            rows = read_rows(folder_of(run, workshop), mask, folder)
            assert run["clips"] == [row["clip"] for row in rows]
            assert run["target"] == [row["target"] for row in rows]
            assert run["predicted"] == [row["predicted"] for row in rows]
            assert run["correct"] == [row["is_correct"] == "True" for row in rows]
            # Clean clips have no truth; where there is, a metric may have no value.
            texts = [[row.get(name, "") for name in names] for row in rows]
            assert values == [[float(text) if text else None for text in row] for row in texts]
            known = "AUPRC" in rows[0]
            assert known == (run["experiment"] == "horse")


def test_what_was_run_is_said_in_words(data):
    about = [dict(run["about"]) for run in data["runs"]]
    gradcam = next(dict(run["about"]) for run in data["runs"] if run["method"] == "gradcam")
    assert "Cnn14, 3 classes, 32 bins, width 0.0625" in about[0]["Model"]
    assert "32 mel bands, 100–4000 Hz, in dB; windows of 32 ms every 10 ms" in about[0]["Front end"]
    assert "fold 5: 8 clips of 3 classes, 1 s" in about[0]["Clips"]
    assert about[0]["Background noise"] == "none added"
    assert about[2]["Background noise"].startswith("horse.wav, the clip 7.36 dB above it (α = 0.7")
    assert gradcam["Method"].startswith("gradcam; target layers base.conv_block6.relu2")
    assert about[0]["Masking"] == "in dB; a removed cell takes the clip's lowest cell"
    assert not any(run["warning"] for run in data["runs"])


def test_the_best_and_worst_clips_are_heard_in_every_run(data, workshop):
    values = {}
    for run in data["runs"]:
        for row in read_rows(folder_of(run, workshop), HEARD[0]):
            values.setdefault(row["clip"], []).append(float(row["FF"]))
    ranked = sorted(values, key=lambda clip: -statistics.fmean(values[clip]))
    expected = [(clip, "best by FF") for clip in ranked[:2]]
    expected += [(clip, "worst by FF") for clip in (ranked[-1], ranked[-2])]
    for group in {run["group"] for run in data["runs"]}:
        scenes = [scene for scene in data["scenes"] if scene["group"] == group]
        assert [(scene["clip"], scene["why"]) for scene in scenes] == expected
        assert all(set(scene["methods"]) == set(METHODS) for scene in scenes)
    assert data["mask"] == HEARD[0]
    assert "2 best and the 2 worst clips by FF under topK_30" in data["heard"]


@pytest.fixture(scope="module")
def again(workshop):
    """Return clips interpreted once more, from the waveform on: (experiment, method, clip)."""
    model, processor = load(workshop / "tiny.safetensors")
    results = {}
    for experiment in EXPERIMENTS:
        dataset = open_set(workshop, experiment)
        waveforms = torch.stack([clip.waveform for clip in dataset])
        for method, interpreter in METHODS.items():
            predict = ai.Predict(
                model, processor, interpreter(model), on=("features", "audio"), base="minimum"
            )
            for result in predict.predict_batch(waveforms, dataset.clip_ids):
                results[experiment, method, result.clip] = result
    return results


def each_scene(data):
    experiment = {run["group"]: run["experiment"] for run in data["runs"]}
    for scene in data["scenes"]:
        for name, method in scene["methods"].items():
            yield scene, method, (experiment[scene["group"]], name, scene["clip"])


def test_sounds_are_what_was_scored(data, again):
    for scene, method, key in each_scene(data):
        assert list(method["sounds"]) == HEARD
        embedded = {(None, "in"): scene["sound"]}
        for mask, parts in method["sounds"].items():
            embedded |= {(mask, part): sound for part, sound in parts.items()}
        for (mask, part), sound in embedded.items():
            heard, rate = soundfile.read(io.BytesIO(decode(sound["source"], "audio/wav")))
            expected = again[key].audio(mask, part).waveform
            assert rate == RATE
            assert len(heard) == len(expected)
            level = 10 ** (sound["turned_down"] / 20)
            assert np.abs(level * heard - expected).max() <= 1.01 * level / 2**15 + 1e-5


def test_masks_and_probabilities_are_those_of_the_clip(data, again):
    for scene, method, key in each_scene(data):
        result = again[key]
        assert scene["label"] == method["explained"] == result.label
        assert scene["classes"] == list(CLASSES)
        assert scene["probabilities"] == pytest.approx(result.probabilities, abs=1e-5)
        assert set(method["masks"]) == set(MASKS)
        for mask in HEARD:
            cells = result.masks[mask][0, 0].numpy()
            assert np.abs(picture(method["masks"][mask]) / 255 - cells).max() < 0.02 or (
                np.array_equal(picture(method["masks"][mask]), cells > 0)
            )
            assert method["kept"][mask] == pytest.approx(cells.mean(), abs=1e-5)
        for place, table in result.class_probabilities_on.items():
            assert set(method["tables"][place]) == set(HEARD)
            for mask, parts in method["tables"][place].items():
                for part, values in parts.items():
                    assert values == pytest.approx(table.loc[(mask, part)].tolist(), abs=1e-4)


def test_the_true_class_is_said(data, workshop):
    dataset = open_set(workshop, "clean")
    truth = dict(zip(dataset.clip_ids, dataset.labels, strict=True))
    for scene in data["scenes"]:
        assert scene["truth"] == CLASSES[truth[scene["clip"]]]


def test_names_stay_text_and_nothing_outside_is_referred_to(page):
    text = page.read_text()
    for name in ("</script><b>", "<i>&", "& $data"):
        assert name not in text
    assert text.count("</script>") == text.count("<script") == 2
    assert "default-src 'none'" in text


def test_chosen_clips_are_heard_without_the_model(workshop, tmp_path, data):
    clips = [data["runs"][0]["clips"][place] for place in (5, 1)]
    found = read_data(
        write_report(
            workshop / "results" / "tiny" / "saliency_clean",
            out=tmp_path / "page.html",
            data=workshop / "set",
            clips=clips,
            sound="mp3",
        )
    )
    assert [scene["clip"] for scene in found["scenes"]] == clips
    assert found["mask"] == "topK_5"
    for scene in found["scenes"]:
        assert scene["probabilities"] is None
        sounds = scene["methods"]["saliency"]["sounds"]
        assert list(sounds) == ["topK_5", "topK_30"]
        assert decode(sounds["topK_5"]["out"]["source"], "audio/mpeg")
    assert "not checked with the model" in found["footer"]


def test_more_clips_than_there_are_means_all(workshop, tmp_path):
    folder = workshop / "results" / "tiny" / "saliency_clean"
    out = tmp_path / "page.html"
    found = read_data(
        write_report(folder, out=out, data=workshop / "set", clips=99, masks=["bin"], by="AD")
    )
    drops = {row["clip"]: float(row["AD"]) for row in read_rows(folder, "bin")}
    scenes = {scene["clip"]: scene["why"] for scene in found["scenes"]}
    assert len(scenes) == CLIPS
    best = [drops[clip] for clip, why in scenes.items() if why == "best by AD"]
    worst = [drops[clip] for clip, why in scenes.items() if why == "worst by AD"]
    assert max(best) <= min(worst)


def test_the_page_of_noisy_runs_says_which_noise_is_missing(workshop, tmp_path):
    found = read_data(
        write_report(
            workshop / "results", out=tmp_path / "page.html", data=workshop / "set", clips=1
        )
    )
    assert {run["experiment"]: bool(run["silent"]) for run in found["runs"]} == {
        "clean": False,
        "horse": True,
    }
    assert "--noise horse.wav" in found["runs"][-1]["silent"]
    assert {scene["group"] for scene in found["scenes"]} == {found["runs"][0]["group"]}


def test_tables_alone_make_a_page_that_says_how_to_get_sounds(bare, copy):
    found = read_data(bare)
    assert found["scenes"] == []
    assert "--data FOLDER" in found["runs"][0]["silent"]
    shutil.rmtree(copy / "gradcam_clean" / "attributions")
    (run,) = read_data(write_report(copy / "gradcam_clean"))["runs"]
    assert "no attribution maps" in run["silent"]
    assert (copy / "gradcam_clean" / "report.html").is_file()


def test_a_stopped_run_shows_what_is_whole(copy):
    folder = copy / "gradcam_clean"
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | {"report": {}}))
    table = folder / "csvs" / "bin.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    (run,) = read_data(write_report(folder))["runs"]
    assert len(run["clips"]) == CLIPS - 3
    assert all(len(rows) == CLIPS - 3 for rows in run["tables"]["features"].values())
    assert "not finished: 5 of 8 clips" in run["warning"]


def edit(path, change):
    path.write_text(change(path.read_text()))


def change_map(folder):
    path = next(iter(sorted((folder / "attributions").glob("*.npy"))))
    np.save(path, np.roll(np.load(path), 1, axis=1) ** 3)


def drop_setting(folder, name):
    content = json.loads((folder / "run.json").read_text())
    del content["settings"][name]
    (folder / "run.json").write_text(json.dumps(content))


def set_setting(folder, *names, value):
    content = json.loads((folder / "run.json").read_text())
    inside = content["settings"]
    for name in names[:-1]:
        inside = inside[name]
    inside[names[-1]] = value
    (folder / "run.json").write_text(json.dumps(content))


SPOILED = {
    "no duration": (
        lambda run: set_setting(run, "dataset", "duration", value="1"),
        {},
        r"run\.json, dataset: is damaged: 'duration' is not a finite number",
    ),
    "a front end that takes gigabytes": (
        lambda run: set_setting(run, "processor", "n_fft", value=2**30),
        {},
        r"run\.json, processor: n_fft is 1073741824: expected at most",
    ),
    "other classes in one table": (
        lambda run: edit(
            run / "csvs" / "bin.csv",
            lambda t: re.sub(r",dog,([^,]*|\".*\"),(True|False),", ",dog,dog,True,", t),
        ),
        {},
        r"\.csv: names other classes of its clips than",
    ),
    "diagnostics of another kind": (
        lambda run: (run / "diagnostics.csv").write_text("clip,residual\na,x\n"),
        {},
        r"diagnostics\.csv: column residual has values that are no finite numbers: 'x'",
    ),
    "is no run": (lambda run: shutil.rmtree(run), {}, "no result of .* and no run of"),
    "no tables": (
        lambda run: [shutil.rmtree(run / name) for name in ("csvs", "csvs_audio")],
        {},
        "a run.json and no tables",
    ),
    "no rows": (
        lambda run: edit(run / "csvs" / "bin.csv", lambda text: text.splitlines()[0] + "\n"),
        {},
        "no clip is in all of its tables",
    ),
    "no settings": (lambda run: drop_setting(run, "processor"), {}, "does not say processor"),
    "a clip twice": (
        lambda run: edit(run / "csvs" / "bin.csv", lambda t: t + t.splitlines()[-1] + "\n"),
        {},
        "twice",
    ),
    "no number": (
        lambda run: edit(run / "csvs" / "bin.csv", lambda t: t.replace("True,", "True,x", 1)),
        {},
        "no finite numbers",
    ),
    "no metric": (
        lambda run: edit(
            run / "csvs" / "bin.csv",
            lambda t: "".join(f"{','.join(line.split(',')[:4])}\n" for line in t.splitlines()),
        ),
        {},
        "no column of a metric: expected some of FF",
    ),
    "another map": (change_map, {"data": "set", "clips": 8}, "map and table are not of one run"),
    "no maps": (
        lambda run: shutil.rmtree(run / "attributions"),
        {"data": "set"},
        "no attribution maps",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_run_is_refused_and_nothing_written(workshop, copy, name):
    spoil, options, message = SPOILED[name]
    folder = copy / "saliency_clean"
    others = [other for other in copy.iterdir() if other != folder]
    for other in others:
        shutil.rmtree(other)
    spoil(folder)
    if "data" in options:
        options = options | {"data": workshop / options["data"]}
    with pytest.raises(ValueError, match=message):
        write_report(copy, **options)
    assert not list(copy.rglob("*.html*"))


def test_stray_files_in_a_run_are_passed_over(workshop, copy):
    expected = read_data(write_report(copy))
    for name in ("._run.json", "csvs/._bin.csv", "csvs/bin.csv~", "attributions/._x.npy"):
        (copy / "saliency_clean" / name).write_bytes(b"\x00\x05\x16\x07")
    (copy / ".trash").mkdir()
    (copy / ".trash" / "run.json").write_text("{")
    assert read_data(write_report(copy)) == expected


WRONG = {
    "no such folder": ({"data": "nowhere"}, "no such folder"),
    "a set with fewer clips": ({"data": "fewer"}, "has no clip 5-7 <i>&-A-1, which .* has as"),
    "a set with other classes": ({"data": "renamed"}, "has clip .* as cat"),
    "another set of these names": (
        {"data": "lookalike", "weights": ["tiny.safetensors"]},
        "is the set the one that the run was made with",
    ),
    "weights of another model": (
        {"data": "set", "weights": ["other.safetensors"]},
        "of another model than these runs",
    ),
    "no weights": ({"data": "set", "weights": ["none.safetensors"]}, "no such file"),
    "a noise that was not there": (
        {"data": "set", "noises": ["white.wav"]},
        "not the noise of any",
    ),
    "weights without a set": ({"weights": ["tiny.safetensors"]}, r"name it \(--data\)"),
    "no such mask": ({"data": "set", "masks": ["topK_6"]}, "topK_6"),
    "no mask": ({"data": "set", "masks": []}, "no mask given"),
    "no clips": ({"data": "set", "clips": 0}, "expected 1 or more"),
    "no such clip": ({"data": "set", "clips": ["5-0 <i>&-A-9"]}, "did you mean 5-0 <i>&-A-0"),
    "no such metric": ({"data": "set", "by": "F"}, "'F'"),
    "no such format": ({"sound": "ogg"}, "unknown sound format 'ogg'"),
}


@pytest.fixture(scope="module")
def wrong_sets(workshop):
    write_set(workshop / "fewer", clips=CLIPS - 1)
    write_set(workshop / "renamed", classes=("cat", *CLASSES[1:]))
    write_set(workshop / "lookalike", seed=9)
    soundfile.write(workshop / "white.wav", np.full(RATE, 0.1), RATE)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_belong_to_the_run_is_refused(workshop, wrong_sets, tmp_path, name):
    options, message = WRONG[name]
    options = dict(options)
    for key in ("data", "weights", "noises"):
        if key in options:
            value = options[key]
            options[key] = (
                workshop / value if isinstance(value, str) else [workshop / file for file in value]
            )
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    with pytest.raises((ValueError, OSError), match=message):
        write_report(workshop / "results" / "tiny" / "saliency_clean", out=page, **options)
    assert page.read_text() == "an earlier page"
    assert list(tmp_path.iterdir()) == [page]


def test_a_noisy_run_needs_its_noise(workshop, tmp_path):
    with pytest.raises(ValueError, match=r"has the background noise horse\.wav"):
        write_report(
            workshop / "results" / "tiny" / "saliency_horse",
            out=tmp_path / "page.html",
            data=workshop / "set",
        )


def test_a_mask_that_a_run_lacks_is_refused(workshop, copy):
    for table in ("csvs", "csvs_audio"):
        (copy / "saliency_clean" / table / "bin.csv").unlink()
    with pytest.raises(ValueError, match="mask 'bin' is not in every run"):
        write_report(copy, data=workshop / "set", masks=["bin"])


def test_both_kinds_of_results_in_one_folder_are_refused(copy):
    (copy / "dog").mkdir()
    (copy / "dog" / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="name a folder that holds one kind"):
        write_report(copy)
    with pytest.raises(ValueError, match="for the runs of an experiment"):
        write_report(copy / "dog", data="synthetic")


def test_two_runs_of_one_name_are_refused(copy):
    shutil.copytree(copy / "gradcam_clean", copy / "clean")
    with pytest.raises(ValueError, match="are called the same"):
        write_report(copy)


def test_runs_of_the_bundled_set_are_heard(tmp_path):
    processor = ai.LogSTFTSpectrogram(sample_rate=4000, n_fft=64, hop_length=32)
    settings = {"name": "Cnn14", "num_classes": 10, "num_bins": 33, "width": 1 / 16}
    model = build_model(settings, seed=0).eval()
    dataset = ai.SyntheticDataset(5, sample_rate=4000, duration=1.0, seed=3, clips=3)
    model.classes = dataset.classes
    predict = ai.Predict(model, processor, ai.SaliencyInterpreter(model), masks=["bin", "minmax"])
    folder = tmp_path / "small" / "saliency_clean"
    predict.predict_set(dataset, folder, progress=False)
    (page,) = [read_data(write_report(folder, data="synthetic", masks=["minmax"]))]
    assert len(page["scenes"]) == 3
    for scene in page["scenes"]:
        heard, _ = soundfile.read(io.BytesIO(decode(scene["sound"]["source"], "audio/wav")))
        expected = dataset[dataset.index(scene["clip"])].waveform[0].numpy()
        assert np.abs(heard - expected).max() < 1e-4


def test_the_command_line_makes_the_page(workshop, tmp_path, monkeypatch, capsys):
    target = tmp_path / "page.html"
    clip = read_rows(workshop / "results" / "tiny" / "saliency_clean", "bin")[2]["clip"]
    arguments = ["report", workshop / "results" / "tiny" / "saliency_horse", "--out", target]
    arguments += ["--data", workshop / "set", "--noise", workshop / "horse.wav", "--mask", "bin"]
    arguments += ["--weights", workshop / "tiny.safetensors", "--clip", clip]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == str(target)
    (scene,) = read_data(target)["scenes"]
    assert scene["clip"] == clip
    assert len(scene["probabilities"]) == 3


def warning_of(folder):
    (run,) = read_data(write_report(folder))["runs"]
    return run["warning"]


def test_rows_that_every_table_lacks_are_told(copy):
    folder = copy / "gradcam_clean"
    assert warning_of(folder) == ""
    for path in [*folder.glob("csvs*/*.csv")]:
        edit(path, lambda text: "".join(text.splitlines(keepends=True)[:-3]))
    assert warning_of(folder) == "This run has 5 of 8 clips."


def test_what_a_run_says_of_leakage_is_told(copy):
    folder = copy / "gradcam_clean"
    content = json.loads((folder / "run.json").read_text())
    content["report"]["remarks"] = ["8 of 8 clips were trained on"]
    (folder / "run.json").write_text(json.dumps(content))
    assert warning_of(folder) == "8 of 8 clips were trained on."


def test_degenerate_maps_are_counted_and_listed(copy):
    folder = copy / "saliency_clean"
    (run,) = read_data(write_report(folder))["runs"]
    facts = {"constant_map", "positive_cells"}
    assert not facts & set(run["diagnostics"])
    table = pd.read_csv(folder / "diagnostics.csv")
    table.loc[[1, 2], "constant_map"] = 1
    table.to_csv(folder / "diagnostics.csv", index=False)
    (run,) = read_data(write_report(folder))["runs"]
    assert "2 of 8 maps are constant" in dict(run["about"])["Degenerate"]
    assert run["diagnostics"]["constant_map"] == [0, 1, 1, 0, 0, 0, 0, 0]
