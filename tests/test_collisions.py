"""Names that collide are refused before any work, with both values in the message."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from networks import NAMES, Network, stft

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.registry import check_different
from audiointerp.runs.experiment import parse_noises, run_experiment
from audiointerp.runs.files import interpret_files
from audiointerp.runs.job import Job
from audiointerp.runs.recipe import Recipe, by_stem
from audiointerp.runs.targets import Top
from audiointerp.tables.load import load_results

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Känguru") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "a"], "the mask 'a' is given twice"),
        ([1, 2, 1], "the mask '1' is given twice"),
    ],
)
def test_a_value_given_twice_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        check_different("mask", values)
    check_different("mask", values[:2])
    check_different("label", ["1", 1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["x/dog.wav", "y/dog.flac"], "'x/dog.wav' and 'y/dog.flac' are both called dog"),
        (["dog.wav", "dog.wav"], "the sound file 'dog.wav' is given twice"),
        (["dog.wav", "Dog.wav"], "'dog.wav' and 'Dog.wav' are called 'dog' and 'Dog', which some"),
        ([f"{COMPOSED}.wav", f"{DECOMPOSED}.wav"], f"'{COMPOSED}' and '{DECOMPOSED}', which some"),
        (["summary.json.wav"], r"cannot be called summary\.json"),
    ],
)
def test_files_whose_results_would_have_one_name_are_refused(files, message):
    with pytest.raises(ValueError, match=message):
        by_stem("sound file", files, taken={"summary.json": "a file"})
    with pytest.raises(ValueError, match=message):
        interpret_files(files, ["no.safetensors"], "out")
    with pytest.raises(ValueError, match="weight file"):
        interpret_files(["x.wav"], ["a/m.safetensors", "b/M.safetensors"], "out")


def test_a_model_is_not_called_as_a_file_beside_its_results():
    with pytest.raises(ValueError, match=r"cannot be called summary\.csv, .* table of all results"):
        interpret_files(["x.wav"], ["summary.csv.safetensors"], "out")


def test_a_file_is_not_called_as_the_result_for_a_label_of_another():
    files = ["dog@x.wav", "dog.wav"]
    with pytest.raises(ValueError, match=r"'dog\.wav' and 'dog@x\.wav': results for the labels"):
        interpret_files(files, ["no.safetensors"], "out", target=Top(2))
    with pytest.raises(ValueError, match="no such file"):
        interpret_files(files, ["no.safetensors"], "out")


@pytest.mark.parametrize(
    ("noises", "message"),
    [
        (["clean=F.wav"], "the noise 'clean=F.wav' cannot be called clean"),
        (["Clean=F.wav"], "cannot be called Clean"),
        (["n=A.wav", "n=B.wav"], "the noises 'n=A.wav' and 'n=B.wav' are both called n"),
        (["x/rain.wav", "y/rain.wav"], "'x/rain.wav' and 'y/rain.wav' are both called rain"),
        (["n=A.wav", "N=B.wav"], "'n' and 'N', which some file systems take for one"),
        (["n=A.wav", "n=A.wav"], "the noise 'n=A.wav' is given twice"),
    ],
)
@pytest.mark.parametrize("clean", ["--clean", "--no-clean"])
def test_noises_of_one_name_and_one_called_clean_are_refused(
    monkeypatch, capsys, noises, message, clean
):
    options = [word for noise in noises for word in ("--noise", noise)]
    command = ["experiment", "--weights", "no.safetensors", "--data", "synthetic", clean]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *command, *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_different_noises_are_taken_and_names_may_have_underscores():
    assert parse_noises(["a_b=F.wav", "x/rain.wav"]) == {"a_b": "F.wav", "rain": "x/rain.wav"}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("names", [["clean"], ["n", "N"]])
def test_the_library_refuses_them_too(names, clean):
    with pytest.raises(ValueError, match="called"):
        run_experiment(
            ["no.safetensors"], "synthetic", noises=dict.fromkeys(names, "F.wav"), clean=clean
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["saliency", "lime", "saliency"]}, "the method 'saliency' is given twice"),
        ({"masks": ["bin", "bin"]}, "the mask 'bin' is given twice"),
        ({"on": ["audio", "audio"]}, "'audio' is given twice"),
        ({"target": ["dog", "cat", "dog"]}, "the label to explain 'dog' is given twice"),
    ],
)
def test_a_recipe_takes_nothing_twice(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


@pytest.mark.parametrize("twice", [{"masks": ("bin", "bin")}, {"on": ("audio", "audio")}])
def test_a_job_takes_nothing_twice(twice):
    classifier = ai.classifier(Network(), front_end=stft(), classes=NAMES)
    with pytest.raises(ValueError, match="is given twice"):
        Job(classifier, ai.SaliencyInterpreter(classifier), **({"masks": ("bin",)} | twice))


def test_folds_models_and_experiments_are_named_once(tmp_path):
    with pytest.raises(ValueError, match="the training fold '1' is given twice"):
        run_experiment(["no.safetensors"], "synthetic", train_folds=[1, 2, 1])
    table = tmp_path / "mel" / "lime_clean" / "csvs" / "bin.csv"
    table.parent.mkdir(parents=True)
    table.touch()
    for kind in ("model", "experiment"):
        with pytest.raises(ValueError, match=f"the {kind} 'mel' is given twice"):
            load_results(tmp_path, **{f"{kind}s": ["mel", "mel"]})
    assert Path(table).is_file()
