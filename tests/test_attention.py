"""Attention rollout and gradient-weighted attention: against matrices by hand and other libraries.

The matrices of the library are compared with what each library says its weights are, and with
products of matrices in NumPy.
"""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from networks import NAMES, sounds, stft
from torch import nn
from torch.nn import functional

import audiointerp as ai
from audiointerp.interpretation import METHODS, UnsupportedLayerError
from audiointerp.interpretation.relevance.observing import AttentionObserver
from audiointerp.model.cnn14 import TransferCnn14
from audiointerp.model.planes import tokens_to_plane
from audiointerp.runs.recipe import Recipe

ROLLOUT, GRADIENT = "attention_rollout", "gradient_attention"
BOTH = sorted(name for name in METHODS if "attention" in METHODS[name].requires)
each_method = pytest.mark.parametrize("name", BOTH)


def resize(planes, cells):
    """Return planes at the size of cells, bilinear between centres."""
    size = cells.shape[2:]
    return nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


# --- the definitions, in NumPy -------------------------------------------------------------------


def rollout(weights: list[np.ndarray]) -> np.ndarray:
    """Return Â_L···Â_1 of weights (heads, tokens, tokens) with Â = (mean over heads + I)/2."""
    product = np.eye(weights[0].shape[-1])
    for each in weights:
        product = (each.mean(0) + np.eye(len(product))) / 2 @ product
    return product


def relevance(weights: list[np.ndarray], gradients: list[np.ndarray]) -> np.ndarray:
    """Return R of R ← R + mean over heads of (∇A ⊙ A)⁺ @ R, less the identity it begins with."""
    total = np.eye(weights[0].shape[-1])
    for each, gradient in zip(weights, gradients, strict=True):
        total = total + np.maximum(each * gradient, 0).mean(0) @ total
    return total - np.eye(len(total))


def expected(name: str, weights: list[torch.Tensor], logit: torch.Tensor) -> np.ndarray:
    """Return a method's matrix over tokens of one clip, given its weights in the logit's graph."""
    arrays = [each[0].detach().double().numpy() for each in weights]
    if name == ROLLOUT:
        return rollout(arrays)
    found = torch.autograd.grad(logit, weights, retain_graph=True)
    return relevance(arrays, [each[0].double().numpy() for each in found])


def read(matrix: np.ndarray, tokens: list[int] | None, prefix: int = 0) -> torch.Tensor:
    """Return the mean of rows, those of some tokens or all, without the first columns."""
    rows = matrix if tokens is None else matrix[tokens]
    return torch.as_tensor(rows.mean(0)[prefix:])


# --- one and two layers by hand ------------------------------------------------------------------

TOKENS = 5
VALUES = torch.tensor([0.5, -1.0, 2.0, 0.25, 1.5], dtype=torch.float64)


def stochastic(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).log().neg().softmax(-1)


class ByHand(nn.Module):
    """Layers x ← x + Σ_h g_h·A_h·x with given A (layers, heads, tokens, tokens); x0 is one clip."""

    def __init__(self, matrices, gains, scores=(1.5, -2.0), reads=lambda x: x[:, 0]) -> None:
        super().__init__()
        self.matrices, self.gains, self.reads = matrices, gains, reads
        self.scores = torch.tensor(scores, dtype=torch.float64)
        self.activation_axes = tokens_to_plane(1, TOKENS - 1, prefix=1)

    def forward(self, x):
        x = x[:, 0, 0, :, None]  # (batch, tokens, 1)
        for matrices, gains in zip(self.matrices, self.gains, strict=True):
            heads = x[:, None].expand(-1, len(matrices), -1, -1)
            # Of the clip as far as torch can tell, and always the given matrix.
            weights = (matrices.log() + 0 * heads.mean(2, keepdim=True)).softmax(-1)
            x = x + (gains[:, None, None] * (weights @ heads)).sum(1)
        return self.reads(x) * self.scores


