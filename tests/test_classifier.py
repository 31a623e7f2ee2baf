"""Any network as a classifier: what it returns, what its outputs mean, its names, new parts."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tones import Tones
from torch import nn

import audiointerp as ai
from audiointerp.evaluation import METRICS, Metric
from audiointerp.interpretation import AdditivityWarning, Explanation, UnsupportedLayerError
from audiointerp.model import build_head
from audiointerp.model.classes import read_classes
from audiointerp.model.classifier import as_classifier
from audiointerp.model.heads import Head, Softmax
from audiointerp.model.outputs import looks_like_probabilities
from audiointerp.model.planes import frames_to_plane, tokens_to_plane
from audiointerp.processing import FrontEnd, build_processor
from audiointerp.processing.view import View
from audiointerp.runs.targets import Above, Top, choose_targets, describe_target
from audiointerp.speed.scoring import Scorer

RATE = 8000
SECONDS = 1.0
NAMES = ("rain", "dog", "cat")


class Network(nn.Module):
    """A small network on dB cells, its scores passed through `after`."""

    def __init__(self, outputs=3, after=lambda scores: scores, seed=0, scale=4.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 8, 5, stride=2)
            self.relu = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d((4, 4))
            self.flatten = nn.Flatten()
            self.linear = nn.Linear(128, outputs)
        self.outputs = outputs
        self.scale = scale
        self.after = after

    def forward(self, cells):
        hidden = self.pool(self.relu(self.conv(cells / 50 + 1)))
        return self.after(self.scale * self.linear(self.flatten(hidden)))


def stft() -> ai.LogSTFTSpectrogram:
    return ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)


def sounds(count=3, seed=0) -> torch.Tensor:
    """Return clips of noise whose level and colour differ, (count, 1, samples)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, int(RATE * SECONDS), generator=generator)
    smooth = nn.functional.avg_pool1d(noise, 9, 1, 4)
    mix = torch.linspace(0, 1, count)[:, None, None]
    return (0.3 * (mix * noise + (1 - mix) * smooth)).clamp(-1, 1)


def wrap(network, **options) -> ai.Classifier:
    binary = options.get("head") == "binary"
    return ai.classifier(
        network,
        **{
            "front_end": stft(),
            "classes": ("other", "dog") if binary else NAMES[: getattr(network, "outputs", 3)],
            "duration": SECONDS,
            **options,
        },
    )


def probabilities(classifier, clips) -> torch.Tensor:
    view = classifier.front_end.analyse(clips)
    with torch.no_grad():
        return classifier.probabilities(classifier.logits(view.cells, view))


# --- what networks return -----------------------------------------------------------------------

Pair = namedtuple("Pair", ["scores", "hidden"])


@dataclass
class SequenceClassifierOutput:
    """As the classes of transformers are: attributes, the scores in ``logits``."""

    logits: torch.Tensor
    hidden_states: tuple


class MappingOutput(dict):
    """As ModelOutput is: a dict whose entries are attributes, too."""

    @property
    def logits(self):
        return self["logits"]


def embedding(scores: torch.Tensor) -> torch.Tensor:
    return scores.repeat(1, 5)


