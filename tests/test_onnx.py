"""ONNX models: what they say is what the network says that was exported, methods that fit them."""

from __future__ import annotations

import builtins
import copy
import textwrap
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import METHODS
from audiointerp.model.onnx import OnnxNetwork
from audiointerp.model.weights import model_hash
from audiointerp.runs.check import check_classifier, works
from audiointerp.runs.methods import check_methods
from audiointerp.runs.recipe import Recipe
from audiointerp.training.interpreter import fit_interpreter
from audiointerp.training.objectives import OBJECTIVES

pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
pytest.importorskip("onnx", reason="needs the package onnx, to export")

CLASSES = ["cat", "dog", "owl"]
SECONDS = 1.0
FRONT_END = ai.LogMelSTFTSpectrogram()
RATE = FRONT_END.sample_rate
OPEN = [name for name, method in METHODS.items() if method.facts.opens_network]
CLOSED = [name for name in METHODS if name not in OPEN]


class Net(nn.Module):
    """A small network on cells whose answer depends on where they are loud."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=(4, 8))
        self.last = nn.Linear(4, 3)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        x = (cells / 20 + 2.5).relu()
        x = self.conv(x).relu()
        return self.last(x.amax((2, 3)))


class OnWaveform(nn.Module):
    """Another on the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 64, stride=32)
        self.last = nn.Linear(4, 3)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return 30 * self.last(self.conv(samples[:, None]).abs().mean(2))


def export(
    network: nn.Module,
    shape: tuple[int, ...],
    path,
    *,
    dynamic: bool = True,
    inputs: int = 1,
    outputs: tuple[str, ...] = ("logits",),
    dtype: torch.dtype = torch.float32,
) -> str:
    named = ["given", "more"][:inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the new exporter needs onnxscript
        torch.onnx.export(
            network.eval(),
            (torch.randn(shape, dtype=dtype),) * inputs,
            str(path),
            dynamo=False,
            input_names=named,
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*named, *outputs)} if dynamic else None,
        )
    return str(path)


@pytest.fixture(scope="module")
def network() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("onnx")
    return export(network, (1, 1, 64, 101), folder / "net.onnx")


@pytest.fixture(scope="module")
def by_torch(network) -> ai.Classifier:
    return ai.classifier(network, front_end=FRONT_END, classes=CLASSES, duration=SECONDS)


@pytest.fixture(scope="module")
def by_onnx(file) -> ai.Classifier:
    return ai.from_onnx(file, front_end=FRONT_END, classes=CLASSES, duration=SECONDS)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    noise = torch.randn(3, 1, RATE, generator=torch.Generator().manual_seed(1))
    return 0.1 * noise * torch.linspace(0, 1, RATE) ** torch.tensor([0, 2, 8])[:, None, None]


@pytest.fixture(scope="module")
def view(clips) -> ai.View:
    return FRONT_END.analyse(clips)


