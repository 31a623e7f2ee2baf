"""Training: what it learns, which epoch it keeps, resuming, seeds, refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from system import full_disk
from tones import Chords, Tones, front_end, small_model

from audiointerp.fit import TrainingError, best_epoch, fit
from audiointerp.runs.classification import accuracy, classify_set
from audiointerp.training.augment import SpecAugment
from audiointerp.training.holes import RandomHoles


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def processor():
    return front_end()


def run(out, processor, *, model=None, train=None, validation=None, **options):
    options = {"epochs": 4, "batch_size": 4, "device": "cpu", "progress": False} | options
    return fit(
        small_model() if model is None else model,
        processor,
        Tones(10) if train is None else train,
        Tones(6, 100) if validation is None else validation,
        out=out,
        **options,
    )


def same_weights(one, other) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_learns_a_separable_set(tmp_path, processor):
    training = run(
        tmp_path, processor, train=Tones(24), epochs=20, mixup_alpha=0.0, learning_rate=5e-3
    )
    assert training.history["train_loss"].iloc[-1] < 0.5 * training.history["train_loss"].iloc[0]
    assert training.best["val_accuracy"] == 1.0
    assert accuracy(training.model, processor, Tones(20, 200)) == 1.0
    assert training.model.classes == ("low", "high")
    assert training.model.duration == 1.2
    assert not training.model.training


def test_a_step_is_adamw_on_the_cross_entropy_of_the_clips(tmp_path, processor):
    clips = Tones(10)
    plain = {"mixup_alpha": 0.0, "time_shift": 0.0, "dropout_scale": 0.0, "weight_decay": 0.0}
    trained = run(tmp_path, processor, epochs=1, batch_size=10, train=clips, **plain).model
    model = small_model().train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    waveforms = torch.stack([clip.waveform for clip in clips])
    loss = torch.nn.functional.cross_entropy(
        model(processor(waveforms)), torch.tensor(clips.labels)
    )
    loss.backward()
    for (name, weight), new in zip(model.named_parameters(), trained.parameters(), strict=True):
        # AdamW's first step is the learning rate times the sign of the gradient. Where that is
        # next to nothing, the order of a sum decides its sign.
        clear = weight.grad.abs() > 1e-3 * weight.grad.abs().max()
        expected = weight - 2e-3 * weight.grad.sign()
        torch.testing.assert_close(new[clear], expected[clear], atol=1e-5, rtol=0, msg=name)
        assert clear.any(), name


def test_history_has_a_row_per_epoch_and_is_on_disk(tmp_path, processor):
    training = run(tmp_path, processor, epochs=3)
    assert list(training.history.columns) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
    ]
    assert training.history["epoch"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(training.history, pd.read_csv(tmp_path / "history.csv"))


def test_validation_numbers_are_those_of_the_clips_whatever_the_batches(tmp_path, processor):
    validation = Tones(6, 100)  # batches of 4 and 2: a mean of batch means would be off
    training = run(tmp_path, processor, validation=validation)
    clips = torch.stack([clip.waveform for clip in validation])
    with torch.no_grad():
        logits = training.model(processor(clips)).double()
    chances = torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)
    labels = torch.tensor(validation.labels)
    loss = -chances[torch.arange(6), labels].log().mean()
    assert training.best["val_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert training.best["val_accuracy"] == pytest.approx(
        float((chances.argmax(1) == labels).double().mean())
    )


@pytest.mark.filterwarnings("ignore:precision 'bf16-mixed' is imitated:UserWarning")
def test_half_precision_training_still_validates_in_full(tmp_path, processor):
    training = run(tmp_path, processor, precision="bf16-mixed")
    with torch.no_grad():
        clips = torch.stack([clip.waveform for clip in Tones(6, 100)])
        logits = training.model(processor(clips))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1] * 3))
    assert training.best["val_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert training.model.classifier.weight.dtype == torch.float32


def test_the_best_epoch_is_kept_although_the_last_is_worse(tmp_path, processor):
    # Swapped labels: the better the tones are learned, the worse the validation gets.
    validation = Tones(6, 100)
    validation.labels = [1 - label for label in validation.labels]
    # Faster, and some processors' rounding ends in a network that has learned nothing.
    options = {"train": Tones(24), "epochs": 16, "mixup_alpha": 0.0, "learning_rate": 3e-3}
    training = run(tmp_path, processor, validation=validation, **options)
    history = training.history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])
    assert training.best_epoch == history["epoch"].iloc[0]
    assert training.best_epoch < 16
    assert training.best["val_accuracy"] > training.history["val_accuracy"].iloc[-1]
    assert accuracy(training.model, processor, validation) == training.best["val_accuracy"]
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    weight = training.model.classifier.weight
    assert not torch.equal(weight, last["model.classifier.weight"])
    best = torch.load(training.checkpoint, weights_only=True)
    assert torch.equal(weight, best["state_dict"]["model.classifier.weight"])
    assert best["epoch"] == training.best_epoch - 1  # Lightning counts from 0
    assert training.kept_epoch == training.best_epoch
    assert training.kept.equals(training.best)
    # The finished training gives the last epoch too, and is not repeated.
    options |= {"validation": validation, "resume": True}
    ended = run(tmp_path, processor, keep="last", **options)
    assert (ended.best_epoch, ended.kept_epoch) == (training.best_epoch, 16)
    assert ended.checkpoint == tmp_path / "last.ckpt"
    assert torch.equal(ended.model.classifier.weight, last["model.classifier.weight"])
    assert accuracy(ended.model, processor, validation) == ended.kept["val_accuracy"]
    with pytest.raises(ValueError, match="keep='first': expected 'best' or 'last'"):
        run(tmp_path, processor, keep="first", **options)


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ([0.5, 0.9, 0.8], [1.0, 1.0, 0.1], 2),
        ([0.9, 0.9, 0.9], [0.5, 0.3, 0.4], 2),
        ([0.9, 0.9], [0.3, 0.3], 1),
    ],
)
def test_best_is_highest_accuracy_then_lowest_loss_then_earliest(accuracies, losses, best):
    rows = [
        {"epoch": place, "val_accuracy": one, "val_loss": other}
        for place, (one, other) in enumerate(zip(accuracies, losses, strict=True), start=1)
    ]
    assert best_epoch(rows) == best


@pytest.mark.parametrize("clips_taken", [25, 33])
def test_a_training_that_broke_down_resumes_to_the_same_weights(tmp_path, processor, clips_taken):
    holes = RandomHoles(0.5, level=processor.floor)
    augmented = {"spec_augment": SpecAugment(2, 6, 2, 4), "mixup_alpha": 0.5, "holes": holes}
    whole = run(tmp_path / "whole", processor, **augmented)
    broken = Tones(10)
    # In the middle of the third, then of the fourth epoch; all were read once before the first.
    broken.breaks_after = 10 + clips_taken
    with pytest.raises(OSError, match="disk is gone"):
        run(tmp_path / "cut", processor, train=broken, **augmented)
    assert len(pd.read_csv(tmp_path / "cut" / "history.csv")) == clips_taken // 10
    resumed = run(tmp_path / "cut", processor, model=small_model(seed=9), resume=True, **augmented)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert resumed.best_epoch == whole.best_epoch
    assert same_weights(whole.model, resumed.model)
    last = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut")
    ]
    for name, value in last[0]["state_dict"].items():
        assert torch.equal(value, last[1]["state_dict"][name]), name


def test_holes_change_the_training_and_its_settings(tmp_path, processor):
    plain = run(tmp_path / "plain", processor)
    holes = RandomHoles(1.0, level=processor.floor)
    holed = run(tmp_path / "holed", processor, holes=holes)
    assert not same_weights(plain.model, holed.model)
    with pytest.raises(ValueError, match="holes"):
        run(tmp_path / "plain", processor, holes=holes, resume=True)


def test_holes_are_cut_last_so_that_removed_cells_are_at_the_floor(tmp_path, processor):
    seen = []

    class Watching(RandomHoles):
        def forward(self, features, generator=None):
            holed = super().forward(features, generator)
            seen.append((holed == self.level).float().mean())
            return holed

    holes = Watching(1.0, keep=(0.5, 0.5), level=processor.floor)
    model = small_model()
    fed = []
    handle = model.base.register_forward_pre_hook(
        lambda module, inputs: (
            fed.append((inputs[0] == processor.floor).float().mean()) if module.training else None
        )
    )
    run(tmp_path / "run", processor, model=model, holes=holes, mixup_alpha=0.5, epochs=1)
    handle.remove()
    assert len(fed) == len(seen) > 0
    for arrived, cut in zip(fed, seen, strict=True):
        assert arrived == cut >= 0.3


def test_resuming_a_finished_training_only_reads_it(tmp_path, processor):
    first = run(tmp_path, processor)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run(tmp_path, processor, model=small_model(seed=5), resume=True)
    assert same_weights(first.model, again.model)
    assert stamps == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_an_earlier_training_is_not_overwritten_nor_mixed_with_other_settings(tmp_path, processor):
    run(tmp_path, processor, epochs=1)
    with pytest.raises(ValueError, match="holds a training already"):
        run(tmp_path, processor, epochs=1)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate 0.002 then, 0.1 now\)"):
        run(tmp_path, processor, epochs=1, resume=True, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"other settings \(clip_ids "):
        run(tmp_path, processor, epochs=1, resume=True, train=Tones(10, 50))
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"last\.ckpt is a zip archive that is damaged"):
        run(tmp_path, processor, epochs=1, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_an_earlier_training_of_other_clips_is_replaced_if_asked(tmp_path, processor, resume):
    other = Tones(10, 50)
    run(tmp_path / "used", processor, epochs=1)
    fresh = run(tmp_path / "fresh", processor, epochs=1, train=other)
    again = run(tmp_path / "used", processor, epochs=1, train=other, resume=resume, overwrite=True)
    assert same_weights(fresh.model, again.model)
    pd.testing.assert_frame_equal(fresh.history, again.history)


def test_overwriting_begins_anew_but_resuming_still_goes_on(tmp_path, processor):
    clips = Tones(10)
    first = run(tmp_path, processor, epochs=1, train=clips)
    assert clips.taken == 20  # once to check them, once to learn
    run(tmp_path, processor, epochs=1, train=clips, resume=True, overwrite=True)
    assert clips.taken == 20
    again = run(tmp_path, processor, epochs=1, train=clips, overwrite=True)
    assert clips.taken == 40
    assert same_weights(first.model, again.model)


def test_equal_seeds_give_equal_weights_and_leave_the_global_state_alone(tmp_path, processor):
    options = {"epochs": 2, "spec_augment": SpecAugment(2, 6, 2, 4)}
    torch.manual_seed(1)
    first = run(tmp_path / "a", processor, seed=3, **options)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = run(tmp_path / "b", processor, seed=3, **options)
    assert torch.equal(state, torch.get_rng_state())
    third = run(tmp_path / "c", processor, seed=4, **options)
    assert same_weights(first.model, second.model)
    assert not same_weights(first.model, third.model)


def test_stops_when_patience_is_over(tmp_path, processor):
    training = run(tmp_path, processor, epochs=40, patience=2, learning_rate=0.3)
    assert len(training.history) < 40
    assert len(training.history) - training.best_epoch == 2


def test_a_full_disk_is_told_by_the_checkpoints_name_and_leaves_the_last_one_whole(
    tmp_path, processor
):
    run(tmp_path, processor, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=r"(best|last)\.ckpt'$"), full_disk(100_000):
        run(tmp_path, processor, epochs=2, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_is_quiet(tmp_path, processor, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run(tmp_path, processor, epochs=1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_loss_that_explodes_is_an_error(tmp_path, processor):
    model = small_model()
    with torch.no_grad():
        model.classifier.bias[0] = torch.inf
    with pytest.raises(TrainingError, match="lower the learning rate"):
        run(tmp_path / "run", processor, model=model)
    assert model.base.conv_block2.conv1.weight.is_contiguous()
    assert model.base.conv_block2.dropout.p == 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": Tones(0)}, "training set is empty"),
        ({"validation": Tones(0)}, "validation set is empty"),
        ({"train": Tones(4, rate=16000)}, "16000 Hz.*expects 8000 Hz"),
        ({"validation": Tones(4, 9, rate=16000)}, "validation set is at 16000 Hz"),
        ({"train": Tones(4, classes=("a", "b", "c"))}, "3 classes, the model 2"),
        ({"validation": Tones(4, 9, classes=("high", "low"))}, "not the validation set's"),
        ({"validation": Tones(4, 2)}, "4 clips are in both sets, the first 'tone2'"),
        ({"model": small_model(bins=64)}, "32 frequency bins, the model expects 64"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"patience": 0}, "patience is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"time_shift": 5}, "time_shift is 5: expected 0 to 0.5"),
        ({"precision": "16"}, "unknown precision '16': choose from 32-true"),
        ({"device": "gpu"}, "unknown device 'gpu': choose auto, cpu"),
        ({"device": "cuda:99"}, "'cuda:99' is not there"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, processor, change, message
):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", processor, **change)
    assert not (tmp_path / "run").exists()


# ---- heads


def chords(first=0, clips=32):
    return Chords(clips, first)


LEARNING = {"epochs": 20, "mixup_alpha": 0.0, "learning_rate": 5e-3}


def test_a_sigmoid_head_learns_several_labels_per_clip(tmp_path, processor):
    training = run(
        tmp_path,
        processor,
        model=small_model(classes=3, head="sigmoid"),
        train=chords(),
        validation=chords(100, 16),
        dropout_scale=0.25,
        **LEARNING,
    )
    assert training.best["val_map"] > 0.95
    found = classify_set(training.model, processor, chords(200, 24))
    assert found.mean_average_precision > 0.95
    assert found.accuracy > 0.85
    assert training.model.classes == ("low", "middle", "high")


@pytest.mark.parametrize("head", ["sigmoid", "binary"])
def test_every_head_learns_a_set_of_single_labels(tmp_path, processor, head):
    options = {"train": Tones(24), **LEARNING}
    training = run(tmp_path, processor, model=small_model(head=head), **options)
    assert accuracy(training.model, processor, Tones(20, 200)) > 0.9
    assert ("val_map" in training.history) == (head == "sigmoid")


def smoothed_loss(head, outputs, labels, smoothing):
    """The mean binary cross-entropy by its formula, on (clips, 2) or a single output."""
    targets = torch.nn.functional.one_hot(labels, 2).double()
    if head == "binary":
        targets = targets[:, 1:]
    targets = targets * (1 - smoothing) + smoothing / 2
    p = torch.sigmoid(outputs.double())
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


@pytest.mark.parametrize("head", ["sigmoid", "binary"])
def test_a_step_of_another_head_is_adamw_on_the_binary_cross_entropy(tmp_path, processor, head):
    clips = Tones(10)
    plain = {"mixup_alpha": 0.0, "time_shift": 0.0, "dropout_scale": 0.0, "weight_decay": 0.0}
    trained = run(
        tmp_path,
        processor,
        model=small_model(head=head),
        epochs=1,
        batch_size=10,
        train=clips,
        label_smoothing=0.2,
        **plain,
    ).model
    model = small_model(head=head).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    waveforms = torch.stack([clip.waveform for clip in clips])
    smoothed_loss(head, model(processor(waveforms)), torch.tensor(clips.labels), 0.2).backward()
    for (name, weight), new in zip(model.named_parameters(), trained.parameters(), strict=True):
        clear = weight.grad.abs() > 1e-3 * weight.grad.abs().max()
        expected = weight - 2e-3 * weight.grad.sign()
        torch.testing.assert_close(new[clear], expected[clear], atol=1e-5, rtol=0, msg=name)


def test_validation_numbers_of_a_sigmoid_head_are_those_of_the_set(tmp_path, processor):
    validation = chords(100, 10)
    training = run(
        tmp_path,
        processor,
        model=small_model(classes=3, head="sigmoid"),
        train=chords(),
        validation=validation,
    )
    assert list(training.history.columns) == [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_map",
        "learning_rate",
    ]
    found = classify_set(training.model, processor, validation, batch_size=3)
    p, truth = found.probabilities.astype(float), found.truth
    loss = -np.where(truth, np.log(p), np.log(1 - p)).mean()
    assert training.best["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert training.best["val_accuracy"] == pytest.approx(found.accuracy)
    expected = average_precision_score(truth, p)
    assert training.best["val_map"] == pytest.approx(expected)
    highest = training.history.sort_values(["val_map", "val_loss"], ascending=[False, True])
    assert training.best_epoch == highest["epoch"].iloc[0]


def test_the_best_epoch_has_the_highest_map_whatever_the_accuracy():
    maps, accuracies = (0.5, 0.8, 0.8, 0.7), (0.9, 0.1, 0.2, 0.95)
    rows = [
        {"epoch": place, "val_map": one, "val_accuracy": other, "val_loss": 4.0 - place}
        for place, (one, other) in enumerate(zip(maps, accuracies, strict=True), start=1)
    ]
    assert best_epoch(rows) == 3


def test_a_sigmoid_training_that_broke_down_resumes_to_the_same_weights(tmp_path, processor):
    options = {"validation": chords(100, 6), "mixup_alpha": 0.5}

    def model(seed=0):
        return small_model(seed, classes=3, head="sigmoid")

    whole = run(tmp_path / "whole", processor, model=model(), train=chords(clips=10), **options)
    broken = chords(clips=10)
    broken.breaks_after = 35  # 10 of them before the first epoch
    with pytest.raises(OSError, match="disk is gone"):
        run(tmp_path / "cut", processor, model=model(), train=broken, **options)
    resumed = run(
        tmp_path / "cut", processor, model=model(9), train=chords(clips=10), resume=True, **options
    )
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert same_weights(whole.model, resumed.model)


def test_a_training_does_not_go_on_with_another_head(tmp_path, processor):
    run(tmp_path, processor, epochs=1)
    with pytest.raises(ValueError, match=r"other settings \(head None then, \{'name': 'sigmoid'"):
        run(tmp_path, processor, epochs=1, resume=True, model=small_model(head="sigmoid"))


def test_a_training_from_before_there_were_heads_goes_on(tmp_path, processor):
    first = run(tmp_path, processor, epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del checkpoint["training"]["settings"]["head"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = run(tmp_path, processor, epochs=1, resume=True, model=small_model(seed=5))
    assert same_weights(first.model, again.model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer_states": None}, r"cannot go on from .*last\.ckpt"),
        ({"state_dict": {"model.other": torch.zeros(2)}}, r"cannot go on from .*last\.ckpt"),
        ({"loops": None}, r"last\.ckpt: not as audiointerp\.fit wrote it, its progress"),
        ({"training": {"settings": {}, "history": []}}, r"last\.ckpt: .*its history"),
        ({"training": None}, r"last\.ckpt: not a checkpoint that audiointerp\.fit wrote"),
    ],
)
def test_a_training_does_not_go_on_from_a_checkpoint_that_was_changed(
    tmp_path, processor, change, message
):
    run(tmp_path, processor, epochs=1)
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["training"]["settings"]["epochs"] = 2  # so that it is not finished
    changed = checkpoint | change
    torch.save({name: value for name, value in changed.items() if value is not None}, path)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, processor, epochs=2, resume=True)


def test_a_training_does_not_go_on_from_the_progress_of_another(tmp_path, processor):
    run(tmp_path, processor, epochs=2)
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["training"]["settings"]["epochs"] = 3
    del checkpoint["training"]["history"][1]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"last\.ckpt: its progress is 2 epochs, its history 1"):
        run(tmp_path, processor, epochs=3, resume=True)


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
def test_a_damaged_checkpoint_of_a_training_is_named(tmp_path, processor, name):
    training = run(tmp_path, processor, epochs=1)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    weights = training.model.classifier.weight.detach().numpy().tobytes()
    content[content.index(weights)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged: its record"):
        run(tmp_path, processor, epochs=1, resume=True)


def test_the_best_epoch_is_not_read_from_another_training(tmp_path, processor):
    run(tmp_path / "one", processor, epochs=1)
    run(tmp_path / "two", processor, epochs=2)
    (tmp_path / "one" / "best.ckpt").write_bytes((tmp_path / "two" / "last.ckpt").read_bytes())
    with pytest.raises(ValueError, match=r"best\.ckpt is of epoch 2, but .* epoch 1 is expected"):
        run(tmp_path / "one", processor, epochs=1, resume=True)


class Silent(Chords):
    """Chords of which none is labelled."""

    def __init__(self, clips, first=0):
        super().__init__(clips, first)
        self.label_sets = [()] * clips

    def _decode(self, index):
        return torch.from_numpy(
            np.random.default_rng(index).standard_normal((1, self.num_samples)).astype(np.float32)
        )


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("silent", ["train", "validation"])
def test_labels_that_a_head_cannot_learn_are_refused(tmp_path, processor, head, silent):
    sets = {"train": Chords(8), "validation": Chords(8, 100)}
    message = r"'tone0' of the training set has 0 labels.*head='sigmoid'"
    if head == "sigmoid":
        sets[silent] = Silent(4, 50)
        name = {"train": "training"}.get(silent, silent)
        message = f"no clip of the {name} set has a label"
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", processor, model=small_model(classes=3, head=head), **sets)
    assert not (tmp_path / "run").exists()