RETURNED = {
    "tensor": (lambda s: s, {}),
    "dict with logits": (lambda s: {"loss": s.mean(), "logits": s, "mask": s > 0}, {}),
    "dict with one of the right shape": (lambda s: {"scores": s, "embedding": embedding(s)}, {}),
    "dict with a key": (lambda s: {"first": s, "second": -s}, {"output": "first"}),
    "tuple": (lambda s: (s, embedding(s)), {}),
    "tuple with a position": (lambda s: (-s, s), {"output": 1}),
    "named tuple": (lambda s: Pair(s, embedding(s)), {}),
    "attribute": (lambda s: SequenceClassifierOutput(s, ()), {}),
    "another attribute": (lambda s: Pair(s, s), {"output": "scores"}),
    "mapping with attributes": (lambda s: MappingOutput(logits=s, other=s), {}),
    "function": (lambda s: [{"deep": s[:, None]}], {"output": lambda got: got[0]["deep"][:, 0]}),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("returned", RETURNED)
def test_scores_are_found_in_what_a_network_returns(returned, batch):
    after, options = RETURNED[returned]
    clips = sounds(batch)
    plain = wrap(Network())
    classifier = wrap(Network(after=after), **options)
    expected = plain.network(stft()(clips)).double().softmax(1)
    torch.testing.assert_close(probabilities(classifier, clips), expected.detach())
    view = classifier.front_end.analyse(clips)
    for method in (
        ai.SaliencyInterpreter,
        lambda model: ai.GradCAMInterpreter(model, "relu"),
        lambda model: ai.LIMEInterpreter(model, num_samples=10),
    ):
        torch.testing.assert_close(
            method(classifier).attribute(view), method(plain).attribute(view)
        )


@pytest.mark.parametrize("returned", RETURNED)
def test_a_network_that_returns_more_is_interpreted_end_to_end(returned):
    after, options = RETURNED[returned]
    classifier = wrap(Network(after=after), **options)
    method = ai.SHAPInterpreter(classifier, classifier.front_end.analyse(sounds(2, seed=1)))
    result = ai.Predict(classifier, method, masks=["topK_30"]).predict(sounds(1)[0], RATE)
    assert result.diagnostics["residual"] < 1e-3
    assert result.metrics.loc["topK_30"].notna().all()


@pytest.mark.parametrize("shape", ["(batch, 1)", "(batch,)", "squeezed"])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_score_for_each_clip_may_have_any_shape(shape, batch):
    after = {
        "(batch, 1)": lambda s: s,
        "(batch,)": lambda s: s[:, 0],
        "squeezed": lambda s: s.squeeze(),
    }[shape]
    classifier = wrap(Network(1, after), head="binary")
    clips = sounds(batch)
    expected = Network(1)(stft()(clips)).double().sigmoid()[:, 0].detach()
    found = probabilities(classifier, clips)
    torch.testing.assert_close(found[:, 1], expected)
    torch.testing.assert_close(found[:, 0], 1 - expected)


def test_panns_own_output_is_read_and_taken_for_what_it_is():
    def panns(scores):
        return {"clipwise_output": scores.sigmoid(), "embedding": embedding(scores)}

    with pytest.raises(ValueError, match=r"probabilities.*head='sigmoid'"):
        wrap(Network(after=panns))
    classifier = wrap(Network(after=panns), head="sigmoid", outputs="probabilities")
    clips = sounds(3)
    expected = Network()(stft()(clips)).sigmoid().double().detach()
    torch.testing.assert_close(probabilities(classifier, clips), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("after", "options", "match"),
    [
        (lambda s: {"a": s, "b": s}, {}, r"'a': \(4, 3\), 'b': \(4, 3\), of which 2 can be scores"),
        (lambda s: {"a": s[:, :2]}, {}, r"'a': \(4, 2\), of which 0 can be scores"),
        (lambda s: (s, s), {}, r"of which 2 can be scores.*output="),
        (lambda s: "scores", {}, r"returned str: expected a tensor, a dict, a tuple"),
        (lambda s: {"a": s}, {"output": "b"}, r"'a': \(4, 3\): there is no 'b'"),
        (lambda s: (s,), {"output": 3}, r"0: \(4, 3\): there is no 3"),
        (lambda s: Pair(s, s), {"output": "logits"}, r"Pair without 'logits'"),
        (lambda s: s[:, :, None], {}, r"got \(4, 3, 1\): scores per frame must be pooled"),
        (lambda s: s.mean(0), {}, r"got \(3,\)"),
        (lambda s: s.argmax(1, keepdim=True), {}, r"returned torch\.int64.*floating-point"),
        (lambda s: s / 0, {}, r"NaN or infinite scores for made-up sounds of 1 s"),
        (lambda s: s, {"output": lambda got: None}, r"got NoneType"),
    ],
)
def test_what_holds_no_scores_is_an_error_that_says_what_there_is(after, options, match):
    with pytest.raises(ValueError, match=match):
        wrap(Network(after=after), **options)


# --- what outputs mean --------------------------------------------------------------------------

HEADS = {
    "softmax": (3, lambda s: s.softmax(1)),
    "sigmoid": (3, lambda s: s.sigmoid()),
    "binary": (1, lambda s: s.sigmoid()),
}


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_must_be_declared(head):
    outputs, after = HEADS[head]
    wanted = "'softmax'" if head == "softmax" else "'sigmoid'"
    for options in ({}, {"head": head}):
        with pytest.raises(ValueError, match=rf"outputs='probabilities' with head={wanted}"):
            wrap(Network(outputs, after), **options)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_bare_network_that_returns_probabilities_is_refused_everywhere(head):
    network = Network(*HEADS[head])
    cells = stft()(sounds(8))
    for method in (
        ai.SaliencyInterpreter(network),
        ai.GradCAMInterpreter(network, "relu"),
        ai.LIMEInterpreter(network, num_samples=10),
        ai.SHAPInterpreter(network, cells),
    ):
        with pytest.raises(ValueError, match=rf"another softmax or sigmoid .* head='{head}'"):
            method.attribute(cells)
    predict = ai.Predict(network, stft(), ai.SaliencyInterpreter(network), classes=NAMES)
    with pytest.raises(ValueError, match="look like probabilities"):
        predict.predict_batch(sounds(8), list("abcdefgh"))
    with pytest.raises(ValueError, match="look like probabilities"):
        predict.predict(sounds(1)[0], RATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(logits=arrays(np.float64, (7, 3), elements=st.floats(-60, 60)))
@settings(max_examples=50, deadline=None)
def test_every_table_of_probabilities_looks_like_one(dtype, logits):
    scores = torch.from_numpy(logits)
    assert looks_like_probabilities(scores.softmax(1).to(dtype))
    chances = scores.sigmoid().to(dtype)
    assert looks_like_probabilities(chances) == bool(chances.min() < chances.max())


@given(logits=arrays(np.float32, (7, 3), elements=st.floats(-60, 60, width=32)))
@settings(max_examples=50, deadline=None)
def test_scores_outside_the_unit_interval_do_not_look_like_probabilities(logits):
    scores = torch.from_numpy(logits)
    outside = bool(((scores < 0) | (scores > 1)).any())
    if outside or not scores.any():
        assert not looks_like_probabilities(scores)


def test_a_last_layer_that_starts_at_zero_returns_logits():
    network = Network()
    nn.init.zeros_(network.linear.weight)
    nn.init.zeros_(network.linear.bias)
    found = probabilities(wrap(network), sounds())
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))


@pytest.mark.parametrize("head", HEADS)
def test_logits_within_the_unit_interval_can_be_declared(head):
    outputs, after = HEADS[head]
    classifier = wrap(Network(outputs, after), head=head, outputs="logits")
    scores = Network(outputs, after)(stft()(sounds())).double().detach()
    expected = scores.softmax(1) if head == "softmax" else scores.sigmoid()
    torch.testing.assert_close(probabilities(classifier, sounds())[:, -outputs:], expected)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("head", HEADS)
