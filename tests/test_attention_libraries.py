"""Attention and Grad-CAM on tiny random models of transformers, timm and torchvision.

The oracle of attention is what each library says its weights are (``output_attentions``, hooks),
multiplied in NumPy; that of places is a network whose attention looks at loud patches.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from test_attention import BOTH, ROLLOUT, expected, randn, read, resize, seeded
from torch import nn

import audiointerp as ai
from audiointerp.interpretation import METHODS
from audiointerp.interpretation.layers import usable_layers
from audiointerp.model.planes import tokens_to_plane

each_method = pytest.mark.parametrize("name", BOTH)
CAMS = ("gradcam", "gradcamplusplus", "hirescam", "layercam", "eigencam", "eigengradcam")
NAMES = ("rain", "dog", "cat")

# --- the Audio Spectrogram Transformer: patches, a class and a distillation token ----------------

PATCHES, AST_CELLS = (3, 6), (36, 66)  # patches of 16 cells every 10


class AST(nn.Module):
    """transformers' AST on cells (batch, 1, mel, time)."""

    def __init__(self, attention: str, layers: int = 2) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        self.net = transformers.ASTForAudioClassification(
            transformers.ASTConfig(
                hidden_size=16,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=32,
                num_mel_bins=AST_CELLS[0],
                max_length=AST_CELLS[1],
                frequency_stride=10,
                time_stride=10,
                num_labels=3,
                initializer_range=0.3,
                attn_implementation=attention,
            )
        )
        self.activation_axes = tokens_to_plane(*PATCHES, prefix=2)

    def forward(self, x):
        return self.net(x[:, 0].mT)


@each_method
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_ast_is_explained_by_the_weights_that_it_returns(name, attention):
    x = randn(3, 1, *AST_CELLS, seed=1)
    found = METHODS[name](seeded(lambda: AST(attention))).attribute(x, 2)
    says = seeded(lambda: AST("eager")).net
    for clip in range(3):
        returned = says(x[clip : clip + 1, 0].mT, output_attentions=True)
        matrix = expected(name, list(returned.attentions), returned.logits[0, 2])
        plane = read(matrix, [0, 1], prefix=2).reshape(1, 1, *PATCHES).to(x)
        torch.testing.assert_close(
            found[clip : clip + 1], resize(plane, x), rtol=1e-4, atol=1e-6 * float(plane.max())
        )