def test_probabilities_are_those_of_the_network_that_was_exported(by_torch, by_onnx, view):
    with torch.no_grad():
        expected = by_torch.probabilities(by_torch.logits(view.cells, view))
    found = by_onnx.probabilities(by_onnx.logits(view.cells, view))
    assert expected.std(0).max() > 1e-3  # the clips differ
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lime", {"num_samples": 40}),
        ("rise", {"num_samples": 40}),
        ("occlusion", {}),
    ],
)
def test_perturbation_maps_are_those_of_the_network_that_was_exported(
    by_torch, by_onnx, view, method, options
):
    expected, found = (
        METHODS[method](each, **options).attribute(view[:2], 1) for each in (by_torch, by_onnx)
    )
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_waveform_network_takes_the_sound_of_the_cells(tmp_path):
    torch.manual_seed(0)
    network = OnWaveform().eval()
    samples = 4000
    path = export(network, (1, samples), tmp_path / "wave.onnx")
    options = {
        "front_end": ai.WaveformFrontEnd(sample_rate=8000, n_fft=256, hop_length=64),
        "classes": CLASSES,
        "duration": samples / 8000,
    }
    by_torch = ai.classifier(network, **options)
    by_onnx = ai.from_onnx(path, **options)
    noise = 0.3 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(2))
    view = by_torch.front_end.analyse(noise)
    cells = view.cells.clone()
    cells[:, :, 40:] = -100  # masked
    with torch.no_grad():
        for each in (view.cells, cells):
            expected = by_torch.logits(each, view)
            torch.testing.assert_close(by_onnx.logits(each, view), expected, atol=1e-4, rtol=0)
    maps = [ai.METHODS["occlusion"](c).attribute(view, 0) for c in (by_torch, by_onnx)]
    torch.testing.assert_close(maps[1], maps[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_a_model_for_a_fixed_number_of_clips_is_run_as_often_as_needed(
    network, by_torch, clips, tmp_path, size
):
    path = export(network, (size, 1, 64, 101), tmp_path / "fixed.onnx", dynamic=False)
    fixed = ai.from_onnx(path, front_end=FRONT_END, classes=CLASSES, duration=SECONDS)
    view = FRONT_END.analyse(clips)  # three
    with torch.no_grad():
        expected = by_torch.logits(view.cells, view)
    torch.testing.assert_close(fixed.logits(view.cells, view), expected, atol=1e-4, rtol=0)


def test_axes_and_outputs_can_be_declared(network, by_torch, view, tmp_path):
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, cells):  # (batch, frames, bins)
            logits = self.network(cells.transpose(1, 2)[:, None])
            return logits, logits.sigmoid()

    path = export(Turned(), (1, 101, 64), tmp_path / "turned.onnx", outputs=("scores", "chances"))
    options = {"front_end": FRONT_END, "classes": CLASSES, "duration": SECONDS}
    with pytest.raises(ValueError, match=r"turned\.onnx takes given .*, 101, 64.*prepare=…"):
        ai.from_onnx(path, **options)

    def turn(cells: torch.Tensor) -> torch.Tensor:
        return cells.squeeze(1).mT

    with pytest.raises(ValueError, match=r"'scores': .* of which 2 can be scores.*output=…"):
        ai.from_onnx(path, prepare=turn, **options)
    turned = ai.from_onnx(path, prepare=turn, output="scores", **options)
    with torch.no_grad():
        expected = by_torch.logits(view.cells, view)
    torch.testing.assert_close(turned.logits(view.cells, view), expected, atol=1e-4, rtol=0)
    assert turned.settings()["prepare"].endswith("turn")


@pytest.mark.parametrize("name", OPEN)
def test_a_method_that_opens_the_network_refuses_in_one_line(by_onnx, view, name):
    given = {"background": view} if "background" in METHODS[name].requires else {}
    with pytest.raises(
        ValueError, match=rf"^{name} takes gradients or layers.*OnnxNetwork has"
    ) as error:
        METHODS[name](by_onnx, **given)
    message = str(error.value)
    assert "\n" not in message
    assert {"lime", "rise", "occlusion"} <= set(message.partition("choose from ")[2].split(", "))


def test_methods_that_work_are_named_by_the_registry(by_onnx, view):
    """All named ones work, and no other does: what a method takes is its own business."""
    with pytest.raises(ValueError, match="choose from") as error:
        ai.SaliencyInterpreter(by_onnx)
    named = str(error.value).partition("choose from ")[2].split(", ")
    assert named == [name for name in CLOSED if not METHODS[name].reference]
    quick = {"num_samples": 10}
    for name in ("lime", "kernel_shap", "freqrise"):
        if name in named:
            options = quick if name != "kernel_shap" else {}
            maps = METHODS[name](by_onnx, **options).attribute(view[:1])
            assert maps.shape == view.cells[:1].shape


def test_all_methods_are_those_that_work(by_onnx):
    with pytest.warns(UserWarning, match=r"left out of all methods, saliency, gradcam.*choose"):
        jobs = Recipe("all").jobs(by_onnx)
    assert list(jobs) == CLOSED
    with pytest.raises(ValueError, match=r"^saliency takes gradients"):
        Recipe("saliency").jobs(by_onnx)


def test_a_clip_is_interpreted_to_its_sound(by_onnx, clips):
    method = ai.METHODS["occlusion"](by_onnx)
    result = ai.Predict(by_onnx, method, on=("features", "audio")).predict(clips[0], RATE)
    assert np.isfinite(result.metrics.astype(float)).all(axis=None)
    assert result.audio("topK_30").waveform.shape == (RATE,)


def test_sanity_checks_without_layers_are_left_out(by_onnx, clips):
    with pytest.warns(UserWarning, match=r"left out of all checks, cascading, independent"):
        found = ai.check_sanity(by_onnx, ["occlusion"], clips[:1], draws=1)
    assert set(found["check"]) == {"class", "stability", "infidelity", "completeness"}
    with pytest.raises(ValueError, match=r"^cascading: the network has no parameters"):
        ai.check_sanity(by_onnx, ["occlusion"], clips[:1], checks="cascading")


def test_methods_are_measured_without_layers(by_onnx, clips):
    table = check_methods(by_onnx, Recipe("occlusion"), clips[:1])
    assert table["weights"].isna().all()
    assert table.loc["occlusion", "forward_passes"] > 1


def test_check_says_what_is_missing_and_that_the_rest_works(by_onnx):
    findings = {finding.check: finding for finding in check_classifier(by_onnx)}
    assert works(list(findings.values()))
    for name in ("gradient", "grad-cam", "shap"):
        assert findings[name].status == "missing"
        assert "lime" in findings[name].advice
    for name in ("outputs", "determinism", "batch", "copy", "fast copy", "lime", "interpretation"):
        assert findings[name].status == "ok", findings[name]


def test_check_takes_a_function_that_makes_one(file, tmp_path):
    from audiointerp.runs.check import check_file

    source = tmp_path / "mine.py"
    text = f"""
        import audiointerp as ai

        def make():
            return ai.from_onnx(
                {file!r},
                front_end=ai.LogMelSTFTSpectrogram(),
                classes={CLASSES!r},
                duration={SECONDS},
            )
    """
    source.write_text(textwrap.dedent(text))
    assert works(check_file(f"{source}:make", device="cpu"))


def test_an_interpreter_cannot_be_trained_for_one(by_onnx, tmp_path):
    objective = next(iter(OBJECTIVES.values()))()
    clips = ai.SyntheticDataset(folds=1, sample_rate=RATE, duration=SECONDS, clips=2)
    other = ai.SyntheticDataset(folds=2, sample_rate=RATE, duration=SECONDS, clips=2)
    with pytest.raises(ValueError, match=r"a trained interpreter takes gradients"):
        fit_interpreter(objective, by_onnx, clips, other, out=tmp_path / "x.safetensors")


def test_results_of_another_file_are_told_apart(network, file, tmp_path):
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.last.bias += 1e-3
    other = OnnxNetwork(export(changed, (1, 1, 64, 101), tmp_path / "net.onnx"))
    same = OnnxNetwork(file)
    assert model_hash(OnnxNetwork(file)) == model_hash(same)
    assert model_hash(other) != model_hash(same)
    assert other.settings() == same.settings()


def test_weights_in_a_file_beside_count_as_well(file, tmp_path):
    import onnx

    model = onnx.load(file)
    hashes = []
    for number, folder in enumerate(("first", "second")):
        (tmp_path / folder).mkdir()
        twin = copy.deepcopy(model)
        for tensor in twin.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor) + number
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.copy(), tensor.name))
        path = tmp_path / folder / "net.onnx"
        onnx.save(twin, path, save_as_external_data=True, location="net.data", size_threshold=0)
        (tmp_path / folder / "notes.txt").write_text(str(number))  # not of the model
        hashes.append(model_hash(OnnxNetwork(path)))
    assert (tmp_path / "first" / "net.onnx").read_bytes() == path.read_bytes()
    assert hashes[0] != hashes[1]