def test_declared_probabilities_are_the_networks_own(head, scale):
    outputs, after = HEADS[head]
    network = Network(outputs, after, scale=scale)
    classifier = wrap(network, head=head, outputs="probabilities")
    clips = sounds(5)
    expected = network(stft()(clips)).double().detach()
    if head == "binary":
        expected = torch.cat([1 - expected, expected], 1)
    found = probabilities(classifier, clips)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    result = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["bin"]).predict(
        clips[0], RATE
    )
    np.testing.assert_allclose(result.probabilities, expected[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_methods_on_declared_probabilities_explain_their_logits(head):
    outputs, after = HEADS[head]
    ends_early = wrap(Network(outputs), head=head, outputs="logits")
    ends_late = wrap(Network(outputs, after), head=head, outputs="probabilities")
    view = stft().analyse(sounds())
    label = 1
    # Of softmax, log p_c = z_c - log Σ exp z; of the others the log-odds are the logit.
    cells = view.cells.clone().requires_grad_()
    logits = Network(outputs)(cells)
    wanted = logits.log_softmax(1)[:, label] if head == "softmax" else logits[:, -outputs:][:, -1]
    if head == "sigmoid":
        wanted = logits[:, label]
    (expected,) = torch.autograd.grad(wanted.sum(), cells)
    found = ai.SaliencyInterpreter(ends_late).attribute(view, label)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    # LIME sees probabilities only.
    lime = [
        ai.LIMEInterpreter(each, num_samples=40).attribute(view, label)
        for each in (ends_early, ends_late)
    ]
    torch.testing.assert_close(lime[1], lime[0], rtol=1e-3, atol=1e-6)
    gradcam = ai.GradCAMInterpreter(ends_late, "relu").attribute(view, label)
    assert gradcam.isfinite().all()
    assert gradcam.abs().max() > 0


@pytest.mark.parametrize("head", sorted(set(HEADS) - {"softmax"}))
def test_shap_adds_up_on_declared_probabilities(head):
    outputs, _ = HEADS[head]
    network = Network(outputs, nn.Sigmoid(), scale=40.0)
    classifier = wrap(network, head=head, outputs="probabilities")
    background = stft().analyse(sounds(2, seed=1))
    explanation = ai.SHAPInterpreter(classifier, background).explain(stft().analyse(sounds()))
    assert (explanation.diagnostics["residual"] < 0.01).all()


def test_shap_refuses_a_softmax_inside_the_network_by_name():
    network = Network(HEADS["softmax"][0], nn.Softmax(1))
    classifier = wrap(network, head="softmax", outputs="probabilities")
    method = ai.SHAPInterpreter(classifier, stft().analyse(sounds(2, seed=1)))
    with pytest.raises(UnsupportedLayerError, match="Softmax"):
        method.explain(stft().analyse(sounds()))


@pytest.mark.parametrize("head", HEADS)
def test_shap_on_declared_probabilities_does_not_fail_silently(head):
    outputs, after = HEADS[head]
    classifier = wrap(Network(outputs, after), head=head, outputs="probabilities")
    method = ai.SHAPInterpreter(classifier, stft().analyse(sounds(2, seed=1)))
    view = stft().analyse(sounds())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdditivityWarning)
        try:
            residual = method.explain(view).diagnostics["residual"]
        except ValueError:
            return  # refused
    assert (residual < 0.01).all() or any(each.category is AdditivityWarning for each in caught)


def test_declarations_that_are_not_true_are_refused():
    with pytest.raises(ValueError, match=r"rows sum to 1, and sum to .* head='sigmoid'"):
        wrap(Network(after=torch.sigmoid), head="softmax", outputs="probabilities")
    with pytest.raises(ValueError, match=r"declared as probabilities and run from .*'logits'"):
        wrap(Network(), head="sigmoid", outputs="probabilities")
    with pytest.raises(ValueError, match=r"outputs is 'scores': choose 'logits'"):
        wrap(Network(), outputs="scores")
    with pytest.raises(ValueError, match=r"unknown head 'softmx'.*Did you mean 'softmax'"):
        wrap(Network(), head="softmx")


def test_one_output_needs_a_head():
    with pytest.raises(ValueError, match=r"one output.*head='binary'.*head='sigmoid'"):
        wrap(Network(1), classes=["dog"])
    with pytest.raises(ValueError, match=r"one output, this one has 3: declare 'softmax'"):
        wrap(Network(3), head="binary")
    assert wrap(Network(1), classes=["dog"], head="sigmoid").classes == ("dog",)


@pytest.mark.parametrize("count", [2, 4])
def test_the_number_of_classes_must_be_that_of_the_outputs(count):
    with pytest.raises(ValueError, match=rf"{count} class names for a module of 3 outputs"):
        wrap(Network(3), classes=list("abcdef")[:count])
    with pytest.raises(
        ValueError, match=r"1 class names.* 1 outputs, with head='binary' 2 classes"
    ):
        wrap(Network(1), head="binary", classes=["dog"])


@pytest.mark.filterwarnings("ignore::audiointerp.interpretation.AdditivityWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("head", HEADS)
def test_networks_of_other_precision_are_interpreted(dtype, head):
    outputs, _ = HEADS[head]
    classifier = wrap(Network(outputs).to(dtype), head=head)
    plain = wrap(Network(outputs), head=head)
    clips = sounds()
    tolerance = 0.05 if dtype == torch.bfloat16 else 0.01 if dtype == torch.float16 else 1e-6
    found = probabilities(classifier, clips)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, probabilities(plain, clips), rtol=0, atol=tolerance)
    view = classifier.front_end.analyse(clips)
    for method in (
        lambda model: ai.SaliencyInterpreter(model),
        lambda model: ai.GradCAMInterpreter(model, "relu"),
        lambda model: ai.LIMEInterpreter(model, num_samples=20),
        lambda model: ai.SHAPInterpreter(model, view[:2]),
    ):
        maps = method(classifier).attribute(view, 1)
        expected = method(plain).attribute(view, 1)
        assert maps.dtype == torch.float32
        alike = torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1]
        assert alike > 0.95