def test_one_layer_is_what_the_class_token_reads():
    """Of one layer the map is (∇A ⊙ A)⁺ and (A + I)/2 in the class token's row."""
    matrices, gains = stochastic(1, 2, TOKENS, TOKENS, seed=1), torch.tensor([[2.0, -1.0]]).double()
    model, x = ByHand(matrices, gains), VALUES[None, None, None]
    attended = matrices[0].mean(0)[0, 1:] / 2
    wanted = resize(attended[None, None, None], x)
    torch.testing.assert_close(METHODS[ROLLOUT](model).attribute(x, 0), wanted)
    for target, score in enumerate((1.5, -2.0)):
        # ∂logit/∂A_h0j = score·g_h·x_j
        weighted = (score * gains[0, :, None] * VALUES * matrices[0, :, 0]).clamp(min=0).mean(0)
        wanted = resize(weighted[1:][None, None, None], x)
        torch.testing.assert_close(METHODS[GRADIENT](model).attribute(x, target), wanted)


@pytest.mark.parametrize("target", [0, 1])
def test_two_layers_are_products_of_matrices(target):
    matrices = stochastic(2, 3, TOKENS, TOKENS, seed=2)
    gains = torch.tensor([[1.0, -0.5, 0.3], [0.7, 0.2, -1.0]]).double()
    model, x = ByHand(matrices, gains), VALUES[None, None, None]
    first, second = matrices.numpy()
    g1, g2 = (each.numpy()[:, None, None] for each in gains)
    before = VALUES.numpy()
    between = before + (g1 * first @ before[:, None]).sum(0)[:, 0]
    score = (1.5, -2.0)[target]
    of_second, of_first = np.zeros_like(second), np.zeros_like(first)
    of_second[:, 0] = score * g2[:, 0] * between
    into = np.eye(TOKENS)[0] + (g2[:, 0] * second[:, 0]).sum(0)  # ∂x2_0/∂x1
    of_first[:] = score * g1 * into[:, None] * before
    for name, wanted in (
        (ROLLOUT, rollout([first, second])),
        (GRADIENT, relevance([first, second], [of_first, of_second])),
    ):
        plane = read(wanted, [0], prefix=1)[None, None, None]
        found = METHODS[name](model).attribute(x, target)
        torch.testing.assert_close(found, resize(plane, x))
    assert (METHODS[GRADIENT](model).attribute(x, target) >= 0).all()


READS = {
    "class token": (lambda x: x[:, 0], [0]),
    "two tokens": (lambda x: (x[:, 0] + x[:, 1]) / 2, [0, 1]),
    "another token": (lambda x: x[:, 3], [3]),
    "mean": (lambda x: x.mean(1), None),
    "mean without the first": (lambda x: x[:, 1:].mean(1), [1, 2, 3, 4]),
}


@each_method
@pytest.mark.parametrize("kind", READS)
def test_the_map_is_read_where_the_scores_are(name, kind):
    reads, rows = READS[kind]
    matrices = stochastic(2, 2, TOKENS, TOKENS, seed=3)
    model = ByHand(matrices, torch.ones(2, 2).double(), reads=reads)
    x = VALUES[None, None, None]
    with AttentionObserver(model) as observer:
        logits = model(x.clone().requires_grad_())
    weights = [each.weights for each in observer.seen]
    plane = read(expected(name, weights, logits[0, 0]), rows, prefix=1)
    found = METHODS[name](model).attribute(x, 0)
    torch.testing.assert_close(found, resize(plane[None, None, None], x))
    positions = range(TOKENS) if rows is None else rows
    assert torch.equal(METHODS[name](model, read=list(positions)).attribute(x, 0), found)
    other = METHODS[name](model, read=2).attribute(x, 0)
    assert not torch.allclose(other, found)
    assert METHODS[name](model, read=2).settings() == {"method": name, "read": [2]}


