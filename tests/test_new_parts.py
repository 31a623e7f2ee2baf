"""A new head, front end, mask, metric or method is one record."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from networks import HEADS, RATE, Network, probabilities, sounds, stft, wrap
from tones import Tones
from torch import nn

import audiointerp as ai
from audiointerp.evaluation import METRICS, Metric
from audiointerp.interpretation import Explanation
from audiointerp.model import build_head
from audiointerp.model.heads import Head, Softmax
from audiointerp.processing import FrontEnd, build_processor
from audiointerp.processing.view import View
from audiointerp.speed.scoring import Scorer


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