# --- making a classifier ------------------------------------------------------------------------


def test_a_module_that_does_not_run_on_its_clips_is_an_error_with_their_shape():
    class Fixed(Network):
        def forward(self, cells):
            return super().forward(cells[..., :200].reshape(len(cells), 1, 65, 200))

    with pytest.raises(
        ValueError, match=r"fails on \(4, 1, 65, 126\).* 4 sounds of 1 s.*duration="
    ):
        wrap(Fixed())
    wrap(Fixed(), duration=2.0)
    with pytest.raises(ValueError, match=r"40 samples: expected more than 64"):
        wrap(Network(), duration=0.005)
    with pytest.raises(ValueError, match=r"duration=0 is not above 0"):
        wrap(Network(), duration=0)


def test_what_is_no_module_or_front_end_is_a_type_error():
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got function"):
        ai.classifier(lambda cells: cells, front_end=stft(), classes=NAMES)
    with pytest.raises(TypeError, match=r"front_end must be a FrontEnd, got Conv1d"):
        wrap(Network(), front_end=nn.Conv1d(1, 1, 1))
    with pytest.raises(TypeError, match=r"classes is 3: expected a list of names"):
        wrap(Network(), classes=3)


def test_a_module_is_left_as_it_was():
    network = Network()
    network.conv.eval()
    network.train(True)
    network.pool.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    wrap(network)
    assert network.training
    assert not network.pool.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrapped_module_unpacks_as_a_classifier_and_its_front_end():
    classifier = wrap(Network(), head="sigmoid")
    model, processor = classifier
    assert model is classifier
    assert processor is classifier.front_end
    assert ai.Predict(model, processor, ai.SaliencyInterpreter(model)).classifier is classifier


@pytest.mark.parametrize(
    "said", [{"head": "sigmoid"}, {"classes": ("a", "b")}, {"normalize": False}, {"duration": 2.0}]
)
def test_a_network_of_this_package_unpacks_alone_only_where_it_says_the_same(said):
    network = ai.TransferCnn14(2, 65, width=1 / 16)
    options = {"classes": None, "duration": None, "normalize": True, "outputs": "logits"} | said
    if options.get("head"):
        options["head"] = build_head(options["head"])
    model, _ = ai.Classifier(network, stft(), **options)
    assert isinstance(model, ai.Classifier)
    model, _ = ai.Classifier(network, stft(), outputs="logits")
    assert model is network
    assert as_classifier(model, stft()).head.name == "softmax"


def test_names_and_front_end_can_be_given_to_a_classifier_later():
    bare = ai.Classifier(Network())
    with_front_end = as_classifier(bare, stft(), classes=NAMES)
    assert with_front_end.classes == NAMES
    assert with_front_end.front_end is not None
    assert with_front_end.network is bare.network
    classifier = wrap(Network(), head="sigmoid", activation_axes=("channel", "freq", "time"))
    renamed = as_classifier(classifier, classes={0: "x", 1: "y", 2: "z"})
    assert renamed.classes == ("x", "y", "z")
    assert renamed.head is classifier.head
    assert renamed.settings() == classifier.settings()
    predict = ai.Predict(
        classifier, classifier.front_end, ai.SaliencyInterpreter(classifier), classes=list("xyz")
    )
    assert predict.predict(sounds(1)[0], RATE).classes == ("x", "y", "z")


def test_another_front_end_than_the_classifiers_is_refused():
    classifier = wrap(Network())
    other = ai.LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=32)
    with pytest.raises(ValueError, match=r"'hop_length': 32.* is not the classifier's"):
        as_classifier(classifier, other)


def test_method_and_measurement_must_take_the_outputs_for_the_same():
    classifier = wrap(Network(), head="sigmoid")
    method = ai.SaliencyInterpreter(classifier)
    with pytest.raises(ValueError, match=r"made for .*'sigmoid'.*make both of one classifier"):
        ai.Predict(classifier.network, stft(), method, classes=NAMES)
    with pytest.raises(ValueError, match=r"make both of one classifier"):
        ai.Predict(classifier, ai.SaliencyInterpreter(classifier.network))


def test_settings_say_what_results_depend_on():
    def pick(returned):
        return returned["first"]

    plain = wrap(Network())
    chosen = wrap(
        Network(after=lambda s: {"first": s.sigmoid()}),
        head="sigmoid",
        outputs="probabilities",
        output=pick,
        activation_axes=("channel", "freq", "time"),
    )
    assert plain.settings() == {"name": "Network"}
    assert json.loads(json.dumps(chosen.settings())) == {
        "name": "Network",
        "head": {"name": "sigmoid", "threshold": 0.5},
        "outputs": "probabilities",
        "output": "test_settings_say_what_results_depend_on.<locals>.pick",
        "activation_axes": ["channel", "freq", "time"],
    }


# --- class names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes",
    [
        ["rain", "dog", "cat"],
        ("rain", "dog", "cat"),
        np.array(["rain", "dog", "cat"]),
        {0: "rain", 1: "dog", 2: "cat"},
        {2: "cat", 0: "rain", 1: "dog"},
        {"2": "cat", "10": "x", "0": "rain", "1": "dog"},
        {np.int64(1): "dog", np.int64(0): "rain", np.int64(2): "cat"},
    ],
)
def test_names_come_from_lists_and_mappings(classes):
    if "10" in classes:
        with pytest.raises(ValueError, match=r"indices \[0, 1, 2, 10\] …: expected 0 to 3"):
            read_classes(classes)
        return
    assert read_classes(classes) == NAMES
    assert wrap(Network(), classes=classes).classes == NAMES


