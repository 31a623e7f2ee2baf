"""Stand-ins of taggers that come as packages: small, random, with their interfaces.

Constructors, attributes, calls and returned values are those of the originals, as their public code
has them; sizes are smaller, and what is between is written anew.
"""

from __future__ import annotations

import warnings

import torch
import torchaudio
from torch import nn
from torch.nn import functional
from torchaudio.compliance.kaldi import fbank, get_mel_banks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram


class AugmentMelSTFT(nn.Module):
    """The extractor of PaSST and EfficientAT; in training mode it draws its band edges."""

    def __init__(
        self,
        n_mels=128,
        sr=32000,
        win_length=800,
        hopsize=320,
        n_fft=1024,
        fmin=0.0,
        fmax=None,
        fmin_aug_range=10,
        fmax_aug_range=2000,
    ) -> None:
        super().__init__()
        self.n_mels, self.sr, self.win_length = n_mels, sr, win_length
        self.hopsize, self.n_fft, self.fmin = hopsize, n_fft, fmin
        self.fmax = sr // 2 - fmax_aug_range // 2 if fmax is None else fmax
        self.fmin_aug_range, self.fmax_aug_range = fmin_aug_range, fmax_aug_range
        window = torch.hann_window(win_length, periodic=False)
        self.register_buffer("window", window, persistent=False)
        emphasis = torch.tensor([[[-0.97, 1.0]]])
        self.register_buffer("preemphasis_coefficient", emphasis, persistent=False)

    def forward(self, x):
        x = functional.conv1d(x[:, None], self.preemphasis_coefficient)[:, 0]
        spectrum = torch.stft(
            x, self.n_fft, self.hopsize, self.win_length, self.window, return_complex=True
        )
        low, high = self.fmin, self.fmax
        if self.training:
            low = low + torch.randint(self.fmin_aug_range, (1,)).item()
            high = high - torch.randint(self.fmax_aug_range, (1,)).item()
        banks, _ = get_mel_banks(self.n_mels, self.n_fft, self.sr, low, high, 100.0, -500.0, 1.0)
        mel = functional.pad(banks, (0, 1)) @ spectrum.abs().square()
        return ((mel + 1e-5).log() + 4.5) / 5


class MN(nn.Module):
    """EfficientAT's MobileNet: (batch, 1, mels, frames) → (logits, embedding)."""

    def __init__(self, num_classes: int = 527) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=4, padding=1),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.Conv2d(8, 16, 3, stride=4, padding=1),
            nn.Hardswish(),
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(start_dim=1), nn.Linear(16, num_classes)
        )

    def forward(self, x):
        x = self.features(x)
        features = functional.adaptive_avg_pool2d(x, (1, 1)).squeeze()
        x = self.classifier(x).squeeze()
        if x.dim() == 1:
            features, x = features[None], x[None]
        return x, features


class DyMN(MN):
    """EfficientAT's dynamic one, whose last stage has another name."""

    def __init__(self, num_classes: int = 527) -> None:
        super().__init__(num_classes)
        self.in_c, self.out_c = self.features[:3], self.features[3:]
        self.layers = nn.ModuleList()
        del self.features

    def forward(self, x):
        x = self.out_c(self.in_c(x))
        return self.classifier(x), x.mean((2, 3))


class Attention(nn.Module):
    """Self-attention of one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj(weights @ v)


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches that overlap, as an image; warns as the original where 998 frames are not given."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.img_size = (128, 998)
        self.grid_size = (12, 99)
        self.proj = nn.Conv2d(1, dim, 16, stride=10)

    def forward(self, x):
        if tuple(x.shape[2:]) != self.img_size:
            warnings.warn(
                f"Input image size {tuple(x.shape[2:])} doesn't match {self.img_size}",
                stacklevel=1,
            )
        return self.proj(x)


class PaSST(nn.Module):
    """The transformer of hear21passt: (batch, 1, 128, frames) → (logits, features)."""

    def __init__(self, num_classes: int = 527, embed_dim: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.num_tokens = 2
        self.patch_embed = PatchEmbed(embed_dim)
        rows, columns = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.dist_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.new_pos_embed = nn.Parameter(torch.randn(1, 2, embed_dim))
        self.freq_new_pos_embed = nn.Parameter(torch.randn(1, embed_dim, rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.randn(1, embed_dim, 1, columns))
        self.blocks = nn.Sequential(*(Block(embed_dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes))
        self.head_dist = nn.Linear(embed_dim, num_classes)

    def forward(self, x):
        x = self.patch_embed(x)
        x = x + self.time_new_pos_embed[..., : x.shape[3]] + self.freq_new_pos_embed
        x = x.flatten(2).transpose(1, 2)
        first = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        x = self.norm(self.blocks(torch.cat([first.expand(len(x), -1, -1), x], 1)))
        features = x[:, :2].mean(1)
        return self.head(features), features


class PasstBasicWrapper(nn.Module):
    """What ``get_basic_model`` returns: waveform → logits, or logits and features side by side."""

    def __init__(self, mel: nn.Module, net: nn.Module, mode: str = "all") -> None:
        super().__init__()
        self.mel, self.net, self.mode = mel, net, mode
        self.device_proxy = nn.Parameter(torch.zeros(1))
        self.sample_rate = mel.sr

    def forward(self, x):
        logits, features = self.net(self.mel(x)[:, None])
        return logits if self.mode == "logits" else torch.cat([logits, features], dim=1)


class Cnn14(nn.Module):
    """PANNs' network of panns-inference: waveform → dict of probabilities."""

    def __init__(
        self, sample_rate, window_size, hop_size, mel_bins, fmin, fmax, classes_num
    ) -> None:
        super().__init__()
        self.spectrogram_extractor = Spectrogram(
            n_fft=window_size,
            hop_length=hop_size,
            win_length=window_size,
            window="hann",
            center=True,
            pad_mode="reflect",
            freeze_parameters=True,
        )
        self.logmel_extractor = LogmelFilterBank(
            sr=sample_rate,
            n_fft=window_size,
            n_mels=mel_bins,
            fmin=fmin,
            fmax=fmax,
            ref=1.0,
            amin=1e-10,
            top_db=None,
            freeze_parameters=True,
        )
        self.bn0 = nn.BatchNorm2d(64)
        self.conv_block1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.conv_block2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.fc1 = nn.Linear(16, 16)
        self.fc_audioset = nn.Linear(16, classes_num)

    def forward(self, input, mixup_lambda=None):
        x = self.logmel_extractor(self.spectrogram_extractor(input))
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        x = functional.avg_pool2d(functional.relu_(self.conv_block1(x)), 4)
        x = functional.avg_pool2d(functional.relu_(self.conv_block2(x)), 4)
        x = x.mean(3)
        return self.scores(x)

    def scores(self, x):
        x = functional.relu_(self.fc1(x.amax(2) + x.mean(2)))
        return {"clipwise_output": torch.sigmoid(self.fc_audioset(x)), "embedding": x}


