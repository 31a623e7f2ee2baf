"""Precisions that a device does not have are refused, or warned of."""

from __future__ import annotations

import warnings

import pytest
import torch
from networks import Network, stft, wrap
from single_precision import pretended
from tones import Tones

import audiointerp as ai
from audiointerp.fit import fit
from audiointerp.model import build_model
from audiointerp.speed.precision import PRECISIONS, check_precision
from audiointerp.training import checks


@pytest.fixture
def processor_flags(monkeypatch):
    def have(*names):
        module = "audiointerp.speed.precision._cpu_flags"
        monkeypatch.setattr(module, lambda: frozenset(names))

    return have


@pytest.mark.parametrize("flags", [["avx512f", "avx512_bf16"], ["asimd", "bf16"], []])
@pytest.mark.parametrize("precision", sorted(set(PRECISIONS) - {"tf32"}))
def test_a_precision_that_the_processor_has_or_may_have_is_silent(
    precision, flags, processor_flags
):
    processor_flags(*flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_precision(precision, torch.device("cpu"))


def test_a_precision_that_changes_nothing_or_takes_longer_is_warned_of(processor_flags):
    processor_flags("avx512f", "avx512_vnni")
    classifier = wrap(Network())
    saliency = ai.SaliencyInterpreter(classifier)
    with pytest.warns(UserWarning, match="'bfloat16' is imitated on cpu.* takes longer") as seen:
        ai.Predict(classifier, saliency, precision="bfloat16")
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="'tf32' changes nothing on cpu") as seen:
        ai.Predict(classifier, saliency, precision="tf32")
    assert seen[0].filename == __file__


@pytest.mark.parametrize(("major", "said"), [(7, True), (8, False)])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_precisions_of_nvidia_gpus_are_there_from_ampere_on(precision, major, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_precision(precision, torch.device("cuda", 0))
    assert len(seen) == said


def test_bfloat16_is_refused_on_a_mac_that_would_compute_in_float32(monkeypatch):
    mps = torch.device("mps", 0)
    with pretended():
        check_precision("bfloat16", mps)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: False)
    with pytest.raises(ValueError, match="'bfloat16' needs macOS 14 on mps"):
        check_precision("bfloat16", mps)


def test_training_in_float16_on_the_cpu_is_refused_before_anything_is_written(tmp_path):
    # Lightning trains in bfloat16 then, with a warning that `fit` hides among others.
    settings = {"name": "Cnn14", "num_classes": 2, "num_bins": 65, "width": 1 / 16}
    sets = Tones(2), Tones(2, 100)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="'16-mixed' is for GPUs"):
        fit(build_model(settings), stft(), *sets, out=out, precision="16-mixed", device="cpu")
    assert not out.exists()


def test_training_in_imitated_bfloat16_is_warned_of(processor_flags):
    processor_flags("avx2")
    with pytest.warns(UserWarning, match="'bf16-mixed' is imitated on cpu"):
        checks.check_precision("bf16-mixed", torch.device("cpu"))
