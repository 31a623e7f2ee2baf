"""Everything runs on a device without float64, as Apple's GPUs are, with the CPU's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import untrained
from networks import HEADS, RATE, Network, sounds, stft, wrap
from single_precision import MPSTensor, pretended
from tones import Tones

import audiointerp as ai
from audiointerp.device import double_device, has_double, resolve_device, to_double
from audiointerp.evaluation import (
    Evidence,
    Truth,
    evaluate_evidence,
    sounding_frames,
    truth_facts,
)
from audiointerp.fit import fit
from audiointerp.interpretation.segmentation import Grid
from audiointerp.masking import BASES, DOMAINS, apply_mask, base_level
from audiointerp.metrics import METRICS, complexity, sparseness
from audiointerp.model import build_head, build_model
from audiointerp.runs.check import check_classifier
from audiointerp.runs.experiment import run_experiment
from audiointerp.runs.recipe import Recipe, build_interpreter
from audiointerp.speed.memory import batch_size_for
from audiointerp.speed.scoring import Scorer


@pytest.fixture
def mps():
    with pretended() as device:
        yield device


def small_network(outputs=3, num_bins=65):
    settings = {"name": "Cnn14", "num_classes": outputs, "num_bins": num_bins, "width": 1 / 16}
    return build_model(settings, seed=0).eval()


SAMPLES = ("lime", "kernelshap", "rise", "freqrise", "linear_surrogate", "forest_surrogate")
FEW = {name: {"num_samples": 20} for name in SAMPLES} | {
    "occlusion": {"window": (20, 40)},
    "permutation_shap": {"num_permutations": 1, "segmentation": Grid(2, 4)},
    "sobol": {"num_designs": 2, "segmentation": "nmf"},
}
"""Settings of methods that would take many passes."""


def interpreter(method, classifier):
    background = classifier.front_end.analyse(sounds(2, seed=1).to(classifier.weight_type[0]))
    options = dict(FEW.get(method, {}))
    if "weights" in ai.METHODS[method].requires:
        on_cpu = wrap(small_network())
        view = on_cpu.front_end.analyse(sounds(1))
        options["weights"] = untrained(method, on_cpu, view)
    return build_interpreter(method, classifier, background=background, **options)


def on_both(make):
    """Return what a function of a device makes on the CPU and on the pretended one."""
    return make(torch.device("cpu")), make(torch.device("mps"))


def assert_same(found, expected, rtol=1e-4, atol=1e-6):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.cpu(), expected, rtol=rtol, atol=atol, equal_nan=True)


# The device itself: what it refuses, and what it must not refuse.


def test_the_pretended_device_refuses_what_an_apple_gpu_refuses(mps):
    single = torch.tensor([0.1], device=mps)
    assert (type(single), single.device) == (MPSTensor, mps)
    refused = (
        lambda: single.double(),
        lambda: torch.tensor([0.1], dtype=torch.float64, device=mps),
        lambda: torch.zeros(2, dtype=torch.float64).to("mps"),
        lambda: single.sum(0, dtype=torch.float64),
        lambda: torch.zeros(2, dtype=torch.complex128, device="mps"),
    )
    for make in refused:
        with pytest.raises(TypeError, match=r"MPS framework doesn't support (float64|complex128)"):
            make()
    with pytest.raises(RuntimeError, match="two devices, mps:0 and cpu"):
        single + torch.zeros(1)
    with pytest.raises(TypeError, match="to copy the tensor to host memory"):
        single.numpy()
    with pytest.raises(NotImplementedError, match="not currently implemented for the MPS device"):
        torch.linalg.eigvals(torch.eye(2, device=mps))


def test_the_pretended_device_allows_double_precision_on_the_cpu(mps):
    single = torch.tensor([0.1], device=mps, requires_grad=True)
    for double in (single.cpu().double(), single.to("cpu", torch.float64)):
        assert (double.device.type, double.dtype) == ("cpu", torch.float64)
    assert torch.zeros(2, dtype=torch.float64).to("mps", torch.float32).device == mps
    (single * 3).sum().backward()
    assert single.grad.tolist() == [3]


# Where double precision is.


def test_double_precision_is_on_the_cpu_where_a_device_has_none(mps):
    assert has_double(torch.device("cpu"))
    assert not has_double(mps)
    assert double_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert double_device(mps) == torch.device("cpu")
    values = to_double(torch.tensor([0.1], device=mps))
    assert (values.device.type, values.dtype) == ("cpu", torch.float64)


def test_auto_takes_the_gpu_that_is_there(mps, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == resolve_device("mps").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xpu", "'xpu' is not offered.* choose auto, cpu, cuda, cuda:<number> or mps"),
        ("meta", "'meta' is not offered"),
        ("gpu", "unknown device 'gpu': choose auto, cpu"),
        ("cuda:7", "'cuda:7' is not there: .* has, .* 1 cpu, 2 cuda, 0 mps"),
        ("mps", "'mps' is not there: .* 0 mps; choose 'auto'"),
        ("cpu:1", "'cpu:1' is not there: .* 1 cpu"),
    ],
)
def test_a_device_that_cannot_be_had_is_refused_with_those_there_are(name, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=said):
        resolve_device(name)


# The pipeline, part by part.


@pytest.mark.parametrize("name", ai.FRONT_ENDS)
def test_front_ends(name, mps):
    def make(device):
        front_end = ai.FRONT_ENDS[name]().to(device)
        waveform = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0)) / 10
        view = front_end.analyse(waveform.to(device))
        changed = view.cells - 6 if front_end.log else view.cells / 4
        return view.cells, front_end.synthesise(view, changed)

    for expected, found in zip(*on_both(make), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
@pytest.mark.parametrize("head", ai.HEADS)
def test_heads_give_probabilities_in_double_precision(head, outputs, mps):
    count, after = HEADS[head]
    network = Network(count, after) if outputs == "probabilities" else Network(count)
    classifier = wrap(network, head=head, outputs=outputs)

    def make(device):
        view = classifier.to(device).front_end.analyse(sounds().to(device))
        with torch.no_grad():
            return classifier.probabilities(classifier.logits(view.cells, view))

    expected, found = on_both(make)
    assert found.dtype == torch.float64
    assert_same(found, expected)


WITHOUT_TRUTH = [
    name for name in ai.METHODS if ai.METHODS[name].requires.isdisjoint({"truth", "attention"})
]


@pytest.mark.parametrize("method", WITHOUT_TRUTH)
def test_methods(method, mps):
    classifier = wrap(small_network())

    def make(device):
        view = classifier.to(device).front_end.analyse(sounds().to(device))
        return interpreter(method, classifier).explain(view)

    expected, found = on_both(make)
    assert found.attribution.device == mps
    assert_same(found.attribution, expected.attribution, atol=1e-4)
    for name, values in expected.diagnostics.items():
        assert_same(found.diagnostics[name], values, atol=1e-4)


def test_lime_hides_segments_by_their_mean(mps):
    classifier = wrap(small_network())

    def make(device):
        view = classifier.to(device).front_end.analyse(sounds(1).to(device))
        return ai.LIMEInterpreter(classifier, num_samples=20, hide="mean").attribute(view)

    expected, found = on_both(make)
    assert_same(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ai.MASKS)
def test_masks(name, mps):
    maps = torch.randn(3, 1, 7, 9, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    expected, found = on_both(lambda device: ai.make_masks(maps.to(device), name)[name])
    assert_same(found, expected)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("base", BASES)
def test_bases(base, domain, mps):
    random = torch.Generator().manual_seed(0)
    cells, mask = -100 * torch.rand(2, 3, 1, 7, 9, generator=random)
    mask = -mask / 100

    def make(device):
        level = base_level(cells.to(device), base, floor=-100.0)
        return apply_mask(cells.to(device), mask.to(device), level, domain=domain)

    for expected, found in zip(*on_both(make), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, mps):
    classifier = wrap(small_network())
    random = torch.Generator().manual_seed(0)
    mask = torch.rand(3, 1, 65, 126, generator=random)
    before, inside, outside = torch.rand(3, 3, 3, generator=random).double().softmax(-1)
    target = torch.tensor([0, 1, 2])

    def make(device):
        front_end = classifier.to(device).front_end
        view = front_end.analyse(sounds().to(device))
        where = double_device(device)
        evidence = Evidence(
            before.to(where),
            target.to(where),
            inside=inside.to(where),
            outside=outside.to(where),
            mask=mask.to(device),
            attribution=view.cells + 50,
            sound=front_end.synthesise(view, view.cells - 10 * mask.to(device)),
            view=view,
            truth=truth_on(front_end, device),
            classifier=classifier,
            level=base_level(view.cells, "quiet", floor=front_end.floor),
            score=lambda cells, rows: Scorer(classifier)(cells),
        )
        return evaluate_evidence(evidence, [name])[name]

    expected, found = on_both(make)
    assert expected.isfinite().all()
    assert_same(found, expected)


def truth_on(front_end, device):
    """Return a truth with parts and events of three clips."""
    parts = (sounds().to(device), sounds().roll(1, 0).to(device))
    front, back = (front_end.analyse(part).without_context() for part in parts)
    times = front_end.times(front.cells.shape[3]).cpu()
    active = torch.arange(len(times)) < 40
    truth = Truth(front, back, front_end.log, active.expand(3, -1), torch.eye(3) > 0)
    facts = truth_facts(truth[torch.tensor([0, 1])], torch.tensor([0, 1]))
    assert all(values.dtype == torch.float64 for values in facts.values())
    sounding = sounding_frames(front.waveform, times, front_end.sample_rate)
    assert sounding.shape == truth.active.shape
    return truth


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.int32])
@pytest.mark.parametrize("measure", [sparseness, complexity])
def test_simplicity_of_masks_of_other_types(measure, dtype, mps):
    mask = (3 * torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected, found = on_both(lambda device: measure(mask.to(device)))
    assert_same(found, expected)


# From end to end.


@pytest.mark.parametrize("method", WITHOUT_TRUTH)
def test_predict_measures_features_and_sound(method, mps):
    classifier = wrap(small_network())

    def make(device):
        explained = interpreter(method, classifier.to(device))
        predict = ai.Predict(classifier, explained, on=("features", "audio"))
        return predict.predict(sounds(1)[0].numpy(), RATE)

    expected, found = on_both(make)
    assert found.target == expected.target
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)
    # A cell near a threshold may tip over: masks that sum over all cells are compared.
    for place, metrics in expected.metrics_on.items():
        close = metrics.loc[["identity"] if "identity" in metrics.index else ["minmax", "sigmoid"]]
        np.testing.assert_allclose(found.metrics_on[place].loc[close.index], close, atol=1e-3)


@pytest.mark.parametrize("target", [None, ai.Top(2), ai.Above(0.01), ["dog", "rain"]])
def test_a_recording_in_windows(target, mps):
    classifier = wrap(Network(), head="sigmoid").to(mps)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks="topK_30")
    recording = sounds(3)[:, 0].flatten().numpy()
    result = predict.predict(recording, RATE, target=target, window=1.0, windows=2)
    assert len({each.section for each in result.windows}) == 2


def test_a_result_is_drawn_heard_and_saved(mps, tmp_path):
    classifier = wrap(Network()).to(mps)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks="topK_30")
    result = predict.predict(sounds(1)[0].numpy(), RATE)
    assert np.isfinite(result.audio("topK_30").waveform).all()
    result.save(tmp_path / "result")
    assert (tmp_path / "result" / "attribution.npy").exists()


def test_a_waveform_network(mps):
    class Heard(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(1, 3, 64, stride=32)

        def forward(self, waveform):
            return self.conv(waveform[:, None]).square().mean(-1)

    network = Heard()
    front_end = ai.WaveformFrontEnd(sample_rate=RATE, n_fft=128, hop_length=64)
    classifier = wrap(network, front_end=front_end, outputs="logits").to(mps)
    result = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), on=("features", "audio"))
    assert np.isfinite(result.predict(sounds(1)[0].numpy(), RATE).metrics).all(axis=None)


def test_an_experiment_goes_on_from_saved_maps(mps, tiny_esc50, tmp_path):
    model = small_network()
    path = ai.save_weights(
        tmp_path / "m.safetensors", model, stft(), classes=("dog", "cat", "rain"), duration=1.0
    )
    recipe = Recipe(methods=["saliency", "shap"], masks=["topK_30"])
    for masks in (["topK_30"], ["topK_30", "minmax"]):
        recipe = Recipe(methods=["saliency", "shap"], masks=masks, on=("features", "audio"))
        done = run_experiment(
            [path], tiny_esc50, clips=2, results=tmp_path, device="auto", recipe=recipe
        )
        for result in done.values():
            assert result.failures == {}
            assert {mask for _, mask in result.tables} == set(masks)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_a_step_of_training(head, mps, tmp_path, monkeypatch):
    restored = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "the caller's")
    monkeypatch.setattr(torch.mps, "set_rng_state", restored.append)
    front_end = stft()

    def make(device):
        model = small_network(2)
        model.head = build_head(head)
        return fit(
            model,
            front_end,
            Tones(4),
            Tones(2, 100),
            out=tmp_path / device.type,
            epochs=1,
            batch_size=4,
            dropout_scale=0,
            device=device.type,
            progress=False,
        )

    expected, found = on_both(make)
    np.testing.assert_allclose(found.history, expected.history, rtol=1e-3)
    assert next(found.model.parameters()).device.type == "cpu"
    assert restored == ["the caller's"]


def test_a_set_is_classified(mps):
    classifier = wrap(small_network(2), classes=("low", "high"), duration=1.2)
    expected, found = on_both(
        lambda device: ai.runs.classification.classify_set(
            classifier, classifier.front_end, Tones(4), device=device.type
        )
    )
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)


def test_the_check_of_classifiers_finds_nothing_wrong(mps):
    findings = check_classifier(wrap(small_network(), licence="none"), device=mps)
    assert {finding.check for finding in findings if finding.status != "ok"} == set()


def test_batches_fit_the_memory_that_is_left(mps, monkeypatch):
    cells = torch.zeros(1, 1, 64, 501, device=mps)
    assert batch_size_for(cells) == 65  # half of 4 GiB
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2**34)
    assert batch_size_for(cells) == 1
