"""Clips → interpretations: attribution, masks, masked sounds and metrics, for one clip or a set."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from audiointerp.dataset.audio import load_audio, prepare_waveform
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.batches import read_ahead
from audiointerp.device import device_of
from audiointerp.interpretation import Interpreter
from audiointerp.masking import BASES, DOMAINS, MASKS, apply_mask, base_level, make_masks
from audiointerp.metrics import METRICS, evaluate
from audiointerp.model.weights import check_fit, model_hash
from audiointerp.processing import Analysis, STFTSpectrogram
from audiointerp.registry import Registry
from audiointerp.runs.result import Interpretation
from audiointerp.runs.store import RunFolder
from audiointerp.speed.precision import PRECISIONS, computing
from audiointerp.speed.scoring import DistinctMasks, Scorer, Scores, distinct_masks, score_masks
from audiointerp.version import code_version

Place = Literal["features", "audio"]

PLACES: Registry[str] = Registry("place to measure on")
PLACES["features"] = "the masked features go straight to the model"
PLACES["audio"] = "the masked features become sound, and that sound goes through the front end"


@dataclass(frozen=True)
class SetResult:
    """What `Predict.predict_set` did.

    Attributes
    ----------
    folder : Path
        Where the results are.
    tables : dict of (place, mask) to DataFrame
        One row per clip of the set. The folder may hold others, from a request for more clips.
    failures : dict of str to str
        Clips that could not be interpreted, and why.
    interpreted : int
        Clips interpreted this time; the others' results were there.
    """

    folder: Path
    tables: dict[tuple[str, str], pd.DataFrame]
    failures: dict[str, str]
    interpreted: int

    @property
    def accuracy(self) -> float:
        """Share of the clips that the model labels correctly."""
        return float(next(iter(self.tables.values()))["is_correct"].astype(bool).mean())

    def mean_metrics(self, on: Place = "features") -> pd.DataFrame:
        """Return the mean of every metric over the clips, one row per mask."""
        means = {
            mask: table[list(METRICS)].astype(float).mean()
            for (place, mask), table in self.tables.items()
            if place == on
        }
        return pd.DataFrame(means).T.rename_axis("mask")


class Predict:
    """Interprets clips: one at a time with `predict`, whole sets with `predict_set`.

    Parameters
    ----------
    model : Module
        Features (batch, 1, bins, frames) to logits (batch, classes).
    processor : STFTSpectrogram
        The front end that the model was trained with.
    interpreter : Interpreter
        An attribution method for this model.
    masks : iterable of str, optional
        Masks to make and score; all of ``MASKS`` by default.
    base : {"floor", "minimum", "quiet"}
        What a removed cell becomes; see `audiointerp.masking.base_level`.
    domain : {"feature", "power"}
        What a mask multiplies; see `audiointerp.masking.apply_mask`.
    on : {"features", "audio"} or both
        What the metrics are measured on: the masked features, or the masked sounds after
        another analysis, which is what a listener hears.
    precision : {"float32", "tf32", "bfloat16"}
        Numeric precision of attribution and scoring; see
        `audiointerp.speed.precision.computing`.
    batch_size : int, optional
        Most inputs that go through the model at once; by default what suits the device.
    classes : sequence of str, optional
        Class names; the model's own, or else their numbers, by default.
    duration : float, optional
        Seconds that `predict` cuts or pads a clip to; the model's own by default.

    Raises
    ------
    ValueError
        If model, processor and interpreter do not belong together, or a name is unknown.

    Examples
    --------
    >>> import audiointerp as ai
    >>> model, processor = ai.load("weights/synthetic_logmel.safetensors")  # doctest: +SKIP
    >>> predict = ai.Predict(model, processor, ai.GradCAMInterpreter(model))  # doctest: +SKIP
    >>> predict.predict("samples/dog.wav").label  # doctest: +SKIP
    'dog'
    """

    def __init__(
        self,
        model: nn.Module,
        processor: STFTSpectrogram,
        interpreter: Interpreter,
        *,
        masks: Iterable[str] | None = None,
        base: str = "floor",
        domain: Literal["feature", "power"] = "feature",
        on: Place | Sequence[Place] = "features",
        precision: str = "float32",
        batch_size: int | None = None,
        classes: Sequence[str] | None = None,
        duration: float | None = None,
    ) -> None:
        check_fit(model, processor)
        if domain == "power" and not processor.log:
            raise ValueError(
                f"{type(processor).__name__} makes power already: domain='power' is for features "
                "in dB, keep domain='feature'"
            )
        if interpreter.model is not model:
            raise ValueError(
                "the interpreter was made for another model: what it explains would be scored "
                "on a model that it never saw"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected 1 or more")
        self.model = model
        self.processor = processor
        self.interpreter = interpreter
        self.masks = [masks] if isinstance(masks, str) else list(MASKS if masks is None else masks)
        self.on = (on,) if isinstance(on, str) else tuple(on)
        self.base = base
        self.domain = domain
        self.precision = precision
        self.batch_size = batch_size
        self.classes = classes if classes is not None else getattr(model, "classes", None)
        self.duration = duration if duration is not None else getattr(model, "duration", None)
        for registry, names in (
            (MASKS, self.masks),
            (PLACES, self.on),
            (BASES, [base]),
            (DOMAINS, [domain]),
            (PRECISIONS, [precision]),
        ):
            if not names:
                raise ValueError(f"no {registry.kind} given: choose from {', '.join(registry)}")
            for name in names:
                registry[name]
        self._check_base()
        self._code = code_version()

    def predict(
        self,
        audio: str | os.PathLike[str] | np.ndarray | Tensor,
        sample_rate: int | None = None,
        *,
        target: str | int | None = None,
    ) -> Interpretation:
        """Interpret one clip.

        Parameters
        ----------
        audio : path, ndarray or Tensor
            A sound file, or a waveform of shape (samples,) or (channels, samples). It is made
            mono, resampled, cut or padded to the model's duration and peak-normalised.
        sample_rate : int, optional
            Of a waveform, Hz; a file knows its own.
        target : str or int, optional
            Class to explain, by name or index; the predicted one by default.

        Returns
        -------
        Interpretation

        Raises
        ------
        AudioError
            If the file cannot be read or the clip is silent or damaged.
        ValueError
            If a waveform comes without its rate, or the target is no class.
        """
        waveform, name = self._read(audio, sample_rate)
        return self.predict_batch(waveform[None], [name], target=target)[0]

    def predict_batch(
        self, waveforms: Tensor, names: Sequence[str], *, target: str | int | None = None
    ) -> list[Interpretation]:
        """Interpret several clips of one length together: the same results, sooner.

        Parameters
        ----------
        waveforms : Tensor, shape (batch, 1, samples)
            As `audiointerp.dataset.load_audio` returns them, at the front end's rate.
        names : sequence of str
            What to call the clips.
        target : str or int, optional
            Class to explain, by name or index; each clip's predicted one by default.

        Returns
        -------
        list of Interpretation

        Raises
        ------
        ValueError
            If there is not one name per clip, or the target is no class.
        """
        if len(names) != len(waveforms):
            raise ValueError(f"{len(names)} names for {len(waveforms)} clips")
        waveforms = waveforms.to(device_of(self.model))
        chosen = None
        if target is not None:
            index = self._class_index(target, waveforms)
            chosen = torch.full((len(waveforms),), index, device=waveforms.device)
        scores = self.interpret(waveforms, chosen)
        return [self._interpretation(scores, place, name) for place, name in enumerate(names)]

    def predict_set(
        self,
        dataset: ClipDataset,
        folder: str | os.PathLike[str],
        *,
        clips_per_batch: int | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> SetResult:
        """Interpret every clip of a set, explaining the predicted class, and file the results.

        What the folder already holds is not done again, whether the earlier set had fewer clips
        of these folds or more. A clip that cannot be read is reported and skipped.

        Parameters
        ----------
        dataset : ClipDataset
            At the front end's sample rate, with classes that the model knows.
        folder : path
            ``results/<model>/<method>_<experiment>``; see `audiointerp.runs.store`.
        clips_per_batch : int, optional
            Clips interpreted together; results do not depend on it.
        overwrite : bool
            Remove an earlier run in the folder first.
        progress : bool
            Show a progress bar.

        Returns
        -------
        SetResult

        Raises
        ------
        ValueError
            If the set does not fit the model, or the folder holds a run with other settings.
        """
        class_of = self._match_classes(dataset)
        settings = self.settings() | {"dataset": dataset.settings()}
        run = RunFolder(
            folder,
            settings,
            clips=dataset.clip_ids,
            masks=self.masks,
            metrics=list(METRICS),
            on=self.on,
            overwrite=overwrite,
        )
        todo = [dataset.index(clip) for clip in run.todo]
        failures: dict[str, str] = {}
        if not run.is_finished:
            run.begin()
            scorer = self._scorer()
            # Enough clips that a GPU waits for none of them.
            size = clips_per_batch or (8 if device_of(self.model).type == "cpu" else 64)
            started = time.perf_counter()
            with (
                tqdm(
                    total=len(todo), desc=Path(folder).name, unit="clip", disable=not progress
                ) as bar,
                ThreadPoolExecutor(max_workers=1) as writer,
            ):
                # One batch is read, one interpreted and one written at the same time.
                writing = writer.submit(lambda: None)
                for clips in read_ahead(dataset, todo, size, failures):
                    maps, scores = self._interpret_clips(scorer, clips, run)
                    rows = self._rows(clips, scores, dataset.classes, class_of)
                    writing.result()
                    writing = writer.submit(_write, run, maps, rows)
                    bar.update(len(clips))
                writing.result()
            report = {
                "clips": len(run.done),
                "failures": failures,
                "seconds": round(time.perf_counter() - started, 1),
                "clips_this_time": len(todo) - len(failures),
                "code": self._code,
            }
            run.finish(report)
        tables = {(place, mask): run.table(place, mask) for place in self.on for mask in self.masks}
        return SetResult(Path(folder), tables, failures, len(todo) - len(failures))

    def interpret(
        self,
        waveform: Tensor,
        target: Tensor | None = None,
        *,
        attribution: Tensor | None = None,
        scorer: Scorer | None = None,
    ) -> Scores:
        """Interpret a batch of waveforms: a pure function of clip, settings and seed.

        Parameters
        ----------
        waveform : Tensor, shape (batch, 1, samples)
            At the front end's rate, on the model's device.
        target : Tensor of int, shape (batch,), optional
            Classes to explain; the predicted ones by default.
        attribution : Tensor, shape (batch, 1, bins, frames), optional
            Attribution maps made earlier, to be scored instead of computed.
        scorer : Scorer, optional
            Made earlier of this model as it is now; by default made anew.

        Returns
        -------
        Scores
            No clip's depend on the others in the batch.
        """
        scorer = self._scorer() if scorer is None else scorer
        with torch.no_grad():
            analysis = self.processor.analyse(waveform)
        with computing(self.precision, waveform.device):
            probabilities = scorer(analysis.features)
            chosen = probabilities.argmax(1) if target is None else target
            diagnostics: dict[str, Tensor] = {}
            if attribution is None:
                explanation = self.interpreter.explain(analysis.features, chosen)
                attribution, diagnostics = explanation.attribution, explanation.diagnostics
            masks = make_masks(attribution, self.masks)
            metrics, masked = self._score(scorer, analysis, masks, probabilities, chosen)
        return Scores(
            analysis, probabilities, chosen, attribution, diagnostics, masks, metrics, masked
        )

    def settings(self) -> dict[str, Any]:
        """Return every setting that a row of the results depends on, ready for JSON.

        Which masks are scored, and on what, changes no row: more of them can be added to a run.
        """
        model_settings = getattr(self.model, "settings", None)
        return {
            "model": model_settings() if model_settings else {"name": type(self.model).__name__},
            "model_hash": model_hash(self.model),
            "processor": self.processor.settings(),
            "method": self.interpreter.name,
            "interpreter": self.interpreter.settings(),
            "base": self.base,
            "domain": self.domain,
            **({} if self.precision == "float32" else {"precision": self.precision}),
        }

    def _scorer(self) -> Scorer:
        return Scorer(self.model, batch_size=self.batch_size)

    def _score(
        self,
        scorer: Scorer,
        analysis: Analysis,
        masks: dict[str, Tensor],
        probabilities: Tensor,
        target: Tensor,
    ) -> tuple[dict[tuple[str, str], dict[str, Tensor]], dict[tuple[str, str], tuple]]:
        """Return metrics and masked probabilities, by what is measured on and mask."""
        distinct = distinct_masks(masks)
        before, chosen = probabilities[distinct.clip], target[distinct.clip]
        metrics, masked = {}, {}
        for on in self.on:
            inside, outside = self._masked_probabilities(scorer, analysis, distinct, on)
            found = evaluate(before, inside, outside, distinct.masks, chosen)
            for name, rows in distinct.place.items():
                metrics[on, name] = {metric: values[rows] for metric, values in found.items()}
                masked[on, name] = (inside[rows], outside[rows])
        return metrics, masked

    def _masked_probabilities(
        self, scorer: Scorer, analysis: Analysis, masks: DistinctMasks, on: str
    ) -> tuple[Tensor, Tensor]:
        level = self._level(analysis.features)

        def masked(clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            features = analysis.features[clip]
            parts = apply_mask(features, mask, level[clip], domain=self.domain)
            if on == "features":
                return parts
            chosen = analysis[clip]
            return self._heard(chosen, parts[0]), self._heard(chosen, parts[1])

        return score_masks(scorer, masks, masked)

    def _interpretation(self, scores: Scores, place: int, name: str) -> Interpretation:
        """Return one clip's part of a batch."""
        clip = slice(place, place + 1)
        classes = self._class_names(scores.probabilities.shape[1])
        analysis = scores.analysis[clip]
        masks = {mask: values[clip] for mask, values in scores.masks.items()}
        level = self._level(analysis.features)
        return Interpretation(
            clip=name,
            method=self.interpreter.name,
            processor=self.processor,
            analysis=analysis,
            classes=classes,
            probabilities=scores.probabilities[place].cpu().numpy(),
            target=int(scores.target[place]),
            attribution=scores.attribution[clip],
            diagnostics={key: float(value[place]) for key, value in scores.diagnostics.items()},
            masks=masks,
            masked={
                mask: apply_mask(analysis.features, values, level, domain=self.domain)
                for mask, values in masks.items()
            },
            metrics_on={on: scores.metrics_of(place, on) for on in self.on},
            class_probabilities_on={
                on: scores.probabilities_of(place, on, classes) for on in self.on
            },
        )

    def _heard(self, analysis: Analysis, masked: Tensor) -> Tensor:
        gain = self.processor.gain_db(analysis.features, masked)
        return self.processor(self.processor.synthesise(analysis, gain))

    def _level(self, features: Tensor) -> Tensor:
        return base_level(features, self.base, floor=self.processor.floor)

    def _interpret_clips(
        self, scorer: Scorer, clips: list[Clip], run: RunFolder
    ) -> tuple[dict[str, tuple[np.ndarray, dict[str, float]]], Scores]:
        """Interpret a batch of clips; return the maps that are not yet saved, and the scores.

        A map comes with what the method says of it.
        """
        waveforms = torch.stack([clip.waveform for clip in clips]).to(device_of(self.model))
        frames = self.processor.num_frames(waveforms.shape[-1])
        shape = (self.processor.num_bins, frames)
        saved = [run.load_attribution(clip.clip_id, shape) for clip in clips]
        if all(kept is not None for kept in saved):
            attribution = torch.from_numpy(np.stack(saved))[:, None].to(waveforms)
            return {}, self.interpret(waveforms, attribution=attribution, scorer=scorer)
        scores = self.interpret(waveforms, scorer=scorer)
        maps = scores.attribution[:, 0].cpu().numpy()
        found = {name: values.tolist() for name, values in scores.diagnostics.items()}
        return {
            clip.clip_id: (maps[place], {name: values[place] for name, values in found.items()})
            for place, clip in enumerate(clips)
        }, scores

    def _rows(
        self, clips: list[Clip], scores: Scores, classes: tuple[str, ...], class_of: dict[int, int]
    ) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return a batch's rows of every table."""
        names = self._class_names(scores.probabilities.shape[1])
        about = [
            {
                "clip": clip.clip_id,
                "target": classes[clip.label],
                "predicted": names[predicted],
                "is_correct": predicted == class_of[clip.label],
            }
            for clip, predicted in zip(clips, scores.target.tolist(), strict=True)
        ]
        return {
            key: [
                row | dict(zip(values, metrics, strict=True))
                for row, metrics in zip(
                    about, zip(*(v.tolist() for v in values.values()), strict=True), strict=True
                )
            ]
            for key, values in scores.metrics.items()
        }

    def _read(
        self, audio: str | os.PathLike[str] | np.ndarray | Tensor, sample_rate: int | None
    ) -> tuple[Tensor, str]:
        """Return a clip as (1, samples) at the front end's rate, and its name."""
        rate = self.processor.sample_rate
        if isinstance(audio, (str, os.PathLike)):
            return load_audio(audio, rate, self.duration)[0], Path(audio).stem
        if sample_rate is None:
            raise ValueError("a waveform needs its sample rate: predict(waveform, 44100)")
        return prepare_waveform(audio, sample_rate, rate, self.duration)[0], "waveform"

    def _class_names(self, count: int) -> tuple[str, ...]:
        names = tuple(map(str, range(count))) if self.classes is None else tuple(self.classes)
        if len(names) != count:
            raise ValueError(f"{len(names)} class names for a model of {count} classes")
        return names

    def _class_index(self, target: str | int, waveform: Tensor) -> int:
        names = self.classes
        if names is None:
            features = self.processor(waveform)
            count = self._scorer()(features).shape[1]
            names = self._class_names(count)
        if isinstance(target, str):
            choices: Registry[int] = Registry("class")
            choices.update({name: index for index, name in enumerate(names)})
            return choices[target]
        if not 0 <= target < len(names):
            raise ValueError(
                f"target {target}: expected 0 … {len(names) - 1}, or one of {', '.join(names)}"
            )
        return int(target)

    def _check_base(self) -> None:
        """Warn where a method hides parts of a clip otherwise than the metrics will."""
        hidden = getattr(self.interpreter, "base", None)
        if isinstance(hidden, int | float) and (
            self.base != "floor" or hidden != self.processor.floor
        ):
            warnings.warn(
                f"{self.interpreter.name} hides cells at {hidden:g}, the masks at the base "
                f"{self.base!r}: it explains what the metrics do not measure; "
                "audiointerp.runs.recipe.build_interpreter gives both the same",
                stacklevel=3,
            )

    def _match_classes(self, dataset: ClipDataset) -> dict[int, int]:
        """Return the model's index of every label of a set."""
        if dataset.sample_rate != self.processor.sample_rate:
            raise ValueError(
                f"the set is at {dataset.sample_rate} Hz, the front end at "
                f"{self.processor.sample_rate}: make the set with sample_rate="
                f"{self.processor.sample_rate}"
            )
        if self.classes is None:
            return {label: label for label in range(len(dataset.classes))}
        index = {name: position for position, name in enumerate(self.classes)}
        used = {label: dataset.classes[label] for label in sorted(set(dataset.labels))}
        unknown = [name for name in used.values() if name not in index]
        if unknown:
            raise ValueError(
                f"the set has classes that the model does not know: {', '.join(unknown)}; it "
                f"knows {', '.join(self.classes)}"
            )
        return {label: index[name] for label, name in used.items()}


def _write(
    run: RunFolder,
    maps: dict[str, tuple[np.ndarray, dict[str, float]]],
    rows: dict[tuple[str, str], list[dict[str, Any]]],
) -> None:
    """File a batch: the maps first, so that no row is without its map."""
    run.save_attributions(maps)
    run.append(rows)
