"""From a set of clips to a weight file with a card; the implementation of ``audiointerp train``."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from audiointerp.arguments import several
from audiointerp.dataset.base import ClipDataset
from audiointerp.dataset.choose import made_by_package, open_dataset
from audiointerp.dataset.failures import describe
from audiointerp.device import resolve_device
from audiointerp.model import (
    TransferModel,
    build_head,
    build_model,
    download_panns,
    find_panns,
    transfer_panns,
)
from audiointerp.model.provenance import CARD, describe_training, warn_absent, warn_shared
from audiointerp.model.weights import is_weight_file, load, save_weights
from audiointerp.processing import STFTSpectrogram, build_processor
from audiointerp.registry import check_different
from audiointerp.runs.classification import SetPredictions, SkippedClipsWarning, classify_set
from audiointerp.storage import check_writable, claim, write_atomically
from audiointerp.training.augment import SpecAugment
from audiointerp.training.card import card_page, make_card, source_and_licence
from audiointerp.training.checkpoints import LAST
from audiointerp.training.checks import check_keep, check_numbers
from audiointerp.training.epochs import TrainingError
from audiointerp.training.holes import RandomHoles
from audiointerp.training.loop import Training, fit

AUDIOSET = "audioset"
_PANNS_BINS = 64
_SLIM = 1 / 16

Fold = int | str


@dataclass(frozen=True)
class Trained:
    """What came of `train_classifier`.

    Attributes
    ----------
    weights, card : Path
        The weight file, and the text beside it that says where it comes from.
    training : Training
        Model, history, best and kept epoch, checkpoint.
    test : SetPredictions
        What the model says of the test clips, which were used for nothing else.
    """

    weights: Path
    card: Path
    training: Training
    test: SetPredictions = field(repr=False)

    @property
    def labels(self) -> pd.DataFrame:
        """The test clips and how each was classified.

        See `audiointerp.runs.classification.predict_labels`.
        """
        return self.test.labels

    @property
    def validation_accuracy(self) -> float:
        """The kept epoch's accuracy on the validation fold; see `SetPredictions.accuracy`."""
        return float(self.training.kept["val_accuracy"])

    @property
    def test_accuracy(self) -> float:
        """The accuracy on the test fold; see `SetPredictions.accuracy`."""
        return self.test.accuracy

    @property
    def test_interval(self) -> tuple[float, float]:
        """95 % confidence interval of `test_accuracy`; see `SetPredictions.accuracy_interval`."""
        return self.test.accuracy_interval

    @property
    def validation_map(self) -> float:
        """The kept epoch's mAP on the validation fold; NaN but with a sigmoid head."""
        return float(self.training.kept.get("val_map", float("nan")))

    @property
    def test_map(self) -> float:
        """The mAP on the test fold; see `SetPredictions.mean_average_precision`."""
        return self.test.mean_average_precision


