"""Train an interpreter's decoder; the implementation of ``audiointerp train-interpreter``.

The classifier is frozen. Clips of the training folds go through it, some with another clip mixed
in; the decoder learns by what its objective says (`audiointerp.training.objectives`); the epoch of
the lowest loss on the validation fold is kept. No label of a clip is used.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from audiointerp.arguments import build, several
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import check_clips
from audiointerp.dataset.contamination import active_rms, contaminate
from audiointerp.device import device_of, resolve_device
from audiointerp.interpretation.base import check_whole, no_gradient
from audiointerp.interpretation.trained.base import Decoder
from audiointerp.interpretation.trained.files import default_path, read_decoder, save_interpreter
from audiointerp.model.classifier import Classifier
from audiointerp.model.provenance import warn_shared
from audiointerp.model.weights import load, model_hash
from audiointerp.registry import check_different
from audiointerp.runs.recipe import open_set
from audiointerp.speed.inference import evaluation_mode, fast_copy
from audiointerp.storage import check_writable, claim, write_atomically
from audiointerp.training.card import decoder_card, decoder_page, source_and_licence
from audiointerp.training.checkpoints import BEST, best_epoch, is_finished, load_epoch, read_earlier
from audiointerp.training.epochs import Epochs, fingerprint, make_loader, run
from audiointerp.training.objectives import OBJECTIVES, Objective, Step, check_number
from audiointerp.training.recipe import Fold, command_words, run_folder

MIXED_DB = (0.0, 10.0)
"""How far the clip lies above the one that is mixed in, drawn uniformly."""


@dataclass(frozen=True)
class DecoderTraining:
    """What came of `fit_interpreter`.

    Attributes
    ----------
    decoder : Decoder
        With the best epoch's weights, in evaluation mode.
    history : DataFrame
        One row per epoch: ``epoch`` (from 1), ``train_loss``, ``val_loss``, what the objective
        measures of the validation clips, as ``val_…``, and ``learning_rate`` (at its last step).
    best_epoch : int
        The epoch of the lowest validation loss.
    """

    decoder: Decoder = field(repr=False)
    history: pd.DataFrame
    best_epoch: int

    @property
    def best(self) -> pd.Series:
        """The history's row of the best epoch."""
        return self.history.loc[self.history["epoch"] == self.best_epoch].iloc[0]


@dataclass(frozen=True)
class TrainedDecoder:
    """What came of `train_interpreter`.

    Attributes
    ----------
    weights, card : Path
        The interpreter's weight file, and the text beside it that says where it comes from.
    training : DecoderTraining
        Decoder, history, best epoch.
    """

    weights: Path
    card: Path
    training: DecoderTraining


def fit_interpreter(
    objective: Objective,
    classifier: Classifier,
    train: ClipDataset,
    validation: ClipDataset,
    *,
    out: str | os.PathLike[str],
    start: Decoder | None = None,
    layers: Sequence[str] | None = None,
    epochs: int = 30,
    batch_size: int = 8,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-4,
    mix: float = 0.5,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> DecoderTraining:
    """Train a decoder for a classifier, which stays as it is.

    AdamW with the learning rate of `audiointerp.fit.fit`: a rise over the first tenth of the steps,
    then a cosine to 0.

    Parameters
    ----------
    objective : Objective
    classifier : Classifier
        With a front end.
    train, validation : ClipDataset
        At the front end's sample rate, with no clip in common. Their labels are not used.
    out : path
        Folder for ``best.ckpt``, ``last.ckpt`` and ``history.csv``.
    start : Decoder, optional
        Go on from its weights; by default new ones, drawn by the seed.
    layers : sequence of str, optional
        What a new decoder reads; by default the last layer of every size of plane.
    epochs, batch_size : int
    learning_rate : float
        The highest of the run.
    weight_decay : float
    mix : float
        Probability that another clip of the batch is mixed into a clip, 0 to 10 dB below it.
    patience : int, optional
        Stop after this many epochs without a new best.
    seed : int
        The same seed gives the same weights, on the same machine, device and number of threads.
    device, resume, overwrite, num_workers, progress
        See `audiointerp.fit.fit`.

    Returns
    -------
    DecoderTraining

    Raises
    ------
    ValueError
        If the sets or numbers do not fit, or `out` holds another training.
    AudioError
        If clips cannot be read; the message names all of them. Nothing is written then.
    TrainingError
        If the loss becomes infinite or NaN.
    ClaimedError
        If another run is training in `out`.

    Warns
    -----
    LeakageWarning
        If a recording has clips in both sets.
    """
    _check_sets(classifier, train, validation)
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batch_size", batch_size, 1),
        ("patience", 1 if patience is None else patience, 1),
        ("seed", seed, 0),
    ):
        check_whole(name, value, least)
    check_number("learning_rate", learning_rate, 1e-12, 1e3)
    check_number("weight_decay", weight_decay, 0, 1e3)
    check_number("mix", mix, 0, 1)
    hardware = resolve_device(device)
    settings = {
        "objective": objective.settings(),
        "layers": None if layers is None else list(several(layers)),
        "start": None if start is None else model_hash(start),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "mix": mix,
        "patience": patience,
        "seed": seed,
        "precision": "32-true",
        "classifier": model_hash(classifier.network),
        "processor": classifier.front_end.settings(),
        "clips": [len(train), len(validation)],
        "clip_ids": [fingerprint(train.clip_ids), fingerprint(validation.clip_ids)],
    }
    out = Path(out).resolve()
    home = device_of(classifier.network)
    with claim(out / "last.ckpt"), evaluation_mode(classifier.network):
        earlier = read_earlier(out, settings, resume, overwrite)
        is_done = earlier is not None and is_finished(earlier, epochs, patience)
        if not is_done:
            check_writable(out, folder=True)
            check_clips({"training": train, "validation": validation}, progress=progress)
        decoder = copy.deepcopy(start)
        if decoder is None:
            decoder = objective.make_decoder(classifier, train, layers=layers, seed=seed)
        if not is_done:
            loaders = (
                make_loader(train, batch_size, num_workers, seed),
                make_loader(validation, batch_size, num_workers),
            )
            try:
                task = _Task(decoder, classifier.to(hardware), objective, settings, out)
                run(task, loaders, hardware, resume=earlier is not None, progress=progress)
            finally:
                classifier.to(home)
            earlier = task.history
        best = best_epoch(earlier)
        load_epoch(decoder, out / BEST, best)
    return DecoderTraining(decoder.eval().cpu(), pd.DataFrame(earlier), best)