def looks_at_loud_patches() -> AST:
    """Return an AST of one layer whose class tokens read loud patches: feature 0 is loudness."""
    model = seeded(lambda: AST("sdpa", layers=1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        parts = dict(model.net.named_modules())
        (projection,) = (each for each in parts.values() if isinstance(each, nn.Conv2d))
        projection.weight[0] = 1 / 256
        (layer,) = (each for name, each in parts.items() if name.endswith("layers.0"))
        layer.attention.q_proj.bias[0] = 1.0
        layer.attention.k_proj.weight[0, 0] = 1.0
        layer.attention.v_proj.weight[0, 0] = 1.0
        layer.attention.o_proj.weight[0, 0] = 1.0
        model.net.classifier.dense.weight[1, 0] = 1.0
        # Beside which what the tokens read counts, in spite of the norms.
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_token", "distillation_token")):
                parameter[..., 1] = 5.0
    return model


BLOCK = "net.audio_spectrogram_transformer.layers.0"


@pytest.mark.parametrize("name", [*BOTH, *CAMS])
@pytest.mark.parametrize("patch", [(0, 4), (2, 1), (1, 5)])
def test_patches_lie_where_their_cells_are(name, patch):
    model = looks_at_loud_patches()
    x = torch.zeros(1, 1, *AST_CELLS)
    row, column = (10 * place + 6 for place in patch)  # patches overlap; these cells are its own
    x[..., row : row + 4, column : column + 4] = 50.0
    options = {} if name in BOTH else {"target_layers": f"{BLOCK}.layernorm_before"}
    found = METHODS[name](model, **options).attribute(x, 1)
    high, wide = (size / count for size, count in zip(AST_CELLS, PATCHES, strict=True))
    place = divmod(int(found.abs().argmax()), AST_CELLS[1])
    assert (int(place[0] / high), int(place[1] / wide)) == patch


def test_a_layer_behind_which_only_the_class_token_counts_is_refused():
    """The output of the last block: patches have no gradient there, and Grad-CAM would be 0."""
    model, x = seeded(lambda: AST("sdpa")), randn(2, 1, *AST_CELLS)
    last = BLOCK.replace("0", "1")
    for name in ("gradcam", "layercam", "guided_gradcam"):
        with pytest.raises(ValueError, match=r"layers\.1' through tokens only that have no place"):
            METHODS[name](model, last).attribute(x, 0)
    assert METHODS["gradcam"](model, f"{last}.layernorm_before").attribute(x, 0).abs().max() > 0
    assert METHODS["eigencam"](model, last).attribute(x, 0).abs().max() > 0


def test_layers_of_ast_have_the_planes_of_its_patches():
    model = seeded(lambda: AST("eager"))
    sizes = usable_layers(model, randn(1, 1, *AST_CELLS))
    assert set(sizes.values()) == {PATCHES}
    # The attention itself returns a tuple, and so do blocks of some versions.
    assert {f"{BLOCK}.attention", BLOCK, f"{BLOCK}.layernorm_before"} <= set(sizes)


def test_gradcam_of_a_layer_that_returns_a_tuple_is_that_of_its_activation():
    model, x = seeded(lambda: AST("eager")), randn(2, 1, *AST_CELLS, seed=3)
    layer = model.net.get_submodule(f"{BLOCK.removeprefix('net.')}.attention")
    kept = {}

    def keep(module, inputs, output):
        assert isinstance(output, tuple)
        kept["activation"] = output[0]
        output[0].retain_grad()

    handle = layer.register_forward_hook(keep)
    model(x).logits[:, 1].sum().backward()
    handle.remove()
    activation, gradient = (
        each[:, 2:].detach().mT.unflatten(2, PATCHES)
        for each in (kept["activation"], kept["activation"].grad)
    )
    wanted = (gradient.mean((2, 3), keepdim=True) * activation).sum(1, keepdim=True)
    found = METHODS["gradcam"](model, f"{BLOCK}.attention").attribute(x, 1)
    torch.testing.assert_close(found, resize(wanted, x), rtol=1e-4, atol=1e-7)


# --- speech encoders on the waveform: frames -----------------------------------------------------

SPEECH = {
    "wav2vec2": ("Wav2Vec2", {}),
    "hubert": ("Hubert", {}),
    "wavlm": ("WavLM", {}),
    "data2vec": ("Data2VecAudio", {}),
    "sew": ("SEW", {"squeeze_factor": 2}),
}


def speech(kind: str, attention: str) -> ai.Classifier:
    """Return a tiny random classifier of the waveform that takes 0.25 s."""
    transformers = pytest.importorskip("transformers")
    name, more = SPEECH[kind]
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 8),
        "conv_stride": (20, 8),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "classifier_proj_size": 8,
        "num_labels": 3,
        "initializer_range": 0.3,
        "attn_implementation": attention,
    }
    config = getattr(transformers, f"{name}Config")(**settings | more)
    network = seeded(lambda: getattr(transformers, f"{name}ForSequenceClassification")(config))
    return ai.classifier(
        network,
        front_end=ai.WaveformFrontEnd(sample_rate=16000, n_fft=256, hop_length=128),
        classes=NAMES,
        duration=0.25,
        activation_axes=("time", "channel"),
    )


def speech_view(classifier: ai.Classifier):
    waveform = 0.3 * randn(2, 1, 4000, seed=4) * torch.linspace(0.1, 1, 4000)
    return classifier.front_end.analyse(waveform)