FILES = {
    "names.txt": "rain\ndog\n\ncat\n",
    "names.csv": "display_name\nrain\ndog\ncat\n",
    "audioset.csv": 'index,mid,display_name\n1,/m/1,dog\n0,/m/0,rain\n2,/m/2,"cat"\n',
    "names.tsv": "id\tname\n7\train\n8\tdog\n9\tcat\n",
    "label.CSV": "label,note\nrain,a\ndog,b\ncat,c\n",
    "names.json": '["rain", "dog", "cat"]',
    "id2label.json": '{"1": "dog", "0": "rain", "2": "cat"}',
    "marked.txt": "\ufeffrain\ndog\ncat",
}


@pytest.mark.parametrize("name", FILES)
def test_names_come_from_files(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8")
    assert read_classes(path) == NAMES
    assert wrap(Network(), classes=str(path)).classes == NAMES


def test_names_with_commas_and_line_breaks_are_kept(tmp_path):
    path = tmp_path / "names.csv"
    names = ["Speech, male", "two\nlines", 'a "quoted" one']
    pd.DataFrame({"display_name": names}).to_csv(path, index=False)
    assert read_classes(path) == tuple(names)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.txt", "\n", "there are no class names"),
        ("twice.txt", "dog\ncat\ndog\n", "two classes have the same name: dog"),
        ("other.csv", "a,b\n1,2\n", r"has the columns a, b; expected one of display_name"),
        ("short.csv", "index,name\n0,rain\n1\n", "class names must be text, got None"),
        ("blank.csv", "name,x\n ,1\n", "class names must be text, got ' '"),
        ("twice.csv", "index,name\n0,rain\n0,dog\n", "an index is there twice"),
        ("hole.csv", "index,name\n0,rain\n2,dog\n", r"indices \[0, 2\] …: expected 0 to 1"),
        ("broken.json", '["rain"', r"broken\.json: not a file of class names"),
        ("text.json", '"rain"', "holds str, expected a list of class names or a mapping"),
        ("label2id.json", '{"rain": 0}', r"map 'rain' to 0: .* is this label2id"),
        ("numbers.json", "[1, 2]", "class names must be text, got 1"),
    ],
)
def test_files_without_names_are_refused(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=match):
        read_classes(path)


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dog: no such file of class names; .* as a list"):
        read_classes("dog")
    (tmp_path / "latin.txt").write_bytes("geräusch".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: not a file of class names"):
        read_classes(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="is this label2id"):
        read_classes({"rain": 0, "dog": 1})
    with pytest.raises(ValueError, match="is this label2id"):
        read_classes({0.5: "rain"})


# --- labels to explain --------------------------------------------------------------------------

CHANCES = torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.6, 0.9]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [(0, 1), (1, 2)]),
        ("cat", [(0, 2), (1, 2)]),
        (0, [(0, 0), (1, 0)]),
        (np.int64(1), [(0, 1), (1, 1)]),
        (torch.tensor(1), [(0, 1), (1, 1)]),
        (["cat", 0], [(0, 2), (0, 0), (1, 2), (1, 0)]),
        (np.array([2, 1]), [(0, 2), (0, 1), (1, 2), (1, 1)]),
        (Top(2), [(0, 1), (0, 0), (1, 2), (1, 0)]),
        (Above(0.6), [(0, 1), (1, 2), (1, 0), (1, 1)]),
        (Above(0.8), [(1, 2)]),
        (Above(0.95), []),
    ],
)
def test_labels_are_chosen_by_name_index_or_rule(target, expected):
    clip, label = choose_targets(target, CHANCES, NAMES)
    assert list(zip(clip.tolist(), label.tolist(), strict=True)) == expected
    json.dumps(describe_target(target))


@pytest.mark.parametrize(
    ("target", "error", "match"),
    [
        (
            "dgo",
            ValueError,
            r"unknown class 'dgo': choose from rain, dog, cat\. Did you mean 'dog'",
        ),
        (3, ValueError, r"target 3: expected 0 … 2, or one of rain, dog, cat"),
        (-1, ValueError, r"target -1"),
        ([], ValueError, "expected some, each once"),
        (["dog", 1], ValueError, "expected some, each once"),
        (Top(4), ValueError, "top 4 labels of 3 classes"),
        (True, TypeError, "target True: expected the name or the index"),
        (1.5, TypeError, r"target 1\.5"),
        ([None], TypeError, "target None"),
    ],
)
def test_labels_that_are_no_class_are_refused(target, error, match):
    with pytest.raises(error, match=match):
        choose_targets(target, CHANCES, NAMES)


def test_a_long_list_of_classes_is_cut_in_messages():
    names = [f"class number {index}" for index in range(527)]
    with pytest.raises(ValueError, match=r"… \(527\)") as caught:
        choose_targets("dog", torch.rand(1, 527), names)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "2"])
def test_top_takes_a_number_of_labels(wrong):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        Top(wrong)


@pytest.mark.parametrize("wrong", [0, 1, -0.5, 2, math.nan])
def test_above_takes_a_probability(wrong):
    with pytest.raises(ValueError, match="expected a probability between 0 and 1"):
        Above(wrong)