def test_positions_that_do_not_exist_are_refused():
    model = ByHand(stochastic(1, 1, TOKENS, TOKENS, seed=3), torch.ones(1, 1).double())
    with pytest.raises(ValueError, match=r"read is \[1, 5\], and there are tokens 0 to 4"):
        METHODS[ROLLOUT](model, read=(1, 5)).attribute(VALUES[None, None, None])
    for wrong in (-1, 0.5, "mean", ["a"], True):
        with pytest.raises(ValueError, match="read must be a whole number of at least 0"):
            METHODS[ROLLOUT](model, read=wrong)
    with pytest.raises(ValueError, match="read is empty"):
        METHODS[ROLLOUT](model, read=[])


# --- one transformer, written in all ways ---------------------------------------------------------

BINS, FRAMES, WIDTH, HEADS = 6, 7, 8, 2


def _split(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _by_products(q, k, v):
    return functional.softmax(q @ k.mT / 2, dim=-1) @ v


def _by_sdpa(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v)


def _by_einsum(q, k, v):
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / 2
    weights = functional.dropout(scores.float().softmax(-1).to(v.dtype), 0.5, training=False)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def _by_folded_heads(q, k, v):
    weights = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT / 2).softmax(dim=2)
    return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, (-1, HEADS))


def _by_heads_before_clips(q, k, v):
    q, k, v = (each.transpose(0, 1).flatten(0, 1) for each in (q, k, v))
    return torch.bmm((q @ k.mT / 2).softmax(-1), v).unflatten(0, (HEADS, -1)).transpose(0, 1)


def _by_keys_first(q, k, v):
    weights = nn.Softmax(dim=-2)(k @ q.mT / 2)
    return weights.transpose(-1, -2) @ v


def _by_queries_last(q, k, v):
    return (v.mT @ torch.softmax(q @ k.mT / 2, -1).mT).mT


WAYS = {
    "products": _by_products,
    "sdpa": _by_sdpa,
    "einsum": _by_einsum,
    "folded heads": _by_folded_heads,
    "heads before clips": _by_heads_before_clips,
    "keys first": _by_keys_first,
    "queries last": _by_queries_last,
    "layer": None,
    "layer without weights": None,
    "tokens first": None,
}


class Tokens(nn.Module):
    """A post-norm transformer over frames with two layers, its attention written in one way."""

    activation_axes = ("time", "channel")

    def __init__(self, way: str = "layer") -> None:
        super().__init__()
        self.embed = nn.Linear(BINS, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 12, batch_first=True) for _ in range(2)
        )
        self.linear = nn.Linear(WIDTH, 3)
        self.way = way

    def forward(self, x):
        x = 2 * self.embed(x[:, 0].mT)
        for block in self.blocks:
            if self.way == "layer":
                x = block(x)
                continue
            x = block.norm1(x + self.attend(block.self_attn, x))
            x = block.norm2(x + block.linear2(functional.relu(block.linear1(x))))
        return self.linear(x.mean(1))

    def attend(self, own, x):
        if self.way == "layer without weights":
            return own(x, x, x, need_weights=False)[0]
        if self.way == "tokens first":
            twin = copy.copy(own)
            twin.batch_first = False
            return twin(x.transpose(0, 1), *[x.transpose(0, 1)] * 2)[0].transpose(0, 1)
        parts = functional.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
        read = WAYS[self.way](*map(_split, parts))
        return own.out_proj(read.transpose(1, 2).flatten(2))


def said_by_torch(model: Tokens, x: torch.Tensor, target: int) -> tuple[list, torch.Tensor]:
    """Return the weights of one clip that torch says its layer has, and the logit by them."""
    weights, h = [], 2 * model.embed(x[:, 0].mT)
    for block in model.blocks:
        own = block.self_attn
        _, found = own(h, h, h, average_attn_weights=False)
        weights.append(found)
        value = functional.linear(h, own.in_proj_weight[-WIDTH:], own.in_proj_bias[-WIDTH:])
        h = block.norm1(h + own.out_proj((found @ _split(value)).transpose(1, 2).flatten(2)))
        h = block.norm2(h + block.linear2(functional.relu(block.linear1(h))))
    logits = model.linear(h.mean(1))
    torch.testing.assert_close(logits, model(x))
    return weights, logits[0, target]