@pytest.mark.parametrize(
    ("kind", "attention", "name"),
    [
        *itertools.product([kind for kind in SPEECH if kind != "wavlm"], ["eager", "sdpa"], BOTH),
        ("wavlm", "eager", ROLLOUT),  # which returns means over the heads, of one implementation
    ],
)
def test_speech_encoders_are_explained_by_the_weights_that_they_return(kind, attention, name):
    classifier = speech(kind, attention)
    view = speech_view(classifier)
    found = METHODS[name](classifier).attribute(view, 1)
    says = speech(kind, "eager").network
    for clip in range(2):
        sound = view.waveform[clip]
        returned = says(sound, output_attentions=True)
        matrix = expected(name, list(returned.attentions), returned.logits[0, 1])
        row = read(matrix, None).to(found)[None, None, None]
        wanted = resize(row, view.cells)
        torch.testing.assert_close(found[clip][None], wanted, rtol=1e-3, atol=1e-5 * row.max())
    assert found.amax() > 1.001 * found.amin()


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm"])
@pytest.mark.parametrize("layer", ["feature_extractor", "encoder.layers.1", "projector"])
def test_gradcam_on_frames_has_one_row_and_runs_along_time(kind, layer):
    """The plane is (1, frames): channels first in the extractor, last in the encoder."""
    classifier = speech(kind, "eager")
    view, network = speech_view(classifier), classifier.network
    base = {"wav2vec2": "wav2vec2", "wavlm": "wavlm"}[kind]
    name = layer if layer == "projector" else f"{base}.{layer}"
    if layer == "feature_extractor":
        name += ".conv_layers.1.conv"  # a Conv1d needs no declaration
        classifier = ai.Classifier(network, classifier.front_end, activation_axes=None)
    kept = {}

    def keep(module, inputs, output):
        kept["seen"] = output[0] if isinstance(output, tuple) else output
        kept["seen"].retain_grad()

    handle = network.get_submodule(name).register_forward_hook(keep)
    network(view.waveform[:, 0]).logits[:, 1].sum().backward()
    handle.remove()
    network.zero_grad()
    activation, gradient = kept["seen"].detach(), kept["seen"].grad
    if layer != "feature_extractor":
        activation, gradient = activation.mT, gradient.mT
    frames = (gradient.mean(2, keepdim=True) * activation).sum(1)
    found = METHODS["gradcam"](classifier, name).attribute(view, 1)
    wanted = resize(frames[:, None, None], view.cells)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found), rtol=1e-3, atol=1e-6)


@each_method
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_whispers_encoder_is_explained_by_the_weights_that_it_returns(name, attention):
    transformers = pytest.importorskip("transformers")

    def make(attention):
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_mel_bins=20,
            max_source_positions=30,
            classifier_proj_size=8,
            num_labels=3,
            vocab_size=10,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            init_std=0.5,
            attn_implementation=attention,
        )
        return transformers.WhisperForAudioClassification(config)

    class Mel(nn.Module):
        activation_axes = ("time", "channel")

        def __init__(self) -> None:
            super().__init__()
            self.net = make(attention)

        def forward(self, x):
            return self.net(x[:, 0])

    x = randn(2, 1, 20, 60, seed=5)
    found = METHODS[name](seeded(Mel)).attribute(x, 0)
    says = seeded(lambda: make("eager"))
    for clip in range(2):
        returned = says(x[clip : clip + 1, 0], output_attentions=True)
        # Those of the encoder.
        matrix = expected(name, list(returned.attentions), returned.logits[0, 0])
        row = read(matrix, None).to(x)[None, None, None]
        torch.testing.assert_close(
            found[clip][None], resize(row, x), rtol=1e-3, atol=1e-5 * float(row.max())
        )


# --- vision transformers on spectrograms ---------------------------------------------------------