def test_a_copy_shares_the_session_and_computes_the_same(file, view):
    network = OnnxNetwork(file)
    twin = copy.deepcopy(network).eval()
    assert twin is not network
    assert not twin.training
    assert network.training
    torch.testing.assert_close(twin(view.cells), network(view.cells), rtol=0, atol=0)
    assert model_hash(twin) == model_hash(network)


def test_half_precision_is_the_models_own(tmp_path):
    class Half(nn.Module):
        def forward(self, cells):
            return cells.float().mean((2, 3))

    path = export(Half(), (1, 1, 4, 4), tmp_path / "half.onnx", dtype=torch.float16)
    cells = torch.full((2, 1, 4, 4), 1 + 2**-13)  # between two numbers of half precision
    found = OnnxNetwork(path)(cells)
    assert found.dtype is torch.float32
    assert (found == 1).all()


def test_what_cannot_be_run_is_one_line(tmp_path, network):
    with pytest.raises(ValueError, match=r"none\.onnx: no such file"):
        OnnxNetwork(tmp_path / "none.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"damaged\.onnx cannot be run by onnxruntime") as error:
        OnnxNetwork(damaged)
    assert "\n" not in str(error.value)

    class Two(nn.Module):
        def forward(self, cells, more):
            return (cells + more).mean((2, 3))

    path = export(Two(), (1, 1, 4, 4), tmp_path / "two.onnx", inputs=2)
    with pytest.raises(ValueError, match=r"two\.onnx takes 2 inputs.*expected one"):
        OnnxNetwork(path)


def test_without_the_package_one_line_names_the_extra(file, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install audiointerp\[onnx\]"):
        OnnxNetwork(file)