@each_method
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_attention_gives_the_map_of_torchs_own_weights(name, way):
    x = 2 * randn(3, 1, BINS, FRAMES, seed=1)
    model = seeded(lambda: Tokens(way))
    found = METHODS[name](model).attribute(x, 1)
    for clip in range(3):
        weights, logit = said_by_torch(model, x[clip : clip + 1], 1)
        row = read(expected(name, weights, logit), None)
        wanted = row.to(x).expand(1, 1, BINS, -1)
        torch.testing.assert_close(found[clip : clip + 1], wanted, rtol=1e-4, atol=1e-7)
    assert found.amax(3).sub(found.amin(3)).min() > 1e-3 * found.max()


@pytest.mark.parametrize("way", ["layer", "layer without weights", "sdpa"])
def test_the_network_computes_the_same_while_it_is_observed(way):
    model, x = seeded(lambda: Tokens(way)), randn(2, 1, BINS, FRAMES)
    with AttentionObserver(model) as observer:
        found = model(x.clone().requires_grad_())
    torch.testing.assert_close(found, model(x))
    places = ["", ""] if way == "sdpa" else ["blocks.0.self_attn", "blocks.1.self_attn"]
    assert [each.layer for each in observer.seen] == places


@each_method
def test_one_clip_goes_first_and_the_rest_in_batches(name):
    def rows(way, **options):
        model, sizes = seeded(lambda: Tokens(way)), []
        model.embed.register_forward_pre_hook(lambda layer, inputs: sizes.append(len(inputs[0])))
        METHODS[name](model, fold_batch_norm=False, **options).attribute(
            randn(6, 1, BINS, FRAMES), 1
        )
        return sizes

    assert rows("layer") == [1, 5]
    assert rows("layer", batch_size=2) == [1, 2, 2, 1]
    # Nobody knows which row of heads and clips is whose.
    assert rows("folded heads") == rows("heads before clips") == [1] * 6


@pytest.mark.parametrize(("name", "further"), [(ROLLOUT, 0), (GRADIENT, 1)])
def test_the_backward_pass_ends_where_it_is_stated(name, further):
    """Both go to the last attention, to see what is read; the gradient's goes to the first too."""
    model, passed = seeded(lambda: Tokens("sdpa")), []

    def watch(layer):
        def hook(module, inputs, output):
            inputs[0].register_hook(lambda gradient: passed.append(layer))

        return hook

    for layer in ("embed", "blocks.0.norm1", "blocks.1.norm1"):
        model.get_submodule(layer).register_forward_hook(watch(layer))
    METHODS[name](model, fold_batch_norm=False).attribute(randn(1, 1, BINS, FRAMES), 1)
    assert passed.count("blocks.1.norm1") == 1 + further
    assert passed.count("blocks.0.norm1") == further
    assert "embed" not in passed


