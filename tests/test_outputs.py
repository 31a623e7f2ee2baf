"""What networks return, and what their outputs mean."""

from __future__ import annotations

import warnings
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from networks import HEADS, NAMES, RATE, Network, probabilities, sounds, stft, wrap
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import AdditivityWarning, UnsupportedLayerError
from audiointerp.model.outputs import looks_like_probabilities

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
