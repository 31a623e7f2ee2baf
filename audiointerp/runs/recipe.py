"""Build the parts of a run from names and settings: models, methods, sets, backgrounds."""

from __future__ import annotations

import inspect
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audiointerp.arguments import several
from audiointerp.dataset import ClipDataset, open_dataset
from audiointerp.evaluation.record import check_extra
from audiointerp.interpretation import DEFAULT_METHODS, METHODS, Interpreter, select_background
from audiointerp.interpretation.trained.files import has_weights
from audiointerp.masking import MASKS, base_level
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.model.weights import load
from audiointerp.processing import FrontEnd, View
from audiointerp.reading import is_stray, listed
from audiointerp.registry import check_different
from audiointerp.runs.job import Job, Place, choose_masks, choose_places
from audiointerp.runs.names import file_name
from audiointerp.runs.targets import Target

TRAIN_FOLDS = (1, 2, 3)
ALL = "all"
"""Instead of a method's name: every method."""
SHOWN_MASKS = ("topK_5", "topK_30")
"""The masks that are drawn, made audible and listed unless told otherwise."""


@dataclass(frozen=True)
class Recipe:
    """How clips are interpreted: methods, masks and everything else that has a name.

    Attributes
    ----------
    methods : str or sequence of str, optional
        Names in ``METHODS``; ``DEFAULT_METHODS`` by default. "all" takes every method, as far as
        what is interpreted and the classifier allow; see `methods_for` and `trained_for`.
    masks : str or sequence of str, optional
        Masks to make and score; all by default.
    base : {"floor", "minimum", "quiet"}
        What a removed cell becomes, and what methods that hide parts of a clip put there.
    domain : {"feature", "power", "log1p"}
        What a mask multiplies.
    on : {"features", "audio"} or both
        What metrics are measured on.
    precision : {"float32", "tf32", "bfloat16"}
        See `audiointerp.speed.precision.computing`.
    target : str, int, sequence of them, `Top`, `Above`, `TrueLabels` or None
        Labels to explain; see `audiointerp.runs.targets`.
    seed : int
        For methods and backgrounds that draw at random.
    batch_size : int, optional
        Most inputs that go through a model at once.
    progress : bool
        Show progress bars.
    extra : str or sequence of str
        Families of metrics to compute that are computed on request only, such as "curves".
    takes_all : bool
        Whether the methods were given as "all".

    Raises
    ------
    UnknownNameError
        If there is no such method, mask or family.
    ValueError
        If a method, mask, place or label is given twice.
    """

    methods: str | Sequence[str] | None = None
    masks: str | Sequence[str] | None = None
    base: str = "floor"
    domain: Literal["feature", "power", "log1p"] = "feature"
    on: Place | Sequence[Place] = "features"
    precision: str = "float32"
    target: Target = None
    seed: int = 0
    batch_size: int | None = None
    progress: bool = True
    extra: str | Sequence[str] = ()
    takes_all: bool = field(init=False)

    def __post_init__(self) -> None:
        methods = several(DEFAULT_METHODS if self.methods is None else self.methods)
        object.__setattr__(self, "takes_all", methods == (ALL,))
        object.__setattr__(self, "methods", tuple(METHODS) if self.takes_all else methods)
        object.__setattr__(self, "extra", check_extra(self.extra))
        if self.masks is not None:
            object.__setattr__(self, "masks", several(self.masks))
        check_names(self.methods, self.masks or ())
        check_different("place to measure on", choose_places(self.on))
        if isinstance(self.target, list | tuple):
            check_different("label to explain", self.target)

    def background(
        self, data: str | os.PathLike[str], classifier: Classifier, **source: Any
    ) -> View | None:
        """Return the background of the methods that need one, None where none does.

        Parameters
        ----------
        data : "synthetic" or path
            Set to draw it from.
        classifier : Classifier
        **source
            See `open_set`; the training folds by default.
        """
        if not any("background" in METHODS[name].requires for name in self.methods):
            return None
        dataset = open_set(data, classifier, **({"folds": TRAIN_FOLDS} | source))
        return background_view(dataset, classifier.front_end, seed=self.seed)

    def methods_for(self, what: str, *, has_parts: bool) -> tuple[str, ...]:
        """Return the methods that clips can be interpreted by.

        Parameters
        ----------
        what : str
            The clips, as messages call them.
        has_parts : bool
            Whether the foreground and the background of the clips are known, as some methods
            require.

        Raises
        ------
        ValueError
            If a method that requires the parts was named and they are not known. Of all methods
            it is left out, with a warning.
        """
        needing = [name for name in self.methods if "truth" in METHODS[name].requires]
        if has_parts or not needing:
            return self.methods
        reason = (
            f"{', '.join(needing)}: needs the foreground and the background of the clips, which "
            f"are not known of {what}"
        )
        if not self.takes_all:
            raise ValueError(f"{reason}; choose other methods, or contaminated or synthetic clips")
        warnings.warn(f"left out of all methods, {reason}", stacklevel=3)
        return tuple(name for name in self.methods if name not in needing)

    def trained_for(self, classifier: Classifier, methods: Sequence[str]) -> tuple[str, ...]:
        """Return those of some methods that can explain a classifier: no decoder is missing.

        Of all methods, trained ones that no weight file of the classifier's is there for are left
        out, with a warning, and so are those that `Interpreter.unsuited` has a reason against. One
        that was named stays: it cannot be built then.
        """
        if self.takes_all:
            methods = _suited(classifier, methods)
        untrained = [
            name
            for name in methods
            if "weights" in METHODS[name].requires and not has_weights(classifier, name)
        ]
        if not (self.takes_all and untrained):
            return tuple(methods)
        of = "the classifier" if classifier.file is None else classifier.file.stem
        warnings.warn(
            f"left out of all methods, {', '.join(untrained)}: not trained for {of}; audiointerp "
            "train-interpreter does that",
            stacklevel=3,
        )
        return tuple(name for name in methods if name not in untrained)

    def jobs(
        self,
        classifier: Classifier,
        background: View | None = None,
        *,
        methods: Sequence[str] | None = None,
    ) -> dict[str, Job]:
        """Return a job for every method, or for some of them, by the method's name.

        Of all methods, those are left out that `trained_for` leaves out.
        """
        jobs = {}
        for method in self.trained_for(classifier, self.methods if methods is None else methods):
            interpreter = build_interpreter(
                method,
                classifier,
                background=background,
                base=self.base,
                seed=self.seed,
                progress=self.progress,
            )
            jobs[method] = Job(
                classifier,
                interpreter,
                masks=choose_masks(self.masks, interpreter),
                base=self.base,
                domain=self.domain,
                on=choose_places(self.on),
                precision=self.precision,
                target=self.target,
                batch_size=self.batch_size,
                extra=self.extra,
            )
        return jobs


