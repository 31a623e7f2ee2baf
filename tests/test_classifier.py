"""Any module as a classifier: what fits together and what does not."""

from __future__ import annotations

import json

import pytest
import torch
from networks import NAMES, RATE, Network, sounds, stft, wrap
from torch import nn

import audiointerp as ai
from audiointerp.model import build_head
from audiointerp.model.classifier import as_classifier


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
