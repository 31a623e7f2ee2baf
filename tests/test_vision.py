"""Image networks on spectrograms: the image is the right one, and maps are turned back."""

from __future__ import annotations

import json
import math

import librosa
import numpy as np
import pytest
import torch
import torchvision
from matplotlib import colormaps
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import audiointerp as ai
from audiointerp.interpretation.layers import usable_layers
from audiointerp.model.vision import IMAGENET_MEAN, IMAGENET_STD, VisionNetwork

FRONT_END = ai.LogMelSTFTSpectrogram()
RATE = FRONT_END.sample_rate
SECONDS = 0.5
CLASSES = ["cat", "dog", "owl"]
RANGE = (-80.0, 40.0)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    noise = torch.randn(2, 1, int(RATE * SECONDS), generator=torch.Generator().manual_seed(0))
    return (
        0.1 * noise * torch.linspace(0, 1, noise.shape[-1]) ** torch.tensor([1, 4])[:, None, None]
    )


@pytest.fixture(scope="module")
def view(clips) -> ai.View:
    return FRONT_END.analyse(clips)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).eval()


class Corner(nn.Module):
    """Scores the mean of one corner of the image, after a convolution that leaves it as it is."""

    def __init__(self, rows: slice, columns: slice, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(channels)[:, :, None, None])
        self.rows, self.columns = rows, columns

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.conv(image)[:, :, self.rows, self.columns].mean((1, 2, 3))
        return torch.stack([score, -score, 2 * score], dim=1)


class Patches(nn.Module):
    """A transformer's tokens, (batch, prefix + patches, channels), of which one is scored."""

    def __init__(self, row: int, column: int, *, size: int = 32, patch: int = 8, prefix: int = 1):
        super().__init__()
        self.image_size = size
        self.proj = nn.Conv2d(3, 4, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, prefix, 4))
        self.tokens = nn.Identity()
        self.last = nn.Linear(4, 3)
        self.place = prefix + row * (size // patch) + column

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.proj(image).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(image), -1, -1)
        return self.last(self.tokens(torch.cat([first, patches], 1))[:, self.place])


def wrap(network: nn.Module, image: ai.SpectrogramImage, **options) -> ai.Classifier:
    return ai.from_vision(
        network,
        image,
        **({"front_end": FRONT_END, "classes": CLASSES, "duration": SECONDS} | options),
    )


def image_of(view: ai.View, settings: ai.SpectrogramImage, network: nn.Module | None = None):
    network = nn.Conv2d(3, 3, 1) if network is None else network
    return VisionNetwork(network, settings).image(view.cells)


# --- the image -----------------------------------------------------------------------------------


