"""Taggers of other packages, on stand-ins: their own answers, and maps that lie where they look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from package_models import (
    MN,
    AudioTagging,
    AugmentMelSTFT,
    BEATs,
    Cnn14,
    Cnn14DecisionLevelMax,
    DyMN,
    PaSST,
    PasstBasicWrapper,
    VGGishLogMelSpectrogram,
    YAMNet,
)
from torch import nn

import audiointerp as ai
from audiointerp.dataset.audioset import audioset_classes, audioset_numbers
from audiointerp.model.families import FAMILIES
from audiointerp.registry import UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore:Input image size:UserWarning")
NAMES = [f"class {number}" for number in range(521)]
# BEATs' checkpoints say by machine ids which output is which: not in the order of PANNs.
LABEL_DICT = dict(enumerate(reversed(audioset_numbers())))
PANNS = {
    32000: {"window_size": 1024, "hop_size": 320, "fmin": 50, "fmax": 14000},
    16000: {"window_size": 512, "hop_size": 160, "fmin": 50, "fmax": 8000},
    8000: {"window_size": 256, "hop_size": 80, "fmin": 50, "fmax": 4000},
}


def noise(seconds: float, rate: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    wave = 0.1 * torch.randn(batch, 1, round(seconds * rate), generator=generator)
    return wave * torch.linspace(0.01, 1, wave.shape[-1])


def panns_model(kind: type = Cnn14, rate: int = 32000, **changed) -> nn.Module:
    torch.manual_seed(0)
    return kind(sample_rate=rate, mel_bins=64, classes_num=527, **(PANNS[rate] | changed)).eval()


def made(family: str):
    """Return a stand-in of a family, the arguments for it, and its own probabilities of sounds."""
    torch.manual_seed(0)
    if family in ("efficientat", "dymn"):
        mel, net = AugmentMelSTFT().eval(), (MN if family == "efficientat" else DyMN)().eval()
        return net, {"mel": mel}, lambda x: net(mel(x[:, 0])[:, None])[0].sigmoid()
    if family == "passt":
        whole = PasstBasicWrapper(AugmentMelSTFT(), PaSST(), mode="logits").eval()
        return whole, {}, lambda x: whole(x[:, 0]).sigmoid()
    if family == "panns":
        whole = panns_model()
        return AudioTagging(whole), {}, lambda x: whole(x[:, 0], None)["clipwise_output"]
    if family == "beats":
        whole = BEATs().eval()
        return whole, {"classes": LABEL_DICT}, lambda x: whole.extract_features(x[:, 0])[0]
    net, mel = YAMNet().eval(), VGGishLogMelSpectrogram()

    def own(x):
        frames = mel(x[:, 0]).mT  # batch, frames, bands
        count = frames.shape[1] // 96
        chances = [net(each[: count * 96].reshape(count, 1, 96, 64)).mean(0) for each in frames]
        return torch.stack(chances)

    return net, {"classes": NAMES, "extractor": mel}, own


KINDS = {"beats": 2, "efficientat": 4, "dymn": 4, "passt": 2, "panns": 2, "yamnet": 2.88}
"""Stand-ins and the seconds of their clips."""


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    kind = request.param
    model, options, own = made(kind)
    family = "efficientat" if kind == "dymn" else kind
    clf = ai.from_package(family, model, duration=KINDS[kind], **options)
    return kind, clf, own


def test_every_family_is_tried():
    assert {"efficientat" if kind == "dymn" else kind for kind in KINDS} == set(FAMILIES)


def test_probabilities_are_the_models_own(case):
    kind, clf, own = case
    clips = noise(KINDS[kind], clf.front_end.sample_rate)
    with torch.no_grad():
        expected = own(clips)
        view = clf.front_end.analyse(clips)
        found = clf.probabilities(clf.logits(view.cells, view))
    assert expected.std(0).max() > 1e-4  # the clips differ
    torch.testing.assert_close(found, expected.double(), atol=1e-4, rtol=0)
    assert not clf.head.exclusive


def test_a_clip_is_interpreted_to_its_sound(case):
    kind, clf, _ = case
    rate = clf.front_end.sample_rate
    clip = noise(KINDS[kind], rate, batch=1)[0]
    for method in (ai.GradCAMInterpreter(clf), ai.SaliencyInterpreter(clf)):
        result = ai.Predict(clf, method, masks=["topK_30"], on=("features", "audio")).predict(
            clip, rate, target=clf.classes[3]
        )
        assert np.isfinite(result.metrics.astype(float)).all(axis=None)
        assert result.attribution.abs().max() > 0
        assert result.audio("topK_30").waveform.shape == (clip.shape[-1],)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("low", [True, False])
def test_maps_lie_where_the_sound_changes(case, early, low):
    """A burst in one band and one part of the clip: HiRes-CAM of it less that without it."""
    kind, clf, _ = case
    rate = clf.front_end.sample_rate
    clip = 1e-3 * noise(KINDS[kind], rate, batch=1)
    time = torch.arange(clip.shape[-1]) / rate
    when = (time < KINDS[kind] / 3) if early else (time > 2 * KINDS[kind] / 3)
    burst = torch.sin(2 * torch.pi * (400 if low else 6000) * time) * when
    views = [clf.front_end.analyse(each) for each in (clip, clip + 0.5 * burst)]
    method = ai.METHODS["hirescam"](clf)
    change = (method.attribute(views[1], 0) - method.attribute(views[0], 0))[0, 0].abs()
    bins, frames = change.shape
    over_time, over_bins = change.sum(0), change.sum(1)
    half = frames // 2
    first, last = float(over_time[:half].sum()), float(over_time[half:].sum())
    assert (first > 1.2 * last) if early else (last > 1.2 * first)
    loud = (views[1].cells - views[0].cells)[0, 0].mean(1)
    place = int(loud.argmax())
    assert (place < bins // 2) == low
    if kind in ("efficientat", "dymn"):  # of rows of their own, not mixed by attention or pooling
        near = over_bins[max(0, place - bins // 6) : place + bins // 6].sum()
        assert near / over_bins.sum() > 0.5


def test_beats_labels_are_named_by_their_machine_ids():
    clf = ai.from_package("beats", BEATs(), classes=LABEL_DICT, duration=1.0)
    assert clf.classes == audioset_classes()[::-1]
    mine = ai.from_package("beats", BEATs(2), classes={0: "cat", 1: "dog"}, duration=1.0)
    assert mine.classes == ("cat", "dog")
    with pytest.raises(ValueError, match="no predictor: BEATs that was not fine-tuned"):
        ai.from_package("beats", BEATs(finetuned=False), classes=LABEL_DICT)


@pytest.mark.parametrize("layer", ["encoder", "encoder.layers.0", "patch_embedding"])
def test_patches_of_beats_lie_where_they_are(layer):
    clf = ai.from_package("beats", BEATs(), classes=LABEL_DICT, duration=2.0)
    planes = torch.randn(3, 5, 8, 12)  # batch, channels, freq, time
    tokens = planes.permute(0, 3, 2, 1).flatten(1, 2)
    if layer == "patch_embedding":
        tokens = planes.transpose(2, 3)
    elif layer != "encoder":
        tokens = tokens.transpose(0, 1)
    torch.testing.assert_close(clf.to_plane(f"network.{layer}", tokens), planes)


# --- the front end -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["efficientat", "passt"])
def test_settings_are_those_of_the_mel_that_is_given(family):
    mel = AugmentMelSTFT(n_mels=64, hopsize=480, fmax=12000.0)
    model = MN(10) if family == "efficientat" else PaSST(10)
    options = {"classes": NAMES[:10], "duration": 2.0}
    if family == "passt":  # for 128 bands
        mel = AugmentMelSTFT(hopsize=480, fmax=12000.0)
    clf = ai.from_package(family, model, mel=mel, **options)
    settings = clf.front_end.settings()
    assert (settings["hop_length"], settings["f_max"]) == (480, 12000.0)
    assert settings["n_mels"] == mel.n_mels
    assert mel.training  # as it was


def test_a_mel_that_is_another_is_an_error():
    class Louder(AugmentMelSTFT):
        def forward(self, x):
            return super().forward(2 * x)

    class Older(AugmentMelSTFT):
        def forward(self, x):
            raise RuntimeError("stft requires the return_complex parameter")

    with pytest.raises(ValueError, match=r"Louder computes other numbers than the front end") as e:
        ai.from_package("efficientat", MN(), mel=Louder())
    assert "\n" not in str(e.value)
    with pytest.raises(
        ValueError, match=r"Older of the family 'efficientat' fails.*return_complex"
    ):
        ai.from_package("efficientat", MN(), mel=Older())
    with pytest.raises(ValueError, match=r"VGGish.* without sr, n_fft|expects a module with sr"):
        ai.from_package("efficientat", MN(), mel=VGGishLogMelSpectrogram())


@pytest.mark.parametrize("rate", PANNS)
def test_panns_of_every_rate_have_their_front_end(rate):
    clf = ai.from_package("panns", panns_model(rate=rate), duration=1.0)
    assert clf.front_end.sample_rate == rate
    assert clf.classes == audioset_classes()


def test_panns_with_other_bands_are_an_error():
    with pytest.raises(ValueError, match=r"computes other numbers.*family 'panns'"):
        ai.from_package("panns", panns_model(fmax=12000), duration=1.0)
    with pytest.raises(ValueError, match=r"FFT has 2048 samples: expected one of 1024, 512, 256"):
        ai.from_package("panns", panns_model(window_size=2048), duration=1.0)


def test_panns_stay_as_they_are_and_share_their_weights():
    model = panns_model()
    clip = noise(1, 32000)[:, 0]
    with torch.no_grad():
        before = model(clip)["clipwise_output"]
        clf = ai.from_package("panns", AudioTagging(nn.DataParallel(model)), duration=1.0)
        torch.testing.assert_close(model(clip)["clipwise_output"], before)
    assert clf.network.tagger.fc1 is model.fc1
    assert isinstance(model.logmel_extractor, nn.Module)
    assert type(model.logmel_extractor) is not nn.Identity


def test_sound_event_detection_is_explained_by_the_clips_scores():
    model = panns_model(Cnn14DecisionLevelMax)
    clf = ai.from_package("panns", model, duration=1.0)
    clips = noise(1, 32000)
    view = clf.front_end.analyse(clips)
    with torch.no_grad():
        expected = model(clips[:, 0])["clipwise_output"]
        found = clf.probabilities(clf.logits(view.cells, view))
    torch.testing.assert_close(found, expected.double(), atol=1e-5, rtol=0)


def test_the_first_batch_norm_of_panns_has_the_bands_as_channels():
    clf = ai.from_package("panns", panns_model(), duration=1.0)
    view = clf.front_end.analyse(noise(1, 32000))
    planes = clf.to_plane("tagger.bn0", view.cells.permute(0, 2, 3, 1))
    torch.testing.assert_close(planes, view.cells)


def test_yamnets_offset_is_that_of_the_extractor():
    torch.manual_seed(0)
    options = {"classes": NAMES, "duration": 0.96}
    with pytest.raises(ValueError, match=r"computes other numbers.*family 'yamnet'"):
        ai.from_package("yamnet", YAMNet(), extractor=VGGishLogMelSpectrogram(0.01), **options)
    clf = ai.from_package(
        "yamnet", YAMNet(), extractor=VGGishLogMelSpectrogram(0.01), offset=0.01, **options
    )
    assert clf.settings()["offset"] == 0.01


def test_yamnets_classes_may_be_the_ports_metadata():
    entries = [{"name": name, "id": number} for number, name in enumerate(NAMES)]
    clf = ai.from_package("yamnet", YAMNet(), classes=entries, duration=0.96)
    assert clf.classes == tuple(NAMES)


def test_patches_of_yamnet_are_joined_along_time():
    clf = ai.from_package("yamnet", YAMNet(), classes=NAMES, duration=2.88)
    patches = torch.arange(3.0)[:, None, None, None].expand(3, 2, 6, 4)  # channel, time, freq
    planes = clf.to_plane("network.layer2", patches)
    assert planes.shape == (1, 2, 4, 18)
    expected = torch.arange(3.0).repeat_interleave(6)
    torch.testing.assert_close(planes, expected.expand(1, 2, 4, 18))


def test_tokens_of_passt_lie_where_their_patches_are():
    clf = ai.from_package("passt", PaSST(), duration=2.0)
    patches = torch.randn(2, 5, 12, 18)
    tokens = torch.cat([torch.full((2, 2, 5), 9.0), patches.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(clf.to_plane("network.blocks.0", tokens), patches)
    with pytest.raises(ValueError, match=r"expected 2 tokens and 12 for each column"):
        clf.to_plane("network.blocks.0", tokens[:, 1:])


# --- what goes wrong -----------------------------------------------------------------------------


def test_unknown_families_and_options_are_named():
    with pytest.raises(UnknownNameError, match=r"unknown family 'past'.*Did you mean 'passt'"):
        ai.from_package("past", PaSST())
    with pytest.raises(ValueError, match=r"has no setting clases.*did you mean classes"):
        ai.from_package("passt", PaSST(), clases=NAMES)
    with pytest.raises(ValueError, match=r"'yamnet' needs the setting classes") as error:
        ai.from_package("yamnet", YAMNet())
    assert "\n" not in str(error.value)


def test_models_of_another_interface_are_named():
    with pytest.raises(ValueError, match=r"'passt' expects a module with patch_embed.*got MN"):
        ai.from_package("passt", MN())
    with pytest.raises(ValueError, match=r"'panns' expects a module with.*got str, which is none"):
        ai.from_package("panns", "Cnn14.pth")
    with pytest.raises(ValueError, match=r"has 50 outputs and not AudioSet's 527: give classes"):
        ai.from_package("efficientat", MN(50))
    with pytest.raises(ValueError, match=r"90 frames, a patch of YAMNet 96: take a duration"):
        ai.from_package("yamnet", YAMNet(), classes=NAMES, duration=0.89)


def test_a_fine_tuned_network_has_its_own_head_and_classes():
    clf = ai.from_package(
        "efficientat", MN(3), classes=["cat", "dog", "owl"], head="softmax", duration=5.0
    )
    assert clf.head.exclusive
    assert clf.classes == ("cat", "dog", "owl")
