"""Classifiers of others, as they are installed: wrapped in a few lines, interpreted end to end."""

from __future__ import annotations

import io
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

import audiointerp as ai
from audiointerp.dataset.resampling import resample
from audiointerp.interpretation import AdditivityError, UnsupportedLayerError
from audiointerp.model.planes import tokens_to_plane

RATE = 16000
METRICS_WITHOUT_TRUTH = ["FF", "AI", "AD", "AG", "FidIn", "SPS", "COMP"]


def blocks(features: np.ndarray) -> np.ndarray:
    """Segment cells into 8 bands by blocks of 12 frames."""
    bins, frames = features.shape
    band = np.arange(bins) * 8 // bins
    time = np.arange(frames) // 12
    return band[:, None] * (time[-1] + 1) + time[None]


def spans(features: np.ndarray) -> np.ndarray:
    """Segment cells by spans of 12 frames."""
    return np.broadcast_to(np.arange(features.shape[1]) // 12, features.shape)


def random_maps(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def check_whole_interpretation(result: ai.Interpretation, samples: int) -> None:
    """Check what every interpretation of every classifier has."""
    assert list(result.metrics_on) == ["features", "audio"]
    for table in result.metrics_on.values():
        assert list(table.index) == list(ai.MASKS)
        assert set(METRICS_WITHOUT_TRUTH) <= set(table.columns)
        assert np.isfinite(table.astype(float)).all(axis=None)
    assert result.attribution.isfinite().all()
    assert result.attribution.abs().max() > 0
    for part in ("in", "out"):
        heard = result.audio("topK_30", part)
        assert heard.sample_rate == RATE
        assert heard.waveform.shape == (samples,)
        assert np.isfinite(heard.waveform).all()
    kept, left = (result.audio("topK_30", part).waveform for part in ("in", "out"))
    assert not np.array_equal(kept, left)
    np.testing.assert_array_equal(result.audio().waveform, result.view.waveform[0, 0].numpy())


# --- torchcrepe: 360 pitch bins from 64 ms of waveform, sigmoid outputs, functional layers -------

CREPE_FRAME = 1024
CREPE_FRAMES = 8
CREPE_SAMPLES = CREPE_FRAMES * CREPE_FRAME


def harmonic_tone() -> np.ndarray:
    """Return 440 Hz and six harmonics with amplitudes 1/k."""
    time = np.arange(CREPE_SAMPLES) / RATE
    wave = sum(np.sin(2 * np.pi * 440 * k * time + k) / k for k in range(1, 8))
    return (0.3 * wave).astype(np.float32)


@pytest.fixture(scope="module")
def torchcrepe():
    return pytest.importorskip("torchcrepe", reason="needs the package torchcrepe")


@pytest.fixture(scope="module")
def pitch(torchcrepe) -> ai.Classifier:
    return ai.from_torchcrepe(frames=CREPE_FRAMES)


@pytest.fixture(scope="module")
def tone_view(pitch) -> ai.View:
    return pitch.front_end.analyse(torch.from_numpy(harmonic_tone())[None, None])


def test_torchcrepe_must_say_that_it_returns_probabilities(pitch):
    with pytest.raises(ValueError, match=r"look like probabilities.*head='sigmoid'"):
        ai.classifier(pitch.network, front_end=pitch.front_end, classes=pitch.classes)


def test_torchcrepe_hears_what_it_hears_by_itself(pitch, torchcrepe, tone_view):
    audio = torch.from_numpy(harmonic_tone())[None]
    frames = next(torchcrepe.preprocess(audio, RATE, CREPE_FRAME, pad=False))
    expected = torchcrepe.infer(frames, "tiny").mean(0)
    with torch.no_grad():
        heard = pitch.probabilities(pitch.logits(tone_view.cells, tone_view))[0]
    assert len(frames) == CREPE_FRAMES
    np.testing.assert_allclose(heard.numpy(), expected.double().detach().numpy(), atol=1e-6)
    best = float(pitch.classes[int(heard.argmax())].removesuffix(" Hz"))
    assert abs(1200 * np.log2(best / 440)) < 20  # cents, the width of a bin


def test_torchcrepe_saliency_lies_on_the_harmonics(pitch, tone_view):
    frequencies = pitch.front_end.frequencies
    harmonics = 440 * torch.arange(1, 19)
    near = ((frequencies[:, None] - harmonics).abs() <= 40).any(1)

    def share(maps: torch.Tensor) -> torch.Tensor:
        size = maps.abs().sum(3)[:, 0]
        return size[:, near].sum(1) / size.sum(1)

    found = share(ai.SaliencyInterpreter(pitch).attribute(tone_view))
    assert near.float().mean() < 0.2  # of the cells
    assert found > 0.85
    # No random map comes near.
    assert found > 4 * share(random_maps(20, tone_view.cells.shape[1:])).max()


def test_the_harmonics_keep_the_pitch_and_the_rest_does_not(pitch, tone_view):
    near = ((pitch.front_end.frequencies[:, None] - 440 * torch.arange(1, 8)).abs() <= 60).any(1)
    mask = near.float()[:, None].expand(tone_view.cells.shape)
    kept, left = ai.apply_mask(tone_view.cells, mask, pitch.front_end.floor)
    with torch.no_grad():
        chances = [
            pitch.probabilities(pitch.logits(cells, tone_view))[0]
            for cells in (tone_view.cells, kept, left)
        ]
    label = int(chances[0].argmax())
    whole, inside, outside = (float(each[label]) for each in chances)
    assert whole > 0.7
    assert inside > 0.9 * whole
    assert outside < 0.3 * whole


@pytest.mark.parametrize("layer", ["crepe.conv4_BN", "crepe.conv6_BN"])
@pytest.mark.parametrize("frame", [0, 3, 7])
def test_torchcrepe_gradcam_finds_the_frame_in_which_the_tone_sounds(pitch, layer, frame):
    wave = np.zeros(CREPE_SAMPLES, np.float32)
    inside = slice(frame * CREPE_FRAME, (frame + 1) * CREPE_FRAME)
    wave[inside] = harmonic_tone()[inside]
    view = pitch.front_end.analyse(torch.from_numpy(wave)[None, None])
    with torch.no_grad():
        heard = pitch.network(torch.from_numpy(wave)[None])
    attribution = ai.GradCAMInterpreter(pitch, layer).attribute(view, int(heard.argmax()))
    times = pitch.front_end.times(attribution.shape[-1])
    frames = (times * RATE / CREPE_FRAME).floor().clamp(max=CREPE_FRAMES - 1)
    of_frame = torch.stack(
        [attribution[0, 0, 0, frames == number].mean() for number in range(CREPE_FRAMES)]
    )
    assert of_frame.argmax() == frame
    # A network of the time axis alone says nothing of frequency.
    torch.testing.assert_close(attribution, attribution[:, :, :1].expand_as(attribution))


def test_torchcrepe_frames_in_the_batch_must_be_declared(pitch, tone_view):
    undeclared = ai.Classifier(
        pitch.network,
        pitch.front_end,
        head=pitch.head,
        outputs="probabilities",
        activation_axes=("channel", "time", "freq"),
    )
    with pytest.raises(ValueError, match=r"8 clips instead of 1.*frames_to_plane"):
        ai.GradCAMInterpreter(undeclared, "crepe.conv6_BN").attribute(tone_view)


def test_torchcrepe_lime_gives_the_harmonics_their_segments(pitch, tone_view):
    # One segment for each band of 125 Hz: the first three harmonics lie in three of them.
    def bands(features: np.ndarray) -> np.ndarray:
        return np.repeat(np.arange(len(features))[:, None] // 8, features.shape[1], axis=1)

    method = ai.LIMEInterpreter(pitch, num_samples=300, segmentation=bands, base=-100.0)
    explanation = method.explain(tone_view)
    of_band = explanation.attribution[0, 0, ::8, 0]
    best = of_band.argsort(descending=True)[:2].tolist()
    assert set(best) <= {440 // 125, 880 // 125, 1320 // 125}
    assert explanation.diagnostics["local_fit"] > 0.3


def test_torchcrepe_shap_adds_up(pitch, tone_view):
    # The network alone: dividing by a frame's own level is a product without a rule.
    plain = ai.from_torchcrepe(frames=CREPE_FRAMES, normalize=False)
    noise = random_maps(4, (1, CREPE_SAMPLES)) * 0.1
    method = ai.SHAPInterpreter(plain, pitch.front_end.analyse(noise))
    assert method.explain(tone_view).diagnostics["residual"] < 0.01


def test_shap_refuses_torchcrepes_normalisation_by_name(pitch, tone_view):
    noise = random_maps(2, (1, CREPE_SAMPLES)) * 0.1
    method = ai.SHAPInterpreter(pitch, pitch.front_end.analyse(noise))
    with pytest.raises(UnsupportedLayerError, match=r"std\(\) in Pitch"):
        method.explain(tone_view)


@pytest.mark.parametrize("method", ["saliency", "gradcam", "lime"])
def test_torchcrepe_is_interpreted_end_to_end(pitch, method):
    interpreter = {
        "saliency": lambda: ai.SaliencyInterpreter(pitch),
        "gradcam": lambda: ai.GradCAMInterpreter(pitch, "crepe.conv6_BN"),
        "lime": lambda: ai.LIMEInterpreter(pitch, num_samples=20, segmentation=blocks),
    }[method]()
    result = ai.Predict(pitch, interpreter, on=("features", "audio")).predict(harmonic_tone(), RATE)
    check_whole_interpretation(result, CREPE_SAMPLES)
    # Whether the pitch is there is one decision of 360, at a probability of a half.
    np.testing.assert_array_equal(result.decisions, result.probabilities >= 0.5)
    features, audio = (result.metrics_on[place] for place in ("features", "audio"))
    np.testing.assert_array_equal(features.to_numpy(float), audio.to_numpy(float))


# --- silero-vad: a TorchScript module with a state, run over the chunks of a clip ----------------

CHUNK = 512
SPEECH_SECONDS = 3.0
SPEECH_START = 0.9


@pytest.fixture(scope="module")
def silero():
    return pytest.importorskip("silero_vad", reason="needs the package silero-vad")


@pytest.fixture(scope="module")
def speech(silero) -> ai.Classifier:
    return ai.from_silero_vad(duration=SPEECH_SECONDS)


@pytest.fixture(scope="module")
def spoken() -> tuple[torch.Tensor, tuple[float, float]]:
    """Return a sentence over faint noise, (1, samples), and when it is spoken, seconds."""
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("needs the program espeak-ng to speak with")
    said = subprocess.run(
        [program, "--stdout", "-v", "en", "a quick brown fox"], capture_output=True, check=True
    )
    wave, rate = soundfile.read(io.BytesIO(said.stdout), dtype="float32")
    wave = resample(torch.from_numpy(wave)[None], rate, RATE)
    loud = (wave.abs() > 0.02 * wave.abs().max()).nonzero()[:, 1]
    wave = wave[:, int(loud[0]) : int(loud[-1])]
    clip = 1e-3 * random_maps(1, (int(SPEECH_SECONDS * RATE),))
    start = int(SPEECH_START * RATE)
    clip[:, start : start + wave.shape[1]] += 0.8 * wave / wave.abs().max()
    return clip, (SPEECH_START, SPEECH_START + wave.shape[1] / RATE)


def share_spoken(
    classifier: ai.Classifier, maps: torch.Tensor, when: tuple[float, float]
) -> torch.Tensor:
    """Return how much of maps of size lies where speech is."""
    times = classifier.front_end.times(maps.shape[-1])
    inside = (times >= when[0]) & (times <= when[1])
    over_time = maps.sum((1, 2))
    return over_time[:, inside].sum(1) / over_time.sum(1)


def test_silero_hears_what_it_hears_by_itself(silero, speech, spoken):
    clip, _ = spoken
    detector = silero.load_silero_vad()
    expected = detector.audio_forward(clip, RATE)  # a padded last chunk as well
    whole = clip.shape[1] // CHUNK
    result = ai.Predict(speech, ai.SaliencyInterpreter(speech), masks=["bin"]).predict(clip, RATE)
    assert result.probabilities[1] == pytest.approx(expected[0, :whole].mean().item(), abs=1e-6)
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert result.label == ("speech" if result.probabilities[1] > 0.5 else "no speech")


def test_silero_is_explained_by_what_is_spoken(speech, spoken):
    clip, when = spoken
    view = speech.front_end.analyse(clip[None])
    of_frames = (when[1] - when[0]) / SPEECH_SECONDS
    assert of_frames < 0.5

    saliency = ai.SaliencyInterpreter(speech).attribute(view, 1).abs()
    assert share_spoken(speech, saliency, when) > of_frames + 0.3
    chance = share_spoken(speech, random_maps(20, view.cells.shape[1:]).abs(), when)
    assert share_spoken(speech, saliency, when) > chance.max() + 0.25

    gradcam = ai.GradCAMInterpreter(speech, "over_time").attribute(view, 1).clamp(min=0)
    assert share_spoken(speech, gradcam, when) > 0.9

    lime = ai.LIMEInterpreter(speech, num_samples=150, segmentation=spans, base=-100.0)
    found = lime.attribute(view, 1).clamp(min=0)
    assert share_spoken(speech, found, when) > of_frames + 0.2


def test_speech_keeps_the_decision_and_its_absence_does_not(speech, spoken):
    clip, when = spoken
    view = speech.front_end.analyse(clip[None])
    times = speech.front_end.times(view.cells.shape[-1])
    mask = ((times >= when[0]) & (times <= when[1])).float().expand(view.cells.shape)
    kept, left = ai.apply_mask(view.cells, mask, speech.front_end.floor)
    with torch.no_grad():
        whole, inside, outside = (
            float(speech.probabilities(speech.logits(cells, view))[0, 1])
            for cells in (view.cells, kept, left)
        )
    assert whole > 0.25
    assert inside == pytest.approx(whole, rel=0.1)
    assert outside < 0.1 * whole


def test_silero_does_not_mix_clips(speech, spoken):
    clip, _ = spoken
    clips = torch.stack([clip, 0.5 * clip.flip(1), 1e-3 * random_maps(1, clip.shape)[0]])
    view = speech.front_end.analyse(clips)
    method = ai.SaliencyInterpreter(speech)
    together = method.attribute(view, 1)
    for row in range(3):
        alone = method.attribute(view[row : row + 1], 1)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-7)


def test_digital_silence_without_a_gradient_is_named(speech, spoken):
    clip, _ = spoken
    padded = torch.nn.functional.pad(clip[:, : 2 * RATE], (0, RATE))
    method = ai.SaliencyInterpreter(speech)
    with pytest.raises(ValueError, match=r"exactly zero in places.*add faint noise"):
        ai.Predict(speech, method).predict(padded, RATE)
    faint = padded + 1e-4 * random_maps(1, padded.shape)[0]
    ai.Predict(speech, method, masks=["bin"]).predict(faint, RATE)


@pytest.mark.parametrize("layer", ["detector", "detector._model"])
def test_layers_of_torchscript_are_refused(speech, layer):
    with pytest.raises(ValueError, match=f"'{layer}' is TorchScript, which cannot be watched"):
        ai.GradCAMInterpreter(speech, layer)


def test_shap_says_that_it_cannot_explain_torchscript(speech, spoken):
    clip, _ = spoken
    view = speech.front_end.analyse(clip[None])
    background = speech.front_end.analyse(1e-3 * random_maps(2, clip.shape))
    method = ai.SHAPInterpreter(speech, background)
    with pytest.raises(AdditivityError, match="ScriptModule"):
        method.explain(view, 1)


@pytest.mark.parametrize("method", ["saliency", "gradcam", "lime"])
def test_silero_is_interpreted_end_to_end(speech, spoken, method):
    interpreter = {
        "saliency": lambda: ai.SaliencyInterpreter(speech),
        "gradcam": lambda: ai.GradCAMInterpreter(speech, "over_time"),
        "lime": lambda: ai.LIMEInterpreter(speech, num_samples=20, segmentation=blocks),
    }[method]()
    clip, _ = spoken
    predict = ai.Predict(speech, interpreter, on=("features", "audio"))
    result = predict.predict(clip, RATE, target="speech")
    assert result.target_label == "speech"
    check_whole_interpretation(result, clip.shape[1])


# --- torchvision: pictures of log-mel spectrograms ----------------------------------------------

MEL_SECONDS = 1.0
CLASSES = ("crackle", "hum", "ring", "hiss")


class ThreeChannels(nn.Module):
    """A network of pictures on one channel, repeated and scaled from dB."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        return self.network((cells / 100 + 0.5).expand(-1, 3, -1, -1))


def log_mel() -> ai.LogMelSTFTSpectrogram:
    return ai.LogMelSTFTSpectrogram(
        sample_rate=RATE, n_fft=512, hop_length=256, n_mels=64, f_max=8000.0
    )


@pytest.fixture(scope="module")
def resnet() -> ai.Classifier:
    models = pytest.importorskip("torchvision.models", reason="needs the package torchvision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = models.resnet18(weights=None, num_classes=len(CLASSES))
    return ai.classifier(
        ThreeChannels(network),
        front_end=log_mel(),
        classes=dict(enumerate(CLASSES)),
        duration=MEL_SECONDS,
        outputs="logits",
    )


@pytest.fixture(scope="module")
def chirp() -> np.ndarray:
    time = np.arange(int(MEL_SECONDS * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * (300 * time + 1000 * time**2))).astype(np.float32)


def test_resnet_hears_what_it_hears_by_itself(resnet, chirp):
    result = ai.Predict(resnet, ai.SaliencyInterpreter(resnet), masks=["bin"]).predict(chirp, RATE)
    cells = resnet.front_end(torch.from_numpy(chirp)[None, None])
    with torch.no_grad():
        expected = resnet.network.eval()(cells).double().softmax(1)[0]
    np.testing.assert_allclose(result.probabilities, expected.numpy(), atol=1e-5)
    assert result.label == CLASSES[int(expected.argmax())]


@pytest.mark.parametrize("method", ["saliency", "gradcam", "lime", "shap"])
def test_resnet_is_interpreted_end_to_end(resnet, chirp, method):
    background = resnet.front_end.analyse(0.1 * random_maps(2, (1, len(chirp))))
    interpreter = {
        "saliency": lambda: ai.SaliencyInterpreter(resnet),
        "gradcam": lambda: ai.GradCAMInterpreter(resnet, "network.layer4"),
        "lime": lambda: ai.LIMEInterpreter(resnet, num_samples=20, segmentation=blocks),
        "shap": lambda: ai.SHAPInterpreter(resnet, background),
    }[method]()
    result = ai.Predict(resnet, interpreter, on=("features", "audio")).predict(chirp, RATE)
    check_whole_interpretation(result, len(chirp))
    if method == "shap":
        assert result.diagnostics["residual"] < 0.01


def test_resnet_gradcam_takes_several_layers_of_their_own_size(resnet, chirp):
    view = resnet.front_end.analyse(torch.from_numpy(chirp)[None, None])
    layers = ["network.layer2", "network.layer3", "network.layer4"]
    maps = [ai.GradCAMInterpreter(resnet, layer).attribute(view, 2) for layer in layers]
    together = ai.GradCAMInterpreter(resnet, layers).attribute(view, 2)
    assert together.shape == view.cells.shape
    expected = sum(each / each.abs().max() for each in maps) / 3
    # A layer's own map is divided by its peak before it is resized.
    assert torch.corrcoef(torch.stack([together.flatten(), expected.flatten()]))[0, 1] > 0.95


# --- torchvision's vision transformer: tokens of patches ----------------------------------------

PATCH = 16
SIZE = 64
PATCHES = SIZE // PATCH


class OnePatch(nn.Module):
    """A vision transformer without attention between its patches, of which one decides."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        models = pytest.importorskip("torchvision.models", reason="needs the package torchvision")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.vit = models.VisionTransformer(
                image_size=SIZE,
                patch_size=PATCH,
                num_layers=2,
                num_heads=2,
                hidden_dim=16,
                mlp_dim=32,
                num_classes=2,
            )
            self.head = nn.Linear(16, 2)
        for block in self.vit.encoder.layers:
            nn.init.zeros_(block.self_attention.out_proj.weight)
        # Patches that hold the same are the same, wherever they are.
        nn.init.zeros_(self.vit.encoder.pos_embedding)
        self.token = 1 + row * PATCHES + column

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        seen = (cells / 100 + 1).expand(-1, 3, -1, -1)
        tokens = self.vit.conv_proj(seen).flatten(2).transpose(1, 2)
        first = self.vit.class_token.expand(len(tokens), -1, -1)
        tokens = self.vit.encoder(torch.cat([first, tokens], dim=1))
        return self.head(tokens[:, self.token])


@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 0), (1, 2)])
def test_gradcam_on_tokens_points_at_the_patch_that_decides(row, column):
    classifier = ai.classifier(
        OnePatch(row, column),
        front_end=log_mel(),
        classes=["low", "high"],
        duration=(SIZE - 1) * 256 / RATE,
        outputs="logits",
        activation_axes=tokens_to_plane(PATCHES, PATCHES, prefix=1),
    )
    inside = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    inside[..., row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = True
    silence = torch.full((1, 1, SIZE, SIZE), -100.0)
    cells = torch.where(inside, 20 * random_maps(1, (1, SIZE, SIZE)) - 40, silence)

    # The tokens of a block lie where their patches are.
    layer = "vit.encoder.layers.encoder_layer_0"
    seen = []
    with (
        classifier.network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: seen.append(output.detach())
        ),
        torch.no_grad(),
    ):
        logits = [classifier.logits(each) for each in (silence, cells)]
    quiet, loud = (classifier.to_plane(layer, each) for each in seen)
    assert quiet.shape == (1, 16, PATCHES, PATCHES)
    changed = (quiet != loud).any(1)[0]
    assert changed.nonzero().tolist() == [[row, column]]

    label = int((logits[1] - logits[0]).argmax())
    saliency = ai.SaliencyInterpreter(classifier).attribute(cells, label)
    assert saliency[~inside].abs().max() == 0 < saliency[inside].abs().max()

    # The logit is linear in what this layer returns, so the map is largest in the patch of its
    # token.
    attribution = ai.GradCAMInterpreter(classifier, "vit.encoder.ln").attribute(cells, label)
    assert attribution.shape == cells.shape
    assert inside.flatten()[attribution.argmax()]


def test_the_whole_vision_transformer_is_interpreted_end_to_end(chirp):
    models = pytest.importorskip("torchvision.models", reason="needs the package torchvision")
    network = models.VisionTransformer(
        image_size=SIZE,
        patch_size=PATCH,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=len(CLASSES),
    )
    nn.init.normal_(network.heads.head.weight)  # which starts at zero
    samples = (SIZE - 1) * 256
    classifier = ai.classifier(
        ThreeChannels(network),
        front_end=log_mel(),
        classes=CLASSES,
        duration=samples / RATE,
        outputs="logits",
        activation_axes=tokens_to_plane(PATCHES, PATCHES, prefix=1),
    )
    method = ai.GradCAMInterpreter(classifier, "network.encoder.layers.encoder_layer_0")
    result = ai.Predict(classifier, method, on=("features", "audio")).predict(chirp, RATE)
    check_whole_interpretation(result, samples)
