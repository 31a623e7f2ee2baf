"""What a card says of the clips trained on, and the warnings that follow from it."""

from __future__ import annotations

import csv
import json
import sys
import warnings

import numpy as np
import pytest
import soundfile
import torch
from tones import Chords, Tones, front_end, small_model

from audiointerp.cli import main
from audiointerp.dataset import (
    ESC50Dataset,
    FolderDataset,
    SyntheticDataset,
    TableDataset,
    UrbanSound8KDataset,
)
from audiointerp.fit import fit
from audiointerp.interpretation import SaliencyInterpreter
from audiointerp.model import build_model
from audiointerp.model.provenance import (
    LeakageWarning,
    MissingClassWarning,
    Provenance,
    describe_training,
    remark_overlap,
)
from audiointerp.model.weights import load, save_weights
from audiointerp.predict import Predict
from audiointerp.processing import LogSTFTSpectrogram
from audiointerp.runs.classification import classify_set
from audiointerp.runs.experiment import measure_accuracy, run_experiment
from audiointerp.tables import load_results
from audiointerp.tables.notes import note_lines
from audiointerp.training.recipe import train_classifier

CLASSES = ("dog", "cat", "rain")
FOLDS = {"training": [1, 2, 3], "validation": [4], "test": [5]}
OLD = {"folds": "training 1, 2, 3; validation 4; test 5"}
TINY = {"sample_rate": 8000, "duration": 1.0}


def tiny(root, folds, **options):
    return ESC50Dataset(root, folds, **TINY, **options)


def card_of(root) -> dict:
    return {"trained_on": describe_training(tiny(root, [1, 2, 3]), tiny(root, 4), FOLDS)}


@pytest.fixture
def save(tmp_path):
    """Return a writer of weight files with a card, for the tiny set's classes."""

    def write(card, name="tiny", classes=CLASSES):
        settings = {"name": "Cnn14", "num_classes": len(classes), "num_bins": 65, "width": 1 / 16}
        processor = LogSTFTSpectrogram(sample_rate=8000, n_fft=128, hop_length=64)
        path = tmp_path / f"{name}.safetensors"
        model = build_model(settings, seed=0)
        return save_weights(path, model, processor, classes=classes, duration=1.0, card=card)

    return write


@pytest.fixture(params=["hashes", "text"])
def card(request, tiny_esc50):
    """Return the card of a model of the tiny set: a new one, and one from before."""
    if request.param == "hashes":
        return card_of(tiny_esc50)
    return OLD | {"data": "ESC-50, 2000 clips (K. J. Piczak, 2015), or a set in its layout"}


@pytest.mark.parametrize(
    ("folds", "trained", "validated", "of"),
    [([3], 3, 0, 3), ([5], 0, 0, 3), ([4], 0, 3, 3), ([2, 5], 3, 0, 6), (None, 9, 3, 15)],
)
def test_clips_that_were_used_are_counted(save, card, tiny_esc50, folds, trained, validated, of):
    classifier = load(save(card))
    for model in (classifier, classifier.network):
        provenance = Provenance.of(model)
        dataset = tiny(tiny_esc50, folds)
        assert provenance.count("training", dataset) == (trained, of)
        assert provenance.count("validation", dataset) == (validated, of)


def test_another_set_of_the_same_folds_was_not_trained_on(save, card, write_tones):
    names = [f"{name}/{number}.wav" for name in CLASSES for number in range(8)]
    other = FolderDataset(write_tones("sounds", names), **TINY)
    classifier = load(save(card))
    assert remark_overlap(classifier, other) == []
    assert remark_overlap(classifier, SyntheticDataset([1, 2, 3])) == []


def test_part_of_a_set_is_known_again_by_its_clips(save, tiny_esc50):
    classifier = load(save(card_of(tiny_esc50)))
    part = tiny(tiny_esc50, [3, 5], subset="esc10", clips=3)  # two clips of fold 3, one of fold 5
    trained = sum(fold == 3 for fold in part.folds)
    assert Provenance.of(classifier).count("training", part) == (trained, 3)


@pytest.mark.parametrize(
    "card",
    [
        {},
        {"data": "my own"},
        OLD,
        OLD | {"data": "sounds of a friend"},
        {"folds": "all", "data": "ESC-50"},
        {"trained_on": {}},
    ],
)
def test_a_card_that_does_not_say_says_nothing(save, card, tiny_esc50):
    assert remark_overlap(load(save(card)), tiny(tiny_esc50, None)) == []


def test_the_shipped_cards_are_read():
    provenance = Provenance.of(load("weights/synthetic_logmel.safetensors"))
    assert provenance.folds == FOLDS
    assert provenance.count("training", SyntheticDataset([3], clips=7)) == (7, 7)
    assert provenance.count("training", SyntheticDataset([5], clips=7)) == (0, 7)
    assert provenance.count("training", SyntheticDataset([3], clips=7, seed=1)) == (0, 7)


