"""Published PANNs weights: downloaded with a checksum, loaded without executing code.

`load_panns` returns a published network as it is, an AudioSet tagger; `transfer_panns` loads what
lies below its last layer into a network for other classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
import torch
from torch import Tensor

from audiointerp.dataset.audioset import audioset_classes
from audiointerp.model.base import MODELS, TransferModel, build_model
from audiointerp.model.classifier import Classifier
from audiointerp.model.heads import Sigmoid
from audiointerp.model.signatures import identify
from audiointerp.model.state import (
    CheckpointError,
    Weights,
    check_values,
    find_weights,
    read_content,
    some,
)
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.storage import claim, naming

ZENODO = "https://zenodo.org/record/3987831"
FRONT_END_KEYS = ("spectrogram_extractor.", "logmel_extractor.")
AUDIOSET_KEYS = ("fc_audioset.",)
AUDIOSET_SECONDS = 10.0
"""Length of the clips that the published networks were trained on."""

_CARD = {
    "data": "AudioSet (J. F. Gemmeke et al., 2017)",
    "licence": f"CC BY 4.0, Q. Kong et al., {ZENODO}",
}
_SAME_FRONT_END = 1e-4
"""Largest difference of two front ends' numbers that is rounding, as a share of the largest."""


@dataclass(frozen=True)
class PannsFile:
    """One file of Zenodo record 3987831; `md5` is None where we know of no checksum for it."""

    filename: str
    md5: str | None


PANNS_FILES: dict[str, PannsFile] = {
    "Cnn14": PannsFile("Cnn14_mAP=0.431.pth", "541141fa2ee191a88f24a3219fff024e"),
    "Cnn10": PannsFile("Cnn10_mAP=0.380.pth", "bfb1f1f9968938fa8ef4012b8471f5f6"),
    "Cnn6": PannsFile("Cnn6_mAP=0.343.pth", "e25e26b84585b14c7754c91e48efc9be"),
    "ResNet22": PannsFile("ResNet22_mAP=0.430.pth", "cf36d413096793c4e15dc752a3abd599"),
    "ResNet38": PannsFile("ResNet38_mAP=0.434.pth", "bf12f36aaabac4e0855e22d3c3239c1b"),
    "MobileNetV1": PannsFile("MobileNetV1_mAP=0.389.pth", "a419303e1c88aa1b9d2ac3811563d371"),
    "MobileNetV2": PannsFile("MobileNetV2_mAP=0.383.pth", None),
}


def download_panns(
    name: str,
    folder: str | Path = "pretrained",
    *,
    base_url: str = f"{ZENODO}/files",
    progress: bool = True,
) -> Path:
    """Return the published AudioSet weights of a model, fetched if they are not there yet.

    A file counts as there only if its MD5 is right; otherwise it is fetched again, into a temporary
    file that takes the name once its MD5 has been checked. A partial file is never left behind.
    Where another run is fetching it, this one says so and waits for it.

    Parameters
    ----------
    name : str
        A name in `MODELS`.
    folder : path, default "pretrained"
        Where the file is kept; made if missing.
    base_url : str
        Where files are fetched from, as ``<base_url>/<file name>?download=1``: Zenodo or a mirror.
    progress : bool, default True
        Show a progress bar.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the model is unknown.
    CheckpointError
        If no checksum is known for the file, it cannot be fetched, or what came has another MD5.

    References
    ----------
    Q. Kong et al., https://zenodo.org/record/3987831 (CC BY 4.0).
    """
    MODELS[name]
    file = PANNS_FILES[name]
    target = Path(folder) / file.filename
    url = f"{base_url}/{file.filename}?download=1"
    if file.md5 is None:
        raise CheckpointError(
            f"no checksum is known for {file.filename}, so it is not fetched automatically: "
            f"download {url} yourself and pass its path"
        )
    try:
        with claim(target, wait=True), naming(target):
            path = pooch.retrieve(
                url,
                known_hash=f"md5:{file.md5}",
                fname=file.filename,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress),
            )
    except requests.exceptions.RequestException as error:
        raise CheckpointError(
            f"could not fetch {url}: {error}. Without a network, download it elsewhere and "
            f"place it at {target}"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"what came from {url} is not the published {file.filename} (MD5 {file.md5}) and was "
            "discarded: was the download cut short, or is a proxy answering?"
        ) from error
    return Path(path)