class _Task(Epochs):
    """The steps of a decoder's training."""

    def __init__(
        self,
        decoder: Decoder,
        classifier: Classifier,
        objective: Objective,
        settings: dict[str, Any],
        out: Path,
    ) -> None:
        super().__init__(decoder, classifier.front_end, settings, out)
        self.objective = objective
        copied = fast_copy(classifier.network, keep=decoder.layers)
        # In a tuple, so that Lightning neither trains nor stores them.
        self._frozen = (classifier.with_network(copied), classifier)

    def training_step(self, batch: Clip, batch_idx: int) -> Tensor:
        del batch_idx
        generator = self.generator()
        with torch.no_grad():
            sound, clean = self._mixed(batch.waveform, generator)
            views = self.processor.analyse(sound), self.processor.analyse(clean)
        step = Step(generator, self.global_step / self.total_steps)
        found = self.objective.losses(self.model, *self._frozen, *views, step)
        loss = self.check_loss(found["loss"].mean())
        self.count("train", len(sound), loss=float(loss.detach()) * len(sound))
        return loss

    def validation_step(self, batch: Clip, batch_idx: int) -> None:
        del batch_idx
        # The class is told to a decoder by a gradient, which inference mode forbids.
        with torch.inference_mode(False), torch.enable_grad():
            view = self.processor.analyse(batch.waveform.clone())
            found = self.objective.losses(self.model, *self._frozen, view, view)
            self.check_loss(found["loss"].mean())
        self.count("val", len(view), **{name: float(each.sum()) for name, each in found.items()})

    def _mixed(self, waveform: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the clips, another one mixed into some, and these clips without it."""
        batch = len(waveform)
        chosen = torch.rand(batch, generator=generator) < self.settings["mix"]
        low, high = MIXED_DB
        levels = low + (high - low) * torch.rand(batch, generator=generator)
        shift = 1 + int(torch.randint(max(1, batch - 1), (), generator=generator))
        other = waveform.roll(shift, 0)
        # A silent clip has no level.
        sounding = (active_rms(waveform) > 0) & (active_rms(other) > 0)
        places = (chosen & sounding.flatten().cpu()).nonzero()[:, 0].tolist()
        sound, clean = waveform.clone(), waveform.clone()
        for place in places:
            parts = contaminate(waveform[place], other[place], snr_db=float(levels[place]))
            if not self._frozen[1].normalize:  # the clip keeps its own level
                scale = waveform[place].abs().max() / parts[0].abs().max()
                parts = tuple(scale * part for part in parts)
            clean[place], sound[place] = parts[0], parts[0] + parts[1]
        return sound, clean


def train_interpreter(
    method: str,
    weights: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    subset: str | None = None,
    train_folds: Iterable[Fold] = (1, 2, 3),
    validation_fold: Fold = 4,
    clips: int | None = None,
    layers: Sequence[str] | None = None,
    width: int | None = None,
    options: Mapping[str, Any] | None = None,
    start: str | os.PathLike[str] | None = None,
    epochs: int = 30,
    batch_size: int = 8,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-4,
    mix: float = 0.5,
    patience: int | None = None,
    seed: int = 0,
    device: str = "auto",
    run_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> TrainedDecoder:
    """Train an interpreter for a classifier's weight file and write its own, with a card.

    Parameters
    ----------
    method : str
        A name in `audiointerp.training.objectives.OBJECTIVES`.
    weights : path
        The classifier's weight file.
    data : "synthetic" or path
        The set; see `audiointerp.dataset.open_dataset`. Take the one that the classifier was
        trained on.
    out : path, optional
        The weight file to write, ending in ``.safetensors``, and its card, ``.md``; replaced where
        they are there. By default ``<weights>_<method>.safetensors`` beside the classifier's,
        where the method finds it.
    subset, clips
        See `audiointerp.training.recipe.train_classifier`.
    train_folds, validation_fold
        Folds to train on, and the one that chooses the epoch. Take those of the classifier, so that
        its test fold stays unseen.
    width : int, optional
        Channels of the decoder; by default those of the objective.
    options : mapping, optional
        Other settings of the objective, by name.
    start : path, optional
        An interpreter's weight file of the same classifier to go on from, as for L-MAC's second
        stage.
    layers, epochs, batch_size, learning_rate, weight_decay, mix, patience, seed, device, resume, \
overwrite, num_workers, progress
        See `fit_interpreter`.
    run_dir : path, optional
        For checkpoints and the history; by default below ``results/training``.
    cache_dir : path, optional
        For decoded clips; by default in memory.

    Returns
    -------
    TrainedDecoder

    Raises
    ------
    ValueError
        If a name is unknown or the arguments do not fit each other. Nothing is written then.
    WeightsError
        If the classifier or `start` cannot be used.
    ClaimedError
        If another run is training to `out` or in `run_dir`.

    Warns
    -----
    LeakageWarning
        If a recording has clips in both sets.

    Examples
    --------
    >>> trained = train_interpreter(
    ...     "lmac", "weights/synthetic_logmel_robust.safetensors", "synthetic"
    ... )  # doctest: +SKIP
    >>> trained.training.history.plot(x="epoch", y="val_loss")  # doctest: +SKIP
    """
    given = {name: value for name, value in locals().items() if name in _OPTIONS}
    settings = dict(options or {}) | ({} if width is None else {"width": width})
    objective = build(OBJECTIVES[method], f"the training of {method}", settings)
    classifier = load(weights)
    out = default_path(classifier.file, method) if out is None else Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: weight files end in .safetensors")
    folds = (several(train_folds), (validation_fold,))
    check_different("fold", [fold for part in folds for fold in part])
    first = None if start is None else read_decoder(Path(start), classifier, method).decoder
    page = out.with_suffix(".md")
    for path in (out, page):
        check_writable(path)
    source = {"subset": subset, "cache_dir": cache_dir, "clips": clips}
    with claim(out):
        train, validation = (open_set(data, classifier, folds=fold, **source) for fold in folds)
        training = fit_interpreter(
            objective,
            classifier,
            train,
            validation,
            out=run_folder(out) if run_dir is None else run_dir,
            start=first,
            layers=layers,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            mix=mix,
            patience=patience,
            seed=seed,
            device=device,
            resume=resume,
            overwrite=overwrite,
            num_workers=num_workers,
            progress=progress,
        )
        head = ["audiointerp", "train-interpreter", method]
        head += ["--weights", f"weights/{Path(weights).name}"]
        command = command_words(head, data, out, given, _OPTIONS)
        card = decoder_card(
            source_and_licence(data, subset, train),
            classifier,
            objective.settings(),
            training.best,
            folds,
            command,
        )
        save_interpreter(out, training.decoder, classifier, card=card)
        write_atomically(page, decoder_page(out.stem, training.decoder, card, len(train)))
    return TrainedDecoder(out, page, training)


# What shapes the weights, as `train_interpreter` has it by default; a test compares the two.
_OPTIONS: dict[str, Any] = {
    "subset": None,
    "train_folds": (1, 2, 3),
    "validation_fold": 4,
    "clips": None,
    "layers": None,
    "width": None,
    "options": None,
    "start": None,
    "epochs": 30,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "weight_decay": 1e-4,
    "mix": 0.5,
    "patience": None,
    "seed": 0,
}


def _check_sets(classifier: Classifier, train: ClipDataset, validation: ClipDataset) -> None:
    if classifier.front_end is None:
        raise ValueError("the classifier has no front end: pass what audiointerp.load returns")
    if not classifier.differentiable:
        raise ValueError(f"a trained interpreter {no_gradient(classifier)}")
    for name, dataset in (("training set", train), ("validation set", validation)):
        if len(dataset) == 0:
            raise ValueError(f"the {name} is empty: were its folds chosen right?")
        if dataset.sample_rate != classifier.front_end.sample_rate:
            raise ValueError(
                f"the {name} is at {dataset.sample_rate} Hz, the front end expects "
                f"{classifier.front_end.sample_rate} Hz"
            )
    common = sorted(set(train.clip_ids) & set(validation.clip_ids))
    if common:
        raise ValueError(
            f"{len(common)} clips are in both sets, the first {common[0]!r}: the best epoch would "
            "be chosen by clips trained on; did you give both the same folds?"
        )
    warn_shared(train, validation, ("training set", "validation set"))
