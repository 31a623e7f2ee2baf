"""What `audiointerp check` finds: on classifiers that work, and on those that do not."""

from __future__ import annotations

import re
import sys
import threading

import pytest
import torch
from networks import RATE, Network, stft, wrap
from test_waveform import Convolutions
from test_waveform import wrap as wrap_waveform
from tones import front_end, small_model
from torch import nn
from typer.testing import CliRunner

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.cli.commands import app
from audiointerp.interpretation.layers import usable_layers
from audiointerp.model.planes import tokens_to_plane
from audiointerp.runs.check import (
    CHECKS,
    Bench,
    Check,
    Finding,
    check_classifier,
    check_file,
    works,
)

REQUIRED = {
    "front end",
    "outputs",
    "head",
    "round trip",
    "removal",
    "determinism",
    "batch",
    "fast copy",
    "gradient",
    "lime",
    "interpretation",
}


def check(classifier: ai.Classifier) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_classifier(classifier)}


def check_one(name: str, classifier: ai.Classifier) -> Finding:
    """Return what one check finds, without waiting for the others."""
    return CHECKS[name].try_on(name, Bench(classifier, torch.device("cpu")))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = small_model()
    path = tmp_path_factory.mktemp("weights") / "tones.safetensors"
    return ai.save_weights(
        path, model, front_end(), classes=["low", "high"], duration=1.2, card={"licence": "MIT"}
    )


# --- what works ---------------------------------------------------------------------------------


def test_everything_works_on_a_weight_file(weights):
    findings = check_file(weights, device="cpu")
    assert [finding.check for finding in findings] == list(CHECKS)
    assert {finding.check: finding.status for finding in findings} == dict.fromkeys(CHECKS, "ok")
    assert works(findings)
    found = {finding.check: finding for finding in findings}
    assert found["front end"].details["cells"] == (32, 38)
    assert found["licence"].found == "MIT"
    assert found["grad-cam"].details["default"] == "base.conv_block6.relu2"
    assert found["shap"].details["residual"] < 0.01
    assert found["interpretation"].details["label"] in ("low", "high")


def test_the_checks_that_interpreting_needs_are_required():
    assert {name for name, each in CHECKS.items() if each.required} == REQUIRED


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "binary"])
def test_classifiers_of_every_head_work(head):
    found = check(wrap(Network(1 if head == "binary" else 3), head=head))
    assert {name: each.status for name, each in found.items() if each.status != "ok"} == {
        "licence": "missing",
        "grad-cam": "missing",  # no layer is the default
    }
    assert found["head"].found.startswith(head)


def test_a_waveform_network_works():
    found = check(wrap_waveform(Convolutions()))
    assert works(list(found.values()))
    assert "the network takes the waveform" in found["front end"].found
    assert found["shap"].status == "ok"
    # Convolutions over time need no declaration, the activations after them do.
    assert set(found["grad-cam"].details["layers"]) == {"conv1", "norm", "conv2"}
    assert "GradCAMInterpreter(model, 'conv2')" in found["grad-cam"].advice


def test_a_classifier_is_left_as_it_was():
    network = Network()
    classifier = wrap(network)
    network.train()
    network.conv.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check(classifier)
    assert network.training
    assert not network.conv.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_new_check_is_one_record(monkeypatch):
    def speak(bench):
        return Finding("speaks", "missing", f"{len(bench.clips)} sounds, no words", "teach it")

    monkeypatch.setitem(CHECKS, "speaks", Check(speak, False, ""))
    assert check(wrap(Network()))["speaks"].advice == "teach it"


# --- what does not ------------------------------------------------------------------------------