# --- metrics of heads, by hand ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "threshold"), [("sigmoid", 0.5), ("sigmoid", 0.8), ("binary", 0.5)]
)
def test_metrics_of_every_head_are_those_computed_by_hand(head, threshold):
    network = Network(HEADS[head][0], scale=12.0)
    with torch.no_grad():
        # Half of the clips on either side of a probability of a half.
        network.linear.bias -= network(stft()(sounds(6))).quantile(0.5, dim=0) / network.scale
    given = build_head({"name": "sigmoid", "threshold": threshold}) if head == "sigmoid" else head
    classifier = wrap(network, head=given)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier))

    def chances(cells):
        with torch.no_grad():
            scores = network(cells).double().sigmoid()[0].numpy()
        return np.array([1 - scores[0], scores[0]]) if head == "binary" else scores

    decisions_kept = set()
    for clip, label in itertools.product(sounds(6), [0, 1]):
        result = predict.predict(clip, RATE, target=label)
        whole = chances(result.view.cells)
        np.testing.assert_allclose(result.probabilities, whole, atol=1e-5)
        for mask, (kept, left) in result.masked.items():
            inside, outside = chances(kept), chances(left)
            p, p_in, p_out = whole[label], inside[label], outside[label]
            if head == "binary":
                same = inside.argmax() == label
            else:
                same = (p >= threshold) == (p_in >= threshold)
            expected = {
                "FF": p - p_out,
                "AI": 100.0 * (p_in > p + 1e-6),
                "AD": 100 * max(0, p - p_in) / p,
                "AG": 100 * max(0, p_in - p) / (1 - p),
                "FidIn": float(same),
            }
            found = result.metrics.loc[mask, list(expected)].to_dict()
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), mask
            decisions_kept.add(bool(same))
    assert decisions_kept == {True, False}