def timm_vit(fused: bool, **options) -> nn.Module:
    timm = pytest.importorskip("timm")

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"img_size": (16, 40), "patch_size": 8, "in_chans": 1, "num_classes": 3}
            size = {"embed_dim": 16, "depth": 2, "num_heads": 4}
            self.net = timm.models.VisionTransformer(**settings | size | options)
            for block in self.net.blocks:
                block.attn.fused_attn = fused
            self.activation_axes = tokens_to_plane(2, 5, prefix=self.net.num_prefix_tokens)

        def forward(self, x):
            return self.net(x)

    model = seeded(Vit)
    with torch.no_grad():
        for block in model.net.blocks:
            block.attn.qkv.weight.mul_(20)
    return model


def timm_weights(model: nn.Module, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the weights of each block, which go into its dropout, and the logits."""
    weights = []
    handles = [
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: weights.append(o))
        for block in model.net.blocks
    ]
    logits = model(x)
    for handle in handles:
        handle.remove()
    return weights, logits


@each_method
@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, [0]),
        ({"reg_tokens": 3}, [0]),
        ({"global_pool": "avg", "class_token": False}, None),
        ({"global_pool": "avg"}, list(range(1, 11))),
    ],
)
def test_timms_vit_fused_or_not_is_explained_by_its_weights(name, options, rows):
    x = randn(2, 1, 16, 40, seed=6)
    fused, plain = timm_vit(True, **options), timm_vit(False, **options)
    prefix = plain.net.num_prefix_tokens
    found = METHODS[name](fused).attribute(x, 1)
    torch.testing.assert_close(METHODS[name](plain).attribute(x, 1), found, rtol=1e-3, atol=1e-7)
    for clip in range(2):
        weights, logits = timm_weights(plain, x[clip : clip + 1])
        matrix = expected(name, weights, logits[0, 1])
        plane = read(matrix, rows, prefix=prefix).reshape(1, 1, 2, 5).to(x)
        torch.testing.assert_close(
            found[clip][None], resize(plane, x), rtol=1e-3, atol=1e-5 * float(plane.max())
        )


def test_timms_gradcam_on_patches_is_that_of_the_plane():
    model, x = timm_vit(True), randn(2, 1, 16, 40, seed=7)
    kept = []
    handle = model.net.blocks[-1].norm1.register_forward_hook(lambda m, i, o: kept.append(o))
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), kept)
    planes = [each[:, 1:].detach().mT.unflatten(2, (2, 5)) for each in (kept[0], gradient)]
    wanted = (planes[1].mean((2, 3), keepdim=True) * planes[0]).sum(1, keepdim=True)
    found = METHODS["gradcam"](model, "net.blocks.1.norm1").attribute(x, 2)
    torch.testing.assert_close(found, resize(wanted, x), rtol=1e-4, atol=1e-7)


@each_method
def test_torchvisions_vit_is_explained_by_the_weights_of_its_layers(name):
    torchvision = pytest.importorskip("torchvision")

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torchvision.models.VisionTransformer(
                24, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
            )
            nn.init.normal_(self.net.heads.head.weight)
            self.activation_axes = tokens_to_plane(3, 3, prefix=1)

        def forward(self, x):
            return self.net(x.expand(-1, 3, -1, -1))

    model, x = seeded(Vit), randn(1, 1, 24, 24, seed=8)
    found = METHODS[name](model).attribute(x, 1)
    weights = []

    def read_by_given_weights(module, inputs, output):
        """Read by the weights that the layer says it has, so that they are on the way."""
        _, said = module.forward(*inputs, average_attn_weights=False)
        weights.append(said)
        value = nn.functional.linear(
            inputs[0], module.in_proj_weight[-8:], module.in_proj_bias[-8:]
        ).unflatten(-1, (module.num_heads, -1))
        mixed = torch.einsum("bhqk,bkhd->bqhd", said, value)
        return module.out_proj(mixed.flatten(2)), None

    for block in model.net.encoder.layers:
        block.self_attention.register_forward_hook(read_by_given_weights)
    logits = model(x)
    matrix = expected(name, weights, logits[0, 1])
    plane = read(matrix, [0], prefix=1).reshape(1, 1, 3, 3).to(x)
    torch.testing.assert_close(found, resize(plane, x), rtol=1e-3, atol=1e-5 * float(plane.max()))
