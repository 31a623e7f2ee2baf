"""Models of transformers: as transformers runs them, interpreted, and what cannot be wrapped."""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from repository import REPOSITORY
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import UnsupportedLayerError
from audiointerp.model.huggingface import FAMILIES as TYPES
from audiointerp.runs.check import check_file
from audiointerp.runs.recipe import build_interpreter

transformers = pytest.importorskip("transformers", reason="needs the package transformers")

from transformers_models import CLASSES, FAMILIES, TEXTS, make  # noqa: E402

RATE = 16000
SECONDS = 0.25
DOG = REPOSITORY / "samples" / "dog.wav"


def wrap(family: str, problem: str | None = "single_label_classification", **options):
    made = make(family, problem)
    if family.startswith("clap"):
        options.setdefault("texts", TEXTS)
    return ai.from_transformers(made.model, made.extractor, **options)


@pytest.fixture(scope="module")
def wrapped():
    """Return a maker of classifiers that makes each once."""
    made: dict[str, ai.Classifier] = {}

    def one_of(family: str) -> ai.Classifier:
        if family not in made:
            made[family] = wrap(family)
        return made[family]

    return one_of


def clips(count: int = 2, seconds: float = SECONDS) -> torch.Tensor:
    """Return different parts of a dog's bark, (count, 1, samples)."""
    wave, _ = ai.load_audio(DOG, RATE, start=0.4)
    size = int(seconds * RATE)
    return torch.stack([wave[:, 900 * n : 900 * n + size] for n in range(count)])


def by_transformers(family: str, made, wave: torch.Tensor) -> torch.Tensor:
    """Return the logits of one clip as transformers computes them."""
    sound = {"sampling_rate": RATE, "return_tensors": "pt"}
    with torch.no_grad():
        if family.startswith("clap"):
            words = {"text": list(TEXTS), "padding": True}
            given = made.extractor(audio=wave[0].numpy(), **words, **sound)
            return made.model(**given).logits_per_audio
        return made.model(**made.extractor(wave[0].numpy(), **sound)).logits