def test_a_label_that_is_not_decided_for_is_kept_by_staying_so():
    head = build_head("sigmoid")
    before = torch.tensor([[0.2, 0.9], [0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)
    after = torch.tensor([[0.4, 0.9], [0.6, 0.9], [0.6, 0.2]], dtype=torch.float64)
    target = torch.tensor([0, 0, 0])
    assert head.keeps(before, after, target).tolist() == [True, False, True]


# --- activations as planes ----------------------------------------------------------------------


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    names=st.permutations(["channel", "freq", "time"]),
)
@settings(max_examples=60, deadline=None)
def test_declared_axes_bring_every_value_to_its_place(shape, names):
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    classifier = ai.Classifier(nn.ModuleDict({"layer": nn.Identity()}), activation_axes=names)
    plane = classifier.to_plane("layer", activation)
    letters = {"channel": "c", "freq": "f", "time": "t"}
    source = "".join(letters[name] for name in names)
    np.testing.assert_array_equal(
        plane.numpy(), np.einsum(f"b{source}->bcft", activation.numpy(), optimize=False)
    )


@pytest.mark.parametrize("time_first", [False, True])
def test_tokens_lie_where_their_patches_are(time_first):
    # Cells of two patch rows and three patch columns, each patch of one value.
    patches = torch.arange(6.0).reshape(2, 3)
    tokens = (patches.T if time_first else patches).reshape(1, 6, 1)
    tokens = torch.cat([torch.full((1, 1, 1), -1.0), tokens], dim=1)
    plane = tokens_to_plane(2, 3, prefix=1, time_first=time_first)("block", tokens)
    assert torch.equal(plane[0, 0], patches)
    with pytest.raises(ValueError, match=r"with 1 \+ 2·3 = 7 tokens"):
        tokens_to_plane(2, 3, prefix=1)("block", tokens[:, 1:])


def test_frames_are_joined_along_time():
    clips = torch.randn(2, 5, 3, 12)  # batch, channel, freq, time
    frames = clips.unflatten(3, (4, 3)).permute(0, 3, 4, 2, 1).flatten(0, 1)
    join = frames_to_plane(4, axes=("time", "freq", "channel"))
    assert torch.equal(join("layer", frames), clips)
    with pytest.raises(ValueError, match=r"a multiple of 4 frames"):
        join("layer", frames[:-1])
    with pytest.raises(ValueError, match="'channel' must be one of them"):
        frames_to_plane(4, axes=("time", "freq"))


@pytest.mark.parametrize(
    "axes", [("channels", "time"), ("time", "time"), (), "channel", ("channel", "time", "batch")]
)
def test_axes_that_do_not_exist_are_refused_at_once(axes):
    with pytest.raises(ValueError, match=r"activation_axes is .*expected a tuple"):
        wrap(Network(), activation_axes=axes)


@pytest.mark.parametrize(
    ("axes", "match"),
    [
        (("time", "freq"), None),
        (("channel", "time"), r"gives activations .*, which activation_axes=.* do not describe"),
        (lambda layer, activation: activation[:, 0], r"activation_axes returned \(3, \d+, \d+\)"),
        (lambda layer, activation: None, "activation_axes returned NoneType"),
        (lambda layer, activation: activation[:2], r"planes for 2 clips instead of 3"),
    ],
)
def test_axes_that_do_not_fit_a_layer_are_named(axes, match):
    classifier = wrap(Network(), activation_axes=axes)
    method = ai.GradCAMInterpreter(classifier, "relu")
    view = classifier.front_end.analyse(sounds())
    if match is None:
        turned = ai.GradCAMInterpreter(wrap(Network()), "relu").attribute(view)
        assert method.attribute(view).shape == turned.shape
        return
    with pytest.raises(ValueError, match=match):
        method.attribute(view)


class OneBand(nn.Module):
    """A network whose only score is the level of one band at one time, seen (time, freq)."""

    activation_axes = ("time", "freq")

    def __init__(self, frequency: int, time: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.relu = nn.ReLU()
        self.frequency, self.time = frequency, time

    def forward(self, cells):
        hidden = self.relu(self.pool((cells / 100 + 1).transpose(2, 3)))
        score = hidden[:, 0, self.time, self.frequency]
        return torch.stack([-score, score], dim=1)


def test_gradcam_of_layers_with_time_first_is_upright():
    network = OneBand(frequency=6, time=2)
    cells = torch.full((1, 1, 65, 126), -100.0)
    cells[..., 48:56, 16:24] = 0
    attribution = ai.GradCAMInterpreter(network, "relu").attribute(cells, 1)
    frequency, time = np.unravel_index(int(attribution.argmax()), (65, 126))
    assert (frequency // 8, time // 8) == (6, 2)


# --- new parts: one record each -----------------------------------------------------------------


@pytest.fixture
def tones(tmp_path):
    """Return two clips of tones with noise whose parts are known."""
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).standard_normal(2 * RATE) * 0.1
    soundfile.write(path, noise, RATE)

    class NoisyTones(Tones):
        def __init__(self):
            super().__init__(2)
            self.contamination = ai.Contamination(path)

    return NoisyTones()


def predict_and_predict_set(classifier, method, tones, folder, **options):
    """Return one clip's interpretation and a set's tables."""
    predict = ai.Predict(classifier, method, **options)
    one = predict.predict(tones[0].waveform, RATE)
    done = predict.predict_set(tones, folder, progress=False)
    assert done.failures == {}
    assert done.interpreted == 2
    return one, done


def tone_classifier(**options) -> ai.Classifier:
    return wrap(Network(2), **{"classes": ("low", "high"), "duration": 1.2, **options})


class OneIsNone(Head):
    """One class of several or none: the logit of none is 0 and comes first."""

    name = "one-or-none"
    exclusive = True

    def __init__(self, none: float = 0.0) -> None:
        self.none = none

    def settings(self):
        return super().settings() | {"none": self.none}

    def num_classes(self, outputs):
        return outputs + 1

    def logits(self, outputs):
        return torch.cat([torch.full_like(outputs[:, :1], self.none), outputs], dim=1)

    def probabilities(self, logits):
        return logits.softmax(1)

    def decisions(self, probabilities):
        return probabilities == probabilities.amax(1, keepdim=True)

    def loss(self, logits, targets, *, label_smoothing=0.0):
        return nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def test_a_new_head_is_one_class(monkeypatch, tones, tmp_path):
    monkeypatch.setitem(ai.HEADS, OneIsNone.name, OneIsNone)
    network = Network(1)
    classifier = tone_classifier_of(network, head="one-or-none")
    assert build_head(classifier.head.settings()).none == 0.0
    method = ai.SaliencyInterpreter(classifier)
    one, done = predict_and_predict_set(classifier, method, tones, tmp_path / "run")
    score = network(one.view.cells).double().sigmoid().item()
    np.testing.assert_allclose(one.probabilities, [1 - score, score], atol=1e-6)
    kept = one.masked["topK_30"][0]
    stays = (network(kept).item() > 0) == (score > 0.5)
    assert one.metrics.loc["topK_30", "FidIn"] == stays
    assert set(done.mean_metrics().columns) >= {"FF", "FidIn"}


def tone_classifier_of(network, **options):
    return ai.classifier(
        network, front_end=stft(), classes=("low", "high"), duration=1.2, normalize=True, **options
    )


class Tempered(Softmax):
    """Softmax at a temperature."""

    name = "tempered"

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def settings(self):
        return super().settings() | {"temperature": self.temperature}

    def probabilities(self, logits):
        return super().probabilities(logits / self.temperature)


def test_a_head_may_change_one_that_exists(monkeypatch):
    monkeypatch.setitem(ai.HEADS, Tempered.name, Tempered)
    classifier = wrap(Network(), head="tempered")
    scores = Network()(stft()(sounds())).double().detach()
    torch.testing.assert_close(probabilities(classifier, sounds()), (scores / 2).softmax(1))
    settings_of = {"name": "tempered", "temperature": 2.0}
    assert classifier.settings()["head"] == settings_of
    # LIME fits the probabilities of the head.
    view = stft().analyse(sounds(1))
    maps = [
        ai.LIMEInterpreter(each, num_samples=30).attribute(view, 0)
        for each in (classifier, wrap(Network()))
    ]
    assert not torch.allclose(*maps)


class Blocks(FrontEnd):
    """Power in dB of blocks without overlap, each by an FFT of its own."""

    unit = "dB"
    floor = -120.0

    def __init__(self, sample_rate: int = RATE, size: int = 100) -> None:
        super().__init__()
        self.sample_rate, self.size = sample_rate, size
        self.num_bins = size // 2 + 1

    def settings(self):
        return {"name": "Blocks", "sample_rate": self.sample_rate, "size": self.size}

    @property
    def frequencies(self):
        return torch.arange(self.num_bins) * (self.sample_rate / self.size)

    def num_frames(self, samples):
        return samples // self.size

    def times(self, frames):
        return (torch.arange(frames) + 0.5) * (self.size / self.sample_rate)

    def analyse(self, waveform):
        whole = waveform[:, 0, : waveform.shape[-1] // self.size * self.size]
        spectrum = torch.fft.rfft(whole.unflatten(1, (-1, self.size))).transpose(1, 2)
        power = (spectrum.abs() ** 2).clamp(min=1e-12)
        return View(10 * power.log10()[:, None], waveform, spectrum)

    def synthesise(self, view, cells):
        gain = 10 ** ((cells - view.cells)[:, 0] / 20)
        change = torch.fft.irfft(((gain - 1) * view.context).transpose(1, 2), self.size)
        missing = view.waveform.shape[-1] - change[0].numel()
        return view.waveform + nn.functional.pad(change.flatten(1), (0, missing))[:, None]


def test_a_new_front_end_is_one_class(monkeypatch, tones, tmp_path):
    monkeypatch.setitem(ai.FRONT_ENDS, "Blocks", Blocks)
    network = Network(2)
    classifier = ai.classifier(
        network, front_end=Blocks(), classes=("low", "high"), duration=1.2, normalize=True
    )
    assert build_processor(classifier.front_end.settings()).settings() == Blocks().settings()
    one, done = predict_and_predict_set(
        classifier,
        ai.GradCAMInterpreter(classifier, "relu"),
        tones,
        tmp_path / "run",
        on=("features", "audio"),
    )
    assert one.attribution.shape == (1, 1, 51, 96)
    np.testing.assert_array_equal(one.audio().waveform, one.view.waveform[0, 0].numpy())
    # A cell that is removed is silent in the sound.
    removed = Blocks().analyse(torch.from_numpy(one.audio("topK_30", "out").waveform)[None, None])
    gone = one.masks["topK_30"] == 1
    assert (removed.cells[gone] < one.view.cells[gone].max() - 60).all()
    assert {place for place, _ in done.tables} == {"features", "audio"}
    assert one.plot("topK_30") is not None
    assert one.save(tmp_path / "one", ["topK_30"]).is_dir()


def test_a_new_mask_is_one_function(monkeypatch, tones, tmp_path):
    monkeypatch.setitem(
        ai.MASKS, "above_mean", lambda maps: (maps.scaled > maps.scaled.mean(1, True)).float()
    )
    classifier = tone_classifier()
    method = ai.SaliencyInterpreter(classifier)
    one, done = predict_and_predict_set(classifier, method, tones, tmp_path / "run")
    assert len(one.masks) == 15
    expected = (one.attribution > one.attribution.mean()).float()
    assert torch.equal(one.masks["above_mean"], expected)
    assert one.metrics.loc["above_mean"].notna().all()
    assert len(done.tables["features", "above_mean"]) == 2


def test_a_new_metric_with_ground_truth_is_one_record(monkeypatch, tones, tmp_path):
    def on_target(evidence):
        louder = evidence.truth.foreground.cells > evidence.truth.background.cells
        return evidence.once(
            "share", lambda: (evidence.mask * louder).flatten(1).sum(1) / louder.flatten(1).sum(1)
        )

    monkeypatch.setitem(
        METRICS,
        "Found",
        Metric(
            "Found",
            title="share found",
            meaning="share of the foreground's cells that the mask selects",
            unit="",
            decimals=2,
            clip_decimals=2,
            better=1,
            bounds=lambda cells: (0.0, 1.0),
            family="localisation",
            level="mask",
            needs=frozenset({"truth", "mask"}),
            compute=on_target,
        ),
    )
    classifier = tone_classifier()
    method = ai.SaliencyInterpreter(classifier)
    one, done = predict_and_predict_set(classifier, method, tones, tmp_path / "run")
    assert "Found" not in one.metrics  # nothing is known of the parts of one sound
    table = done.tables["features", "topK_50"]
    parts = [stft()(each[None]) for each in tones.true_parts(0)]
    louder = (parts[0] > parts[1]).float()
    view = stft().analyse(tones[0].waveform[None])
    mask = ai.make_masks(method.attribute(view), ["topK_50"])["topK_50"]
    expected = float((mask * louder).sum() / louder.sum())
    assert table["Found"].iloc[0] == pytest.approx(expected, abs=1e-4)
    assert 0 < done.mean_metrics()["Found"]["topK_50"] < 1


class LoudestHalf(ai.Interpreter):
    """A method that returns a mask: the cells above the clip's median level."""

    name = "loudest-half"
    kind = "mask"

    def _explain(self, view, target):
        logits = self.classifier.logits(view.cells, view)
        chosen = logits.argmax(1) if target is None else target
        level = view.cells.flatten(1).median(1)[0][:, None, None, None]
        return Explanation((view.cells > level).float(), chosen)


def test_a_new_method_that_returns_a_mask_is_one_class(monkeypatch, tones, tmp_path):
    monkeypatch.setitem(ai.METHODS, LoudestHalf.name, LoudestHalf)
    classifier = tone_classifier()
    one, done = predict_and_predict_set(
        classifier, LoudestHalf(classifier), tones, tmp_path / "run"
    )
    assert list(one.masks) == ["identity"]
    assert torch.equal(one.masks["identity"], one.attribution)
    kept, left = one.masked["identity"]
    assert torch.equal(torch.where(one.attribution == 1, kept, left), one.view.cells)
    assert done.tables["features", "identity"]["FF"].notna().all()
    # Masks made of its map, too, where they are asked for.
    both = ai.Predict(classifier, LoudestHalf(classifier), masks=["identity", "bin"])
    result = both.predict(tones[0].waveform, RATE)
    assert torch.equal(result.masks["identity"], result.masks["bin"])
    with pytest.raises(ValueError, match="unknown mask 'identity'"):
        ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["identity"])


def test_scores_do_not_depend_on_the_batch():
    for head in HEADS:
        classifier = wrap(Network(HEADS[head][0]), head=head)
        view = classifier.front_end.analyse(sounds(5))
        scorer = Scorer(classifier)
        together = scorer(view.cells, view)
        alone = torch.cat([scorer(view.cells[n : n + 1], view[n : n + 1]) for n in range(5)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