def find_panns(name: str, folder: str | Path = "pretrained") -> Path | None:
    """Return where the published AudioSet weights of a model lie, None if they do not.

    Nothing is fetched, and nothing read: `load_panns` and `transfer_panns` check the file.

    Parameters
    ----------
    name : str
        A name in `MODELS`.
    folder : path, default "pretrained"
        Where `download_panns` puts them.

    Raises
    ------
    ValueError
        If the model is unknown.
    """
    MODELS[name]
    path = Path(folder) / PANNS_FILES[name].filename
    return path if path.is_file() else None


def published_model(path: str | Path) -> str | None:
    """Return which model's published AudioSet weights a file is, by its name; None if of none."""
    names = {file.filename: name for name, file in PANNS_FILES.items()}
    return names.get(Path(path).name)


def load_panns(
    name: str = "Cnn14",
    *,
    path: str | Path | None = None,
    folder: str | Path = "pretrained",
    key: str | None = None,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Return a network published with PANNs as it is: a tagger of AudioSet's 527 classes.

    Its last layer (``fc_audioset``) is the model's `classifier`, its head sigmoid, its front end
    `LogMelSTFTSpectrogram` with its defaults. The front end that the file carries must be the
    same. Sounds are not normalised, as PANNs' were not. Files are checked, unwrapped and read as
    by `transfer_panns`.

    Parameters
    ----------
    name : str
        A name in `MODELS`.
    path : path, optional
        A PANNs checkpoint; by default the published file in `folder`, fetched if it is not there.
    folder : path, default "pretrained"
        Where `download_panns` puts it.
    key : str, optional
        Where in the file the weights are; see `transfer_panns`.
    device : str or torch.device
        Where to put model and front end.

    Returns
    -------
    Classifier
        In evaluation mode; unpacks as ``model, processor``. It takes clips of 10 s.

    Raises
    ------
    ValueError
        If the model is unknown.
    CheckpointError
        If the file cannot be fetched, is missing, damaged, refused, of another architecture, was
        made for other features, or holds several networks of which `key` chooses none.

    References
    ----------
    Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
    Recognition", IEEE/ACM TASLP 28, 2020.

    Examples
    --------
    >>> import audiointerp as ai
    >>> model, processor = ai.load_panns("Cnn14")  # doctest: +SKIP
    >>> predict = ai.Predict(model, processor, ai.GradCAMInterpreter(model))  # doctest: +SKIP
    >>> predict.predict("samples/dog.wav").labels  # doctest: +SKIP
    ('Animal', 'Domestic animals, pets', 'Dog', 'Bark')
    """
    MODELS[name]
    if path is None:
        path = find_panns(name, folder) or download_panns(name, folder)
    path = Path(path)
    content = _read_published(path)
    front_end = LogMelSTFTSpectrogram()
    classes = audioset_classes()
    settings = {"name": name, "num_classes": len(classes), "num_bins": front_end.num_bins}
    model = build_model(settings, seed=0)
    found = find_weights(content, model.base.state_dict().keys(), path, key=key)
    base = _base_of(model, path, found)
    layer = _audioset_layer(model, path, found)
    _check_front_end(front_end, path, found.tensors)
    model.base.load_state_dict(base, strict=True)
    model.classifier.load_state_dict(layer, strict=True)
    model.head, model.classes = Sigmoid(), classes
    model.card = _CARD | {"weights": f"{path.name}: {found}"}
    model.duration, model.normalize = AUDIOSET_SECONDS, False
    model.eval().to(device)
    return Classifier(
        model,
        front_end.to(device),
        head=model.head,
        classes=classes,
        duration=model.duration,
        licence=model.card["licence"],
        normalize=model.normalize,
        outputs="logits",
    )


def transfer_panns(
    model: TransferModel, path: str | Path, *, skip: Iterable[str] = (), key: str | None = None
) -> str:
    """Load AudioSet weights published with PANNs into ``model.base``; the classifier stays.

    Only tensors and NumPy numbers are read from the file (``weights_only=True``): a pickle that
    would run code is refused. The file's own front end (``spectrogram_extractor``,
    ``logmel_extractor``) and AudioSet layer (``fc_audioset``) are left out; every other key must
    fit, name and shape, and be finite, or nothing is loaded. A file that carries a published name
    must also have its published MD5; elsewhere the checksums of the file are checked, if it has
    any. Wrappers are taken off, as by `audiointerp.model.load_checkpoint`.

    Parameters
    ----------
    model : TransferModel
        Changed in place.
    path : path
        A PANNs checkpoint, ``{"iteration", "model", "sampler"}``, a bare state dict of one, or a
        checkpoint of Lightning, of a moving average and the like that holds such a network.
    skip : iterable of str, default ()
        Layers that keep the model's own values, by name: ``("bn0",)`` for features with another
        number of bins than PANNs' 64, e.g. an STFT's 257. Their training is then up to you.
    key : str, optional
        Where in the file the weights are, such as "model_ema". Needed only where it holds several
        that fit, for instance a network and its moving average.

    Returns
    -------
    str
        What was taken, such as "'model'".

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, refused, of another architecture or of other shapes,
        holds several networks of which `key` chooses none, or `skip` names no layer of the model.

    Examples
    --------
    >>> model = TransferCnn14(num_classes=50, num_bins=64)  # doctest: +SKIP
    >>> transfer_panns(model, download_panns("Cnn14"))  # doctest: +SKIP
    """
    path = Path(path)
    skipped = _skipped_keys(model, skip)
    own = model.base.state_dict()
    found = find_weights(_read_published(path), own.keys() - skipped, path, key=key)
    base = _base_of(model, path, found, skipped)
    model.base.load_state_dict(base | {name: own[name] for name in skipped}, strict=True)
    return str(found)


def _read_published(path: Path) -> Any:
    """Return what a checkpoint holds; it has its published MD5 if it has such a name."""
    return read_content(path, is_verified=_check_published_file(path))


def _base_of(
    model: TransferModel, path: Path, found: Weights, skipped: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return what of a checkpoint goes into a model's base, without the skipped keys."""
    dropped = FRONT_END_KEYS + AUDIOSET_KEYS
    base = {name: value for name, value in found.tensors.items() if not name.startswith(dropped)}
    _check_fit(model, path, found, base, set(skipped))
    return base


