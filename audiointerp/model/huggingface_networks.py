"""Networks of transformers behind the front ends: cells in dB or a waveform to logits.

A new family of models is a subclass of `PretrainedNetwork` and its entry in
`audiointerp.model.huggingface.FAMILIES`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiointerp.model.planes import CHANNELS_FIRST, resize_plane, tokens_to_plane
from audiointerp.processing import ClapLogMel, FrontEnd, KaldiFilterbank, View, WhisperLogMel

_NEPERS = math.log(10) / 10
"""Natural logarithm of a power, for each dB."""


class PretrainedNetwork(nn.Module, ABC):
    """A model of transformers on what a front end of this package gives.

    Parameters
    ----------
    model : Module
        Audio classification model of transformers.

    Attributes
    ----------
    target_layer : Module
        The layer that class activation maps look at by default.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Tensor) -> Tensor:
        """Return the logits (batch, classes) of what the front end gives."""
        return self.model(self.model_input(given)).logits

    @abstractmethod
    def model_input(self, given: Tensor) -> Tensor:
        """Return what the model's own feature extractor makes of the clips, from the front end's.

        Differentiable, each clip by itself.
        """

    @property
    @abstractmethod
    def target_layer(self) -> nn.Module:
        """The layer that class activation maps look at by default."""

    @abstractmethod
    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activation as planes; see `audiointerp.model.planes.to_plane`."""

    def settings(self) -> dict[str, Any]:
        """Return what changes a number beside the weights and the front end, ready for JSON."""
        return {"name": type(self.model).__name__}

    def _is_channels_first(self, layer: str) -> bool:
        """Say whether a layer's activation over time is (batch, channels, time)."""
        return isinstance(self.get_submodule(layer), CHANNELS_FIRST)


class SpectrogramTransformer(PretrainedNetwork):
    """AST: cells of `KaldiFilterbank`, normalised, on patches of frequency and time.

    What follows a clip's end in the input of fixed length is the value 0 before normalisation, as
    `ASTFeatureExtractor` pads: 0 dB, as loud as a loud sound. It is a constant, no cell, and is
    neither attributed nor masked.

    Parameters
    ----------
    model : ASTForAudioClassification
    mean, std : float
        Of the natural logarithms of the powers; the input is (x - mean) / (2·std).
    """

    def __init__(self, model: nn.Module, *, mean: float, std: float) -> None:
        super().__init__(model)
        self.mean, self.std = float(mean), float(std)

    def model_input(self, given: Tensor) -> Tensor:
        """Return (batch, frames, bands) of cells (batch, 1, bands, frames) in dB."""
        level = given.squeeze(1) * _NEPERS
        level = functional.pad(level, (0, self.model.config.max_length - level.shape[2]))
        return ((level - self.mean) / (2 * self.std)).transpose(1, 2)

    @property
    def target_layer(self) -> nn.Module:
        """The tokens that the last block's attention reads: those after it decide nothing."""
        return self.model.audio_spectrogram_transformer.layers[-1].layernorm_before

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return the patches of an activation as planes; class and distillation token are left out.

        Raises
        ------
        ValueError
            If it has other axes than patches or tokens.
        """
        freq, time = self._grid
        if activation.ndim == 4 and activation.shape[2:] == (freq, time):
            return activation
        prefix = 0 if activation.shape[1] == freq * time else 2
        return tokens_to_plane(freq, time, prefix=prefix)(layer, activation)

    def to_cells(self, layer: str, planes: Tensor, view: View) -> Tensor:
        """Return planes over the patches at the cells of a view, linear between patches' centres.

        The patches lie over the input of fixed length, the cells end with the clip.
        """
        del layer
        config = self.model.config
        centre = config.patch_size / 2
        bands, frames = view.cells.shape[2:]
        rows = (torch.arange(bands) + 0.5 - centre) / config.frequency_stride
        columns = (torch.arange(frames) + 0.5 - centre) / config.time_stride
        return resize_plane(planes, rows, columns)

    def settings(self) -> dict[str, Any]:
        """Return what changes a number beside the weights and the front end, ready for JSON."""
        scale = {"mean": self.mean, "std": self.std, "max_length": self.model.config.max_length}
        return super().settings() | scale

    @property
    def _grid(self) -> tuple[int, int]:
        """Patches along frequency and time."""
        config = self.model.config
        freq = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        return freq, (config.max_length - config.patch_size) // config.time_stride + 1


class WhisperClassifier(PretrainedNetwork):
    """Whisper's encoder as a classifier: cells of `WhisperLogMel` on Whisper's scale.

    The input is (max(x, max x - 80 dB)/10 + 4) / 4 after silence has been appended to the full
    length. The maximum is that of the cells given, changed ones included, as the feature extractor
    would find it in a sound with such cells. Raising the loudest cell therefore raises every cell
    that lies 80 dB or more below it, silence after the clip included, and the gradient of that cell
    says so. The silence is a constant, no cell.

    Parameters
    ----------
    model : WhisperForAudioClassification
    floor : float
        Of the cells, dB.
    """

    def __init__(self, model: nn.Module, *, floor: float) -> None:
        super().__init__(model)
        self.floor = float(floor)

    def model_input(self, given: Tensor) -> Tensor:
        """Return (batch, bands, frames) of cells (batch, 1, bands, frames) in dB."""
        missing = self._frames - given.shape[3]
        level = functional.pad(given.squeeze(1), (0, missing), value=self.floor) / 10
        level = torch.maximum(level, level.amax((1, 2), keepdim=True) - 8)
        return (level + 4) / 4

    @property
    def target_layer(self) -> nn.Module:
        """The tokens whose mean is classified."""
        return self.model.projector

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return an activation over time as planes of one row."""
        if activation.ndim != 3:
            raise _not_over_time(layer, activation)
        channels = activation if self._is_channels_first(layer) else activation.transpose(1, 2)
        return channels.unsqueeze(2)

    def to_cells(self, layer: str, planes: Tensor, view: View) -> Tensor:
        """Return planes over the full length at the cells of a view, linear between centres."""
        del layer
        frames = torch.arange(view.cells.shape[3])
        columns = (frames + 0.5) * (planes.shape[3] / self._frames) - 0.5
        return resize_plane(planes, torch.zeros(view.cells.shape[2]), columns)

    @property
    def _frames(self) -> int:
        return 2 * self.model.config.max_source_positions


