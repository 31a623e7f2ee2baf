"""Damaged weight files and checkpoints: the original tensors, or an error that names the file."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from mutants import mutants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from audiointerp.model import CheckpointError, TransferCnn14, load_checkpoint
from audiointerp.model.weights import WeightsError, load, save_weights
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.training.checkpoints import load_epoch

MEMORY = 2**29
CARD = {"data": "made up", "licence": "CC0", "accuracy": 95.5}


class Small(nn.Module):
    """A few weights, so that the headers are a large part of a file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 3)


@pytest.fixture(scope="module")
def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small()


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory) -> Path:
    """The smallest network that a weight file can hold, without its checksum: as of old."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TransferCnn14(3, 64, width=1 / 64)
    path = tmp_path_factory.mktemp("weights") / "new.safetensors"
    classes = ("dog", "rain", "sea")
    save_weights(path, model, LogMelSTFTSpectrogram(), classes=classes, duration=5.0, card=CARD)
    save_file(load_file(path), path.with_name("old.safetensors"), text_of(path))
    return path


def text_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return {name: value for name, value in file.metadata().items() if name != "crc32"}


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refused(read, path, kind) -> bool:
    """Say whether a file is refused, by an error of this kind that names it."""
    try:
        read(path)
    except kind as error:
        message = str(error)
    else:
        return False
    assert path.name in message
    return True


def count_outcomes(path, copies, read, original, kind) -> Counter[str]:
    """Read damaged copies; each is refused, or is the original where that is known."""
    counts: Counter[str] = Counter()
    for content in copies:
        path.write_bytes(content)
        is_refused = refused(read, path, kind)
        counts["refused" if is_refused else "read"] += 1
        assert is_refused or original is None or equal(read(path), original)
    return counts


def test_a_damaged_weight_file_is_refused_or_whole(weight_file, tmp_path, limited_memory):
    original = load(weight_file).network.state_dict()
    path = tmp_path / "damaged.safetensors"
    copies = mutants(weight_file.read_bytes(), count=150)
    with limited_memory(MEMORY):
        counts = count_outcomes(
            path, copies, lambda path: load(path).network.state_dict(), original, WeightsError
        )
    assert counts["refused"] > 100


def test_a_damaged_weight_file_without_a_checksum_raises_no_other_error(
    weight_file, tmp_path, limited_memory
):
    path = tmp_path / "damaged.safetensors"
    copies = mutants(weight_file.with_name("old.safetensors").read_bytes(), count=100)
    with limited_memory(MEMORY):
        counts = count_outcomes(path, copies, load, None, WeightsError)
    assert counts["refused"] > 50


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_checkpoint_is_refused_or_whole(small, zipped, tmp_path, limited_memory):
    path = tmp_path / "damaged.pth"
    content = {"iteration": 1, "model": small.state_dict(), "sampler": {"queue": [1, 2]}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    # Files of before torch 1.6 have no checksum to tell changed tensors by.
    original = small.state_dict() if zipped else None
    with limited_memory(MEMORY):
        counts = count_outcomes(
            path, mutants(path.read_bytes(), count=400), loaded, original, CheckpointError
        )
    assert counts["refused"] > 200
    assert counts["read"] > 5


def loaded(path: Path) -> dict[str, torch.Tensor]:
    network = Small()
    load_checkpoint(network, path)
    return network.state_dict()


def training(model: nn.Module) -> dict[str, object]:
    """What Lightning and `fit` keep of a training of two epochs."""
    columns = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
    history = [{"epoch": epoch, **dict.fromkeys(columns, 0.5)} for epoch in (1, 2)]
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 2}}}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "training": {"settings": {"epochs": 2, "seed": 0}, "history": history},
    }


def best_weights(path: Path) -> dict[str, torch.Tensor]:
    network = Small()
    load_epoch(network, path, 2)
    return network.state_dict()


def test_a_damaged_training_checkpoint_is_refused_or_whole(small, tmp_path, limited_memory):
    path = tmp_path / "best.ckpt"
    torch.save(training(small), path)
    with limited_memory(MEMORY):
        counts = count_outcomes(
            path,
            mutants(path.read_bytes(), count=300),
            best_weights,
            small.state_dict(),
            ValueError,
        )
    assert counts["refused"] > 150
    assert counts["read"] > 5


# ---- structure: every value replaced by others, in files that are whole

DEEP: list[object] = []
for _ in range(300):
    DEEP = [DEEP]
HOSTILE = (None, True, -1, 7, 10**9, 10**30, 1e308, float("nan"), "x", [], {"name": ["x"]}, DEEP)


def places(value, here=()):
    """Yield the place of every value in nested dictionaries and lists, from the outside in."""
    yield here
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[name], (*here, name))


def replaced(value, place, new):
    if not place:
        return new
    changed = copy.copy(value)
    changed[place[0]] = replaced(value[place[0]], place[1:], new)
    return changed


def test_hostile_settings_in_a_weight_file(weight_file, tmp_path, limited_memory):
    text, tensors = text_of(weight_file), load_file(weight_file)
    path = tmp_path / "hostile.safetensors"
    head = {"name": "sigmoid", "threshold": 0.5}
    text |= {"format": "audiointerp-2", "head": json.dumps(head), "normalize": "true"}
    found = []
    with limited_memory(MEMORY):
        for field in ("model", "processor", "classes", "duration", "card", "head", "normalize"):
            value = json.loads(text[field])
            for place in places(value):
                for new in HOSTILE:
                    save_file(
                        tensors, path, text | {field: json.dumps(replaced(value, place, new))}
                    )
                    if refused(load, path, WeightsError):
                        found.append((field, *place))
    needed = {("model", "width"), ("model", "num_classes"), ("model",), ("processor", "n_fft")}
    needed |= {("duration",), ("card",), ("classes", 1), ("head", "threshold"), ("normalize",)}
    assert needed <= set(found)


@pytest.mark.parametrize("change", [{"width": 7}, {"num_classes": 10**9}, {"num_bins": 10**9}])
def test_a_size_that_the_tensors_do_not_have_is_refused_before_the_network_is_made(
    weight_file, change, tmp_path, limited_memory
):
    path = tmp_path / "hostile.safetensors"
    text = text_of(weight_file)
    model = json.dumps(json.loads(text["model"]) | change)
    save_file(load_file(weight_file), path, text | {"model": model})
    message = "of its tensors .* in the file, expected"
    with limited_memory(MEMORY), pytest.raises(WeightsError, match=message):
        load(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "", '{"a": 1, "a"', "\u2028"])
@pytest.mark.parametrize("field", ["model", "card", "duration"])
def test_text_that_is_no_json(weight_file, field, text, tmp_path):
    path = tmp_path / "hostile.safetensors"
    save_file(load_file(weight_file), path, text_of(weight_file) | {field: text})
    with pytest.raises(WeightsError, match="hostile"):
        load(path)


def test_hostile_values_in_a_training_checkpoint(small, tmp_path, limited_memory):
    whole = training(small)
    path = tmp_path / "best.ckpt"
    found = []
    with limited_memory(MEMORY):
        for place in places(whole):
            for new in (None, -1, float("nan"), "x", [], {}, torch.full((4, 1, 3), torch.nan)):
                torch.save(replaced(whole, place, new), path)
                if refused(best_weights, path, ValueError):
                    found.append(place)
    needed = {("state_dict",), ("training",), ("training", "history"), ("training", "settings")}
    needed |= {("training", "history", 0), ("training", "history", 1, "val_loss"), ("loops",)}
    needed |= {("training", "settings", "seed")}
    assert needed | {("state_dict", "model.conv.weight")} <= set(found)