@each_method
@pytest.mark.parametrize("mask", ["attn_mask", "key_padding_mask", "is_causal"])
def test_masked_tokens_are_not_read(name, mask):
    hidden = torch.zeros(FRAMES, dtype=torch.bool)
    hidden[4:] = True

    class Masked(Tokens):
        def forward(self, x):
            x = self.embed(x[:, 0].mT)
            own = self.blocks[0].self_attn
            if mask == "is_causal":
                x = x + functional.scaled_dot_product_attention(x, x, x, is_causal=True)
                return self.linear(x[:, 3])
            masks = {
                "attn_mask": hidden.expand(FRAMES, -1),
                "key_padding_mask": hidden.expand(len(x), -1),
            }
            x = x + own(x, x, x, **{mask: masks[mask]})[0]
            return self.linear(x[:, :4].mean(1))

    model = seeded(Masked)
    found = METHODS[name](model).attribute(randn(2, 1, BINS, FRAMES), 1)
    assert (found[..., 4:] == 0).all()
    assert (found[..., :4] > 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_method
def test_networks_of_few_bits_are_explained_as_they_are(name, dtype):
    x = randn(2, 1, BINS, FRAMES).to(dtype)
    found = METHODS[name](seeded(Tokens).to(dtype)).attribute(x, 1)
    wanted = METHODS[name](seeded(Tokens)).attribute(x.float(), 1)
    assert found.dtype == dtype
    assert (found.float() - wanted).abs().mean() < 0.05 * wanted.abs().mean()


@each_method
def test_a_network_that_cannot_be_copied_runs_itself(name):
    x = randn(2, 1, BINS, FRAMES)
    model = seeded(Tokens)
    wanted = METHODS[name](model).attribute(x, 1)
    model.blocks[0].held = threading.Lock()
    assert torch.equal(METHODS[name](model.train()).attribute(x, 1), wanted)
    assert model.training


@each_method
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "binary"])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_all_heads(name, head, outputs):
    """The map is that of the logit, whether the network ends before or after its probabilities."""

    class Heads(nn.Module):
        activation_axes = ("time", "channel")

        def __init__(self, outputs):
            super().__init__()
            self.net = Tokens()
            self.outputs = outputs

        def forward(self, x):
            scores = self.net(x[..., :BINS, :] / 50 + 1)
            scores = scores[:, :1] if head == "binary" else scores
            if self.outputs == "logits":
                return scores
            return scores.softmax(1) if head == "softmax" else scores.sigmoid()

    def explained(outputs):
        made = ai.classifier(
            seeded(lambda: Heads(outputs)),
            front_end=stft(),
            classes=NAMES[: 2 if head == "binary" else 3],
            head=head,
            outputs=outputs,
            duration=1.0,
        )
        view = made.front_end.analyse(sounds(3))
        return METHODS[name](made).attribute(view, torch.tensor([0, 1, 1]))

    found = explained(outputs)
    # log p differs from the logit by what is the same for all classes, whose gradient counts.
    if head != "softmax" or name == ROLLOUT:
        torch.testing.assert_close(found, explained("logits"), rtol=1e-3, atol=1e-9)
    assert found.shape[0] == 3
    assert (found >= 0).all()
    assert found.amax(3).gt(found.amin(3)).all()


# --- what is refused -----------------------------------------------------------------------------


def refused(model: nn.Module, x: torch.Tensor, message: str) -> None:
    for name in BOTH:
        with pytest.raises(UnsupportedLayerError, match=message) as caught:
            METHODS[name](model).attribute(x, 0)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(" such as saliency or Grad-CAM")


class Reading(nn.Module):
    """Tokens of one feature that some function lets read each other."""

    activation_axes = ("time", "channel")

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x[:, 0].mT).mean(1)[:, :2]


def attend(x, keys=None):
    keys = x if keys is None else keys
    return functional.scaled_dot_product_attention(x, keys, keys)


def by_hand(x, change):
    return change((x @ x.mT).softmax(-1)) @ x


