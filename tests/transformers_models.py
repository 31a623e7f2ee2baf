"""Tiny models of transformers with random weights, one of every family that can be wrapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

CLASSES = {0: "crackle", 1: "hum", 2: "ring"}
TEXTS = ("a dog barks", "rain falls", "someone claps")


@dataclass(frozen=True)
class Made:
    """A tiny model and its feature extractor, of CLAP its processor."""

    model: nn.Module
    extractor: Any


_WAVE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}


def _labelled(config: type, problem: str | None, **options: Any) -> Any:
    labels = {name: index for index, name in CLASSES.items()}
    return config(id2label=CLASSES, label2id=labels, problem_type=problem, **options)


def _ast(problem: str | None) -> Made:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    config = _labelled(
        ASTConfig,
        problem,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_mel_bins=64,
        max_length=96,
    )
    extractor = ASTFeatureExtractor(num_mel_bins=64, max_length=96)
    return Made(ASTForAudioClassification(config), extractor)


def _whisper(problem: str | None) -> Made:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

    config = _labelled(
        WhisperConfig,
        problem,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        num_mel_bins=40,
        max_source_positions=100,
        classifier_proj_size=8,
    )
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=2)
    return Made(WhisperForAudioClassification(config), extractor)


def _waveform(name: str, **options: Any) -> Callable[[str | None], Made]:
    def make(problem: str | None) -> Made:
        import transformers

        config = getattr(transformers, f"{name}Config")
        settings = {
            key: value
            for key, value in _WAVE.items()
            if name != "Data2VecAudio" or not key.startswith("num_conv_pos_embeddings")
        }
        model = getattr(transformers, f"{name}ForSequenceClassification")
        config = _labelled(config, problem, **(settings | options))
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=name != "Data2VecAudio")
        return Made(model(config), extractor)

    return make


def _clap(*, fused: bool) -> Callable[[str | None], Made]:
    def make(problem: str | None) -> Made:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace
        from transformers import (
            ClapConfig,
            ClapFeatureExtractor,
            ClapModel,
            ClapProcessor,
            PreTrainedTokenizerFast,
        )

        del problem
        words = sorted({word for text in TEXTS for word in text.split()})
        known = {"<pad>": 1, "<unk>": 3} | {word: place for place, word in enumerate(words, 4)}
        rule = Tokenizer(WordLevel(known, unk_token="<unk>"))
        rule.pre_tokenizer = Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=rule, pad_token="<pad>", unk_token="<unk>"
        )
        audio = {
            "window_size": 4,
            "num_mel_bins": 32,
            "spec_size": 64,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "hidden_size": 32,
            "projection_dim": 16,
            "depths": [1, 1, 1],
            "num_attention_heads": [2, 2, 2],
            "patch_embeds_hidden_size": 8,
            "num_hidden_layers": 3,
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
            "aff_block_r": 2,
        }
        text = {
            "vocab_size": 32,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "projection_dim": 16,
            "max_position_embeddings": 32,
        }
        config = ClapConfig(audio_config=audio, text_config=text, projection_dim=16)
        extractor = ClapFeatureExtractor(
            feature_size=32,
            sampling_rate=16000,
            hop_length=160,
            fft_window_size=512,
            max_length_s=1,
            frequency_min=50,
            frequency_max=7000,
            truncation="fusion" if fused else "rand_trunc",
        )
        return Made(ClapModel(config), ClapProcessor(extractor, tokenizer))

    return make


FAMILIES: dict[str, Callable[[str | None], Made]] = {
    "ast": _ast,
    "whisper": _whisper,
    "wav2vec2": _waveform("Wav2Vec2"),
    "wav2vec2_layer_norm": _waveform(
        "Wav2Vec2",
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        use_weighted_layer_sum=True,
    ),
    "hubert": _waveform("Hubert"),
    "wavlm": _waveform("WavLM"),
    "data2vec": _waveform("Data2VecAudio", conv_pos_kernel_size=5, num_conv_pos_embeddings=2),
    "sew": _waveform("SEW", squeeze_factor=2),
    "clap": _clap(fused=False),
    "clap_fused": _clap(fused=True),
}


def make(family: str, problem: str | None = "single_label_classification") -> Made:
    """Return a tiny model of a family, its random weights large enough to tell sounds apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = FAMILIES[family](problem)
        with torch.no_grad():
            for weight in made.model.parameters():
                if weight.ndim > 1:
                    nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    made.model.eval()
    return made