def test_the_image_is_that_of_torchvisions_transforms(view):
    settings = ai.SpectrogramImage(RANGE, size=(48, 40), origin="lower")
    grey = ((view.cells - RANGE[0]) / (RANGE[1] - RANGE[0])).clamp(0, 1)
    expected = v2.Compose(
        [
            v2.Lambda(lambda x: torch.flipud(x[0])[None].repeat(3, 1, 1)),
            v2.Resize((48, 40), antialias=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    found = image_of(view, settings)
    torch.testing.assert_close(found, torch.stack([expected(each) for each in grey]))


def test_the_scale_can_be_librosas_of_each_clip(view, clips):
    """``power_to_db(ref=np.max, top_db=80)`` and minimum and maximum to 0 and 1."""
    settings = ai.SpectrogramImage("clip", top_db=80, mean=0, std=1)
    found = image_of(view, settings)
    for clip, image in zip(clips, found, strict=True):
        power = librosa.feature.melspectrogram(
            y=clip[0].numpy(), sr=RATE, n_fft=1024, hop_length=320, n_mels=64, fmin=50, fmax=14000,
            pad_mode="reflect",
        )  # fmt: skip
        db = librosa.power_to_db(power, ref=np.max, top_db=80)
        expected = (db - db.min()) / (db.max() - db.min())
        np.testing.assert_allclose(image[0].numpy(), expected, atol=2e-4)


def test_a_silent_clip_has_a_scale(view):
    silent = torch.full_like(view.cells, -100.0)
    found = VisionNetwork(nn.Conv2d(1, 1, 1), ai.SpectrogramImage("clip")).image(silent)
    assert (found == 0).all()


def test_cells_can_stay_as_they_are(view):
    settings = ai.SpectrogramImage(None, mean=-20.0, std=12.5, channels=1)
    found = image_of(view, settings)
    torch.testing.assert_close(found, (view.cells + 20) / 12.5)


def test_colours_are_those_of_matplotlib_but_for_interpolation(view):
    settings = ai.SpectrogramImage(RANGE, colormap="magma", mean=0, std=1)
    found = image_of(view, settings).movedim(1, 3).numpy()
    grey = ((view.cells[:, 0] - RANGE[0]) / (RANGE[1] - RANGE[0])).clamp(0, 1).numpy()
    table = colormaps["magma"]
    steps = np.abs(np.diff(table(np.arange(256))[:, :3], axis=0)).max(0)
    assert (np.abs(found - table(grey)[..., :3]) <= steps / 2 + 1e-6).all()
    centres = torch.tensor([(number + 0.5) / 256 for number in (0, 17, 128, 255)])
    exact = VisionNetwork(
        nn.Conv2d(3, 3, 1), ai.SpectrogramImage((0, 1), colormap="magma", mean=0, std=1)
    )
    colors = exact.image(centres[None, None, None])[0, :, 0].T
    np.testing.assert_allclose(colors.numpy(), table([0, 17, 128, 255])[:, :3], atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        ai.SpectrogramImage((-2.0, 2.0), size=(5, 9), origin="lower"),
        ai.SpectrogramImage((-9.0, 9.0), size=(5, 9), interpolation="bicubic"),
        ai.SpectrogramImage((-9.0, 9.0), colormap="viridis"),
        ai.SpectrogramImage("clip", size=(5, 9), interpolation="nearest"),
    ],
)
def test_the_image_is_differentiable(settings):
    vision = VisionNetwork(nn.Conv2d(3, 3, 1).double(), settings)
    cells = torch.randn(2, 1, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.gradcheck(vision.image, cells.requires_grad_())


def test_what_is_not_given_is_what_timm_knows():
    timm = pytest.importorskip("timm", reason="needs the package timm")
    network = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    found = VisionNetwork(network, ai.SpectrogramImage(RANGE)).image.settings
    config = timm.data.resolve_model_data_config(network)
    assert (found.channels, *found.size) == config["input_size"]
    assert (found.mean, found.std) == (config["mean"], config["std"])
    assert found.mean != IMAGENET_MEAN
    assert found.interpolation == config["interpolation"]
    # The size it was made with, not that of its weights on ImageNet.
    network = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=(64, 48), in_chans=1)
    found = VisionNetwork(network, ai.SpectrogramImage(RANGE)).image.settings
    assert (found.size, found.channels, found.mean, found.std) == ((64, 48), 1, (0.0,), (1.0,))


def test_what_is_not_given_is_what_torchvision_needs(resnet):
    found = VisionNetwork(resnet, ai.SpectrogramImage(RANGE)).image.settings
    assert (found.size, found.mean, found.std) == ("cells", IMAGENET_MEAN, IMAGENET_STD)
    network = torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=3)
    assert VisionNetwork(network, ai.SpectrogramImage(RANGE)).image.settings.size == (32, 32)


def test_settings_are_in_those_of_the_classifier(resnet):
    clf = wrap(resnet, ai.SpectrogramImage(RANGE, size=64, origin="lower"))
    described = json.loads(json.dumps(clf.settings()))
    assert described["name"] == "ResNet"
    assert described["image"]["value_range"] == list(RANGE)
    assert described["image"]["size"] == [64, 64]
    assert described["image"]["mean"] == list(IMAGENET_MEAN)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_the_networks(view, dtype):
    network = Corner(slice(0, 4), slice(0, 4)).to(dtype)
    clf = wrap(network, ai.SpectrogramImage(RANGE, size=16))
    assert clf.network.image(view.cells.to(dtype)).dtype is dtype
    assert clf.logits(view.cells).isfinite().all()


# --- orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["upper", "lower"])
@pytest.mark.parametrize("size", ["cells", (32, 24), (96, 130)])
@pytest.mark.parametrize("row", ["top", "bottom"])
@pytest.mark.parametrize("late", [False, True])
def test_a_corner_of_the_image_is_a_corner_of_the_cells(view, origin, size, row, late):
    quarter = 0.25
    bins, frames = view.cells.shape[2:]
    rows, columns = (bins, frames) if size == "cells" else size
    height, width = round(rows * quarter), round(columns * quarter)
    seen = slice(0, height) if row == "top" else slice(rows - height, rows)
    network = Corner(seen, slice(columns - width, columns) if late else slice(0, width))
    clf = wrap(network, ai.SpectrogramImage(RANGE, size=size, origin=origin))
    low = (row == "top") == (origin == "upper")  # whether it looks at low frequencies
    inside = torch.zeros(bins, frames, dtype=torch.bool)
    of_bins = slice(0, bins // 4 + 2) if low else slice(bins - bins // 4 - 2, bins)
    of_frames = slice(frames - frames // 4 - 2, frames) if late else slice(0, frames // 4 + 2)
    inside[of_bins, of_frames] = True

    loud = torch.full_like(view.cells, -20.0)  # within the range, so that no cell is limited
    gradient = ai.SaliencyInterpreter(clf).attribute(loud, 0)
    assert (gradient[..., ~inside] == 0).all()
    core = inside.clone()
    core[bins // 4 - 2 : bins - bins // 4 + 2] = False
    core[:, frames // 4 - 2 : frames - frames // 4 + 2] = False
    assert (gradient[..., core] > 0).all()

    # The map of its layer, by gradient in each place.
    plane = ai.METHODS["hirescam"](clf, "network.conv").attribute(view, 0)
    assert (plane[..., ~inside].abs() <= 1e-6).all()
    assert (plane[..., core] != 0).all()


@pytest.mark.parametrize("origin", ["upper", "lower"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_patch_of_a_transformer_is_its_part_of_the_cells(view, origin, prefix):
    torch.manual_seed(0)
    network = Patches(0, 3, prefix=prefix)  # of 4×4: above, at the end
    if prefix == 0:
        del network.class_token
        network.class_token = torch.zeros(1, 0, 4)
    clf = wrap(network, ai.SpectrogramImage(RANGE, origin=origin))
    assert clf.network.size == (32, 32)
    planes = clf.to_plane("network.tokens", torch.arange(prefix + 16.0)[None, :, None])
    expected = torch.arange(prefix, prefix + 16.0).reshape(4, 4)
    expected = expected if origin == "upper" else expected.flipud()
    torch.testing.assert_close(planes[0, 0], expected)
    attribution = ai.METHODS["hirescam"](clf, "network.tokens").attribute(view, 0)[0, 0].abs()
    gradient = ai.SaliencyInterpreter(clf).attribute(view, 0)[0, 0].abs()
    bins, frames = attribution.shape
    of_bins = slice(0, bins // 4) if origin == "upper" else slice(bins - bins // 4, bins)
    for found in (attribution, gradient):
        total = found.sum()
        assert found[of_bins, 3 * frames // 4 :].sum() / total > 0.5
        assert found[:, : frames // 2].sum() / total < 0.01


def test_channels_on_the_last_axis_are_told_from_those_on_the_first(view):
    clf = wrap(Corner(slice(0, 4), slice(0, 4)), ai.SpectrogramImage(RANGE, size=224))
    planes = torch.randn(2, 7, 7, 96)
    torch.testing.assert_close(clf.to_plane("network.conv", planes), planes.movedim(3, 1))
    planes = torch.randn(2, 96, 7, 7)
    torch.testing.assert_close(clf.to_plane("network.conv", planes), planes)
    attention = torch.randn(2, 3, 197, 197)
    with pytest.raises(ValueError, match=r"'network\.conv'.*no planes of an image of \(224, 224\)"):
        clf.to_plane("network.conv", attention)
    with pytest.raises(ValueError, match=r"how its 50 tokens lie.*tokens_to_plane"):
        clf.to_plane("network.conv", torch.randn(2, 50, 8))


TORCHVISION = {
    "resnet18": ("layer4", (2, 2)),
    "mobilenet_v3_small": ("features", (2, 2)),
    "efficientnet_b0": ("features", (2, 2)),
    "densenet121": ("features", (2, 2)),
    "convnext_tiny": ("features", (2, 2)),
    "regnet_y_400mf": ("trunk_output", (2, 2)),
    "shufflenet_v2_x0_5": ("conv5", (2, 2)),
    "mnasnet0_5": ("layers", (2, 2)),
    "swin_t": ("features", (2, 2)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_last_stage_of_torchvisions_families_is_the_default(view, name):
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=3)
    clf = wrap(network, ai.SpectrogramImage(RANGE, size=64))
    target, plane = TORCHVISION[name]
    assert clf.target_layer is network.get_submodule(target)
    assert usable_layers(clf, view[:1])[f"network.{target}"] == plane
    assert ai.GradCAMInterpreter(clf).attribute(view[:1], 0).abs().max() > 0


TIMM = {
    "resnet18": "layer4",
    "convnext_atto": "stages.3",
    "mobilenetv3_small_050": "blocks.5",
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "swin_tiny_patch4_window7_224": "layers.3",
}


@pytest.mark.parametrize("name", TIMM)
def test_the_last_stage_of_timms_families_is_the_default(view, name):
    timm = pytest.importorskip("timm", reason="needs the package timm")
    torch.manual_seed(0)
    options = {"depth": 12, "embed_dim": 24, "num_heads": 2} if "patch16" in name else {}
    network = timm.create_model(name, num_classes=3, **options)
    clf = wrap(network, ai.SpectrogramImage(RANGE))
    assert clf.target_layer is network.get_submodule(TIMM[name])
    rows, columns = usable_layers(clf, view[:1])[f"network.{TIMM[name]}"]
    assert (rows, columns) == ((14, 14) if "patch16" in name else (7, 7))
    assert ai.GradCAMInterpreter(clf).attribute(view[:1], 0).abs().max() > 0


def test_torchvisions_vision_transformer_has_a_default(view):
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    clf = wrap(network, ai.SpectrogramImage(RANGE))
    assert clf.target_layer is network.encoder.layers.encoder_layer_1.ln_1
    assert ai.GradCAMInterpreter(clf).attribute(view[:1], 0).abs().max() > 0


def test_tokens_in_no_order_of_rows_are_refused():
    timm = pytest.importorskip("timm", reason="needs the package timm")
    network = timm.create_model("hiera_tiny_224", stages=(1, 1, 1, 1), embed_dim=16)
    vision = VisionNetwork(network, ai.SpectrogramImage(RANGE))
    assert vision.target_layer is None
    with pytest.raises(ValueError, match="how its 49 tokens lie"):
        vision.activation_axes("network.blocks.3", torch.randn(1, 49, 8))


# --- end to end ----------------------------------------------------------------------------------


def test_a_resnet_is_interpreted_to_its_sound(resnet, clips):
    clf = wrap(resnet, ai.SpectrogramImage(RANGE, size=64, origin="lower"))
    for method in (ai.GradCAMInterpreter(clf), ai.METHODS["integrated_gradients"](clf)):
        result = ai.Predict(clf, method, on=("features", "audio")).predict(clips[1], RATE)
        assert np.isfinite(result.metrics.astype(float)).all(axis=None)
        assert result.audio("topK_30").waveform.shape == (clips.shape[-1],)


def test_shap_adds_up_through_the_image(resnet, view, clips):
    clf = wrap(resnet, ai.SpectrogramImage(RANGE, size=48, origin="lower"))
    background = FRONT_END.analyse(0.01 * clips.flip(2))
    found = ai.SHAPInterpreter(clf, background).explain(view[:1], 0)
    assert found.diagnostics["residual"] < 0.01
    assert found.attribution.abs().max() > 0


def test_a_clips_map_does_not_depend_on_its_neighbours(resnet, view):
    clf = wrap(resnet, ai.SpectrogramImage("clip", top_db=60, size=64))
    method = ai.SaliencyInterpreter(clf)
    together, alone = method.attribute(view, 1), method.attribute(view[1:], 1)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-6 * float(alone.abs().max()))


# --- what goes wrong -----------------------------------------------------------------------------


def test_an_example_of_the_training_is_compared(resnet, clips, tmp_path):
    settings = ai.SpectrogramImage(RANGE, size=64, origin="lower")
    image = VisionNetwork(resnet, settings).image(FRONT_END.analyse(clips[:1]).cells)[0]
    # Rounded to 8 bits, as in a file.
    grey = (image * torch.tensor(IMAGENET_STD)[:, None, None]
            + torch.tensor(IMAGENET_MEAN)[:, None, None])  # fmt: skip
    picture = Image.fromarray((grey.movedim(0, 2) * 255).round().to(torch.uint8).numpy())
    picture.save(tmp_path / "clip.png")
    read = v2.functional.pil_to_tensor(Image.open(tmp_path / "clip.png")) / 255
    read = v2.functional.normalize(read, IMAGENET_MEAN, IMAGENET_STD)
    example = (clips[0, 0], read)
    wrap(resnet, settings, example=example)
    for other, reason in (
        (ai.SpectrogramImage(RANGE, size=64), r"upside down: SpectrogramImage\(origin='lower'\)"),
        (
            ai.SpectrogramImage((-100, 0), size=64, origin="lower"),
            "value_range, mean or std differ",
        ),
        (
            ai.SpectrogramImage(RANGE, size=32, origin="lower"),
            r"\(3, 32, 32\), that of the example",
        ),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            wrap(resnet, other, example=example)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is this the front end of the example"):
        wrap(resnet, settings, example=(clips[0, 0].flip(0), read))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_range": (0, -80)}, r"value_range is \(0, -80\).*such as \(-80, 0\)"),
        ({"value_range": "dB"}, "value_range is 'dB'"),
        ({"value_range": RANGE, "origin": "left"}, "origin is 'left'.*'upper'"),
        ({"value_range": RANGE, "size": 0}, "size is 0: expected rows and columns"),
        ({"value_range": RANGE, "size": (1, 2, 3)}, "rows and columns"),
        ({"value_range": RANGE, "top_db": -1}, "top_db is -1"),
        ({"value_range": RANGE, "colormap": "grayish"}, "no colormap 'grayish'"),
        ({"value_range": None, "colormap": "magma"}, "a colormap needs a value_range"),
        ({"value_range": RANGE, "interpolation": "cubic"}, "choose from bilinear, bicubic"),
        ({"value_range": RANGE, "std": 0}, "std is 0: expected positive"),
        ({"value_range": RANGE, "mean": math.nan}, "mean is nan"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ai.SpectrogramImage(**settings)


def test_a_network_that_does_not_fit_is_one_line(resnet):
    with pytest.raises(ValueError, match=r"no convolution that tells how many channels"):
        wrap(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), ai.SpectrogramImage(RANGE))
    with pytest.raises(ValueError, match=r"a colormap has 3 channels, the network takes 1"):
        wrap(nn.Conv2d(1, 1, 1), ai.SpectrogramImage(RANGE, colormap="magma"))
    with pytest.raises(ValueError, match=r"mean has 2 numbers for 3 channels"):
        wrap(resnet, ai.SpectrogramImage(RANGE, mean=(0.5, 0.5)))
    with pytest.raises(TypeError, match=r"image is tuple: expected how cells become one"):
        wrap(resnet, RANGE)
    with pytest.raises(ValueError, match=r"the module fails on .* expected input.* 3 channels"):
        wrap(resnet, ai.SpectrogramImage(RANGE, channels=1))