def test_large_sets_are_sampled(monkeypatch, save, write_tones):
    monkeypatch.setattr("audiointerp.model.provenance._MOST", 4)
    names = [f"{name}/{number}.wav" for name in CLASSES for number in range(10)]
    dataset = FolderDataset(write_tones("sounds", names), **TINY)
    train, rest = (FolderDataset(dataset.root, folds, **TINY) for folds in ([1, 2, 3], [4, 5]))
    said = describe_training(train, rest, FOLDS)
    assert len(said["recordings"]["training"]) == 4
    provenance = Provenance.of(load(save({"trained_on": said})))
    count, of = provenance.count("training", dataset)
    assert (count, of) == (4, of)
    assert 4 <= of < 30
    assert provenance.count("training", rest)[0] == 0


# Recordings.


def test_windows_and_parts_of_a_file_are_of_one_recording(write_tones):
    root = write_tones("long", {"cat/1.wav": 3.0, "dog/2@x.wav": 2.0})
    windows = FolderDataset(root, window_hop=1.0, **TINY)
    assert len(windows) == 5
    assert windows.recordings == ["cat__1.wav"] * 3 + ["dog__2%40x.wav"] * 2


def test_names_of_esc50_and_urbansound8k_say_the_recording(tiny_esc50, tmp_path, tone):
    clips = tiny(tiny_esc50, [2])
    assert clips.clip_ids[0] == "2-2000-A-10"
    assert clips.recordings == ["2000", "2001", "2002"]
    (tmp_path / "us" / "metadata").mkdir(parents=True)
    (tmp_path / "us" / "audio" / "fold1").mkdir(parents=True)
    names = ["100-1-0-0.wav", "100-1-0-7.wav", "200-1-0-0.wav"]
    with (tmp_path / "us" / "metadata" / "UrbanSound8K.csv").open("w", newline="") as file:
        table = csv.writer(file)
        columns = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID"]
        table.writerow([*columns, "class"])
        for name in names:
            table.writerow([name, name.split("-")[0], 0, 1, 1, 1, 1, "horn"])
            soundfile.write(tmp_path / "us" / "audio" / "fold1" / name, tone(300), 8000)
    urban = UrbanSound8KDataset(tmp_path / "us", sample_rate=8000)
    assert urban.recordings == ["100", "100", "200"]


def test_a_recording_in_two_folds_is_told(tmp_path, tone):
    soundfile.write(tmp_path / "night.wav", tone(300, seconds=10), 8000)
    rows = [
        f"night.wav,{'owl' if n % 2 else 'rain'},{n},{n + 1},{'train' if n < 6 else 'val'}"
        for n in range(10)
    ]
    (tmp_path / "meta.csv").write_text("\n".join(["path,label,start,end,fold", *rows]) + "\n")
    train, validation = (
        TableDataset(tmp_path / "meta.csv", fold, start="start", end="end", **TINY)
        for fold in ("train", "val")
    )
    assert set(train.recordings) == {"night.wav"}
    with pytest.warns(LeakageWarning, match=r"1 recordings have clips in the training set and in"):
        fit(
            small_model(),
            front_end(),
            train,
            validation,
            out=tmp_path / "run",
            epochs=1,
            progress=False,
            device="cpu",
        )


# What an experiment says.


@pytest.fixture
def experiment(tiny_esc50, tmp_path):
    def run(weights, fold, **options):
        options = {"methods": ["saliency"], "masks": ["bin", "topK_30"]} | options
        return run_experiment(
            [weights],
            tiny_esc50,
            fold=fold,
            results=tmp_path / "results",
            device="cpu",
            progress=False,
            **options,
        )

    return run


def test_a_fold_that_was_trained_on_is_told_and_marked(save, card, experiment, tmp_path):
    with pytest.warns(LeakageWarning, match=r"3 of 3 clips were trained on.*fold 5 for tests"):
        (result,) = experiment(save(card), 3).values()
    said = "3 of 3 clips were trained on"
    assert result.remarks == (said,)
    run = json.loads((result.folder / "run.json").read_text())
    assert run["report"]["remarks"] == [said]
    assert said in note_lines(load_results(tmp_path / "results").attrs["notes"])[0]


def test_a_fold_that_chose_the_epoch_is_marked_without_a_warning(save, card, experiment):
    (result,) = experiment(save(card), 4).values()
    assert result.remarks == ("3 of 3 clips chose the epoch (validation)",)


def test_a_test_fold_is_not_marked(save, card, experiment):
    (result,) = experiment(save(card), 5).values()
    assert result.remarks == ()
    assert "remarks" not in json.loads((result.folder / "run.json").read_text())["report"]


def test_a_background_of_the_interpreted_fold_is_told(save, experiment):
    with pytest.warns(LeakageWarning, match="drawn from fold 3, which is interpreted"):
        done = experiment(save({}), 3, methods=["saliency", "shap"])
    remarks = {folder.name: result.remarks for folder, result in done.items()}
    assert remarks == {
        "saliency_clean": (),
        "shap_clean": ("the background clips are drawn from fold 3, which is interpreted",),
    }


