"""Interpret clips, recordings and sets with one method; the public face of `audiointerp.runs`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from audiointerp.dataset.base import ClipDataset
from audiointerp.dataset.channels import MID
from audiointerp.evaluation import check_extra
from audiointerp.interpretation import Interpreter
from audiointerp.model.classifier import Classifier, as_classifier
from audiointerp.model.weights import check_fit
from audiointerp.processing import FrontEnd
from audiointerp.runs.clip import Scores, classify, interpret_batch, interpret_clips
from audiointerp.runs.job import PLACES, Job, Place, choose_masks, choose_places
from audiointerp.runs.passes import hear, interpret_windows, open_recording
from audiointerp.runs.recording import RecordingInterpretation
from audiointerp.runs.result import Interpretation
from audiointerp.runs.sets import SetResult, interpret_set
from audiointerp.runs.targets import Target
from audiointerp.runs.windows import INTERPRETED, Section, Windowing
from audiointerp.speed.scoring import Scorer

__all__ = ["PLACES", "Place", "Predict", "SetResult"]


class Predict:
    """Interpret sounds with one method: recordings with `predict`, sets with `predict_set`.

    Parameters
    ----------
    model : Classifier or Module
        What `audiointerp.load` or `audiointerp.classifier` returns, or the model it unpacks to.
    processor : FrontEnd
        The front end that the model was trained with. ``Predict(classifier, interpreter)`` takes
        the classifier's own.
    interpreter : Interpreter
        A method for this model.
    masks : iterable of str, optional
        Masks to make and score; by default all of ``MASKS``, or "identity" for a method that
        returns a mask.
    base : {"floor", "minimum", "quiet"}
        What a removed cell becomes; see `audiointerp.masking.base_level`.
    domain : {"feature", "power", "log1p"}
        What a mask multiplies; see `audiointerp.masking.apply_mask`.
    on : {"features", "audio"} or both
        What the metrics are measured on: the masked features, or the masked sounds after
        another analysis, which is what a listener hears.
    precision : {"float32", "tf32", "bfloat16"}
        Numeric precision of attribution and scoring; see `audiointerp.speed.precision.computing`.
    target : str, int, sequence of them, `Top`, `Above`, `TrueLabels` or None
        Labels that `predict_set` explains of every clip: by default the most probable one. See
        `audiointerp.runs.targets`.
    batch_size : int, optional
        Most inputs that go through the model at once; by default what suits the device.
    classes : sequence of str, optional
        Class names; the model's own, or else their numbers, by default.
    duration : float, optional
        Seconds of a window of `predict`; the model's own by default.
    extra : str or sequence of str
        Families of metrics to compute that are computed on request only: "curves".

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
        processor: FrontEnd | Interpreter,
        interpreter: Interpreter | None = None,
        *,
        masks: Iterable[str] | None = None,
        base: str = "floor",
        domain: Literal["feature", "power", "log1p"] = "feature",
        on: Place | Sequence[Place] = "features",
        precision: str = "float32",
        target: Target = None,
        batch_size: int | None = None,
        classes: Sequence[str] | None = None,
        duration: float | None = None,
        extra: str | Sequence[str] = (),
    ) -> None:
        if isinstance(processor, Interpreter):
            if interpreter is not None or not isinstance(model, Classifier):
                raise TypeError(
                    "expected Predict(classifier, interpreter) or "
                    "Predict(model, processor, interpreter)"
                )
            processor, interpreter = model.front_end, processor
        if interpreter is None:
            raise TypeError("Predict(model, processor, interpreter) misses its interpreter")
        check_fit(getattr(model, "network", model), processor)
        classifier = as_classifier(model, processor, classes=classes)
        self.model = model
        self.job = Job(
            classifier,
            interpreter,
            masks=choose_masks(masks, interpreter),
            base=base,
            domain=domain,
            on=choose_places(on),
            precision=precision,
            target=target,
            batch_size=batch_size,
            extra=check_extra(extra),
        )
        self.duration = duration if duration is not None else classifier.duration

    @property
    def classifier(self) -> Classifier:
        """The model with its front end, head and class names."""
        return self.job.classifier

    @property
    def processor(self) -> FrontEnd:
        """The front end."""
        return self.job.front_end

    @property
    def interpreter(self) -> Interpreter:
        """The method."""
        return self.job.interpreter

    def predict(
        self,
        audio: str | os.PathLike[str] | np.ndarray | Tensor,
        sample_rate: int | None = None,
        *,
        target: str | int | None = None,
        start: float | None = None,
        end: float | None = None,
        window: float | None = None,
        hop: float | None = None,
        windows: int | Literal["all"] = INTERPRETED,
        channel: str = MID,
    ) -> Interpretation | RecordingInterpretation:
        """Interpret a clip, or a recording of any length.

        What fits into the model's duration is one clip. A longer recording is cut into windows of
        that duration: all are classified, and the most confident ones, or all, interpreted.
        Files are read in blocks.

        Parameters
        ----------
        audio : path, ndarray or Tensor
            A sound file, or a waveform of shape (samples,) or (channels, samples). It is made
            mono, resampled, padded to the model's duration if it is shorter, and peak-normalised
            if the model's sounds are.
        sample_rate : int, optional
            Of a waveform, Hz; a file knows its own.
        target : str or int, optional
            Class to explain, by name or index; by default the predicted one, of each window.
        start, end : float, optional
            The part to analyse, in seconds; all by default.
        window : float, optional
            Length of a window in seconds; the model's duration by default. A model without one
            takes up to 5 minutes at once.
        hop : float, optional
            Seconds from one window to the next; half a window by default. Rounded up to whole
            frames of the front end, so that the attribution maps of windows can be joined.
        windows : int or "all"
            How many windows to interpret; see `audiointerp.runs.windows.choose_windows`.
        channel : {"mid", "left", "right", "side"}
            The mean of all channels, the first, the second, or half the difference of two. The
            result's name says which was taken, if it is not "mid".

        Returns
        -------
        Interpretation or RecordingInterpretation
            Of a clip, or of a recording of several windows. A clip may be longer than a window by
            2 % of it, at most 0.1 s, which is cut off.

        Raises
        ------
        AudioError
            If the file cannot be read, has no such part or channel, or is silent or damaged.
        ValueError
            If a waveform comes without its rate, the target is no class, or a recording is too
            long for a model that names no duration.
        """
        windowing = Windowing(start, end, window, hop, windows)
        recording = open_recording(
            audio,
            self.classifier,
            windowing,
            sample_rate=sample_rate,
            duration=self.duration,
            channel=channel,
        )
        if recording.is_clip:
            waveform, name = recording.clip(), recording.section
            return self.predict_batch(waveform[None], [name], target=target)[0]
        scorer = self._scorer()
        heard = hear(recording, self.job, scorer, target=target, most=windows)
        results = interpret_windows(recording, heard, {self.job.method: self.job}, scorer)
        found = tuple(result for _, result in results)
        return RecordingInterpretation(heard, self.job.method, found)

    def predict_batch(
        self, waveforms: Tensor, names: Sequence[str | Section], *, target: Target = None
    ) -> list[Interpretation]:
        """Interpret several clips of one length together: the same results, sooner.

        Parameters
        ----------
        waveforms : Tensor, shape (batch, 1, samples)
            As `audiointerp.dataset.load_audio` returns them, at the front end's rate.
        names : sequence of str or Section
            What to call the clips, or which parts of recordings they are.
        target : str, int, sequence of them, `Top`, `Above`, optional
            Labels to explain; each clip's predicted one by default.

        Returns
        -------
        list of Interpretation
            One for every label of every clip, clip by clip. Under `Above` a clip may have none.

        Raises
        ------
        ValueError
            If there is not one name per clip, or the target is no class.
        """
        return interpret_clips(self.job, waveforms, names, target=target)

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
        of these folds or more. A clip that something goes wrong with is reported and skipped; see
        `audiointerp.dataset.failures`.

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
            If the set does not fit the model, or the folder holds a run with other settings;
            before anything is written.
        OSError
            If the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        done = interpret_set(
            {folder: self.job},
            dataset,
            clips_per_batch=clips_per_batch,
            overwrite=overwrite,
            progress=progress,
        )
        return done[folder]

    def interpret(
        self,
        waveform: Tensor,
        target: Tensor | None = None,
        *,
        attribution: Tensor | None = None,
        scorer: Scorer | None = None,
    ) -> Scores:
        """Interpret one label of every clip of a batch of waveforms.

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
            view = self.processor.analyse(waveform)
        probabilities = classify(self.job, scorer, view)
        chosen = probabilities.argmax(1) if target is None else target
        return interpret_batch(
            self.job, scorer, view, probabilities, chosen, attribution=attribution
        )

    def settings(self) -> dict[str, Any]:
        """Return every setting that a row of the results depends on, ready for JSON."""
        return self.job.settings()

    def _scorer(self) -> Scorer:
        return Scorer(self.classifier, batch_size=self.job.batch_size)