class Wrong(Network):
    """A network whose scores are spoilt in one way."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def forward(self, cells):
        return self.spoil(super().forward, cells)


SPOILT = {
    "determinism": (
        lambda scores, cells: nn.functional.dropout(scores(cells), 0.5, training=True),
        r"differ by up to .* from call to call",
        "dropout called as a function",
    ),
    "batch": (
        lambda scores, cells: scores(cells - cells.mean(0, keepdim=True)),
        r"differ by up to .* with others in its batch",
        "computed over the batch",
    ),
    "gradient": (
        lambda scores, cells: scores(cells.detach()) + 0 * cells.sum(),
        "zero in every cell",
        "detached",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_networks_that_cannot_be_interpreted_fail_their_check(name):
    spoil, reason, advice = SPOILT[name]
    finding = check_one(name, wrap(Wrong(spoil)))
    assert finding.status == "failed"
    assert re.search(reason, finding.found)
    assert advice in finding.advice


def test_a_network_without_a_gradient_fails_with_its_error():
    def scores_without_gradient(scores, cells):
        with torch.no_grad():
            return scores(cells)

    finding = check_one("gradient", wrap(Wrong(scores_without_gradient)))
    assert finding.status == "failed"
    assert "RuntimeError" in finding.found
    assert "no_grad()" in finding.advice


class Careless(ai.LogSTFTSpectrogram):
    """A front end that synthesises from the cells without care for rounding."""

    def synthesise(self, view, cells):
        return 0.999 * super().synthesise(view, cells)


class HighFloor(ai.LogSTFTSpectrogram):
    """A front end whose floor is not where cells are empty."""

    floor = -20.0


def test_front_ends_that_do_not_keep_the_contract_fail_their_check():
    finding = check_one("round trip", wrap(Network(), front_end=Careless(**sizes())))
    assert finding.status == "failed"
    assert "samples differ by up to" in finding.found
    finding = check_one("removal", wrap(Network(), front_end=HighFloor(**sizes())))
    assert finding.status == "failed"
    assert "expected -60 or less" in finding.found
    assert check_one("removal", wrap(Network())).details["level_db"] < -80


def sizes():
    return {"sample_rate": RATE, "n_fft": 128, "hop_length": 64}


def test_what_is_not_declared_is_missing_and_the_rest_works():
    bare = ai.Classifier(Network(), stft())
    found = check(bare)
    assert works(list(found.values()))
    assert found["outputs"].status == "missing"
    assert "outputs='logits'" in found["outputs"].advice
    assert found["classes"].status == "missing"
    assert found["duration"].found.startswith("any")


def test_a_wrong_number_of_names_is_not_ok():
    finding = check_one("classes", ai.Classifier(Network(), stft(), classes=["a", "b"]))
    assert finding.status == "missing"
    assert "2 class names for a model of 3 classes" in finding.found


def test_shap_that_does_not_add_up_is_missing_with_the_reason():
    class Product(Network):
        def forward(self, cells):
            scores = super().forward(cells)
            return scores * scores.roll(1, 1)

    finding = check_one("shap", wrap(Product(scale=20.0)))
    assert finding.status == "missing"
    assert finding.advice == "use the other methods, or activations and poolings that are modules"


def test_modules_that_cannot_be_copied_are_named():
    class Locked(Network):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    finding = check_one("copy", wrap(Locked()))
    assert finding.status == "missing"
    assert "lock" in finding.found
    assert finding.advice == "methods run on the module itself"


# --- layers for Grad-CAM ------------------------------------------------------------------------


def test_layers_are_listed_with_their_planes_in_the_order_in_which_they_end():
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    cells = torch.randn(2, 1, 8, 12)
    assert usable_layers(network, cells) == {
        "0.0": (8, 12),
        "0.1": (8, 12),
        "0": (8, 12),
        "1": (4, 6),
        "2": (4, 6),
    }
    assert list(usable_layers(network, cells)) == ["0.0", "0.1", "0", "1", "2"]
    for layer in usable_layers(network, cells):
        ai.GradCAMInterpreter(network, layer).attribute(cells)


def test_axes_that_look_swapped_are_pointed_out():
    class TimeFirst(Network):
        def forward(self, cells):
            return super().forward(cells.transpose(2, 3))

    finding = check_one("grad-cam", wrap(TimeFirst(), duration=4.0))
    assert finding.status == "missing"
    assert "look swapped in relu" in finding.found
    assert "('channel', 'time', 'freq')" in finding.advice
    declared = wrap(TimeFirst(), duration=4.0, activation_axes=("channel", "time", "freq"))
    assert "no default layer" in check_one("grad-cam", declared).found


def test_layers_of_unknown_axes_are_asked_for():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.linear = nn.Linear(65, 3)

        def forward(self, cells):
            return self.linear(cells[:, 0].transpose(1, 2) / 100).mean(1)

    finding = check_one("grad-cam", wrap(Tokens()))
    assert finding.status == "missing"
    assert "declare activation_axes" in finding.advice
    named = wrap(Tokens(), activation_axes=("time", "channel"))
    assert check_one("grad-cam", named).details["layers"] == {"linear": (1, 126)}
    patches = wrap(Tokens(), activation_axes=tokens_to_plane(9, 14))
    assert check_one("grad-cam", patches).details["layers"] == {"linear": (9, 14)}


def test_a_layer_is_named_behind_which_more_counts_than_the_class_token():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.token = nn.Parameter(torch.randn(1, 1, 8))
                self.patch = nn.Conv2d(1, 8, 13, 13)
                self.block = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, norm_first=True)
                self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 3)
            self.activation_axes = tokens_to_plane(5, 9, prefix=1)

        def forward(self, cells):
            tokens = self.patch(cells / 100).flatten(2).mT
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
            return self.linear(self.norm(self.block(tokens))[:, 0])

    finding = check_one("grad-cam", wrap(Patches()))
    assert list(finding.details["layers"])[-2:] == ["block", "norm"]
    assert finding.advice == "name one: GradCAMInterpreter(model, 'block.norm1')"


def test_layers_of_torchscript_are_left_out():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.trace(nn.Conv2d(1, 3, 5), torch.zeros(1, 1, 65, 126))
            self.relu = nn.ReLU()

        def forward(self, cells):
            return self.relu(self.inner(cells / 100)).mean((2, 3))

    assert set(usable_layers(Outer(), torch.randn(1, 1, 65, 126))) == {"relu"}


# --- a Python file ------------------------------------------------------------------------------

FACTORY = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from parts import Small

import audiointerp as ai


@dataclass
class Sizes:
    n_fft: int = 128
    hop_length: int = 64


def made():
    front_end = ai.LogSTFTSpectrogram(sample_rate=8000, **vars(Sizes()))
    return ai.classifier(Small(), front_end=front_end, classes=["a", "b"], duration=1.0)


def pair():
    front_end = ai.LogSTFTSpectrogram(sample_rate=8000, n_fft=128, hop_length=64)
    return Small(), {"front_end": front_end, "classes": ["a", "b"], "duration": 1.0}


def undeclared():
    module, options = pair()
    return torch.nn.Sequential(module, torch.nn.Softmax(1)), options


def misspelt():
    module, options = pair()
    return module, options | {"klasses": []}


def number():
    return 3


def broken():
    return 1 / 0
"""

