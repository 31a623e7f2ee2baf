"""ONNX models, run by onnxruntime: classifiers without gradients or layers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiointerp.model.classes import ClassNames
from audiointerp.model.classifier import Classifier, Outputs, classifier
from audiointerp.model.heads import Head
from audiointerp.processing import FrontEnd

Prepare = Callable[[Tensor], Tensor]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class OnnxNetwork(nn.Module):
    """An ONNX model as a module: what the front end makes → what the model returns.

    It has neither gradients nor layers nor parameters: perturbation methods and references can
    explain it. Its state dict holds a hash of the model, so that results of another one are told
    apart.

    A model that was exported for a fixed number of clips is run as often as need be; clips that
    the last run lacks are zeros, whose outputs are dropped.

    Parameters
    ----------
    path : path
        The file, beside the files of its weights where it has any.
    prepare : callable, optional
        What the front end makes → what the model takes, where that has other axes:
        ``lambda cells: cells.squeeze(1).mT`` for (batch, frames, bins).
    providers : sequence of str, optional
        Of onnxruntime, in the order of preference; by default the CPU.

    Attributes
    ----------
    differentiable : bool
        False.
    expects : str
        Name and shape of the model's input, for messages.

    Raises
    ------
    ImportError
        If onnxruntime is not installed.
    ValueError
        If the file is not there or no model that onnxruntime can run, or takes several inputs or
        other numbers than floating-point ones.
    """

    differentiable = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prepare: Prepare | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.prepare = prepare
        self._session = _open(self.path, providers)
        inputs = self._session.get_inputs()
        described = ", ".join(f"{each.name} {_shape(each)}" for each in inputs)
        if len(inputs) != 1:
            raise ValueError(
                f"{self.path.name} takes {len(inputs)} inputs, {described}: expected one, what the "
                "front end makes; export it with the others fixed"
            )
        self._input = inputs[0]
        self.expects = described
        if self._input.type not in _TYPES:
            raise ValueError(
                f"{self.path.name} takes {self._input.type}, expected floating-point numbers"
            )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.register_buffer("file_hash", _hash(self.path))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Return a copy that shares the session, which holds no state."""
        twin = type(self).__new__(type(self))
        nn.Module.__init__(twin)
        vars(twin).update(
            {key: value for key, value in vars(self).items() if key not in vars(nn.Module())}
        )
        twin.training = self.training
        twin.register_buffer("file_hash", self.file_hash.clone())
        memo[id(self)] = twin
        return twin

    def settings(self) -> dict[str, Any]:
        """Return what results depend on beside the file, ready for JSON."""
        described: dict[str, Any] = {"name": type(self).__name__, "file": self.path.name}
        if self.prepare is not None:
            function = self.prepare
            described["prepare"] = getattr(function, "__qualname__", type(function).__qualname__)
        return described

    def forward(self, given: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the model's output for a batch, or its outputs by their names.

        Parameters
        ----------
        given : Tensor
            What the front end makes, clips on the first axis.

        Returns
        -------
        Tensor or dict of str to Tensor
            On the device of what was given, without a gradient.

        Raises
        ------
        ValueError
            If the model takes another shape.
        """
        taken = given if self.prepare is None else self.prepare(given)
        values = taken.detach().cpu().numpy().astype(_TYPES[self._input.type], copy=False)
        self._check(values)
        size = self._input.shape[0]
        size = size if isinstance(size, int) and size > 0 else len(values)
        parts = [
            self._run(values[start : start + size], size) for start in range(0, len(values), size)
        ]
        joined = [
            torch.from_numpy(np.concatenate(each)).to(given.device)
            for each in zip(*parts, strict=True)
        ]
        if len(joined) == 1:
            return joined[0]
        return dict(zip(self._outputs, joined, strict=True))

    def _run(self, values: np.ndarray, size: int) -> list[np.ndarray]:
        """Return the outputs of at most `size` clips."""
        count = len(values)
        if count < size:
            values = np.concatenate(
                [values, np.zeros((size - count, *values.shape[1:]), values.dtype)]
            )
        found = self._session.run(self._outputs, {self._input.name: np.ascontiguousarray(values)})
        for name, each in zip(self._outputs, found, strict=True):
            if np.ndim(each) == 0 or len(each) != size:
                raise ValueError(
                    f"the output {name} of {self.path.name} has the shape {np.shape(each)} for "
                    f"{size} clips: expected clips on the first axis"
                )
        return [np.asarray(each)[:count] for each in found]

    def _check(self, values: np.ndarray) -> None:
        wanted = self._input.shape
        fits = len(wanted) == values.ndim and all(
            not isinstance(size, int) or size == found
            for size, found in zip(wanted[1:], values.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"{self.path.name} takes {self.expects} and is given {values.shape}: is this its "
                "front end and its duration? prepare=… changes axes"
            )


def from_onnx(
    path: str | os.PathLike[str],
    *,
    front_end: FrontEnd,
    classes: ClassNames,
    prepare: Prepare | None = None,
    providers: Sequence[str] | None = None,
    head: str | Head | None = None,
    duration: float | None = None,
    licence: str | None = None,
    normalize: bool = False,
    outputs: Outputs | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
) -> Classifier:
    """Make a classifier of an ONNX model.

    Perturbation methods (LIME, RISE, occlusion, KernelSHAP, …) and references can explain it.
    Methods that take gradients or layers refuse it in one line that names those that work.

    Parameters
    ----------
    path : path
        The file, beside the files of its weights where it has any.
    front_end : FrontEnd
        What turns a waveform into what the model takes; `WaveformFrontEnd` for the waveform itself.
    prepare, providers
        See `OnnxNetwork`.
    classes, head, duration, licence, normalize, outputs, output
        See `audiointerp.model.classifier.classifier`; ``output`` is the name of the output where
        the model has several.

    Returns
    -------
    Classifier

    Raises
    ------
    ImportError
        If onnxruntime is not installed.
    ValueError
        If the file cannot be run, or does not fit the front end, the classes or the head.

    Examples
    --------
    >>> clf = from_onnx(
    ...     "birds.onnx",
    ...     front_end=WaveformFrontEnd(sample_rate=48000),
    ...     classes="birds.txt",
    ...     head="sigmoid",
    ...     duration=3.0,
    ... )  # doctest: +SKIP
    """
    return classifier(
        OnnxNetwork(path, prepare=prepare, providers=providers),
        front_end=front_end,
        classes=classes,
        head=head,
        duration=duration,
        licence=licence,
        normalize=normalize,
        outputs=outputs,
        output=output,
    )


def _open(path: Path, providers: Sequence[str] | None) -> Any:
    """Return an onnxruntime session of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "an ONNX model is run by onnxruntime: pip install audiointerp[onnx]"
        ) from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only
    chosen = ["CPUExecutionProvider"] if providers is None else list(providers)
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=chosen)
    except Exception as error:  # of onnxruntime's own classes, which are private
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} cannot be run by onnxruntime: {reason}") from error


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(value.shape)


def _hash(path: Path) -> Tensor:
    """Return a SHA-256 of a model's file and of those beside it that it names."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    for beside in sorted(path.parent.iterdir()):
        if beside != path and beside.is_file() and beside.name.encode() in content:
            digest.update(beside.read_bytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