def train_classifier(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    front_end: str = "LogMelSTFTSpectrogram",
    model: str = "Cnn14",
    head: str = "softmax",
    width: float | None = None,
    pretrained: str | os.PathLike[str] | None = None,
    pretrained_key: str | None = None,
    subset: str | None = None,
    train_folds: Iterable[Fold] = (1, 2, 3),
    validation_fold: Fold = 4,
    test_fold: Fold = 5,
    clips: int | None = None,
    epochs: int = 100,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    dropout_scale: float = 1.0,
    mixup_alpha: float = 0.4,
    spec_augment: bool = True,
    holes: float = 0.0,
    time_shift: float = 0.5,
    patience: int | None = None,
    keep: Literal["best", "last"] = "best",
    seed: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    run_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> Trained:
    """Train on some folds, validate on another, test once on the last, write the weights.

    Before the first epoch all arguments are checked, that `out` can be written, and every clip of
    all folds is read once. After the last epoch the weights are written before the test: whatever
    happens then, they are there, and the same call with ``resume=True`` repeats the test only.

    Parameters
    ----------
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`.
    out : path
        The weight file to write, ending in ``.safetensors``. A card goes beside it, ``.md``. Those
        that are there are replaced.
    front_end, model : str
        Names in `audiointerp.processing.FRONT_ENDS` and `audiointerp.model.MODELS`.
    head : {"softmax", "sigmoid", "binary"}
        What the network decides: one of the classes, any number of labels, or one of two classes
        by a single output. A set of clips with several labels each needs "sigmoid".
    width : float, optional
        Channel multiplier of Cnn14.
    pretrained : "audioset" or path, optional
        Start from the published AudioSet weights (fetched into ``pretrained/``), from a PANNs
        checkpoint (``.pth``), which is unwrapped as by `audiointerp.model.transfer_panns`, or from
        a weight file of the same architecture. The classifier starts afresh, unless the weight
        file is of the same classes, as does ``bn0`` where the number of bins differs. The card says
        what was taken.
    pretrained_key : str, optional
        Where in a checkpoint the weights are, such as "model_ema"; needed only where it holds
        several that fit.
    subset : {"esc10"}, optional
        Of a folder's clips.
    train_folds, validation_fold, test_fold
        No fold may be in two of them.
    clips : int, optional
        Take at most this many clips for training, for validation and for the test, the same number
        of every class; see `audiointerp.dataset.base.choose_clips`.
    spec_augment : bool
        Hide stripes, two each of up to an eighth of the frequency axis and of the time axis: the
        sizes of PANNs, whatever the front end.
    holes : float
        Share of the training clips that random cells are removed from, so that the network
        tolerates what masks do to a clip; see `audiointerp.training.holes.RandomHoles`. The
        networks in ``weights/`` whose names end in ``_robust`` had 0.95; 0 for none.
    run_dir : path, optional
        For checkpoints and the history; by default below ``results/training`` as `out` lies below
        the current folder, ``results/training/weights/mine.safetensors``. A training that was begun
        by an earlier version, in ``results/training/mine``, is found there.
    cache_dir : path, optional
        For decoded clips; by default in memory.
    epochs, batch_size, learning_rate, weight_decay, label_smoothing, dropout_scale, mixup_alpha, \
time_shift, patience, keep, seed, device, precision, resume, overwrite, num_workers, progress
        See `audiointerp.fit.fit`. The seed also draws the initial weights.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        If a name is unknown or the arguments do not fit each other. No weights are written then.
    AudioError
        If clips cannot be read; the message names all of them. No weights are written then.
    ClaimedError
        If another run is training to `out` or in `run_dir`.
    OSError
        If `out`, its card or `run_dir` cannot be written; before anything is read.
    TrainingError
        If the training goes astray, or the test cannot be done; in the latter case the weights
        are written.

    Warns
    -----
    MissingClassWarning
        If a class has no training, validation or test clip; the card names those without a
        training clip.
    LeakageWarning
        If a recording has clips in the training folds and in another.

    Examples
    --------
    >>> trained = train_classifier(
    ...     "synthetic", "weights/mine.safetensors", width=1 / 16
    ... )  # doctest: +SKIP
    >>> trained.test_accuracy  # doctest: +SKIP
    """
    given = {name: value for name, value in locals().items() if name in _OPTIONS}
    out = Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: weight files end in .safetensors")
    page = out.with_suffix(".md")
    numbers = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "dropout_scale": dropout_scale,
        "mixup_alpha": mixup_alpha,
        "time_shift": time_shift,
        "patience": patience,
        "seed": seed,
        "precision": precision,
    }
    check_numbers(numbers)
    check_keep(keep)
    if not 0 <= holes <= 1:
        raise ValueError(f"holes is {holes}: expected 0 to 1, a share of the clips")
    resolve_device(device)
    folds = _check_folds(train_folds, validation_fold, test_fold)
    for path in (out, page):
        check_writable(path)
    processor = build_processor({"name": front_end})
    rate = processor.sample_rate
    options = {"subset": subset, "sample_rate": rate, "cache_dir": cache_dir, "clips": clips}
    with claim(out):
        train, validation, test = (open_dataset(data, folds=fold, **options) for fold in folds)
        warn_absent(test, "test set", "its accuracy and mAP are of the other classes")
        warn_shared(train, test, ("training set", "test set"))
        network = _build(model, head, width, len(train.classes), processor, seed)
        start = _initialise(network, pretrained, pretrained_key, train.classes)
        training = fit(
            network,
            processor,
            train,
            validation,
            out=run_folder(out) if run_dir is None else run_dir,
            test=test,
            spec_augment=panns_stripes(processor, train.num_samples) if spec_augment else None,
            holes=RandomHoles(holes, level=processor.floor) if holes else None,
            keep=keep,
            device=device,
            resume=resume,
            overwrite=overwrite,
            num_workers=num_workers,
            progress=progress,
            **numbers,
        )
        source, command = source_and_licence(data, subset, train), command_line(data, out, given)

        uses = dict(zip(("training", "validation", "test"), folds, strict=True))
        added = {CARD: describe_training(train, validation, uses)}
        if start is not None:
            added["start"] = start

        def write(predictions: SetPredictions | None) -> None:
            card = make_card(source, training, predictions, folds, command) | added
            length = train.duration
            save_weights(out, network, processor, classes=train.classes, duration=length, card=card)
            text = card_page(out.stem, network, processor, train, card, predictions)
            write_atomically(page, text)

        write(None)
        predictions = _test(network, processor, test, out, progress)
        write(predictions)
    return Trained(out, page, training, predictions)