# --- what they compute --------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, wrapped):
    made, classifier = make(family), wrapped(family)
    # Half of the length that fixed inputs have, a length that divides it badly, and all of it.
    longest = classifier.front_end.longest or 0.9
    for seconds in (0.25, 0.61, longest):
        for wave in clips(1, min(seconds, longest)):
            view = classifier.front_end.analyse(wave[None])
            with torch.no_grad():
                ours = classifier.logits(view.cells, view)
            expected = by_transformers(family, made, wave)
            assert expected.std() > 0.01
            torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_in_a_batch_is_the_clip_alone(family, wrapped):
    classifier = wrapped(family)
    view = classifier.front_end.analyse(clips(3))
    with torch.no_grad():
        together = classifier.logits(view.cells, view)
        alone = [classifier.logits(view.cells[n : n + 1], view[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "head"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
    ],
)
def test_the_head_is_that_of_the_problem(problem, head):
    classifier = wrap("whisper", problem)
    assert classifier.head.name == head
    assert classifier.classes == tuple(CLASSES.values())
    view = classifier.front_end.analyse(clips())
    with torch.no_grad():
        logits = classifier.logits(view.cells, view)
    expected = logits.double().softmax(1) if head == "softmax" else logits.double().sigmoid()
    torch.testing.assert_close(classifier.probabilities(logits), expected)
    assert wrap("whisper", problem, head="sigmoid").head.name == "sigmoid"


def test_clap_compares_with_texts():
    classifier = wrap("clap", head="sigmoid", classes=["dog", "rain", "clap"])
    assert classifier.classes == ("dog", "rain", "clap")
    assert classifier.head.name == "sigmoid"
    assert wrap("clap").classes == TEXTS
    assert wrap("clap").head.name == "softmax"
    # The text tower is gone.
    assert not any("text_model" in name for name, _ in classifier.network.named_modules())
    one = wrap("clap", texts=TEXTS[::-1])
    view = one.front_end.analyse(clips())
    with torch.no_grad():
        logits = [each.logits(view.cells, view) for each in (one, classifier)]
    torch.testing.assert_close(logits[0], logits[1].flip(1))


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_clap_extends_short_clips_as_its_extractor_does(padding):
    made = make("clap")
    made.extractor.feature_extractor.padding = padding
    classifier = ai.from_transformers(made.model, made.extractor, texts=TEXTS)
    assert classifier.settings()["padding"] == padding
    wave = clips(1, 0.3)
    view = classifier.front_end.analyse(wave)
    with torch.no_grad():
        ours = classifier.logits(view.cells, view)
    torch.testing.assert_close(ours, by_transformers("clap", made, wave[0]), rtol=0, atol=2e-5)
    assert view.waveform.shape == wave.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_finite_differences(family, wrapped):
    classifier = wrap(family)
    classifier.double().eval()
    view = classifier.front_end.double().analyse(clips(1).double())
    gradient = ai.SaliencyInterpreter(classifier, fold_batch_norm=False).attribute(view, 1)
    generator = torch.Generator().manual_seed(0)
    way = torch.randn(view.cells.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ends = [classifier.logits(view.cells + step * way, view)[0, 1] for step in (1e-4, -1e-4)]
    expected = (ends[0] - ends[1]) / 2e-4
    torch.testing.assert_close((gradient * way).sum(), expected, rtol=1e-3, atol=1e-7)


def test_whispers_loudest_cell_sets_the_limit_for_all():
    classifier = wrap("whisper")
    cells = torch.full((1, 1, 40, 10), -95.0)
    cells[..., 3, 4] = -5.0
    seen = classifier.network.model_input(cells)
    assert seen.shape == (1, 40, 200)
    # 80 dB below the loudest, on Whisper's scale; the silence after the clip too.
    quiet = torch.ones(40, 200, dtype=torch.bool)
    quiet[3, 4] = False
    torch.testing.assert_close(seen[0, quiet], torch.full((7999,), (-8.5 + 4) / 4))
    cells[..., 3, 4] = -15.0
    lower = classifier.network.model_input(cells)
    torch.testing.assert_close(seen - lower, torch.full((1, 40, 200), 0.25))


def test_what_follows_a_clip_is_ast_s_constant():
    classifier = wrap("ast")
    seen = classifier.network.model_input(torch.full((1, 1, 64, 30), -20.0))
    extractor = make("ast").extractor
    assert seen.shape == (1, 96, 64)
    torch.testing.assert_close(
        seen[:, 30:].unique(), torch.tensor([-extractor.mean / 2 / extractor.std])
    )
    inside = (-20 * np.log(10) / 10 - extractor.mean) / 2 / extractor.std
    torch.testing.assert_close(seen[:, :30].unique(), torch.tensor([inside], dtype=torch.float32))


# --- where units lie ------------------------------------------------------------------------------

LOCAL = {
    "ast": "model.audio_spectrogram_transformer.embeddings.patch_embeddings",
    "whisper": "model.encoder.conv2",
    "wav2vec2": "model.wav2vec2.feature_extractor",
    "wav2vec2_layer_norm": "model.wav2vec2.feature_projection.projection",
    "hubert": "model.hubert.feature_projection",
    "wavlm": "model.wavlm.feature_extractor.conv_layers.2.conv",
    "data2vec": "model.data2vec_audio.feature_extractor.conv_layers.1.layer_norm",
    "sew": "model.sew.feature_extractor.conv_layers.2.activation",
    "clap": "model.audio_encoder.patch_embed",
    "clap_fused": "model.audio_encoder.patch_embed",
}
"""A layer of each family whose units hear a small part of the clip."""


def burst(hertz: float, start: float, seconds: float, noise: float = 0.0) -> torch.Tensor:
    """Return noise or silence with 30 ms of a tone in it."""
    time = torch.arange(int(seconds * RATE)) / RATE
    noise = noise * torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    shape = torch.where((time >= start) & (time < start + 0.03), 1.0, 0.0)
    return (noise + 0.5 * shape * torch.sin(2 * torch.pi * hertz * time))[None, None]


def planes(classifier: ai.Classifier, layer: str, wave: torch.Tensor) -> torch.Tensor:
    seen = []
    module = classifier.network.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    view = classifier.front_end.analyse(wave)
    with torch.no_grad():
        classifier.logits(view.cells, view)
    handle.remove()
    (output,) = seen
    return classifier.to_plane(layer, output[0] if isinstance(output, tuple) else output)


@pytest.mark.parametrize(("hertz", "start"), [(800, 0.06), (800, 0.3), (5000, 0.3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_units_lie_where_the_sound_that_changes_them_is(family, hertz, start, wrapped):
    classifier, layer, seconds = wrapped(family), LOCAL[family], 0.42
    # Networks that scale the clip, or limit it, hear all of it differently if it becomes louder.
    before = 0 if family == "ast" or family.startswith("clap") else 1.3 * hertz
    quiet, loud = (burst(each, start, seconds, 0.01) for each in (before, hertz))
    change = planes(classifier, layer, loud) - planes(classifier, layer, quiet)
    view = classifier.front_end.analyse(loud)
    found = classifier.to_cells(layer, change.square().sum(1, keepdim=True), view)
    assert found.shape == view.cells.shape
    times = classifier.front_end.times(found.shape[3])
    # The outermost cells lie level with the centre of the first patch.
    columns = (found == found.max()).any(2)[0, 0].nonzero()
    row = int(found.amax(3).argmax())
    assert (times[columns] - (start + 0.015)).abs().min() < 0.03
    # Not only at the peak: the middle of what changes is where the burst is.
    over_time = found[0, 0].double().sum(0)
    strong = over_time > 0.3 * over_time.max()
    middle = float((times * over_time * strong).sum() / (over_time * strong).sum())
    assert abs(middle - (start + 0.015)) < 0.04
    if change.shape[2] == 1:
        torch.testing.assert_close(found, found[:, :, :1].expand_as(found))
    else:
        wanted = int((classifier.front_end.frequencies - hertz).abs().argmin())
        assert abs(row - wanted) <= 8  # half a patch of AST


def attend_to_all_alike(classifier: ai.Classifier) -> None:
    """Let every token read the mean of all: beside it, each keeps what it heard itself.

    Tokens that heard the same are the same wherever they are.
    """
    parts = ("q_proj", "k_proj", "position", "pos_conv")
    for name, weight in classifier.network.named_parameters():
        # Of a weight that is given by its length and direction, the length.
        if any(part in name for part in parts) and not name.endswith("original1"):
            nn.init.zeros_(weight)


@pytest.mark.parametrize("start", [0.06, 0.3])
@pytest.mark.parametrize("family", ["ast", "whisper", "wav2vec2", "hubert", "data2vec", "sew"])
def test_gradcam_by_default_points_at_the_burst(family, start):
    classifier = wrap(family)
    attend_to_all_alike(classifier)
    # As long as the input of AST, which is louder than any sound where nothing is.
    seconds = classifier.front_end.longest if family == "ast" else 0.42
    view = classifier.front_end.analyse(burst(3000, start, seconds))
    found = ai.GradCAMInterpreter(classifier).attribute(view, 0)[0, 0]
    away = (found - found.median()).abs()
    times = classifier.front_end.times(away.shape[1])
    columns = (away == away.max()).any(0).nonzero()
    assert (times[columns] - start - 0.015).abs().min() < 0.04
    row = int(away.amax(1).argmax())
    if family == "ast":
        wanted = int((classifier.front_end.frequencies - 3000).abs().argmin())
        assert abs(row - wanted) <= 8


def test_planes_of_ast_are_linear_between_the_centres_of_patches():
    classifier = wrap("ast")
    config = classifier.network.model.config
    freq, time = classifier.network._grid
    assert (freq, time) == (5, 9)  # 16 × 16 patches every 10 cells of 64 × 96
    # A plane of each patch's own centre, in cells.
    rows = (torch.arange(freq) * config.frequency_stride + 8.0)[:, None].expand(freq, time)
    columns = (torch.arange(time) * config.time_stride + 8.0)[None].expand(freq, time)
    view = classifier.front_end.analyse(clips(1, 0.7))
    for plane, axis, last in ((rows, 2, 48.0), (columns, 3, 88.0)):
        found = classifier.to_cells("", plane[None, None], view)
        places = torch.arange(found.shape[axis]) + 0.5
        expected = places.clamp(8, last)
        other = 5 - axis
        torch.testing.assert_close(found.select(other, 3)[0, 0], expected)


def test_layers_whose_units_have_no_place_are_refused(wrapped):
    clap, ast, wave = (wrapped(family) for family in ("clap", "ast", "wav2vec2"))
    for classifier, layer, message in (
        (clap, "projection.linear1", "give activations over time or frequency"),
        (clap, "model.audio_encoder.layers.0.blocks.0.attention.self", "for 32 clips"),
        (clap, "model.audio_encoder.layers.0.blocks.0.attention", "for 32 clips"),
        (ast, "model.classifier.dense", "give activations over time or frequency"),
        (wave, "model.classifier", "give activations over time or frequency"),
    ):
        view = classifier.front_end.analyse(clips())
        with pytest.raises(ValueError, match=message):
            ai.GradCAMInterpreter(classifier, layer).attribute(view)


# --- methods --------------------------------------------------------------------------------------

FEW = {
    "lime": {"num_samples": 12, "segmentation": "grid"},
    "kernelshap": {"num_samples": 12},
    "permutation_shap": {"num_permutations": 1, "segmentation": "time"},
    "sobol": {"num_designs": 2},
    "occlusion": {"window": (32, 10), "stride": (32, 10)},
    "forest_surrogate": {"num_samples": 12, "trees": 50},
    "linear_surrogate": {"num_samples": 12},
    "rise": {"num_samples": 8},
    "freqrise": {"num_samples": 8},
    "integrated_gradients": {"steps": 4},
    "expected_gradients": {"samples": 3},
    "smoothgrad": {"samples": 3},
    "smoothgrad_squared": {"samples": 3},
    "vargrad": {"samples": 3},
}
REFUSED = {
    **dict.fromkeys(("shap", "deeplift", "fullgrad"), "has no rule for"),
    **dict.fromkeys(("lrp", "lrp_epsilon", "lrp_gamma", "lrp_zplus"), "LRP has no rule for"),
    **dict.fromkeys(("lrp_wsquare", "lrp_flat"), "has no rule for|takes a waveform"),
    **dict.fromkeys(("guided_backprop", "guided_gradcam"), "calls no ReLU"),
}
"""Methods that transformers have no rule for, with their message."""
OF_SIGMOID_GATES = {"attnlrp": "AttnLRP has no rule for"}
REFUSED_BY = {
    "wavlm": OF_SIGMOID_GATES,
    "clap": OF_SIGMOID_GATES,
    "clap_fused": OF_SIGMOID_GATES,
}
TRAINED = {"lmac", "l2i"}
WITHOUT_TRUTH = [
    name
    for name, method in ai.METHODS.items()
    if "truth" not in method.requires and name not in TRAINED
]
USUAL = ("saliency", "gradcam", "attnlrp", "integrated_gradients", "lime", "rise", "shap")
ALIKE = ("wav2vec2_layer_norm", "hubert", "data2vec", "sew")
TRIED = {
    family: USUAL[:3] if family in ALIKE else WITHOUT_TRUTH if family == "ast" else USUAL
    for family in FAMILIES
}
CASES = [(family, name) for family, names in TRIED.items() for name in names]


def explain(classifier: ai.Classifier, name: str, view: ai.View, background: ai.View):
    with warnings.catch_warnings():
        # Of the few samples: that is not what is tested.
        warnings.simplefilter("ignore", UserWarning)
        method = build_interpreter(name, classifier, background=background, **FEW.get(name, {}))
        return method.explain(view, torch.tensor([1, 2, 0])[: len(view)])


@pytest.mark.parametrize(("family", "name"), CASES)
def test_methods_explain_or_refuse(family, name, wrapped):
    classifier = wrapped(family)
    view = classifier.front_end.analyse(clips())
    background = classifier.front_end.analyse(0.1 * clips(3).flip(2))
    refused = REFUSED | REFUSED_BY.get(family, {})
    if family.startswith("clap"):
        refused = {key: value for key, value in refused.items() if "guided" not in key}
    if name in refused:
        with pytest.raises((UnsupportedLayerError, ValueError), match=refused[name]) as caught:
            explain(classifier, name, view, background)
        assert "\n" not in str(caught.value)
        return
    together = explain(classifier, name, view, background).attribution
    assert together.shape == view.cells.shape
    assert together.isfinite().all()
    assert (together.flatten(1).std(1) > 0).all()
    alone = explain(classifier, name, view[:1], background).attribution
    size = together[:1].abs().max()
    torch.testing.assert_close(alone / size, together[:1] / size, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "name"), [("ast", "lime"), ("wav2vec2", "gradcam"), ("clap", "saliency")]
)
def test_labels_that_are_independent_are_explained(family, name):
    classifier = wrap(family, "multi_label_classification", head="sigmoid")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        method = build_interpreter(name, classifier, **FEW.get(name, {}))
        predict = ai.Predict(
            classifier, method, masks=["topK_30", "minmax"], on=("features", "audio")
        )
        result = predict.predict(clips(1)[0], RATE)
    np.testing.assert_array_equal(result.decisions, result.probabilities >= 0.5)
    for table in result.metrics_on.values():
        assert np.isfinite(table[["FF", "AI", "AD", "AG", "FidIn"]].astype(float)).all(axis=None)
    np.testing.assert_array_equal(result.audio().waveform, clips(1)[0, 0].numpy())


# --- recordings and sets --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ast", "whisper", "clap", "wav2vec2"])
def test_short_clips_stay_as_they_are(family, wrapped):
    classifier = wrapped(family)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["bin"])
    result = predict.predict(DOG, start=0.5, end=0.75)
    assert result.view.waveform.shape == (1, 1, RATE // 4)
    frames = classifier.front_end.num_frames(RATE // 4)
    assert result.attribution.shape[-1] == frames


@pytest.mark.parametrize("family", ["ast", "whisper", "clap"])
def test_longer_recordings_are_cut_into_windows_that_the_network_takes(family, wrapped):
    classifier = wrapped(family)
    longest = classifier.front_end.longest
    assert classifier.longest == longest
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["bin"])
    recording = predict.predict(DOG, end=3.5, windows=2)
    assert isinstance(recording, ai.RecordingInterpretation)
    starts, ends = recording.timeline["start"], recording.timeline["end"]
    np.testing.assert_allclose(ends - starts, longest, atol=1e-3)
    samples = round(longest * RATE)
    assert recording.best.view.waveform.shape[-1] == samples
    with pytest.raises(ValueError, match="takes at most"):
        predict.predict(DOG, window=3.0)


def test_a_set_at_another_rate_is_refused(wrapped, write_tones, tmp_path):
    classifier = wrapped("whisper")
    names = [f"{name}/{n}.wav" for name in CLASSES.values() for n in (1, 2)]
    folder = write_tones("set", names)
    predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["bin"])
    with pytest.raises(ValueError, match="8000"):
        predict.predict_set(
            ai.FolderDataset(folder, sample_rate=8000, duration=0.5), tmp_path / "a"
        )
    clips_of = ai.FolderDataset(folder, sample_rate=RATE, duration=1.0)
    done = predict.predict_set(clips_of, tmp_path / "b", progress=False)
    assert done.failures == {}
    assert done.interpreted == 6


def test_settings_say_what_changes_a_number(wrapped):
    for family in FAMILIES:
        classifier = wrapped(family)
        predict = ai.Predict(classifier, ai.SaliencyInterpreter(classifier), masks=["bin"])
        settings = json.loads(json.dumps(predict.settings()))
        assert settings["model"]["name"] == type(classifier.network.model).__name__
        assert settings["processor"]["name"] in ai.FRONT_ENDS
    made = make("ast")
    before = ai.from_transformers(made.model, made.extractor)
    made.extractor.mean += 1
    after = ai.from_transformers(made.model, made.extractor)
    assert before.settings() != after.settings()


# --- where they come from -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ast", "whisper", "wav2vec2", "clap_fused"])
def test_a_folder_of_save_pretrained_is_read(family, tmp_path, wrapped):
    made = make(family)
    made.model.save_pretrained(tmp_path)
    made.extractor.save_pretrained(tmp_path)
    texts = {"texts": TEXTS} if family.startswith("clap") else {}
    found = ai.from_transformers(tmp_path, local_files_only=True, **texts)
    given = wrapped(family)
    assert found.classes == given.classes
    assert found.settings() == given.settings()
    assert found.licence is None
    view = given.front_end.analyse(clips())
    with torch.no_grad():
        logits = [each.logits(view.cells, view) for each in (found, given)]
    assert torch.equal(*logits)


def test_the_licence_is_that_of_the_model_card(tmp_path):
    made = make("whisper")
    made.model.save_pretrained(tmp_path)
    made.extractor.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert ai.from_transformers(tmp_path).licence == "apache-2.0"
    assert ai.from_transformers(tmp_path, licence="CC BY 4.0").licence == "CC BY 4.0"


def test_a_name_goes_to_transformers(tmp_path, monkeypatch):
    made = make("whisper")
    made.model.save_pretrained(tmp_path)
    made.extractor.save_pretrained(tmp_path)
    asked = []
    for name in ("AutoConfig", "AutoModelForAudioClassification", "AutoFeatureExtractor"):
        reader = getattr(transformers, name)
        read = reader.from_pretrained

        def from_hub(where, *args, read=read, **options):
            asked.append((where, options["revision"]))
            return read(tmp_path, *args, **options)

        monkeypatch.setattr(reader, "from_pretrained", from_hub)
    found = ai.from_transformers("someone/whisper", revision="v2", local_files_only=True)
    assert found.classes == tuple(CLASSES.values())
    assert [each for each in asked if each[0] != tmp_path] == [("someone/whisper", "v2")] * 3


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nobody/nothing: AutoConfig .* cannot read it") as caught:
        ai.from_transformers("nobody/nothing", local_files_only=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a folder that save_pretrained wrote"):
        ai.from_transformers(tmp_path)
    make("whisper").model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="AutoFeatureExtractor of transformers cannot read it"):
        ai.from_transformers(tmp_path)


def test_a_checkpoint_without_its_head_is_refused(tmp_path):
    made = make("wav2vec2")
    made.model.wav2vec2.save_pretrained(tmp_path)
    made.extractor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no values for 4 weights .* without a classification"):
        ai.from_transformers(tmp_path)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install audiointerp\[transformers\]"):
        ai.from_transformers("someone/model")


# --- what does not fit ----------------------------------------------------------------------------


def _other_model():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )


def _unnamed():
    made = make("whisper")
    made.model.config.id2label = {n: f"LABEL_{n}" for n in range(3)}
    return made.model, made.extractor, {}


def _changed(family: str, **settings):
    def change():
        made = make(family)
        extractor = getattr(made.extractor, "feature_extractor", made.extractor)
        for name, value in settings.items():
            setattr(extractor, name, value)
        options = {"texts": TEXTS} if family.startswith("clap") else {}
        return made.model, made.extractor, options

    return change


def _custom():
    made = make("ast")

    class Louder(type(made.extractor)):
        def _extract_fbank_features(self, waveform, max_length):
            return super()._extract_fbank_features(waveform * 2**15, max_length)

    return made.model, Louder(num_mel_bins=64, max_length=96), {}


WRONG = {
    "no audio model": (lambda: (_other_model(), None, {}), "needs its feature_extractor"),
    "no audio model at all": (
        lambda: (_other_model(), make("ast").extractor, {}),
        r"of type 'bert': expected an audio .* ai\.classifier|of type 'bert': expected an audio",
    ),
    "no transformers model": (
        lambda: (nn.Linear(2, 2), make("ast").extractor, {}),
        "of type 'Linear': expected an audio classification model",
    ),
    "no head": (
        lambda: (make("wav2vec2").model.wav2vec2, make("wav2vec2").extractor, {}),
        "is a Wav2Vec2Model, which classifies no clips",
    ),
    "another's extractor": (
        lambda: (make("ast").model, make("wav2vec2").extractor, {}),
        "is a Wav2Vec2FeatureExtractor: expected a ASTFeatureExtractor",
    ),
    "no names": (_unnamed, "names its 3 classes LABEL_0, …: give classes="),
    "another number of classes": (
        lambda: (make("ast").model, make("ast").extractor, {"classes": ["a", "b"]}),
        "2 class names for a module of 3 outputs",
    ),
    "texts of a model with classes": (
        lambda: (make("ast").model, make("ast").extractor, {"texts": TEXTS}),
        "texts are for CLAP",
    ),
    "clap without texts": (
        lambda: (make("clap").model, make("clap").extractor, {}),
        "compares sounds with texts",
    ),
    "clap without its tokenizer": (
        lambda: (
            make("clap").model,
            make("clap").extractor.feature_extractor,
            {"texts": TEXTS},
        ),
        "need CLAP's tokenizer",
    ),
    "equal texts": (
        lambda: (make("clap").model, make("clap").extractor, {"texts": ["a", "a"]}),
        "two classes have the same name",
    ),
    "regression": (
        lambda: (*vars(make("whisper", "regression")).values(), {}),
        "problem_type='regression'",
    ),
    "reading options": (
        lambda: (make("ast").model, make("ast").extractor, {"revision": "v1"}),
        "revision are for reading a model",
    ),
    "other bands": (_changed("ast", num_mel_bins=32), "makes 32 bands, the model takes 64"),
    "other frames": (_changed("ast", max_length=90), "makes 90 frames, the model takes 96"),
    "dither": (_changed("whisper", dither=0.1), "adds noise"),
    "other filters": (
        lambda: _with_filters(make("whisper")),
        r"differs from the model's WhisperFeatureExtractor by",
    ),
    "code of its own": (_custom, "differs from the model's Louder by"),
    "another fusion": (
        _changed("clap", truncation="fusion"),
        "truncation='fusion' for a model without fusion, which takes 'rand_trunc'",
    ),
    "another padding": (_changed("clap", padding="mirror"), "padding='mirror'"),
}


def _with_filters(made):
    made.extractor.mel_filters = 2 * made.extractor.mel_filters
    return made.model, made.extractor, {}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_clear_line(case):
    arguments, message = WRONG[case]
    model, extractor, options = arguments()
    with pytest.raises(ValueError, match=message) as caught:
        ai.from_transformers(model, extractor, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_types_that_are_known_are_tested():
    assert {make(family).model.config.model_type for family in FAMILIES} == set(TYPES)


@pytest.mark.parametrize("family", ["ast", "clap"])
def test_a_factory_is_checked_from_the_command_line(family, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "tests")
    file = tmp_path / "mine.py"
    file.write_text(
        "import audiointerp as ai\n"
        "from transformers_models import TEXTS, make\n\n\n"
        "def tagger():\n"
        f"    made = make({family!r})\n"
        f"    texts = TEXTS if {family!r} == 'clap' else None\n"
        "    return ai.from_transformers(made.model, made.extractor, texts=texts)\n"
    )
    findings = {each.check: each for each in check_file(f"{file}:tagger", device="cpu")}
    wrong = {name: each.found for name, each in findings.items() if each.status == "failed"}
    assert wrong == {}
    assert findings["grad-cam"].status == "ok"
    assert "longer recordings are cut into windows" in findings["duration"].found
