"""Trained interpreters: their losses, their training, their weight files."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from decoders import untrained
from networks import HEADS, RATE, SECONDS, Network, sounds, stft, wrap
from tones import Tones, small_model
from tones import front_end as mel
from torch import nn

import audiointerp as ai
from audiointerp.cli import main
from audiointerp.interpretation import (
    L2IInterpreter,
    LMACInterpreter,
    load_interpreter,
    save_interpreter,
)
from audiointerp.interpretation.trained.base import Observation, choose_layers, observe
from audiointerp.interpretation.trained.files import NoInterpreterError, has_weights
from audiointerp.interpretation.trained.l2i import log_magnitude
from audiointerp.interpretation.trained.lmac import LMACDecoder
from audiointerp.model.described import WeightsError
from audiointerp.model.weights import load, save_weights
from audiointerp.runs.recipe import Recipe, build_interpreter
from audiointerp.runs.sanity import check_sanity
from audiointerp.training.epochs import TrainingError
from audiointerp.training.interpreter import _OPTIONS, fit_interpreter, train_interpreter
from audiointerp.training.objectives import (
    L2IObjective,
    LMACObjective,
    Step,
    draw_targets,
    learn_dictionary,
)

TRAINED = {"lmac": LMACInterpreter, "l2i": L2IInterpreter}
each_method = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bands(nn.Module):
    """Two classes, low and high: how loud cells between two bins are, and nothing else."""

    low, high = slice(5, 10), slice(36, 44)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        nn.init.constant_(self.conv.weight, 1 / 60)
        nn.init.constant_(self.conv.bias, 1)
        self.relu = nn.ReLU()

    def forward(self, cells):
        loud = self.relu(self.conv(cells)) ** 2
        low, high = (loud[:, :, band].mean((1, 2, 3)) for band in (self.low, self.high))
        return 8 * torch.stack([low, high], 1)


def bands(**options) -> ai.Classifier:
    return wrap(Bands(), classes=("low", "high"), normalize=True, duration=1.2, **options)


def fit(tmp_path, objective, *, classifier=None, train=None, validation=None, **options):
    options = {"epochs": 2, "batch_size": 4, "device": "cpu", "progress": False} | options
    return fit_interpreter(
        objective,
        bands() if classifier is None else classifier,
        Tones(8) if train is None else train,
        Tones(4, 100) if validation is None else validation,
        out=tmp_path / "run",
        **options,
    )


# --- masks --------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("head", HEADS)
def test_a_mask_for_every_head_whatever_the_batch(name, head):
    classifier = wrap(Network(HEADS[head][0]), head=head)
    view = classifier.front_end.analyse(sounds(5))
    decoder = untrained(name, classifier, view)
    if name == "l2i":  # of a binary head there is one output
        settings = decoder.settings() | {"outputs": HEADS[head][0]}
        torch.manual_seed(0)
        decoder = type(decoder)(**settings)
    method = TRAINED[name](classifier, weights=decoder)
    for target in (0, 1):
        together = method.explain(view, target)
        mask = together.attribution
        assert mask.shape == view.cells.shape
        assert mask.min() >= 0
        assert mask.max() <= 1
        assert mask.std() > 0
        alone = torch.cat([method.attribute(view[n : n + 1], target) for n in range(5)])
        torch.testing.assert_close(alone, mask, rtol=1e-4, atol=1e-5)
        assert all(value.shape == (5,) for value in together.diagnostics.values())
    assert torch.equal(ai.make_masks(mask, ["identity"])["identity"], mask)


@each_method
def test_networks_that_take_a_waveform(name):
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 6, 32, stride=8)
            self.relu = nn.ReLU()
            self.conv2 = nn.Conv1d(6, 5, 8, stride=4)
            self.linear = nn.Linear(5, 3)

        def forward(self, waveform):
            return self.linear(self.conv2(self.relu(self.conv(waveform[:, None]))).mean(2))

    front_end = ai.WaveformFrontEnd(sample_rate=RATE, n_fft=128, hop_length=64)
    classifier = wrap(Waves(), front_end=front_end, outputs="logits")
    view = front_end.analyse(sounds(3))
    method = TRAINED[name](classifier, weights=untrained(name, classifier, view))
    mask = method.attribute(view)
    assert mask.shape == view.cells.shape
    assert 0 <= mask.min() <= mask.max() <= 1
    objective = LMACObjective() if name == "lmac" else L2IObjective()
    found = objective.losses(method.decoder, classifier, classifier, view, view)
    assert found["loss"].isfinite().all()
    found["loss"].sum().backward()


def test_the_layers_of_a_network_of_this_package_are_the_last_of_every_size():
    classifier = load_small()
    view = classifier.front_end.analyse(sounds(1))
    layers = choose_layers(classifier, view)
    assert layers[0] == "base.conv_block1.relu2"
    assert layers[-1] == "base.conv_block5.relu2"  # of one row and three frames; one frame after it
    assert len(choose_layers(classifier, view, most=3)) == 3
    assert choose_layers(classifier, view, most=3)[-1] == layers[-1]


def load_small() -> ai.Classifier:
    model, processor = small_model(), mel()
    return ai.Classifier(model, processor, classes=("low", "high"), duration=1.2)


def test_lmac_tells_the_decoder_the_class_by_its_gradient():
    decoder = LMACDecoder(["a", "b"], [3, 5], width=4)
    generator = torch.Generator().manual_seed(0)
    planes = [torch.rand(2, *size, generator=generator) for size in ((3, 8, 10), (5, 4, 5))]
    gradient = torch.randn(2, 5, 4, 5, generator=generator)

    def logits(gradient):
        return decoder(Observation(torch.zeros(2, 2), torch.zeros(2), planes, gradient), (8, 10))

    found = logits(gradient)
    assert found.shape == (2, 1, 8, 10)
    # Its direction counts, not its size.
    torch.testing.assert_close(logits(1e-6 * gradient), found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(-gradient), found)
    assert logits(0 * gradient).isfinite().all()


def test_l2i_keeps_the_share_of_the_relevant_components():
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(2))
    decoder = untrained("l2i", classifier, view)
    with torch.no_grad():
        decoder.dictionary.copy_(torch.rand(decoder.dictionary.shape, generator=seeded(0)))
        decoder.activate.bias.fill_(0.5)
    method = L2IInterpreter(classifier, weights=decoder)
    explanation = method.explain(view, 2)
    # By hand, from the decoder's parts.
    network = classifier.network.eval()
    planes = []
    for layer in decoder.layers:
        hook = network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: planes.append(output.detach())
        )
        network(view.cells)
        hook.remove()
    with torch.no_grad():
        reduced = []
        for place, plane in enumerate(planes):
            flat = plane.reshape(2, -1, plane.shape[3])  # as many rows as they have
            each = decoder.normalise[place](decoder.reduce[place](flat))
            reduced.append(nn.functional.interpolate(each, view.cells.shape[3], mode="linear"))
        activations = decoder.activate(decoder.mix(torch.cat(reduced, 1)).relu()).relu()
        for clip in range(2):
            h = activations[clip]
            attention = (decoder.attend.weight[0] @ h).softmax(0)
            weight = decoder.classify.weight
            given = (h * attention).sum(1) * (weight[2] - weight.mean(0))
            kept = given / given.abs().max() > 0.3  # the decoder's threshold
            chosen = decoder.dictionary[:, kept] @ h[kept]
            expected = chosen / (decoder.dictionary @ h + 1e-3)
            torch.testing.assert_close(
                explanation.attribution[clip, 0], expected, rtol=1e-4, atol=1e-5
            )
            assert explanation.diagnostics["components"][clip] == kept.sum()
            imitated = decoder.classify.weight @ (h * attention).sum(1)
            agrees = imitated.argmax() == network(view.cells)[clip].argmax()
            assert explanation.diagnostics["agrees"][clip] == agrees


# --- what decoders are trained for --------------------------------------------------------------


@pytest.mark.parametrize("guidance", [0.0, 3.0])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_the_loss_of_lmac_is_its_formula(head, guidance):
    classifier = wrap(Network(), head=head)
    view = classifier.front_end.analyse(sounds(3))
    clean = classifier.front_end.analyse(sounds(3) * torch.tensor([1.0, 0.9, 1.0])[:, None, None])
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(view.cells.shape, generator=generator)
    mask[0] = 1 - 1e-3 * mask[0]
    target = torch.tensor([0, 2, 1])
    weights = {"keep": 3.0, "remove": 0.5, "sparsity": 2.0, "guidance": guidance, "alike": 0.9}
    with torch.no_grad():
        logits = classifier.logits(view.cells, view)
        found = LMACObjective(**weights).masking_losses(
            classifier, view, clean, mask, logits, target
        )

    def chance(cells, label):
        scores = classifier.network(cells[None])[0].double()
        return (scores.softmax(0) if head == "softmax" else scores.sigmoid())[label].item()

    tuned = []
    for clip, label in enumerate(target.tolist()):
        cells, part = view.cells[clip], mask[clip]
        inside, outside = -100 + (cells + 100) * part, -100 + (cells + 100) * (1 - part)
        with torch.no_grad():
            kept, left = chance(inside, label), chance(outside, label)
            whole = chance(cells, label)
        cost = 2 * part.mean().item()
        heard = np.log1p(10 ** (inside.numpy().astype(float) / 20))
        wanted = np.log1p(10 ** (clean.cells[clip].numpy().astype(float) / 20))
        alike = (heard * wanted).sum() / np.linalg.norm(heard) / np.linalg.norm(wanted)
        if guidance and alike >= 0.9:
            cost = 3 * ((heard - wanted) ** 2).sum() / (wanted**2).sum()
        tuned.append(alike >= 0.9)
        expected = -3 * math.log(kept) + 0.5 * math.log(left) + cost
        assert found["loss"][clip].item() == pytest.approx(expected, rel=1e-4)
        assert found["mask"][clip].item() == pytest.approx(part.mean().item(), rel=1e-5)
        assert found["FF"][clip].item() == pytest.approx(whole - left, abs=1e-5)
        drop = 100 * max(0, whole - kept) / whole
        assert found["AD"][clip].item() == pytest.approx(drop, abs=1e-3)
    assert len(set(tuned)) == 2  # of both kinds


def test_the_second_class_is_explained_as_often_as_asked_for():
    logits = torch.tensor([[1.0, 3.0, 2.0]]).expand(800, 3)
    others = torch.tensor([0.25, 0.0]).repeat(400)
    drawn = draw_targets(logits, others, torch.Generator().manual_seed(0))
    assert (drawn[1::2] == 1).all()
    assert set(drawn[::2].tolist()) == {1, 2}
    assert (drawn[::2] == 2).double().mean().item() == pytest.approx(0.25, abs=0.07)
    one = draw_targets(torch.zeros(4, 1), torch.ones(4), torch.Generator())
    assert (one == 0).all()


def test_only_of_mixed_clips_another_class_is_explained(monkeypatch):
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(3))
    other = sounds(3)
    other[1] = sounds(3, seed=5)[1]
    clean = classifier.front_end.analyse(other)
    decoder = untrained("lmac", classifier, view)
    objective = LMACObjective(others=1.0)
    explained = []
    monkeypatch.setattr(
        LMACObjective,
        "masking_losses",
        lambda *arguments: explained.append(arguments[-1]) or {"loss": torch.zeros(3)},
    )
    step = Step(torch.Generator().manual_seed(0), 0.0)
    objective.losses(decoder, classifier, classifier, view, clean, step)
    objective.losses(decoder, classifier, classifier, view, clean)
    first, second = classifier.network(view.cells).topk(2).indices.unbind(1)
    expected = first.clone()
    expected[1] = second[1]
    assert torch.equal(explained[0], expected)
    assert torch.equal(explained[1], first)


def test_the_loss_of_l2i_is_its_formula():
    classifier = wrap(Network())
    view = classifier.front_end.analyse(sounds(2))
    decoder = untrained("l2i", classifier, view)
    with torch.no_grad():
        decoder.dictionary.copy_(torch.rand(decoder.dictionary.shape, generator=seeded(0)))
        decoder.activate.bias.fill_(0.3)
        decoder.scale.fill_(2.5)
        found = L2IObjective(reconstruction=7.0, sparsity=0.5).losses(
            decoder, classifier, classifier, view, view
        )
        logits = classifier.network(view.cells)
    with torch.no_grad():
        seen = observe(classifier, classifier, decoder.layers, view, lambda z: z.argmax(1))
        activations = decoder(seen, view.cells.shape[3])
        imitated = decoder.classify(decoder.pool(activations))
    for clip in range(2):
        h = activations[clip].numpy()
        levels = view.cells[clip, 0].numpy().astype(float)
        wanted = np.log1p(10 ** (levels / 20)) / 2.5
        error = ((wanted - decoder.dictionary.numpy() @ h) ** 2).mean()
        chances = logits[clip].double().softmax(0)
        fidelity = -(chances * imitated[clip].double().log_softmax(0)).sum().item()
        expected = 7 * error + 0.5 * h.mean() + fidelity
        assert found["loss"][clip].item() == pytest.approx(expected, rel=1e-4)
        assert found["error"][clip].item() == pytest.approx(error, rel=1e-4)
        assert found["fidelity"][clip].item() == pytest.approx(fidelity, rel=1e-4)


def test_power_and_decibels_have_the_same_magnitude():
    power = 10 ** torch.linspace(-6, 3, 20).reshape(1, 1, 4, 5)
    torch.testing.assert_close(
        log_magnitude(10 * power.log10(), log=True), log_magnitude(power, log=False)
    )


@pytest.mark.parametrize(
    "wrong", [{"keep": -1.0}, {"sparsity": math.inf}, {"others": 1.5}, {"guidance": True}]
)
def test_a_weight_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*: expected a number from"):
        LMACObjective(**wrong)


def test_the_dictionary_has_the_spectra_that_the_frames_are_made_of():
    """Of spectra without a bin in common, each alone in a frame, there is one factorisation."""
    random = np.random.default_rng(0)
    true = np.zeros((9, 3))
    for place in range(3):
        true[3 * place : 3 * place + 3, place] = random.uniform(0.2, 1, 3)
    true /= true.max(0)
    levels = np.hstack([np.eye(3), random.gamma(1, size=(3, 200))])
    frames = torch.from_numpy(true @ levels)
    found = learn_dictionary(frames, 3, iterations=5000, seed=1)
    assert found.dtype == frames.dtype
    order = [int(found[3 * place : 3 * place + 3].sum(0).argmax()) for place in range(3)]
    torch.testing.assert_close(found[:, order], torch.from_numpy(true), atol=1e-3, rtol=0)
    assert torch.equal(found, learn_dictionary(frames, 3, iterations=5000, seed=1))


# --- training -----------------------------------------------------------------------------------


def both_tones() -> torch.Tensor:
    """Return a clip of a low and a high tone, which `Bands` hears by its two classes."""
    parts = [Tones(2)[place].waveform for place in range(2)]
    mixed = sum(parts)
    return (mixed / mixed.abs().max())[None]


def mean_in_bands(mask: torch.Tensor) -> tuple[float, float]:
    return mask[:, :, Bands.low].mean().item(), mask[:, :, Bands.high].mean().item()


def test_lmac_finds_the_band_that_the_network_listens_to(tmp_path):
    classifier = bands()
    training = fit(
        tmp_path,
        LMACObjective(width=8, others=0.5, sparsity=1.5),
        train=Tones(24),
        epochs=10,
        mix=1.0,
    )
    history = training.history
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    assert training.best_epoch == history["val_loss"].idxmin() + 1
    view = classifier.front_end.analyse(both_tones())
    method = LMACInterpreter(classifier, weights=training.decoder)
    for label in range(2):
        found = mean_in_bands(method.attribute(view, label))
        rest = method.attribute(view, label)[:, :, 12:32].mean().item()
        assert found[label] > 2 * found[1 - label]
        assert found[label] > 2 * rest


def test_l2i_finds_the_components_of_the_class(tmp_path):
    classifier = bands()
    training = fit(
        tmp_path,
        L2IObjective(components=6, width=16),
        train=Tones(24),
        epochs=40,
        learning_rate=1e-2,
    )
    assert training.best["val_agrees"] == 1.0
    view = classifier.front_end.analyse(both_tones())
    method = L2IInterpreter(classifier, weights=training.decoder)
    for label, (own, other) in enumerate(((7, 40), (40, 7))):
        mask = method.attribute(view, label)[0, 0]
        # The tones lie at 400 and 2500 Hz, bins of 62.5 Hz.
        assert mask[own - 1 : own + 1].mean() > mask[other - 1 : other + 1].mean() + 0.2


@each_method
def test_a_training_that_broke_down_resumes_to_the_same_weights(name, tmp_path):
    objective = LMACObjective(width=4) if name == "lmac" else L2IObjective(components=4, width=8)
    whole = fit(tmp_path / "whole", objective, epochs=4)
    broken = Tones(8)
    # In the third epoch; all were read once before the first, for the decoder's shape once more,
    # and for a dictionary again.
    broken.breaks_after = 8 + 1 + (8 if name == "l2i" else 0) + 19
    with pytest.raises(OSError, match="disk is gone"):
        fit(tmp_path / "cut", objective, train=broken, epochs=4)
    assert len(pd.read_csv(tmp_path / "cut" / "run" / "history.csv")) == 2
    resumed = fit(tmp_path / "cut", objective, epochs=4, resume=True)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert resumed.best_epoch == whole.best_epoch
    again = fit(tmp_path / "cut", objective, epochs=4, resume=True)  # only read back
    for one in (resumed, again):
        for key, value in whole.decoder.state_dict().items():
            assert torch.equal(value, one.decoder.state_dict()[key])
    with pytest.raises(ValueError, match="holds a training already"):
        fit(tmp_path / "cut", objective, epochs=4)
    with pytest.raises(ValueError, match="other settings"):
        fit(tmp_path / "cut", objective, epochs=4, seed=5, resume=True)


def test_the_classifier_is_left_as_it_was(tmp_path):
    classifier = load_small()
    classifier.network.train()
    before = {key: value.clone() for key, value in classifier.network.state_dict().items()}
    fit(tmp_path, LMACObjective(width=4), classifier=classifier, epochs=1)
    for key, value in classifier.network.state_dict().items():
        assert torch.equal(value, before[key])
    assert classifier.network.training
    assert all(each.requires_grad for each in classifier.network.parameters())
    assert all(each.grad is None for each in classifier.network.parameters())
    checkpoint = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert all(key.startswith(("model.", "processor.")) for key in checkpoint["state_dict"])


def test_a_second_stage_starts_from_the_first(tmp_path):
    first = fit(tmp_path / "first", LMACObjective(width=4), epochs=1)
    before = {key: value.clone() for key, value in first.decoder.state_dict().items()}
    tuned = fit(
        tmp_path / "second",
        LMACObjective(width=4, guidance=4.0),
        start=first.decoder,
        epochs=1,
        learning_rate=1e-6,
    )
    for key, value in first.decoder.state_dict().items():
        assert torch.equal(value, before[key])
        torch.testing.assert_close(tuned.decoder.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="2 clips are in both sets"):
        fit(tmp_path, LMACObjective(), train=Tones(2), validation=Tones(2))
    with pytest.raises(ValueError, match="expects 8000 Hz"):
        fit(tmp_path, LMACObjective(), train=Tones(2, rate=16000))
    with pytest.raises(ValueError, match="mix is 2"):
        fit(tmp_path, LMACObjective(), mix=2)
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got 0"):
        fit(tmp_path, LMACObjective(), epochs=0)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        fit(tmp_path, LMACObjective(keep=1e306), mix=0.0)


# --- weight files -------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """Return the weight file of a small classifier."""
    return save_weights(
        tmp_path / "small.safetensors",
        small_model(),
        mel(),
        classes=("low", "high"),
        duration=1.2,
    )


def decoder_for(name, classifier):
    view = classifier.front_end.analyse(0.1 * torch.randn(1, 1, 9600, generator=seeded(0)))
    return untrained(name, classifier, view)


@each_method
def test_a_decoder_comes_back_with_all_that_belongs_to_it(name, file, tmp_path):
    classifier = load(file)
    assert classifier.file == file
    decoder = decoder_for(name, classifier)
    card = {"licence": "CC0"}
    path = save_interpreter(tmp_path / f"small_{name}.safetensors", decoder, classifier, card=card)
    view = classifier.front_end.analyse(Tones(2)[1].waveform[None])
    expected = TRAINED[name](classifier, weights=decoder).attribute(view)
    model, processor = classifier
    for method in (
        load_interpreter(path, classifier, batch_size=1),
        TRAINED[name](classifier),  # found beside the classifier's own
        build_interpreter(name, classifier),
        build_interpreter(name, model, processor),
        build_interpreter(name, classifier, weights=path),
    ):
        assert type(method) is TRAINED[name]
        assert torch.equal(method.attribute(view), expected)
        assert method.settings() == TRAINED[name](classifier, weights=decoder).settings()
    again = save_interpreter(tmp_path / "again.safetensors", decoder, classifier, card=card)
    assert again.read_bytes() == path.read_bytes()


@each_method
def test_a_decoder_of_another_classifier_is_refused(name, file, tmp_path):
    classifier = load(file)
    path = save_interpreter(
        tmp_path / f"small_{name}.safetensors", decoder_for(name, classifier), classifier
    )
    with torch.no_grad():
        classifier.network.classifier.bias[0] += 1e-3
    with pytest.raises(WeightsError, match=r"trained for the classifier 'small' of the hash .*"):
        TRAINED[name](classifier)
    classifier = load(file)
    other = "l2i" if name == "lmac" else "lmac"
    with pytest.raises(WeightsError, match=f"it is of the method {name}, not of {other}"):
        TRAINED[other](classifier, weights=path)
    with pytest.raises(ValueError, match=f"a decoder of {name} cannot make the masks of {other}"):
        TRAINED[other](classifier, weights=decoder_for(name, classifier))
    front_end = ai.LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=512, hop_length=256, n_mels=32, f_max=3900
    )
    changed = ai.Classifier(classifier.network, front_end, classes=("low", "high"))
    with pytest.raises(WeightsError, match="trained with the front end"):
        TRAINED[name](changed, weights=path)
    with pytest.raises(WeightsError, match="load_interpreter reads"):
        load(path)
    with pytest.raises(WeightsError, match=r"not the weights of a trained interpreter"):
        load_interpreter(file, classifier)


def test_a_damaged_file_is_refused(file, tmp_path):
    classifier = load(file)
    path = save_interpreter(tmp_path / "a.safetensors", decoder_for("lmac", classifier), classifier)
    content = path.read_bytes()
    for place in range(200, len(content), len(content) // 23):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match=r"a\.safetensors"):
            load_interpreter(path, classifier)
    path.write_bytes(content[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        load_interpreter(path, classifier)
    path.write_bytes(b"no weights at all")
    with pytest.raises(WeightsError, match="not a weight file"):
        load_interpreter(path, classifier)
    with pytest.raises(WeightsError, match="no such file"):
        load_interpreter(tmp_path / "none.safetensors", classifier)
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        save_interpreter(tmp_path / "a.pt", decoder_for("lmac", classifier), classifier)


def test_a_text_that_does_not_fit_its_tensors_is_refused(file, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    classifier = load(file)
    path = save_interpreter(tmp_path / "a.safetensors", decoder_for("lmac", classifier), classifier)
    with safe_open(path, "pt") as opened:
        text = {key: value for key, value in opened.metadata().items() if key != "crc32"}
    tensors = load_file(path)
    decoder = json.loads(text["decoder"])
    for changes in (
        {"decoder": json.dumps(decoder | {"width": 10**9})},
        {"decoder": json.dumps(decoder | {"width": "wide"})},
        {"decoder": json.dumps(decoder | {"depth": 3})},
        {"decoder": "[1]"},
        {"decoder": "{"},
        {"method": '"saliency"'},
        {"method": '"none"'},
        {"card": "3"},
        {"classifier": "null"},
    ):
        save_file(tensors, path, text | changes)
        with pytest.raises(WeightsError, match=r"a\.safetensors"):
            load_interpreter(path, classifier)
    tensors["head.bias"] = tensors["head.bias"] * float("nan")
    save_file(tensors, path, text)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        load_interpreter(path, classifier)


# --- runs ---------------------------------------------------------------------------------------


def test_a_classifier_without_a_decoder_names_the_command(file):
    classifier = load(file)
    message = r"small_lmac\.safetensors: no such file; .*train-interpreter lmac --weights .*--data"
    with pytest.raises(NoInterpreterError, match=r"(?s)" + message):
        build_interpreter("lmac", classifier)
    with pytest.raises(NoInterpreterError, match=r"not read by audiointerp\.load"):
        LMACInterpreter(bands())
    with pytest.raises(NoInterpreterError):
        Recipe("lmac").jobs(classifier)


@pytest.mark.filterwarnings("ignore:left out of all methods, attention_rollout")
def test_of_all_methods_those_without_a_decoder_are_left_out(file, tmp_path):
    classifier = load(file)
    background = classifier.front_end.analyse(Tones(2)[0].waveform[None])
    with pytest.warns(UserWarning, match="left out of all methods, lmac, l2i: not trained for sma"):
        jobs = Recipe("all").jobs(classifier, background)
    assert {"lmac", "l2i"}.isdisjoint(jobs)
    for name in TRAINED:
        save_interpreter(
            tmp_path / f"small_{name}.safetensors", decoder_for(name, classifier), classifier
        )
        assert has_weights(classifier, name)
    assert set(Recipe("all").jobs(classifier, background)) >= set(TRAINED)


@each_method
def test_a_set_is_interpreted_and_measured(name, file, tmp_path):
    classifier = load(file)
    save_interpreter(
        tmp_path / f"small_{name}.safetensors", decoder_for(name, classifier), classifier
    )
    predict = ai.Predict(classifier, build_interpreter(name, classifier))
    done = predict.predict_set(Tones(2), tmp_path / "run", progress=False)
    assert done.failures == {}
    assert list(done.mean_metrics().index) == ["identity"]


def test_sanity_checks_run_the_decoder_on_randomised_networks(file, tmp_path):
    classifier = load(file)
    save_interpreter(
        tmp_path / "small_lmac.safetensors", decoder_for("lmac", classifier), classifier
    )
    clips = torch.stack([clip.waveform for clip in Tones(2)])
    layers = ["classifier", "base.conv_block6.conv2"]
    found = check_sanity(classifier, ["lmac"], clips, checks="cascading", layers=layers)
    assert set(found["layer"]) >= set(layers)
    assert found["value"].notna().all()


def test_masks_that_hide_otherwise_than_in_the_training_are_warned_of(file, tmp_path):
    classifier = load(file)
    method = LMACInterpreter(classifier, weights=decoder_for("lmac", classifier))
    with pytest.warns(UserWarning, match="lmac hides cells at -100, the masks at the base 'quiet'"):
        ai.Predict(classifier, method, base="quiet")


# --- from data to a weight file -----------------------------------------------------------------


@pytest.fixture
def tiny(tiny_esc50, tmp_path):
    """Return a set and the weight file of a classifier for it."""
    processor = stft()
    model = ai.TransferCnn14(3, processor.num_bins, width=1 / 16)
    classes = ("dog", "cat", "rain")
    path = tmp_path / "tiny.safetensors"
    return tiny_esc50, save_weights(path, model, processor, classes=classes, duration=SECONDS)


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["audiointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


@each_method
def test_the_command_writes_weights_card_and_learning_curve(name, tiny, monkeypatch, tmp_path):
    data, weights = tiny
    monkeypatch.chdir(tmp_path)
    option = "sparsity=1.5" if name == "lmac" else "components=5"
    words = ["train-interpreter", name, "--weights", weights, "--data", data]
    words += ["--epochs", 2, "--batch-size", 4, "--width", 8, "--option", option]
    assert command(monkeypatch, *words) == 0
    classifier = load(weights)
    method = build_interpreter(name, classifier)
    assert method.decoder.width == 8
    card = (tmp_path / f"tiny_{name}.md").read_text()
    for text in ("ESC-50", "CC BY-NC", "for the classifier tiny", "no labels are used", option[:8]):
        assert text in card
    shown = f"audiointerp train-interpreter {name} --weights weights/tiny.safetensors --data "
    shown += f"ESC50_ROOT --out weights/tiny_{name}.safetensors --width 8 --option {option} "
    assert shown + "--epochs 2 --batch-size 4 --seed 0" in card
    assert str(data) not in card
    folder = tmp_path / "results" / "training" / f"tiny_{name}.safetensors"
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    # Once more, it is only read back; with other settings it is refused.
    written = (tmp_path / f"tiny_{name}.safetensors").read_bytes()
    assert command(monkeypatch, *words, "--resume") == 0
    assert (tmp_path / f"tiny_{name}.safetensors").read_bytes() == written
    assert command(monkeypatch, *words) == 2
    assert command(monkeypatch, *words, "--resume", "--seed", 1) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["saliency"], "unknown trained interpreter 'saliency'"),
        (["lmac", "--option", "sparsity"], "expected NAME=VALUE"),
        (["lmac", "--option", "sparseness=1"], "no setting sparseness: it takes width, base"),
        (["lmac", "--option", "sparsity=much"], "sparsity is 'much'"),
        (["lmac", "--out", "a.pt"], "end in .safetensors"),
        (["lmac", "--train-folds", "4"], "given twice|4"),
        (["lmac", "--start", "tiny.safetensors"], "not the weights of a trained interpreter"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(
    words, message, tiny, monkeypatch, tmp_path, capsys
):
    data, weights = tiny
    monkeypatch.chdir(tmp_path)
    words = ["train-interpreter", words[0], "-w", weights, "-d", data, *words[1:]]
    assert command(monkeypatch, *words) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.glob("tiny_*"))


def test_the_command_knows_the_true_defaults():
    parameters = inspect.signature(train_interpreter).parameters
    assert {name: parameters[name].default for name in _OPTIONS} == _OPTIONS
    left_out = {"method", "weights", "data", "out", "device", "run_dir", "cache_dir", "resume"}
    left_out |= {"overwrite", "num_workers", "progress"}
    assert set(parameters) - set(_OPTIONS) == left_out


def test_decoders_are_small():
    """Of the bundled networks: at most 600 kB each."""
    for bins, width in ((64, 1 / 8), (257, 3 / 32)):
        processor = ai.LogMelSTFTSpectrogram() if bins == 64 else ai.LogSTFTSpectrogram()
        model = ai.TransferCnn14(10, bins, width=width).eval()
        classifier = ai.Classifier(model, processor, duration=5.0)
        clip = 0.1 * torch.randn(1, 1, 5 * processor.sample_rate)
        train = [dataclasses.make_dataclass("Clip", ["waveform"])(clip[0])]
        for objective in (LMACObjective(), L2IObjective(frames=10, iterations=1)):
            decoder = objective.make_decoder(classifier, train)
            numbers = sum(value.numel() for value in decoder.state_dict().values())
            assert 4 * numbers < 600_000