class WaveformTransformer(PretrainedNetwork):
    """wav2vec 2.0 and its kin: the waveform, of zero mean and unit variance where they want it.

    Parameters
    ----------
    model : Module
        Such as Wav2Vec2ForSequenceClassification.
    normalise : bool
        Whether each clip is given zero mean and unit variance, (x - mean) / sqrt(var + 1e-7).
    """

    def __init__(self, model: nn.Module, *, normalise: bool) -> None:
        super().__init__(model)
        self.normalise = bool(normalise)

    def model_input(self, given: Tensor) -> Tensor:
        """Return (batch, samples) of waveforms (batch, samples)."""
        if not self.normalise:
            return given
        return functional.layer_norm(given, given.shape[-1:], eps=1e-7)

    @property
    def target_layer(self) -> nn.Module:
        """The tokens whose mean is classified."""
        return self.model.projector

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return an activation over time as planes of one row."""
        if activation.ndim != 3:
            raise _not_over_time(layer, activation)
        channels = activation if self._is_channels_first(layer) else activation.transpose(1, 2)
        return channels.unsqueeze(2)

    def settings(self) -> dict[str, Any]:
        """Return what changes a number beside the weights and the front end, ready for JSON."""
        return super().settings() | {"normalise": self.normalise}

    def _is_channels_first(self, layer: str) -> bool:
        module = self.get_submodule(layer)
        if isinstance(module, nn.LayerNorm | nn.Linear):
            return False
        # Inside of these all others are convolutions and what acts on their outputs.
        within = {type(self.get_submodule(name)).__name__ for name in _around(layer)}
        convolved = any(name.endswith("PositionalConvEmbedding") for name in within)
        convolved |= any(name.endswith("FeatureEncoder") for name in within)
        return convolved or super()._is_channels_first(layer)


class ZeroShotClap(PretrainedNetwork):
    """CLAP's audio tower: logits are scaled cosines of the sound and of some texts.

    The waveform is repeated or padded to the length that CLAP takes and its log-mel computed, as
    `ClapFeatureExtractor` does. With fusion all four spectrograms are that one, and each clip
    counts as longer than the input, as a clip by itself does in transformers. (In a batch the
    extractor draws the clip that does.)

    Parameters
    ----------
    model : ClapModel
        Its text tower is not kept.
    front_end : ClapLogMel
    texts : Tensor, shape (texts, channels)
        Embeddings of norm 1.
    padding : {"repeatpad", "repeat", "pad"}
        What short clips become: repeated as often as they fit and padded with zeros; repeated and
        cut; padded with zeros.
    """

    def __init__(
        self, model: nn.Module, *, front_end: ClapLogMel, texts: Tensor, padding: str
    ) -> None:
        encoder = model.audio_model.audio_encoder
        norm = _BandNorm(encoder.batch_norm)
        # Copies that share all else: the model that was given stays as it is.
        super().__init__(
            _with_child(
                model.audio_model, "audio_encoder", _with_child(encoder, "batch_norm", norm)
            )
        )
        self.projection = model.audio_projection
        self.scale = model.logit_scale_a
        self.front_end = front_end
        self.padding = padding
        self.register_buffer("texts", texts.detach().clone())

    def forward(self, given: Tensor) -> Tensor:
        """Return the logits (batch, texts) of waveforms (batch, samples)."""
        spectrogram = self.model_input(given)
        fused = self.model.config.enable_fusion
        longer = torch.ones(len(given), 1, dtype=torch.bool, device=given.device) if fused else None
        heard = self.model(input_features=spectrogram, is_longer=longer).pooler_output
        heard = functional.normalize(self.projection(heard), dim=-1)
        return self.scale.exp() * functional.linear(heard, self.texts)

    def model_input(self, given: Tensor) -> Tensor:
        """Return log-mel spectrograms (batch, 1 or 4, frames, bands) of waveforms, dB."""
        cells = self.front_end(self._extend(given).unsqueeze(1)).to(given.dtype)
        copies = 4 if self.model.config.enable_fusion else 1
        return cells.transpose(2, 3).expand(-1, copies, -1, -1)

    @property
    def target_layer(self) -> nn.Module:
        """The tokens whose mean is projected."""
        return self.model.audio_encoder.norm

    def activation_axes(self, layer: str, activation: Tensor) -> Tensor:
        """Return an activation as planes, from the picture of four rows that CLAP folds time into.

        Raises
        ------
        ValueError
            If it is no such picture, such as one of windows of attention.
        """
        encoder = self.model.audio_encoder
        if isinstance(self.get_submodule(layer), _BandNorm):
            return activation.permute(0, 3, 1, 2)  # of (bands, frames, copies)
        picture = activation
        if activation.ndim == 3:
            sizes = {h * w: (h, w) for h, w in encoder.input_resolutions}
            if activation.shape[1] in sizes:
                picture = activation.transpose(1, 2).unflatten(2, sizes[activation.shape[1]])
        if picture.ndim != 4 or picture.shape[2] % encoder.freq_ratio:
            raise ValueError(
                f"the layer {layer!r} gives activations {tuple(activation.shape)}, which are no "
                "tokens of CLAP's picture: choose a stage, a block or a norm between them"
            )
        rows = picture.unflatten(2, (encoder.freq_ratio, -1))
        return rows.transpose(2, 3).flatten(3)

    def to_cells(self, layer: str, planes: Tensor, view: View) -> Tensor:
        """Return planes over the full length at the cells of a view, the mean of repetitions."""
        del layer
        step = self.front_end.hop_length
        samples, total = view.waveform.shape[-1], self._samples
        bands, frames = view.cells.shape[2:]
        rows = (torch.arange(bands) + 0.5) * (planes.shape[2] / bands) - 0.5
        heard = torch.arange(frames, dtype=torch.float64)[None] * step
        heard = heard + torch.arange(self._repetitions(samples))[:, None] * samples
        # The frames are spread over as many as the picture has, ends on ends.
        inside = heard <= total
        columns = (heard / total * planes.shape[3]).clamp(max=planes.shape[3]) - 0.5
        weights = inside / inside.sum(0)
        maps = [resize_plane(planes, rows, each) for each in columns]
        return sum(each * weight.to(each) for each, weight in zip(maps, weights, strict=True))

    def settings(self) -> dict[str, Any]:
        """Return what changes a number beside the weights and the front end, ready for JSON."""
        return super().settings() | {"padding": self.padding}

    @property
    def _samples(self) -> int:
        return round(self.front_end.longest * self.front_end.sample_rate)

    def _repetitions(self, samples: int) -> int:
        """Return how often a clip is heard, in part at last."""
        if self.padding == "pad":
            return 1
        times = self._samples / samples
        return max(1, math.ceil(times) if self.padding == "repeat" else int(times))

    def _extend(self, waveform: Tensor) -> Tensor:
        total = self._samples
        repeated = waveform.repeat(1, self._repetitions(waveform.shape[-1]))[:, :total]
        return functional.pad(repeated, (0, total - repeated.shape[-1]))


def make_kaldi(extractor: Any, model: nn.Module) -> tuple[FrontEnd, PretrainedNetwork]:
    """Return the front end and the network of AST.

    Raises
    ------
    ValueError
        If the feature extractor was made for a model of another size.
    """
    _check_size("bands", extractor.num_mel_bins, model.config.num_mel_bins)
    _check_size("frames", extractor.max_length, model.config.max_length)
    front_end = KaldiFilterbank(
        sample_rate=extractor.sampling_rate,
        n_mels=extractor.num_mel_bins,
        most_frames=extractor.max_length,
    )
    plain = {"mean": 0.0, "std": 0.5}
    scale = {"mean": extractor.mean, "std": extractor.std} if extractor.do_normalize else plain
    return front_end, SpectrogramTransformer(model, **scale)


def make_whisper(extractor: Any, model: nn.Module) -> tuple[FrontEnd, PretrainedNetwork]:
    """Return the front end and the network of Whisper; raises as `make_kaldi`, or for dither."""
    if extractor.dither:
        raise ValueError(
            f"the feature extractor adds noise (dither={extractor.dither}), which makes every "
            "result another: set feature_extractor.dither = 0.0"
        )
    _check_size("bands", extractor.feature_size, model.config.num_mel_bins)
    _check_size("frames", extractor.nb_max_frames, 2 * model.config.max_source_positions)
    front_end = WhisperLogMel(
        sample_rate=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        hop_length=extractor.hop_length,
        n_mels=extractor.feature_size,
        f_max=min(8000.0, extractor.sampling_rate / 2),
        seconds=extractor.chunk_length,
    )
    return front_end, WhisperClassifier(model, floor=front_end.floor)


def make_clap(
    extractor: Any, model: nn.Module, texts: Tensor
) -> tuple[FrontEnd, PretrainedNetwork]:
    """Return the front end and the network of CLAP for embeddings of texts; raises as `make_kaldi`.

    Clips longer than the input, of which the extractor takes parts at random, are refused by the
    front end.
    """
    _check_size("bands", extractor.feature_size, model.config.audio_config.num_mel_bins)
    fused = model.config.audio_config.enable_fusion
    if fused != (extractor.truncation == "fusion"):
        raise ValueError(
            f"the feature extractor has truncation={extractor.truncation!r} for a model "
            f"{'with' if fused else 'without'} fusion, which takes "
            f"{'fusion' if fused else 'rand_trunc'!r}: is it another model's?"
        )
    if extractor.padding not in ("repeatpad", "repeat", "pad"):
        raise ValueError(
            f"the feature extractor has padding={extractor.padding!r}: expected 'repeatpad', "
            "'repeat' or 'pad'"
        )
    front_end = ClapLogMel(
        sample_rate=extractor.sampling_rate,
        n_fft=extractor.fft_window_size,
        hop_length=extractor.hop_length,
        n_mels=extractor.feature_size,
        f_min=extractor.frequency_min,
        f_max=extractor.frequency_max,
        mel_scale="htk" if fused else "slaney",
        longest=extractor.max_length_s,
    )
    network = ZeroShotClap(model, front_end=front_end, texts=texts, padding=extractor.padding)
    return front_end, network


class _BandNorm(nn.Module):
    """A batch norm over bands as in evaluation mode, (x - mean) / std · weight + bias.

    Torch's own on the CPU returns wrong input gradients for some layouts with an axis of size 1
    (seen with torch 2.11), such as those that CLAP without fusion gives it.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, bands, frames, copies) of the same shape."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def _with_child(module: nn.Module, name: str, child: nn.Module) -> nn.Module:
    """Return a copy of a module that shares everything with it but one child."""
    twin = copy.copy(module)
    twin._modules = module._modules | {name: child}
    return twin


def _around(layer: str) -> Sequence[str]:
    """Return the dotted names of a layer and of the modules around it."""
    parts = layer.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _check_size(what: str, extracted: int, taken: int) -> None:
    if extracted != taken:
        raise ValueError(
            f"the feature extractor makes {extracted} {what}, the model takes {taken}: is it "
            "another model's?"
        )


def _not_over_time(layer: str, activation: Tensor) -> ValueError:
    return ValueError(
        f"the layer {layer!r} gives activations {tuple(activation.shape)}: expected (batch, time, "
        "channels) or (batch, channels, time); choose a block, a norm or a convolution"
    )
