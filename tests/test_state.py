"""`load_checkpoint`: weights out of checkpoints, whatever they are wrapped in."""

from __future__ import annotations

import argparse
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from audiointerp.model import CheckpointError, load_checkpoint


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2))
        )


def state(seed=0, prefix=""):
    return {prefix + name: value for name, value in network(seed).state_dict().items()}


def is_loaded(target, seed=0):
    return all(torch.equal(value, target.state_dict()[name]) for name, value in state(seed).items())


def lightning(prefix="model.", **others):
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {**state(0, prefix), **others},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 1e-3},
    }


def trained():
    """The state of an optimiser that has seen the network."""
    made = network()
    optimiser = torch.optim.AdamW(made.parameters())
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return optimiser.state_dict()


WRAPPED = {
    "bare": (state(), "the top level"),
    "DataParallel": (nn.DataParallel(network()).state_dict(), "'module'"),
    "torch.compile": (state(0, "_orig_mod."), "the top level"),
    "compiled, then DataParallel": (state(0, "module._orig_mod."), "'module'"),
    "compiled layer": (
        {name.replace("3.0.", "3._orig_mod.0."): value for name, value in state().items()},
        "the top level",
    ),
    "AveragedModel": (AveragedModel(network()).state_dict(), "'module'"),
    "state_dict": ({"epoch": 3, "state_dict": state(), "optimizer": trained()}, "'state_dict'"),
    "model_state_dict": ({"model_state_dict": state(), "loss": 0.5}, "'model_state_dict'"),
    "model": ({"model": state(), "args": argparse.Namespace(lr=0.1)}, "'model'"),
    "net": ({"net": state(), "acc": np.float64(93.5)}, "'net'"),
    "net, DataParallel": ({"net": state(0, "module."), "acc": 93.5}, "'net.module'"),
    "Lightning": (lightning(), "'state_dict.model'"),
    "Lightning, net": (lightning("net."), "'state_dict.net'"),
    "Lightning, compiled": (lightning("network._orig_mod."), "'state_dict.network'"),
    "Lightning with a loss": (
        lightning(**{"loss.weight": torch.ones(3)}),
        "'state_dict.model', not used: state_dict.loss.weight",
    ),
    "average alone": ({"ema": state(), "decay": 0.999}, "'ema'"),
    "average in a module": ({"ema_state_dict": state(0, "module.")}, "'ema_state_dict.module'"),
    "nested": ({"checkpoint": {"model": {"state_dict": state(0, "module.")}}}, "module'"),
    "the same twice": (
        {"state_dict": state(0, "model.") | state(0, "alias.")},
        "'state_dict.model', not used: state_dict.alias.0.weight, state_dict.alias.0.bias, "
        "state_dict.alias.1.weight, …",
    ),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", WRAPPED)
def test_weights_are_found_in_every_wrapper(case, zipped, tmp_path):
    content, place = WRAPPED[case]
    path = tmp_path / "wrapped.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    target = network(9)
    assert load_checkpoint(target, path).endswith(place)
    assert is_loaded(target)


def test_safetensors_are_read_and_unwrapped_whatever_the_name(tmp_path):
    path = tmp_path / "weights.pth"
    save_file(state(0, "module."), path)
    target = network(9)
    assert load_checkpoint(target, path) == "'module'"
    assert is_loaded(target)


SEVERAL = {
    "model and average": ({"model": state(), "model_ema": state(1)}, "model", "model_ema"),
    "Lightning": (
        {"state_dict": state(0, "model.") | state(1, "ema_model.module.")},
        "state_dict.model",
        "state_dict.ema_model.module",
    ),
    "beside the top level": (state() | {"ema": state(1)}, "", "ema"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_several_that_fit_are_an_error_until_a_key_chooses(case, tmp_path):
    content, first, second = SEVERAL[case]
    path = tmp_path / "both.pth"
    torch.save(content, path)
    target = network(9)
    with pytest.raises(
        CheckpointError, match=rf"both\.pth holds .* more than once, as '{first}', '{second}'.*key="
    ):
        load_checkpoint(target, path)
    assert is_loaded(target, 9)
    for seed, key in enumerate((first, second)):
        assert key in load_checkpoint(target, path, key=key)
        assert is_loaded(target, seed)
    with pytest.raises(
        CheckpointError, match=f"under 'teacher': choose from '{first}', '{second}'"
    ):
        load_checkpoint(target, path, key="teacher")


def test_the_beginning_of_a_key_is_enough(tmp_path):
    torch.save({"model": state(0, "module."), "ema": state(1, "module.")}, tmp_path / "a.pth")
    target = network(9)
    assert load_checkpoint(target, tmp_path / "a.pth", key="ema").startswith("'ema.module'")
    assert is_loaded(target, 1)


def changed(**changes):
    own = state() | {name.replace("_", "."): value for name, value in changes.items()}
    return {"model": {name: value for name, value in own.items() if value is not None}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(**{"0_bias": None}), r"'model'\).*missing 1: 0\.bias"),
        (changed(extra=torch.zeros(2)), r"unexpected 1: extra"),
        (changed(**{"0_bias": torch.zeros(5)}), r"0\.bias is \(5,\) in the file, expected \(4,\)"),
        (changed(**{"0_bias": torch.tensor([0, 1, torch.nan, 0])}), r"0\.bias holds NaN"),
        (changed(**{"0_bias": torch.tensor([0, 1, -torch.inf, 0])}), r"0\.bias holds NaN or inf"),
        (changed(**{"0_bias": torch.full((4,), 1e300, dtype=torch.float64)}), "NaN or infinite"),
        (changed(**{"0_bias": torch.zeros(4, dtype=torch.int64)}), r"0\.bias holds torch\.int64"),
        (changed(**{"0_bias": torch.zeros(4, dtype=torch.complex64)}), r"holds torch\.complex64"),
        (changed(**{"0_bias": torch.zeros(4, device="meta")}), r"0\.bias holds"),
        (
            {"model": {"conv.weight": torch.zeros(2)}},
            r"none of the network's weights.*conv\.weight",
        ),
        ({"epoch": 3}, "holds no weights"),
        ([1, 2], "holds no weights"),
        ({"a": {"b.c": torch.zeros(1)}, "a.b": {"c": torch.ones(1)}}, r"two tensors .* a\.b\.c"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(content, message, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    target = network(9)
    with pytest.raises(CheckpointError, match=rf"other\.pth.*{message}"):
        load_checkpoint(target, path)
    assert is_loaded(target, 9)


def test_half_precision_is_taken_at_its_value(tmp_path):
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state().items()
    }
    torch.save(half, tmp_path / "half.pth")
    target = network(9)
    load_checkpoint(target, tmp_path / "half.pth")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, half["0.weight"].float())


def test_dictionaries_that_hold_each_other_end(tmp_path):
    content = {"model": state()}
    content["model"]["parent"] = content
    for place in range(50):
        content[f"again{place}"] = content
    torch.save(content, tmp_path / "loop.pth")
    target = network(9)
    load_checkpoint(target, tmp_path / "loop.pth")
    assert is_loaded(target)


def test_a_network_without_weights_and_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="a ReLU has no weights"):
        load_checkpoint(nn.ReLU(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no checkpoint file .*a\.pth"):
        load_checkpoint(network(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(network(), tmp_path)


def test_a_network_that_was_saved_whole_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn.*ask for its state_dict\(\)"):
        load_checkpoint(network(), tmp_path / "whole.pth")


def test_every_changed_bit_of_the_weights_is_noticed(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": state()}, path)
    content = path.read_bytes()
    weights = state()["0.weight"].numpy().tobytes()
    start = content.index(weights)
    for place in range(start, start + len(weights), 5):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"a\.pth is damaged: its record 'a/data/\d'"):
            load_checkpoint(network(), path)


def test_a_file_that_was_written_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": state()}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is not None
    target = network(9)
    load_checkpoint(target, tmp_path / "a.pth")
    assert is_loaded(target)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(38, b"\x10", "marked as a folder"), (20, bytes(4), "compressed"), (16, b"\1\2\3\4", "CRC")],
)
def test_records_that_torch_would_skip_without_an_error_are_refused(
    place, value, message, tmp_path
):
    """A directory, and 0 compressed bytes: torch leaves the tensor as the memory was."""
    path = tmp_path / "a.pth"
    torch.save({"model": state()}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"a/data/0") - 46  # in the table of contents at the end
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + place : entry + place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"a\.pth is damaged: its record 'a/data/0'.*{message}"
    ):
        load_checkpoint(network(), path)


def test_compressed_records_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(network(), path)