def _audioset_layer(model: TransferModel, path: Path, found: Weights) -> dict[str, Tensor]:
    """Return the last layer of a checkpoint, as the state of a model's classifier."""
    layer = {}
    for key, own in model.classifier.state_dict().items():
        value = found.tensors.get(f"fc_audioset.{key}")
        if value is None:
            raise CheckpointError(
                f"{path} has no fc_audioset.{key}, the last layer of an AudioSet tagger: "
                "transfer_panns loads what lies below it"
            )
        if value.shape != own.shape:
            raise CheckpointError(
                f"{path} does not fit this {model.name}: fc_audioset.{key} is "
                f"{tuple(value.shape)} in the file, expected {tuple(own.shape)} for AudioSet's "
                f"{model.num_classes} classes"
            )
        _check_values(path, f"fc_audioset.{key}", value, own)
        layer[key] = value
    return layer


def _check_front_end(
    front_end: LogMelSTFTSpectrogram, path: Path, state: Mapping[str, Tensor]
) -> None:
    """Raise a CheckpointError if a file carries another front end than the one given."""
    for key, ours in _front_end_state(front_end).items():
        theirs = state.get(key)
        if theirs is None:
            continue
        if theirs.shape != ours.shape:
            differ = f"its shape is {tuple(theirs.shape)} in the file, {tuple(ours.shape)} here"
        else:
            share = float((theirs.double() - ours).abs().max() / ours.abs().max())
            if share <= _SAME_FRONT_END:  # NaN is not
                continue
            differ = f"they differ by up to {share:.1%} of the largest value"
        settings = ", ".join(f"{name} {value}" for name, value in front_end.settings().items())
        raise CheckpointError(
            f"{path} was not trained on these features ({settings}): the front end in the file is "
            f"another, {key}: {differ}. Is it one of PANNs' networks for 8 or 16 kHz? "
            "audiointerp.classifier takes any module with the front end that fits it"
        )