def test_the_command_line_says_so(save, card, tiny_esc50, tmp_path, monkeypatch, capsys):
    arguments = ["experiment", "--weights", save(card), "--data", tiny_esc50, "--fold", 3]
    arguments += ["--method", "saliency", "--mask", "bin", "--results", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments), "--device", "cpu"])
    with pytest.warns(LeakageWarning), pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "note: 3 of 3 clips were trained on" in capsys.readouterr().out


def test_an_accuracy_of_clips_trained_on_is_told(save, card, tiny_esc50):
    model, processor = load(save(card))
    dataset = tiny(tiny_esc50, 2)
    with pytest.warns(LeakageWarning, match="3 of 3 clips were trained on"):
        measure_accuracy(model, processor, {"clean": dataset})
    classify_set(model, processor, tiny(tiny_esc50, 5))


# Classes without clips.


class Some(Tones):
    """Tones of which some classes have no clip."""

    def __init__(self, clips, first=0, *, classes, present):
        super().__init__(clips, first, classes=classes)
        self.labels = [present[place % len(present)] for place in range(clips)]


def trained_on_some(tmp_path, train, validation):
    names = ("low", "high", "noise")
    sets = (
        Some(8, classes=names, present=train),
        Some(4, 100, classes=names, present=validation),
    )
    return fit(
        small_model(classes=3),
        front_end(),
        *sets,
        out=tmp_path / "run",
        epochs=1,
        progress=False,
        device="cpu",
    )


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        ([0, 1], [0, 1, 2], ["training set has no clip of 1 of its 3 classes (noise)"]),
        ([0, 1, 2], [1], ["validation set has no clip of 2 of its 3 classes (low, noise)"]),
        ([0, 1, 2], [0, 1, 2], []),
    ],
)
def test_classes_without_a_clip_are_told_before_the_training(tmp_path, train, validation, expected):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained_on_some(tmp_path, train, validation)
    found = [str(one.message) for one in told if one.category is MissingClassWarning]
    assert len(found) == len(expected)
    for text, message in zip(expected, found, strict=True):
        assert text in message


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Return what came of a training on folds that lack a class, with its warnings."""
    root = tmp_path_factory.mktemp("lacking")
    (root / "set").mkdir()
    rows = ["path,label,fold"]
    for fold, classes in (("train", "ab"), ("val", "abc"), ("test", "ac")):
        for number, name in enumerate(classes):
            time = np.arange(32000) / 32000
            path = root / "set" / f"{fold}_{name}.wav"
            soundfile.write(path, np.sin(2 * np.pi * (400 + 900 * number) * time), 32000)
            rows.append(f"{path.name},{name},{fold}")
    (root / "set" / "meta.csv").write_text("\n".join(rows) + "\n")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained = train_classifier(
            root / "set" / "meta.csv",
            root / "mine.safetensors",
            train_folds=["train"],
            validation_fold="val",
            test_fold="test",
            width=1 / 16,
            epochs=1,
            run_dir=root / "run",
            device="cpu",
            progress=False,
        )
    texts = [str(one.message) for one in told if one.category is MissingClassWarning]
    return trained, texts


def test_a_training_tells_and_its_card_lists_the_classes_it_lacks(lacking):
    trained, texts = lacking
    assert len(texts) == 2
    assert "test set has no clip of 1 of its 3 classes (b)" in texts[0]
    assert "training set has no clip of 1 of its 3 classes (c)" in texts[1]
    assert "- Classes without a training clip: c" in trained.card.read_text()
    said = load(trained.weights).network.card["trained_on"]
    assert said["untrained"] == ["c"]
    assert said["folds"] == {"training": ["train"], "validation": ["val"], "test": ["test"]}
    assert said["set"] == "TableDataset"


def test_explaining_a_class_that_was_never_trained_is_told(lacking):
    model, processor = load(lacking[0].weights)
    predict = Predict(model, processor, SaliencyInterpreter(model), masks=["bin"])
    sound = torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)).numpy()
    with pytest.warns(MissingClassWarning, match="c: the network was trained without a clip"):
        predict.predict(sound, 32000, target="c")
    predict.predict(sound, 32000, target="a")  # no fault


def test_a_set_may_lack_classes_of_the_model(save, experiment):
    (result,) = experiment(save({}), 5, clips=2).values()
    assert result.clips == 2


def test_an_accuracy_says_how_many_classes_it_is_of(save, tiny_esc50):
    model, processor = load(save({}))
    sets = {"clean": tiny(tiny_esc50, 5), "few": tiny(tiny_esc50, 5, clips=2)}
    assert measure_accuracy(model, processor, sets)["classes"].to_dict() == {"clean": 3, "few": 2}
    assert "classes" not in measure_accuracy(model, processor, {"clean": sets["clean"]})


def test_absent_classes_are_those_of_no_clip(tiny_esc50):
    assert tiny(tiny_esc50, 5).absent_classes == ()
    assert set(tiny(tiny_esc50, 5, clips=1).absent_classes) < set(CLASSES)
    chords = Chords(4)  # of no tone, the first, the second and both
    assert chords.absent_classes == ("high",)