NO_ATTENTION = "the network has no attention, or none that torch's functions compute from the clip"
REFUSED = {
    "pooling by weights": (lambda x: x.softmax(1) * x, NO_ATTENTION),
    "constant weights": (lambda x: torch.zeros(7, 7).softmax(-1) @ x, NO_ATTENTION),
    "detached": (lambda x: x + attend(x.detach()).detach(), NO_ATTENTION),
    "softmax of channels": (lambda x: x.softmax(-1) * x, NO_ATTENTION),
    "predictions that are read on": (
        lambda x: torch.bmm(functional.linear(x.softmax(-1) + 1, torch.ones(7, 6)), x),
        NO_ATTENTION,
    ),
    "cross attention": (
        lambda x: attend(x, x[:, ::2]),
        "in the attention of '' 7 tokens read 4 others, by cross attention or pooling",
    ),
    "a query that reads all": (lambda x: attend(x[:, :1], x), "1 tokens read 7 others"),
    "windows": (
        lambda x: attend(x[:, :6].reshape(-1, 1, 3, 6)).reshape(-1, 6, 6),
        r"within groups of 3 tokens, such as windows \(weights \(2, 1, 3, 3\) for 1 clip\)",
    ),
    "axes": (lambda x: attend(x[:, None, None])[:, 0, 0], "within groups of 7 tokens"),
    "no batch": (lambda x: attend(x[0])[None], "within groups of 7 tokens"),
    "merged tokens": (
        lambda x: attend(attend(x)[:, :6].unflatten(1, (3, 2)).mean(2)),
        "is between 7 tokens, that of '' between 3, as in networks that merge tokens",
    ),
    "side by side": (
        lambda x: attend(x) + attend(2 * x),
        "the attention of '' does not depend on that of ''",
    ),
    "scaled weights": (lambda x: by_hand(x, lambda w: w * 0.5), "changed after their softmax in R"),
    "weights in place": (lambda x: by_hand(x, lambda w: w.mul_(0.5)), "changed after their softm"),
    "weights of one head": (lambda x: by_hand(x, lambda w: w.unbind(0)[0]), "changed after their"),
    "a part of the weights": (lambda x: by_hand(x, lambda w: w[:, :6]), "changed after their soft"),
    "dropout": (
        lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        r"through scaled_dot_product_attention\(\) with dropout or shared keys",
    ),
    "unused": (
        lambda x: (x + 0 * attend(x).mean()).cumsum(1),
        "the scores do not depend on the attention",
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "unused"])
def test_what_cannot_be_followed_is_refused_in_one_line(kind):
    function, message = REFUSED[kind]
    refused(Reading(function), randn(2, 1, 6, 7), message)


@each_method
def test_scores_that_do_not_depend_on_the_attention_are_refused(name):
    function, message = REFUSED["unused"]
    with pytest.raises(UnsupportedLayerError, match=message):
        METHODS[name](Reading(function)).attribute(randn(2, 1, 6, 7), 0)


@pytest.mark.parametrize("network", ["Cnn14", "swin", "swin v2"])
def test_published_networks_that_are_refused(network):
    if network == "Cnn14":
        model = seeded(lambda: TransferCnn14(num_classes=3, num_bins=64, width=1 / 64))
        return refused(model, randn(1, 1, 64, 64), NO_ATTENTION)
    models = pytest.importorskip("torchvision.models.swin_transformer")
    version = 2 if network == "swin v2" else 1
    block = models.SwinTransformerBlockV2 if version == 2 else models.SwinTransformerBlock
    merging = models.PatchMergingV2 if version == 2 else models.PatchMerging
    swin = seeded(
        lambda: models.SwinTransformer(
            [4, 4], 8, [1, 1], [2, 2], [4, 4], block=block, downsample_layer=merging, num_classes=3
        )
    )
    swin.features[0][0] = seeded(lambda: nn.Conv2d(1, 8, 4, 4))
    return refused(swin, randn(1, 1, 32, 64), r"within groups of 16 tokens, such as windows")


@each_method
def test_without_places_of_tokens_the_declaration_is_named(name):
    model = seeded(Tokens)
    for axes in (None, ("channel", "freq", "time"), ("freq", "time"), ("channel",)):
        classifier = ai.Classifier(model, activation_axes=axes)
        model.activation_axes = axes
        with pytest.raises(ValueError, match=r"has 7 tokens, and activation_axes=.*declare \('tim"):
            METHODS[name](classifier).attribute(randn(1, 1, BINS, FRAMES))
    classifier = ai.Classifier(model, activation_axes=tokens_to_plane(2, 3))
    with pytest.raises(
        ValueError, match=r"'blocks\.1\.self_attn' gives .*with 0 \+ 2·3 = 6 tokens"
    ):
        METHODS[name](classifier).attribute(randn(1, 1, BINS, FRAMES))