def _front_end_state(front_end: LogMelSTFTSpectrogram) -> dict[str, Tensor]:
    """Return a front end as PANNs' files carry it: windowed Fourier matrices, mel filters."""
    size = front_end.n_fft
    sample = torch.arange(size, dtype=torch.float64)
    angle = 2 * torch.pi / size * torch.outer(sample[: size // 2 + 1], sample)
    window = torch.hann_window(size, periodic=True, dtype=torch.float64)
    stft = "spectrogram_extractor.stft.conv_{}.weight"
    return {
        stft.format("real"): (angle.cos() * window)[:, None],
        stft.format("imag"): (-angle.sin() * window)[:, None],
        "logmel_extractor.melW": front_end.filters.double(),
    }


def _skipped_keys(model: TransferModel, skip: Iterable[str]) -> set[str]:
    own = model.base.state_dict()
    skipped: set[str] = set()
    for layer in (skip,) if isinstance(skip, str) else skip:
        keys = {key for key in own if key.startswith(f"{layer}.")}
        if not keys:
            layers = dict.fromkeys(key.split(".")[0] for key in own)
            raise CheckpointError(
                f"skip names {layer!r}, which is no layer of {model.name}: "
                f"choose from {', '.join(layers)} or one of their parts"
            )
        skipped |= keys
    return skipped


def _check_published_file(path: Path) -> bool:
    """Return whether a file has a published name, and then its published MD5."""
    published = {file.filename: (name, file.md5) for name, file in PANNS_FILES.items()}
    name, md5 = published.get(path.name, (None, None))
    if not path.exists():
        hint = f": download_panns({name!r}) fetches it" if md5 else ""
        raise CheckpointError(f"there is no checkpoint file {path}{hint}")
    if md5 is None or path.is_dir():
        return False
    with path.open("rb") as stream:
        digest = hashlib.md5(usedforsecurity=False)
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != md5:
        kind = identify(path)
        looks = "a partial download" if kind.layout else kind.description
        raise CheckpointError(
            f"{path} has MD5 {digest.hexdigest()}, the published file {md5}: is it {looks}? "
            "Delete it and fetch it again, or rename it if it is another file"
        )
    return True


def _check_values(path: Path, name: str, value: Tensor, own: Tensor) -> None:
    try:
        check_values(name, value, own.dtype)
    except ValueError as error:
        raise CheckpointError(f"{path} is not usable: {error}") from error


def _check_fit(
    model: TransferModel, path: Path, found: Weights, base: dict[str, Tensor], skipped: set[str]
) -> None:
    """Raise unless `base` fits the model's base; drops the skipped keys from `base`."""
    own = model.base.state_dict()
    missing = sorted(own.keys() - base.keys() - skipped)
    unexpected = sorted(base.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} ({found}) does not hold a {model.name}{_architecture_hint(base)}. "
            f"{some('missing', missing)}; {some('unexpected', unexpected)}"
        )
    for key in skipped:
        base.pop(key, None)
    wrong = [key for key, value in base.items() if value.shape != own[key].shape]
    if wrong:
        key = wrong[0]
        if all(name.startswith("bn0.") for name in wrong):
            advice = (
                f"the file was made for {base[key].numel()} frequency bins, the model for "
                f"{model.num_bins}. To use all of it but the input normalisation, pass "
                'skip=("bn0",)'
            )
        else:
            advice = "was the model built with another width? The published weights need 1.0"
        raise CheckpointError(
            f"{path} does not fit this {model.name}: {key} is {tuple(base[key].shape)} in the "
            f"file, {tuple(own[key].shape)} in the model ({len(wrong)} such); {advice}"
        )
    for key, value in base.items():
        _check_values(path, key, value, own[key])


def _architecture_hint(base: dict[str, Tensor]) -> str:
    with torch.device("meta"):
        fitting = [
            name
            for name, model_class in MODELS.items()
            if model_class(1, 64).base.state_dict().keys() == base.keys()
        ]
    return f" but a {fitting[0]}" if fitting else ", nor any architecture known here"
