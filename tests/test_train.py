"""From clips to a weight file with a card."""

from __future__ import annotations

import inspect
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tones import Chords

from audiointerp.cli import main
from audiointerp.dataset import AudioError, save_audio
from audiointerp.dataset.esc50 import ESC50Dataset
from audiointerp.model.heads import Softmax
from audiointerp.model.provenance import MissingClassWarning
from audiointerp.model.weights import load
from audiointerp.processing import FRONT_ENDS
from audiointerp.runs.classification import SetPredictions, accuracy, classify_set
from audiointerp.training import recipe
from audiointerp.training.epochs import TrainingError
from audiointerp.training.loop import fit
from audiointerp.training.recipe import (
    _OPTIONS,
    Start,
    Trained,
    choose_start,
    command_line,
    panns_stripes,
    train_classifier,
)

SMALL = {"width": 1 / 16, "epochs": 1, "batch_size": 8, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten seconds of tones laid out like ESC-50: two classes, five folds, one clip of each."""
    root = tmp_path_factory.mktemp("tones")
    (root / "meta").mkdir()
    (root / "audio").mkdir()
    rows = []
    for fold in range(1, 6):
        for target, category in ((3, "cow"), (7, "rooster")):
            name = f"{fold}-{category}-A-{target}.wav"
            time = np.arange(22050 * 5) / 22050
            tone = np.sin(2 * np.pi * (300 + 40 * fold + 2000 * (target == 7)) * time)
            save_audio(root / "audio" / name, tone.astype(np.float32), 22050, subtype="PCM_16")
            rows.append({"filename": name, "fold": fold, "target": target, "category": category})
    pd.DataFrame(rows).assign(esc10=True).to_csv(root / "meta" / "esc50.csv", index=False)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "tones.safetensors"
    return train_classifier(
        folder, out, subset="esc10", run_dir=out.parent / "run", dropout_scale=0.5, **SMALL
    )


def test_the_weight_file_gives_the_accuracies_it_claims(trained, folder):
    model, processor = load(trained.weights)
    for fold, claimed in ((4, trained.validation_accuracy), (5, trained.test_accuracy)):
        measured = accuracy(model, processor, ESC50Dataset(folder, folds=fold))
        assert measured == claimed
    assert model.card["validation_accuracy"] == trained.validation_accuracy
    assert model.card["test_accuracy"] == trained.test_accuracy
    assert model.classes == ("cow", "rooster")
    assert model.duration == 5.0
    assert trained.labels["clip"].tolist() == ["5-cow-A-3", "5-rooster-A-7"]


def test_dropout_rates_are_the_networks_own_again_after_training(trained):
    rates = {
        layer.p
        for layer in trained.training.model.modules()
        if hasattr(layer, "inplace") and isinstance(layer, torch.nn.Dropout)
    }
    assert rates == {0.2, 0.5}


def test_the_card_names_data_licence_accuracy_and_command(trained, folder):
    card = trained.card.read_text()
    assert trained.card.name == "tones.md"
    for words in ("ESC-10", "CC BY 3.0", "cow, rooster", "LogMelSTFTSpectrogram", "width 0.0625"):
        assert words in card
    assert f"{trained.test_accuracy:.2%} on the test fold (2 clips)" in card
    assert (
        "audiointerp train --data ESC50_ROOT --out weights/tones.safetensors "
        "--front-end LogMelSTFTSpectrogram --width 0.0625 --subset esc10 --epochs 1 "
        "--batch-size 8 --dropout-scale 0.5 --seed 0" in card
    )
    assert str(folder) not in card


def test_the_command_gives_every_setting_that_is_not_the_default():
    text = command_line(
        "synthetic",
        "anywhere/x.safetensors",
        {
            "train_folds": [1, 2],
            "validation_fold": 4,
            "spec_augment": False,
            "learning_rate": 1e-4,
            "seed": 7,
        },
    )
    assert text == (
        "audiointerp train --data synthetic --out weights/x.safetensors "
        "--front-end LogMelSTFTSpectrogram --train-folds 1 --train-folds 2 "
        "--learning-rate 0.0001 --no-spec-augment --seed 7"
    )


def test_the_command_leaves_out_default_folds_however_they_are_given():
    assert "fold" not in command_line("synthetic", "x.safetensors", {"train_folds": [1, 2, 3]})


def test_the_command_knows_the_true_defaults():
    parameters = inspect.signature(train_classifier).parameters
    assert {name: parameters[name].default for name in _OPTIONS} == _OPTIONS
    left_out = {
        "data",
        "out",
        "device",
        "run_dir",
        "cache_dir",
        "resume",
        "overwrite",
        "num_workers",
        "progress",
    }
    assert set(parameters) - set(_OPTIONS) == left_out


def test_some_clips_are_taken_of_every_set(folder, tmp_path):
    out = tmp_path / "few.safetensors"
    options = SMALL | {"clips": 1, "test_fold": 1, "train_folds": (2, 5)}
    with pytest.warns(MissingClassWarning):
        trained = train_classifier(folder, out, run_dir=tmp_path / "run", **options)
    assert trained.labels["clip"].tolist() == ["1-cow-A-3"]
    checkpoint = torch.load(trained.training.checkpoint, weights_only=True)
    assert checkpoint["training"]["settings"]["clips"] == [1, 1]
    assert "--test-fold 1 --clips 1" in trained.card.read_text()


@pytest.mark.parametrize(
    ("right", "clips", "low", "high"),
    # By hand from Wilson's formula, z = 1.959964.
    [(79, 80, 0.93254, 0.99779), (5, 10, 0.23659, 0.76341), (0, 4, 0.0, 0.48989)],
)
def test_the_interval_of_the_accuracy_is_wilsons(trained, right, clips, low, high):
    chances = np.tile([0.75, 0.25], (clips, 1))
    truth = np.arange(2) == (np.arange(clips) >= right)[:, None]
    test = SetPredictions(
        Softmax(), ("cow", "rooster"), [str(n) for n in range(clips)], chances, truth
    )
    many = Trained(trained.weights, trained.card, trained.training, test)
    assert many.test_accuracy == right / clips
    assert many.test_interval == pytest.approx((low, high), abs=1e-5)


@pytest.fixture
def of_chords(monkeypatch):
    """Open a set of several labels per clip, whatever is asked for."""

    def open_chords(data, *, folds, sample_rate, **options):
        return Chords(16, 16 * folds[0], rate=sample_rate)

    monkeypatch.setattr(recipe, "open_dataset", open_chords)


def test_a_set_of_several_labels_per_clip_makes_a_sigmoid_weight_file(of_chords, tmp_path):
    out = tmp_path / "chords.safetensors"
    trained = train_classifier(
        "chords.csv", out, head="sigmoid", train_folds=[1], run_dir=tmp_path / "run", **SMALL
    )
    model, processor = load(out)
    assert model.head.settings() == {"name": "sigmoid", "threshold": 0.5}
    found = classify_set(model, processor, Chords(16, 16 * 5, rate=32000))
    assert (
        round(trained.test_map, 4)
        == model.card["test_map"]
        == round(found.mean_average_precision, 4)
    )
    assert trained.test_accuracy == found.accuracy
    validated = classify_set(model, processor, Chords(16, 16 * 4, rate=32000))
    assert trained.validation_map == pytest.approx(validated.mean_average_precision)
    assert trained.validation_accuracy == pytest.approx(validated.accuracy)
    low, high = trained.test_interval
    assert low <= trained.test_accuracy <= high
    page = trained.card.read_text()
    for words in (
        "- Head: sigmoid, threshold 0.5",
        f"- Mean average precision: {trained.validation_map:.4f} on the validation fold",
        f"{trained.test_map:.4f} on the test fold (16 clips)",
        "| label | clips | decided | right | AP |",
        "a set of the user's, read as Chords",
        "--head sigmoid",
    ):
        assert words in page
    for label, row in found.label_counts().iterrows():
        start = f"| {label} | {row['clips']:.0f} | {row['decided']:.0f} | {row['right']:.0f} |"
        assert f"{start} {row['AP']:.3f} |" in page


def test_several_labels_per_clip_need_a_sigmoid_head(of_chords, tmp_path):
    with pytest.raises(ValueError, match="train a sigmoid head, head='sigmoid'"):
        train_classifier("x", tmp_path / "x.safetensors", run_dir=tmp_path / "run", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", ["sigmoid", "binary"])
def test_every_head_is_trained_on_a_set_of_single_labels(folder, tmp_path, head, monkeypatch):
    out = tmp_path / f"{head}.safetensors"
    options = ["--width", "0.0625", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    arguments = ["train", "--data", folder, "--head", head, "--out", out, *options]
    monkeypatch.chdir(tmp_path)  # checkpoints go to results/
    monkeypatch.setattr("sys.argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    model, processor = load(out)
    assert model.head.name == head
    assert model.num_classes == (1 if head == "binary" else 2)
    test = ESC50Dataset(folder, folds=5)
    assert round(accuracy(model, processor, test), 4) == model.card["test_accuracy"]
    score = {"binary": "- Accuracy:", "sigmoid": "- Mean average precision:"}[head]
    assert score in out.with_suffix(".md").read_text()


def test_a_binary_head_is_for_two_classes(of_chords, tmp_path):
    with pytest.raises(ValueError, match="head='binary' tells two classes apart, there are 3"):
        train_classifier(
            "x", tmp_path / "x.safetensors", head="binary", run_dir=tmp_path / "run", **SMALL
        )
    assert list(tmp_path.iterdir()) == []


class TestStart:
    def test_without_published_weights_it_is_from_scratch_and_slim(self, tmp_path):
        start = choose_start(folder=tmp_path)
        assert start == Start(None, 1 / 16, 2e-3, 0.25)
        assert str(start) == "trained from scratch at 1/16 of full width"
        assert choose_start(width=1 / 4, folder=tmp_path).width == 1 / 4
        assert choose_start(width=1.0, folder=tmp_path) == Start(None, 1.0, 2e-3, 1.0)

    def test_published_weights_are_taken_where_they_lie(self, tmp_path):
        published = tmp_path / "Cnn14_mAP=0.431.pth"
        published.touch()
        for width in (None, 1.0):
            start = choose_start(width=width, folder=tmp_path)
            assert start == Start(published, 1.0, 1e-4, 1.0)
        assert str(start) == "fine-tuned from the weights Cnn14_mAP=0.431.pth at full width"

    def test_a_slim_network_cannot_take_them(self, tmp_path):
        (tmp_path / "Cnn14_mAP=0.431.pth").touch()
        assert choose_start(width=1 / 8, folder=tmp_path) == Start(None, 1 / 8, 2e-3, 0.25)

    def test_what_is_named_is_taken(self, trained, tmp_path):
        assert choose_start("audioset", folder=tmp_path) == Start("audioset", 1.0, 1e-4, 1.0)
        assert "the weights AudioSet at full width" in str(choose_start("audioset"))
        other = tmp_path / "mine.pth"
        assert choose_start(other, folder=tmp_path) == Start(other, 1.0, 1e-4, 1.0)
        assert choose_start(trained.weights) == Start(trained.weights, 1 / 16, 1e-4, 0.25)

    def test_it_is_what_train_classifier_takes(self, trained):
        parameters = inspect.signature(train_classifier).parameters
        assert set(choose_start(trained.weights)._asdict()) <= set(parameters)


@pytest.mark.parametrize(
    ("front_end", "freq", "time"),
    [("LogMelSTFTSpectrogram", 8, 64), ("LogSTFTSpectrogram", 32, 40)],
)
def test_stripes_have_the_shares_that_panns_hide(front_end, freq, time):
    processor = FRONT_ENDS[front_end]()
    stripes = panns_stripes(processor, 5 * processor.sample_rate)
    assert (stripes.freq_width, stripes.time_width) == (freq, time)
    assert (stripes.freq_stripes, stripes.time_stripes) == (2, 2)


def test_starts_from_earlier_weights_of_another_front_end(trained, folder, tmp_path):
    options = SMALL | {"learning_rate": 1e-9, "weight_decay": 0.0}
    second = train_classifier(
        folder,
        tmp_path / "stft.safetensors",
        front_end="LogSTFTSpectrogram",
        pretrained=trained.weights,
        run_dir=tmp_path / "run",
        **options,
    )
    first, _ = load(trained.weights)
    weight = second.training.model.base.conv_block3.conv1.weight
    torch.testing.assert_close(weight, first.base.conv_block3.conv1.weight, atol=1e-6, rtol=0)
    assert second.training.model.num_bins == FRONT_ENDS["LogSTFTSpectrogram"]().num_bins
    weight = second.training.model.classifier.weight  # of the same classes
    torch.testing.assert_close(weight, first.classifier.weight, atol=1e-6, rtol=0)
    start = "tones.safetensors, with its classifier"
    assert load(second.weights).network.card["start"] == start
    assert f"- Started from: {start}" in second.card.read_text(encoding="utf-8")


def test_starts_from_a_checkpoint_whatever_it_is_wrapped_in_and_named(trained, tmp_path):
    model = recipe._build("Cnn14", "softmax", 1 / 16, 2, FRONT_ENDS["LogMelSTFTSpectrogram"](), 5)
    checkpoint = trained.training.checkpoint
    taken = recipe._initialise(model, checkpoint, None, ("low", "high"))
    assert taken.startswith("best.ckpt: 'state_dict.model.base', not used: state_dict.model.clas")
    assert torch.equal(model.base.fc1.weight, trained.training.model.base.fc1.weight)
    renamed = tmp_path / "weights.pth"
    renamed.write_bytes(trained.weights.read_bytes())
    assert recipe._initialise(model, renamed, None, ("other", "names")) == "weights.pth"
    first, _ = load(trained.weights)
    assert not torch.equal(model.classifier.weight, first.classifier.weight)
    assert recipe._initialise(model, renamed, None, first.classes).endswith("with its classifier")
    assert torch.equal(model.classifier.weight, first.classifier.weight)
    assert torch.equal(model.classifier.bias, first.classifier.bias)
    assert choose_start(renamed).width == 1 / 16
    for path in (renamed, None):
        with pytest.raises(ValueError, match="pretrained_key is 'ema'"):
            recipe._initialise(model, path, "ema", ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "x.pt"}, "weight files end in .safetensors"),
        ({"validation_fold": 3}, "overlap"),
        ({"train_folds": (1, 6)}, "unknown fold 6"),
        ({"front_end": "LogMel"}, "unknown front end 'LogMel'"),
        ({"model": "Cnn15"}, "unknown model 'Cnn15'.*Did you mean"),
        ({"width": -1.0}, "width"),
        ({"epochs": 0}, "epochs is 0"),
        ({"head": "softmin"}, "unknown head 'softmin'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_write_nothing(folder, tmp_path, change, message):
    arguments = {"data": folder, "out": "x.safetensors"} | SMALL | change
    arguments["out"] = tmp_path / arguments["out"]
    with pytest.raises(ValueError, match=message):
        train_classifier(**arguments, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken(folder, tmp_path):
    """Return a copy of the set with a broken clip in each of some folds: ``broken(1, 5)``."""

    def make(*folds):
        root = tmp_path / "broken"
        shutil.copytree(folder, root)
        for fold in folds:
            (root / "audio" / f"{fold}-cow-A-3.wav").write_bytes(b"no sound")
        return root

    return make


def test_broken_clips_of_all_folds_are_named_before_the_first_epoch(broken, tmp_path):
    out = tmp_path / "x.safetensors"
    with pytest.raises(AudioError, match="3 of 10 clips cannot be read") as raised:
        train_classifier(broken(2, 4, 5), out, run_dir=tmp_path / "run", **SMALL)
    for clip in ("2-cow-A-3 (training)", "4-cow-A-3 (validation)", "5-cow-A-3 (test)"):
        assert f"\n  {clip}: " in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_weights_are_there_whatever_happens_at_the_test(broken, tmp_path, monkeypatch):
    out, root = tmp_path / "x.safetensors", broken()
    request = SMALL | {"run_dir": tmp_path / "run"}
    lost = root / "audio" / "5-cow-A-3.wav"
    kept = lost.read_bytes()

    def fit_and_lose(*arguments, **options):
        training = fit(*arguments, **options)
        options["test"]._memory.clear()
        lost.unlink()
        return training

    monkeypatch.setattr(recipe, "fit", fit_and_lose)
    with pytest.raises(TrainingError, match=r"the weights are written.*5-cow-A-3.*resume") as error:
        train_classifier(root, out, **request)
    assert str(out) in str(error.value)
    model, _ = load(out)
    assert "validation_accuracy" in model.card
    assert "test_accuracy" not in model.card
    assert "not tested yet" in out.with_suffix(".md").read_text()
    lost.write_bytes(kept)
    monkeypatch.setattr(recipe, "fit", fit)
    before = (tmp_path / "run" / "last.ckpt").read_bytes()
    again = train_classifier(root, out, resume=True, **request)
    assert (tmp_path / "run" / "last.ckpt").read_bytes() == before
    tested, _ = load(out)
    assert tested.card["test_accuracy"] == again.test_accuracy
    for name, value in model.state_dict().items():
        assert torch.equal(value, tested.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": "file/x.safetensors"}, "cannot write the file .*x.safetensors: .*file is a file"),
        ({"out": "folder.safetensors"}, "folder.safetensors: it is a folder"),
        ({"out": "card.safetensors"}, "card.md: it is a folder"),
        ({"run_dir": "file/run"}, "cannot write into the folder .*run: .*file is a file"),
    ],
)
def test_what_cannot_be_written_is_found_before_a_clip_is_read(
    folder, tmp_path, monkeypatch, change, message
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "card.md").mkdir()
    monkeypatch.setattr(ESC50Dataset, "_decode", lambda *_: pytest.fail("too late"))
    paths = {"out": "x.safetensors", "run_dir": "run"} | change
    with pytest.raises(OSError, match=message):
        train_classifier(folder, **{name: tmp_path / paths[name] for name in paths}, **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"precision": "16"}, "unknown precision '16'"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
    ],
)
def test_numbers_are_checked_before_anything_is_fetched(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(recipe, "download_panns", lambda *_: pytest.fail("too late"))
    request = SMALL | {"width": None, "pretrained": "audioset"} | change
    with pytest.raises(ValueError, match=message):
        train_classifier("synthetic", tmp_path / "x.safetensors", **request)


def test_weights_of_another_architecture_are_refused(trained, folder, tmp_path):
    with pytest.raises(ValueError, match=r"width.*0\.0625.*this one.*0\.125"):
        train_classifier(
            folder,
            tmp_path / "x.safetensors",
            run_dir=tmp_path / "run",
            pretrained=trained.weights,
            **SMALL | {"width": 1 / 8},
        )