PARTS = """
import torch


class Small(torch.nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv2d(1, 4, 5, stride=3),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 2),
        )
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Return a Python file that makes classifiers, beside another that it imports."""
    (tmp_path / "parts.py").write_text(PARTS)
    path = tmp_path / "factory.py"
    path.write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    yield path
    sys.modules.pop("parts", None)


@pytest.mark.parametrize("function", ["made", "pair"])
def test_a_python_file_may_make_the_classifier(factory, function):
    paths = list(sys.path)
    findings = check_file(f"{factory}:{function}", device="cpu")
    assert works(findings)
    assert len(findings) == len(CHECKS)
    assert sys.path == paths


def test_a_module_that_makes_no_classifier_is_one_finding(factory):
    (finding,) = check_file(f"{factory}:undeclared", device="cpu")
    assert finding.check == "classifier"
    assert finding.status == "failed"
    assert "outputs='probabilities' with head='softmax'" in finding.found
    (finding,) = check_file(f"{factory}:misspelt", device="cpu")
    assert "klasses" in finding.found


@pytest.mark.parametrize(
    ("function", "match"),
    [
        ("number", r"returned int: expected a Classifier"),
        ("broken", r"factory\.py: ZeroDivisionError: division by zero \(line \d+\)"),
        ("nothing", r"has no function 'nothing'; it has Sizes, made, pair"),
        ("", r"has no function ''"),
    ],
)
def test_a_python_file_that_makes_no_classifier_is_an_error(factory, function, match):
    with pytest.raises(ValueError, match=match):
        check_file(f"{factory}:{function}", device="cpu")


def test_files_that_cannot_be_read_are_errors(tmp_path, factory):
    with pytest.raises(ValueError, match=r"name the function .*factory\.py:FUNCTION"):
        check_file(factory)
    with pytest.raises(ValueError, match=r"missing\.py: no such file"):
        check_file(f"{tmp_path}/missing.py:made")
    with pytest.raises(ValueError, match=r"missing\.safetensors: no such file"):
        check_file(tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        check_file(f"{factory}:made", device="tpu")
    (tmp_path / "cut.py").write_text("def made(:\n")
    with pytest.raises(ValueError, match=r"cut\.py: SyntaxError: .*line 1"):
        check_file(f"{tmp_path}/cut.py:made")
    (tmp_path / "needy.py").write_text("x = 1\nimport no_such_package\n")
    with pytest.raises(ValueError, match=r"ModuleNotFoundError: .*no_such_package.* \(line 2\)"):
        check_file(f"{tmp_path}/needy.py:made")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    with pytest.raises(ValueError, match="neither a safetensors file nor a PyTorch checkpoint"):
        check_file(tmp_path / "noise.safetensors")


def test_a_classifier_without_a_front_end_is_an_error():
    with pytest.raises(ValueError, match="no front end"):
        check_classifier(ai.Classifier(Network()))


# --- the command --------------------------------------------------------------------------------


def test_the_command_prints_every_finding_and_ends_well(weights):
    done = CliRunner().invoke(app, ["check", str(weights), "--device", "cpu"])
    assert done.exit_code == 0
    lines = [line for line in done.output.splitlines() if not line.strip().startswith("→")]
    assert [line.split("  ")[0] for line in lines] == list(CHECKS)
    assert all(" ok " in line for line in lines)


def test_the_command_ends_with_1_where_something_fails(factory):
    done = CliRunner().invoke(app, ["check", f"{factory}:undeclared"])
    assert done.exit_code == 1
    assert done.output.startswith("classifier  failed   the outputs look like probabilities")
    assert "→ see the help of audiointerp.classifier" in done.output


def test_the_command_ends_with_2_where_there_is_nothing_to_check(factory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["audiointerp", "check", f"{factory}:number"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