def _test(
    network: TransferModel, processor: STFTSpectrogram, test: ClipDataset, out: Path, progress: bool
) -> SetPredictions:
    """Classify the test set, all of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SkippedClipsWarning)
            return classify_set(network, processor, test, progress=progress)
    except Exception as error:
        raise TrainingError(
            f"the weights are written, {out}, but the test could not be done: {describe(error)}. "
            "With resume=True the same request repeats the test and does not train again"
        ) from error


class Start(NamedTuple):
    """Where a training of Cnn14 starts and how it goes on: arguments of `train_classifier`.

    Attributes
    ----------
    pretrained : str, Path or None
        Earlier weights; None for random ones.
    width : float
        Channels as a share of the published ones.
    learning_rate, dropout_scale : float
        Those that suit the weights and the width.
    """

    pretrained: str | os.PathLike[str] | None
    width: float
    learning_rate: float
    dropout_scale: float

    def __str__(self) -> str:
        share = Fraction(self.width).limit_denominator(99)
        size = "full width" if share == 1 else f"{share} of full width"
        if self.pretrained is None:
            return f"trained from scratch at {size}"
        source = "AudioSet" if str(self.pretrained) == AUDIOSET else Path(self.pretrained).name
        return f"fine-tuned from the weights {source} at {size}"


def choose_start(
    pretrained: str | os.PathLike[str] | None = None,
    width: float | None = None,
    *,
    folder: str | os.PathLike[str] = "pretrained",
) -> Start:
    """Decide where a training of Cnn14 starts: from the published weights, where they are.

    Parameters
    ----------
    pretrained : "audioset" or path, optional
        As for `train_classifier`. None: the published AudioSet weights where they lie in `folder`
        and are of the width asked for, random ones elsewhere.
    width : float, optional
        None: 1 for published weights, that of the file for a weight file of this package, 1/16
        for random weights, which suits a few hundred clips and a CPU.
    folder : path
        Where the published weights lie once they were fetched.

    Returns
    -------
    Start
        The learning rate is 1e-4 from earlier weights, as in PANNs' own transfer to other data,
        and 2e-3 from random ones. Random weights of less than full width take a quarter of the
        published dropout.

    Raises
    ------
    ValueError
        If a weight file named cannot be read.

    Examples
    --------
    >>> start = choose_start()
    >>> train_classifier("synthetic", "mine.safetensors", **start._asdict())  # doctest: +SKIP
    """
    if pretrained is None and width in (None, 1):
        pretrained = find_panns("Cnn14", folder)
    if pretrained is None:
        width = _SLIM if width is None else width
        return Start(None, width, 2e-3, 1.0 if width >= 1 else 0.25)
    if width is None:
        is_own = is_weight_file(pretrained)
        width = load(pretrained).network.settings().get("width", 1.0) if is_own else 1.0
    return Start(pretrained, width, 1e-4, 1.0 if width >= 1 else 0.25)


def panns_stripes(processor: STFTSpectrogram, samples: int) -> SpecAugment:
    """Return the augmentation of PANNs, its stripes in proportion to a front end's axes.

    Parameters
    ----------
    processor : STFTSpectrogram
    samples : int
        Of a clip.

    Returns
    -------
    SpecAugment
        Two stripes each of up to 8/64 of the bins and 64/501 of the frames: 8 bands and 64 frames
        of five seconds of PANNs' own features.
    """
    frames = processor.num_frames(samples)
    return SpecAugment(
        time_width=round(frames * 64 / 501), freq_width=round(processor.num_bins * 8 / 64)
    )


def command_line(
    data: str | os.PathLike[str], out: str | os.PathLike[str], options: dict[str, Any]
) -> str:
    """Return the ``audiointerp train`` command of these arguments, leaving out what is default.

    A folder of the user's appears as ``ESC50_ROOT``: where it lies says nothing to others.
    """
    return command_words(["audiointerp", "train"], data, out, options, _OPTIONS, _ALWAYS)


def command_words(
    head: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    always: Collection[str] = ("seed",),
) -> str:
    """Return a command that trains something, as a card shows it.

    Parameters
    ----------
    head : sequence of str
        The command's first words.
    data : "synthetic" or path
        A folder of the user's appears as ``ESC50_ROOT``: where it lies says nothing to others.
    out : path
        The weight file that it writes.
    options : mapping
        By the names of the arguments.
    defaults : mapping
        The arguments that are shown and their defaults; those that have it are left out.
    always : collection of str
        Those that are shown even so.
    """
    name = str(data) if made_by_package(data) else "ESC50_ROOT"
    words = [*head, "--data", name, "--out", f"weights/{Path(out).name}"]
    for option, default in defaults.items():
        value = options.get(option, default)
        flag = "--" + option.replace("_", "-")
        if isinstance(default, tuple):
            value = tuple(value)
        if value == default and option not in always:
            continue
        if isinstance(default, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={_short(each)}" for key, each in value.items()]
            flag = flag.removesuffix("s")
        values = value if isinstance(value, tuple | list) else [value]
        words += [word for one in values for word in (flag, _short(one))]
    return shlex.join(words)


# What shapes the weights, as `train_classifier` has it by default; a test compares the two.
_OPTIONS: dict[str, Any] = {
    "front_end": "LogMelSTFTSpectrogram",
    "model": "Cnn14",
    "head": "softmax",
    "width": None,
    "pretrained": None,
    "pretrained_key": None,
    "subset": None,
    "train_folds": (1, 2, 3),
    "validation_fold": 4,
    "test_fold": 5,
    "clips": None,
    "epochs": 100,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "label_smoothing": 0.0,
    "dropout_scale": 1.0,
    "mixup_alpha": 0.4,
    "spec_augment": True,
    "holes": 0.0,
    "time_shift": 0.5,
    "patience": None,
    "keep": "best",
    "seed": 0,
    "precision": "32-true",
}
_ALWAYS = ("front_end", "seed")


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_folds(
    train: Iterable[Fold], validation: Fold, test: Fold
) -> tuple[tuple[Fold, ...], ...]:
    folds = (several(train), (validation,), (test,))
    check_different("training fold", folds[0])
    numbers = [number for part in folds for number in part]
    if len(set(numbers)) != len(numbers):
        raise ValueError(
            f"train_folds {folds[0]}, validation_fold {validation} and test_fold {test} overlap: "
            "an accuracy on clips trained on says nothing"
        )
    return folds


def _build(
    name: str,
    head: str,
    width: float | None,
    classes: int,
    processor: STFTSpectrogram,
    seed: int,
) -> TransferModel:
    made = build_head(head)
    outputs = made.num_outputs(classes)
    settings = {"name": name, "num_classes": outputs, "num_bins": processor.num_bins}
    if width is not None:
        settings["width"] = width
    model = build_model(settings, seed=seed)
    model.head = made
    return model


def _initialise(
    model: TransferModel,
    pretrained: str | os.PathLike[str] | None,
    key: str | None,
    classes: tuple[str, ...],
) -> str | None:
    """Load earlier weights but ``bn0`` where the bins differ, and the classifier if it fits.

    Returns what was loaded, None if there are no earlier weights.
    """
    if pretrained is None:
        if key is not None:
            raise ValueError(f"pretrained_key is {key!r}, but no pretrained weights are named")
        return None
    if str(pretrained) == AUDIOSET:
        pretrained = download_panns(model.name)
    name = Path(pretrained).name
    if not is_weight_file(pretrained):
        skip = () if model.num_bins == _PANNS_BINS else ("bn0",)
        return f"{name}: {transfer_panns(model, pretrained, skip=skip, key=key)}"
    if key is not None:
        raise ValueError(f"pretrained_key is {key!r}, but {pretrained} holds one network only")
    other, _ = load(pretrained)
    mine, theirs = (
        {name: value for name, value in one.settings().items() if name in ("name", "width")}
        for one in (model, other)
    )
    if mine != theirs:
        raise ValueError(f"{pretrained} holds a model of {theirs}, this one is of {mine}")
    state = other.base.state_dict()
    if other.num_bins != model.num_bins:
        state = {name: value for name, value in state.items() if not name.startswith("bn0.")}
    model.base.load_state_dict(model.base.state_dict() | state)
    if other.classes != classes or other.num_classes != model.num_classes:
        return name
    model.classifier.load_state_dict(other.classifier.state_dict())
    return f"{name}, with its classifier"


def run_folder(out: Path) -> Path:
    """Return the folder of the training of a weight file: another one for every file."""
    folder = Path("results", "training")
    earlier = folder / out.stem  # of earlier versions, the same for all files of one name
    full = Path(os.path.abspath(out))
    inside = full.is_relative_to(Path.cwd())
    run_dir = folder / full.relative_to(Path.cwd() if inside else full.anchor)
    is_earlier = (earlier / LAST).is_file() and not (run_dir / LAST).is_file()
    return earlier if is_earlier else run_dir