def _suited(classifier: Classifier, methods: Sequence[str]) -> list[str]:
    """Return those of some methods that say that they can explain a classifier; warn of others."""
    reasons = {name: METHODS[name].unsuited(classifier) for name in methods}
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        if reason:
            warnings.warn(f"left out of all methods, {', '.join(names)}: {reason}", stacklevel=4)
    return by_reason.get("", [])


def make_recipe(recipe: Recipe | None, options: Mapping[str, Any]) -> Recipe:
    """Return a recipe: the one given, or one of options by name.

    Raises
    ------
    TypeError
        If both are given, or an option is no attribute of a recipe.
    """
    if recipe is None:
        return Recipe(**options)
    if options:
        raise TypeError(f"{', '.join(options)}: given beside a recipe; put them into it")
    return recipe


def build_interpreter(
    method: str,
    model: nn.Module,
    processor: FrontEnd | None = None,
    *,
    background: Tensor | View | None = None,
    base: str = "floor",
    seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> Interpreter:
    """Make a method, giving its constructor what it asks for by name.

    Parameters
    ----------
    method : str
        A name in ``METHODS``.
    model : Classifier or Module
    processor : FrontEnd, optional
        Of a bare network; a classifier has its own.
    background : View or Tensor, shape (clips, 1, bins, frames), optional
        Clips that methods with a background compare with.
    base : {"floor", "minimum", "quiet"}
        What methods that hide parts of a clip put there: give what the masks will.
    seed : int
        For methods that draw at random.
    progress : bool
        For methods that take long: show a bar over one call's work.
    **options
        Further arguments of the method's constructor.

    Returns
    -------
    Interpreter

    Raises
    ------
    UnknownNameError
        If there is no such method.
    ValueError
        If it needs a background and none is given, or there is no front end.
    WeightsError
        If it is trained for one classifier, and the file of this one's decoder is not there or
        cannot be used; ``weights`` names another.
    """
    interpreter = METHODS[method]
    front_end = as_classifier(model, processor).front_end
    if front_end is None:
        raise ValueError("a bare network needs its front end: build_interpreter(name, model, it)")
    if "background" in interpreter.requires and background is None:
        raise ValueError(f"{method} compares with background clips: give their features")
    offered = {
        "background": background,
        "base": partial(base_level, kind=base, floor=front_end.floor),
        "seed": seed,
        "progress": progress,
    }
    wanted = inspect.signature(interpreter).parameters
    return interpreter(
        model, **{name: value for name, value in offered.items() if name in wanted}, **options
    )


def open_set(
    data: str | os.PathLike[str],
    model: nn.Module,
    processor: FrontEnd | None = None,
    **options: Any,
) -> ClipDataset:
    """Open a set as a model takes it: at its front end's rate and cut to its duration.

    Parameters
    ----------
    data : "synthetic" or path
        The set.
    model, processor
        A classifier; or a network and its front end. One that names no duration takes 5 s.
    **options
        See `audiointerp.dataset.open_dataset`: subset, folds, clips, contamination, cache_dir; and
        duration, to cut clips to another length.

    Returns
    -------
    ClipDataset
    """
    classifier = as_classifier(model, processor)
    own = {
        "sample_rate": classifier.front_end.sample_rate,
        "duration": classifier.duration or 5.0,
        "normalize": classifier.normalize,
    }
    return open_dataset(data, **(own | options))


def background_view(
    dataset: ClipDataset, front_end: FrontEnd, *, per_class: int = 2, seed: int = 0
) -> View:
    """Return some clips of every class, analysed, as a background to compare with.

    Parameters
    ----------
    dataset : ClipDataset
        Of the folds that the model was trained on.
    front_end : FrontEnd
    per_class : int
        Clips of each class. A clip with several labels counts for the one of them that the fewest
        clips have, one without a label for none.
    seed : int
        Chooses them.

    Returns
    -------
    View
        Of per_class·classes clips, on the front end's device.
    """
    counts = Counter(label for labels in dataset.label_sets for label in labels)
    rarest = {
        place: min(labels, key=lambda label: (counts[label], label))
        for place, labels in enumerate(dataset.label_sets)
        if labels
    }
    places = list(rarest)
    chosen = select_background(list(rarest.values()), per_class=per_class, seed=seed)
    waveforms = torch.stack([dataset[places[index]].waveform for index in chosen])
    device = next((buffer.device for buffer in front_end.buffers()), torch.device("cpu"))
    with torch.no_grad():
        return front_end.analyse(waveforms.to(device))


def background_features(
    dataset: ClipDataset, processor: FrontEnd, *, per_class: int = 2, seed: int = 0
) -> Tensor:
    """Return the cells of `background_view`, shape (per_class·classes, 1, bins, frames)."""
    return background_view(dataset, processor, per_class=per_class, seed=seed).cells


def load_models(
    weights: Sequence[str | os.PathLike[str]],
    device: torch.device,
    *,
    taken: Mapping[str, str] | None = None,
) -> dict[str, Classifier]:
    """Return the classifiers of weight files by the files' names, which must differ.

    Parameters
    ----------
    weights : sequence of path
    device : torch.device
    taken : mapping of str to str, optional
        Names that a model cannot have; see `by_stem`.
    """
    if not weights:
        raise ValueError("no weight file given; those that are shipped lie in weights/")
    files = by_stem("weight file", weights, taken=taken)
    return {name: load(path, device=device) for name, path in files.items()}


def by_stem(
    kind: str,
    files: Sequence[str | os.PathLike[str]],
    *,
    taken: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Return files by their names without ending, which results are filed under.

    What a pattern such as ``sounds/*`` finds beside sounds or weights is left out with a warning;
    see `audiointerp.reading.is_stray`.

    Parameters
    ----------
    kind : str
        What they are, as it reads in an error.
    files : sequence of path
    taken : mapping of str to str, optional
        Names that they cannot have; see `audiointerp.registry.check_different`.

    Raises
    ------
    ValueError
        If a file is given twice, or two names could be one on some file system.
    """
    paths = [Path(file) for file in several(files)]
    stray = [path for path in paths if is_stray(path.name)]
    if stray:
        warnings.warn(
            f"left out, no data by their names: {listed([str(path) for path in stray])}",
            stacklevel=3,
        )
        paths = [path for path in paths if path not in stray]
        if not paths:
            raise ValueError("no file is left; rename one that is data")
    check_different(kind, paths, name=file_name, taken=taken)
    return {file_name(path): path for path in paths}


def check_names(methods: Sequence[str], masks: Sequence[str]) -> None:
    """Check names of methods and masks.

    Raises
    ------
    UnknownNameError
        If there is no such method or mask.
    ValueError
        If one is given twice.
    """
    for method in methods:
        METHODS[method]
    for mask in masks:
        MASKS[mask]
    check_different("method", methods)
    check_different("mask", masks)