# --- a run of all methods ------------------------------------------------------------------------


def made(network: nn.Module, **options) -> ai.Classifier:
    return ai.classifier(network, front_end=stft(), classes=NAMES, duration=0.2, **options)


class OnCells(nn.Module):
    """`Tokens` on the cells of a front end."""

    activation_axes = ("time", "channel")

    def __init__(self) -> None:
        super().__init__()
        self.net = Tokens()

    def forward(self, x):
        return self.net(x[..., :BINS, :] / 50 + 1)


class Convolutions(nn.Module):
    """A network without attention that every method can explain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 4, 5, stride=3), nn.ReLU()
        self.linear = nn.Linear(4, 3)
        self.target_layer = self.relu

    def forward(self, x):
        return self.linear(self.relu(self.conv(x)).mean((2, 3)))


def test_of_all_methods_those_that_a_classifier_does_not_suit_are_left_out():
    everything = Recipe("all", progress=False)
    classifier = made(seeded(OnCells))
    background = classifier.front_end.analyse(sounds(1)[..., :1600])
    with pytest.warns(UserWarning, match="left out of all methods") as caught:
        jobs = everything.jobs(classifier, background)
    said = {str(each.message).partition(": ")[2]: str(each.message) for each in caught}
    assert len(said) == len(caught)
    left_out = set(METHODS) - set(jobs)
    family = {name: METHODS[name].facts.family for name in METHODS}
    assert {name for name in METHODS if family[name] == "CAM"} < left_out
    assert {"lrp", "lrp_flat", "shap", "deeplift", "fullgrad", "guided_gradcam"} < left_out
    assert {"saliency", "attnlrp", *BOTH, "lime", "random"} < set(jobs)
    assert any(
        message.startswith(
            "left out of all methods, lrp, lrp_epsilon, lrp_gamma, lrp_zplus, lrp_wsquare, "
            "lrp_flat: LRP has no rule for multi_head_attention_forward()"
        )
        for message in said.values()
    )
    cheap = [name for name in jobs if family[name] in ("gradient", "relevance", "attention")]
    for name in cheap:
        assert jobs[name].interpreter.attribute(background, 0).isfinite().all()


def test_of_all_methods_attention_is_left_out_where_there_is_none():
    classifier = made(seeded(Convolutions))
    background = classifier.front_end.analyse(sounds(1)[..., :1600])
    with pytest.warns(UserWarning, match="left out of all methods") as caught:
        jobs = Recipe("all", progress=False).jobs(classifier, background)
    assert set(METHODS) - set(jobs) == {*BOTH, "lmac", "l2i"}
    (message,) = [str(each.message) for each in caught if "attention" in str(each.message)]
    assert message.startswith(f"left out of all methods, {ROLLOUT}, {GRADIENT}: {NO_ATTENTION}")
    # One that was named is built, and says itself what it lacks.
    (job,) = Recipe(ROLLOUT).jobs(classifier).values()
    with pytest.raises(UnsupportedLayerError, match=NO_ATTENTION):
        job.interpreter.attribute(background)


@pytest.mark.parametrize(
    "name", sorted(name for name in METHODS if "weights" not in METHODS[name].requires)
)
def test_a_method_that_suits_a_classifier_says_nothing_and_leaves_it_as_it_was(name):
    classifier = made(seeded(OnCells if "attention" in METHODS[name].requires else Convolutions))
    classifier.train()
    before = copy.deepcopy(classifier.state_dict())
    assert METHODS[name].unsuited(classifier) == ""
    assert classifier.network.training
    assert all(each.requires_grad for each in classifier.network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