class Cnn14DecisionLevelMax(Cnn14):
    """That for sound event detection: probabilities of frames as well."""

    def scores(self, x):
        x = functional.relu_(self.fc1(x.transpose(1, 2)))
        chances = torch.sigmoid(self.fc_audioset(x))
        return {"framewise_output": chances, "clipwise_output": chances.amax(1)}


class AudioTagging:
    """The wrapper of panns-inference, which is no module."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.labels = ["…"] * 527


class SameConv(nn.Conv2d):
    """The convolution of the port of YAMNet, which keeps a function of itself."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.forward_func = lambda x: functional.conv2d(
            x, self.weight, self.bias, self.stride, padding=1, groups=self.groups
        )

    def forward(self, x):
        return self.forward_func(x)


class YAMNet(nn.Module):
    """A port of YAMNet: patches (patches, 1, 96, 64) → probabilities or logits (patches, 521)."""

    def __init__(self, classes: int = 521) -> None:
        super().__init__()
        self.layer_names = ["layer1", "layer2"]
        self.layer1 = nn.Sequential(
            SameConv(1, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-4), nn.ReLU()
        )
        self.layer2 = nn.Sequential(
            SameConv(4, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8, eps=1e-4), nn.ReLU()
        )
        self.classifier = nn.Linear(8, classes)

    def forward(self, x, to_prob=True):
        assert x.shape[1:] == (1, 96, 64)
        for name in self.layer_names:
            x = getattr(self, name)(x)
        x = self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return torch.sigmoid(x) if to_prob else x


class VGGishLogMelSpectrogram(torchaudio.transforms.MelSpectrogram):
    """The extractor of that port: (batch, samples) → (batch, 64, frames)."""

    def __init__(self, offset: float = 0.001) -> None:
        super().__init__(
            16000, n_fft=512, win_length=400, hop_length=160, f_min=125, f_max=7500, n_mels=64
        )
        self.offset = offset

    def forward(self, waveform):
        return torch.log(self.mel_scale(self.spectrogram(waveform) ** 0.5) + self.offset)


class BeatsLayer(nn.Module):
    """A layer of BEATs' encoder: (tokens, batch, channels) → (the same, attention, bias)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn, self.final_layer_norm = Attention(dim), nn.LayerNorm(dim)

    def forward(self, x, self_attn_padding_mask=None, need_weights=False, pos_bias=None):
        mixed = self.attn(x.transpose(0, 1)).transpose(0, 1)
        return self.final_layer_norm(x + mixed), None, pos_bias


class BeatsEncoder(nn.Module):
    """(batch, tokens, channels) → (the same, results of layers)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BeatsLayer(dim) for _ in range(2))

    def forward(self, x, padding_mask=None):
        x = x.transpose(0, 1)
        for layer in self.layers:
            x, _, _ = layer(x, self_attn_padding_mask=padding_mask)
        return x.transpose(0, 1), []


class BEATs(nn.Module):
    """BEATs, fine-tuned: ``extract_features(waveform)`` returns (probabilities, padding mask)."""

    def __init__(self, classes: int = 527, dim: int = 8, *, finetuned: bool = True) -> None:
        super().__init__()
        self.input_patch_size = 16
        self.patch_embedding = nn.Conv2d(1, dim, kernel_size=16, stride=16, bias=False)
        self.layer_norm = nn.LayerNorm(dim)
        self.post_extract_proj = nn.Linear(dim, dim)
        self.encoder = BeatsEncoder(dim)
        self.predictor = nn.Linear(dim, classes) if finetuned else None

    def preprocess(self, source, fbank_mean=15.41663, fbank_std=6.55582):
        options = {"num_mel_bins": 128, "sample_frequency": 16000}
        banks = [fbank(wave[None] * 2**15, **options) for wave in source]
        return (torch.stack(banks) - fbank_mean) / (2 * fbank_std)

    def extract_features(self, source, padding_mask=None):
        x = self.patch_embedding(self.preprocess(source)[:, None])
        x = self.post_extract_proj(self.layer_norm(x.flatten(2).transpose(1, 2)))
        x, _ = self.encoder(x, padding_mask=padding_mask)
        return torch.sigmoid(self.predictor(x).mean(1)), padding_mask
