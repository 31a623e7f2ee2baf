"""A classifier: front end, network, head and class names in one object.

`classifier` wraps any module; `as_classifier` takes what the methods were given, a classifier or
a bare network, and returns a classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiointerp.dataset.audio import check_duration, samples_in
from audiointerp.device import device_of, to_double
from audiointerp.model.classes import ClassNames, read_classes
from audiointerp.model.heads import Head, Softmax, build_head
from audiointerp.model.outputs import describe_probabilities, looks_like_probabilities, pick_output
from audiointerp.model.planes import check_axes, to_plane, token_plane
from audiointerp.processing import FrontEnd, View

Outputs = Literal["logits", "probabilities"]
ToPlane = Callable[[str, Tensor], Tensor]

_PROBE_SECONDS = 5.0


class Classifier(nn.Module):
    """A network with everything needed to interpret it.

    Unpacks as ``model, processor = classifier``.

    Parameters
    ----------
    network : Module
        Cells (batch, 1, bins, frames), or a waveform if the front end says so, to outputs.
    front_end : FrontEnd, optional
        Waveform to cells. None for a network that is explained on cells only.
    head : Head, optional
        What the outputs mean; softmax by default.
    classes : sequence of str, mapping of index to str, or path, optional
        Name of every class; see `classifier`.
    duration : float, optional
        Seconds of sound that the network takes; None for any.
    licence : str, optional
        Of the weights.
    normalize : bool, default True
        Whether sounds are scaled to a peak of 1 before they are analysed.
    outputs : {"logits", "probabilities"}, optional
        What the network returns. None: logits, and outputs that look like probabilities are an
        error.
    output : str, int or callable, optional
        Where the scores are in what the network returns; see `classifier`.
    activation_axes : tuple of str or callable, optional
        What the axes of activations are; see `to_plane`.

    Attributes
    ----------
    target_layer : Module or None
        The layer that Grad-CAM looks at by default, where the network names one.
    """

    def __init__(
        self,
        network: nn.Module,
        front_end: FrontEnd | None = None,
        *,
        head: Head | None = None,
        classes: ClassNames | None = None,
        duration: float | None = None,
        licence: str | None = None,
        normalize: bool = True,
        outputs: Outputs | None = None,
        output: str | int | Callable[[Any], Tensor] | None = None,
        activation_axes: tuple[str, ...] | ToPlane | None = None,
    ) -> None:
        super().__init__()
        check_axes(activation_axes)
        self.network = network
        self.front_end = front_end
        self.head = Softmax() if head is None else head
        self.classes = None if classes is None else read_classes(classes)
        self.duration = duration
        self.licence = licence
        self.normalize = bool(normalize)
        self.outputs = outputs
        self.output = output
        self.activation_axes = activation_axes
        # A module, so that methods with a rule for every nonlinearity see it.
        self.inverse = self.head.inverse()

    def __iter__(self) -> Iterator[Any]:
        """Yield the model and the front end.

        The model is the network itself where that says all that this classifier does, as the
        networks that `audiointerp.load` returns do, and the classifier elsewhere: both go into
        methods and `Predict`.
        """
        yield self.network if self._is_described_by_network else self
        yield self.front_end

    @property
    def _is_described_by_network(self) -> bool:
        if not getattr(self.network, "is_described", False):
            return False
        read = as_classifier(self.network, self.front_end)
        return (self.outputs or "logits") == "logits" and all(
            (
                read.head.settings() == self.head.settings(),
                read.classes == self.classes,
                read.duration == self.duration,
                read.normalize == self.normalize,
                self.output is None,
                self.activation_axes is None,
            )
        )

    @property
    def target_layer(self) -> nn.Module | None:
        """The layer that Grad-CAM looks at by default, where the network names one."""
        return getattr(self.network, "target_layer", None)

    @property
    def file(self) -> Path | None:
        """The weight file that the network was read from by `audiointerp.load`, None for others."""
        file = getattr(self.network, "file", None)  # of a network of the user's it may be anything
        return file if isinstance(file, Path) else None

    @property
    def needs_view(self) -> bool:
        """Whether the network takes the sound of the cells."""
        return self.front_end is not None and self.front_end.feeds_waveform

    @property
    def longest(self) -> float | None:
        """Seconds of sound that the front end takes at most, where shorter clips are not padded."""
        return None if self.front_end is None else self.front_end.longest

    @property
    def differentiable(self) -> bool:
        """Whether the network has gradients and layers; only one that says so has not.

        A network that is run by another library, such as `audiointerp.model.onnx.OnnxNetwork`, has
        an attribute ``differentiable = False``.
        """
        return bool(getattr(self.network, "differentiable", True))

    @property
    def weight_type(self) -> tuple[torch.device, torch.dtype] | None:
        """Device and dtype of the network's floating-point parameters, None if it has none."""
        weight = next((p for p in self.network.parameters() if p.is_floating_point()), None)
        return None if weight is None else (weight.device, weight.dtype)

    def forward(self, cells: Tensor) -> Tensor:
        """Return the logits (batch, classes) of cells (batch, 1, bins, frames)."""
        return self.logits(cells)

    def network_input(self, cells: Tensor, view: View | None = None) -> Tensor:
        """Return what the network takes for cells: these, or the sound they stand for.

        Raises
        ------
        ValueError
            If it takes sound and there is no view.
        """
        if self.front_end is not None:
            cells = self.front_end.network_input(view, cells)
        kind = self.weight_type
        return cells if kind is None else cells.to(kind[1])

    def logits(self, cells: Tensor, view: View | None = None) -> Tensor:
        """Return logits.

        Parameters
        ----------
        cells : Tensor, shape (batch, 1, bins, frames)
        view : View, optional
            Of the same clips, row by row; networks that take a waveform need it.

        Returns
        -------
        Tensor, shape (batch, classes)

        Raises
        ------
        ValueError
            If the network returns something else than one row of scores per clip, a number of
            them that does not suit the head, or what looks like probabilities although nothing
            says that it does.
        """
        return self.read_logits(self.network(self.network_input(cells, view)), len(cells))

    def read_logits(self, returned: Any, batch: int) -> Tensor:
        """Return the logits (batch, classes) in what the network returned for a batch."""
        scores = self.pick_scores(returned, batch)
        self.head.num_classes(scores.shape[1])  # not every number suits every head
        if self.outputs == "probabilities":
            return self.head.logits(self.inverse(scores))
        if self.outputs is None and looks_like_probabilities(scores):
            raise ValueError(describe_probabilities(scores))
        # Sums and softmax in half precision would lose what the network has.
        return self.head.logits(scores.to(torch.promote_types(scores.dtype, torch.float32)))

    def pick_scores(self, returned: Any, batch: int) -> Tensor:
        """Return the scores (batch, outputs), as they are, in what the network returned."""
        return pick_output(returned, batch, self.output, self._suits)

    def _suits(self, outputs: int) -> bool:
        """Say whether so many outputs can be those of the classes."""
        if self.classes is None:
            return True
        try:
            return self.head.num_classes(outputs) == len(self.classes)
        except ValueError:
            return False

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits in double precision, where 1 - p keeps its digits.

        On the logits' device, or on the CPU where that has no double precision.
        """
        return self.head.probabilities(to_double(logits))

    def contributions(self, multipliers: Tensor, view: View, reference: View) -> Tensor:
        """Spread multipliers of the network's input over the cells; see `FrontEnd`."""
        multipliers = multipliers.to(view.cells)
        if self.front_end is None:
            return multipliers * (view.cells - reference.cells)
        return self.front_end.contributions(multipliers, view, reference)

    def to_plane(self, layer: str, activation: Tensor) -> Tensor:
        """Return a layer's activation as planes over frequency and time.

        Parameters
        ----------
        layer : str
            Dotted name of the layer.
        activation : Tensor
            What the layer returned: (batch, channels, ., .), (batch, channels, time), tokens, …

        Returns
        -------
        Tensor, shape (batch, channels, freq, time)
            With freq = 1 where the activation has no frequency axis.

        Raises
        ------
        ValueError
            If the axes are not known: declare ``activation_axes``; or they do not fit.
        """
        axes = self._axes
        if axes is None and self.needs_view and activation.ndim == 4:
            raise ValueError(
                f"the layer {layer!r} of a waveform network gives activations "
                f"{tuple(activation.shape)}: say which axis is which by activation_axes, such as "
                "('channel', 'time', 'freq')"
            )
        return to_plane(activation, axes, layer=layer, module=self.network.get_submodule(layer))

    def to_cells(self, layer: str, planes: Tensor, view: View) -> Tensor:
        """Return planes over a layer at the cells of clips.

        By default bilinear between the cells' centres, over the same extent. A network whose input
        is longer than its clips, or whose units overlap, says where they lie by a method of this
        name.

        Parameters
        ----------
        layer : str
            Dotted name of the layer.
        planes : Tensor, shape (batch, channels, freq, time)
            See `to_plane`.
        view : View
            Of clips of the same length.

        Returns
        -------
        Tensor, shape (batch, channels, bins, frames)
        """
        own = getattr(self.network, "to_cells", None)
        if callable(own):
            return own(layer, planes, view)
        size = view.cells.shape[2:]
        return functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)

    def token_plane(self, layer: str, values: Tensor) -> Tensor:
        """Return one value for each token of a layer as planes over frequency and time.

        Parameters
        ----------
        layer : str
            Dotted name of the layer, such as one of attention.
        values : Tensor, shape (batch, tokens)

        Returns
        -------
        Tensor, shape (batch, 1, freq, time)
            Without the tokens that lie nowhere, such as a class token.

        Raises
        ------
        ValueError
            If nothing says where tokens lie: declare ``activation_axes``; or they do not fit.
        """
        return token_plane(values, self._axes, layer=layer)

    @property
    def _axes(self) -> tuple[str, ...] | ToPlane | None:
        """What the axes of activations are, as this classifier or its network says."""
        if self.activation_axes is not None:
            return self.activation_axes
        return getattr(self.network, "activation_axes", None)

    def class_names(self, count: int) -> tuple[str, ...]:
        """Return the class names, or the numbers of the classes where they have none.

        Raises
        ------
        ValueError
            If there are names for another number of classes.
        """
        names = tuple(map(str, range(count))) if self.classes is None else self.classes
        if len(names) != count:
            raise ValueError(f"{len(names)} class names for a model of {count} classes")
        return names

    def with_network(self, network: nn.Module) -> Classifier:
        """Return this classifier around another network of the same outputs, such as a copy."""
        return self._changed(network=network)

    def _changed(self, **parts: Any) -> Classifier:
        """Return this classifier with some of its parts replaced."""
        own = {
            "network": self.network,
            "front_end": self.front_end,
            "head": self.head,
            "classes": self.classes,
            "duration": self.duration,
            "licence": self.licence,
            "normalize": self.normalize,
            "outputs": self.outputs,
            "output": self.output,
            "activation_axes": self.activation_axes,
        }
        return Classifier(**(own | parts))

    def settings(self) -> dict[str, Any]:
        """Return what a result depends on beside the weights and the front end, for JSON."""
        own = getattr(self.network, "settings", None)
        described = own() if callable(own) else {"name": type(self.network).__name__}
        if self.head.name != "softmax":
            described |= {"head": self.head.settings()}
        if self.outputs == "probabilities":
            described |= {"outputs": self.outputs}
        for name in ("output", "activation_axes"):
            if getattr(self, name) is not None:
                described |= {name: _describe(getattr(self, name))}
        return described


def classifier(
    module: nn.Module,
    *,
    front_end: FrontEnd,
    classes: ClassNames,
    head: str | Head | None = None,
    duration: float | None = None,
    licence: str | None = None,
    normalize: bool = False,
    outputs: Outputs | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
    activation_axes: tuple[str, ...] | ToPlane | None = None,
) -> Classifier:
    """Make a classifier of any PyTorch module.

    The module is run once on four made-up sounds, so that what does not fit is an error here and
    not in the middle of a run.

    Parameters
    ----------
    module : Module
        In any mode and on any device; it is run in evaluation mode and left in its own.
    front_end : FrontEnd
        What turns a waveform into what the module takes: one of `audiointerp.processing` or your
        own. `WaveformFrontEnd` for a module that takes the waveform itself.
    classes : sequence of str, mapping of index to str, or path
        Name of every class, in the order of the outputs; a mapping such as the ``id2label`` of a
        transformers configuration; or a file: one name a line, a CSV or JSON, see
        `audiointerp.model.classes.read_classes`.
    head : {"softmax", "sigmoid", "binary"} or Head, optional
        Softmax for one class of several, sigmoid for labels that are independent of each other,
        binary for two classes from one output. By default softmax, for outputs that do not look
        like probabilities.
    duration : float, optional
        Seconds of sound that the module takes. Recordings are cut into windows of this length.
        None: any length, one window.
    licence : str, optional
        Of the weights, to be named in results.
    normalize : bool, default False
        Scale sounds to a peak of 1 first. Set it for a module that was trained on such sounds.
    outputs : {"logits", "probabilities"}, optional
        Whether the module ends before or after its softmax or sigmoid. It must be said where the
        outputs look like probabilities. Of probabilities p, what is explained is log p for
        softmax and the log-odds for sigmoid; where p rounds to 1, both have lost their gradient.
        If the module can return its logits, prefer these.
    output : str, int or callable, optional
        Where the scores are in what the module returns: a key of a dict, a position in a tuple,
        an attribute's name, or a function of the returned object. By default the tensor itself,
        its ``.logits``, the dict's ``"logits"``, or the only tensor in it of shape (batch,
        classes).
    activation_axes : tuple of str or callable, optional
        What the axes of activations after the batch axis are, for Grad-CAM: ("channel", "freq",
        "time"), ("channel", "time", "freq"), ("channel", "time"), ("time", "channel"), or a
        function of a layer's name and its activation that returns (batch, channels, freq, time):
        `audiointerp.model.planes.tokens_to_plane` makes one for patches, ``frames_to_plane`` for
        frames that the module puts into the batch axis.

    Returns
    -------
    Classifier

    Raises
    ------
    TypeError
        If the module or the front end is none.
    ValueError
        If the module does not run, returns something else than finite scores, returns
        probabilities without saying so, or the number of classes is another.

    Examples
    --------
    >>> import torch, audiointerp as ai
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 101, 2))
    >>> pets = ai.classifier(
    ...     network, front_end=ai.LogMelSTFTSpectrogram(), classes=["cat", "dog"], duration=1.0
    ... )
    >>> pets.classes
    ('cat', 'dog')
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"expected a torch.nn.Module, got {type(module).__name__}: wrap a function in a Module"
        )
    if not isinstance(front_end, FrontEnd):
        raise TypeError(
            f"front_end must be a FrontEnd, got {type(front_end).__name__}: choose one of "
            "audiointerp.processing, or subclass FrontEnd"
        )
    if outputs not in (None, "logits", "probabilities"):
        raise ValueError(f"outputs is {outputs!r}: choose 'logits' or 'probabilities'")
    made = Classifier(
        module,
        front_end.to(device_of(module)),
        head=None if head is None else build_head(head),
        classes=read_classes(classes),
        duration=None if duration is None else check_duration(duration),
        licence=licence,
        normalize=normalize,
        outputs=outputs,
        output=output,
        activation_axes=activation_axes,
    )
    _check_outputs(made)
    return made


def as_classifier(
    model: nn.Module, front_end: FrontEnd | None = None, *, classes: ClassNames | None = None
) -> Classifier:
    """Return a classifier: the one given, or one around a network.

    A network of this package knows its head and its classes. Any other is taken for one that
    returns softmax logits of cells; outputs that look like probabilities, 20 values or more, are an
    error when they are seen.

    Parameters
    ----------
    model : Classifier or Module
    front_end : FrontEnd, optional
        Of a bare network. One that a classifier has must be of the same settings.
    classes : sequence of str, mapping or path, optional
        Instead of the model's own.

    Raises
    ------
    ValueError
        If the front end is another than the classifier's.
    """
    if isinstance(model, Classifier):
        own = model.front_end
        if front_end is not None and own is not None and own.settings() != front_end.settings():
            raise ValueError(
                f"the front end {front_end.settings()} is not the classifier's, {own.settings()}"
            )
        parts = {
            **({"front_end": front_end} if own is None and front_end is not None else {}),
            **({} if classes is None else {"classes": classes}),
        }
        return model._changed(**parts) if parts else model
    described = getattr(model, "is_described", False)
    return Classifier(
        model,
        front_end,
        head=build_head(model.head) if described else None,
        classes=classes if classes is not None else getattr(model, "classes", None),
        duration=getattr(model, "duration", None),
        normalize=getattr(model, "normalize", True) if described else True,
        outputs="logits" if described else None,
    )


def made_up_view(model: Classifier, clips: int = 1) -> View:
    """Return up to four made-up sounds of a classifier's length, analysed by its front end.

    Unlike each other, the first one noise; on the network's device. For checks of a classifier
    before there are any clips.
    """
    samples = samples_in(_probe_seconds(model), model.front_end.sample_rate)
    sounds = _made_up_sounds(samples)[:clips]
    with torch.no_grad():
        return model.front_end.analyse(sounds.to(device_of(model.network)))


def _probe_seconds(model: Classifier) -> float:
    """Return the length of made-up sounds: the classifier's own, or one that it takes."""
    return model.duration or min(_PROBE_SECONDS, model.longest or _PROBE_SECONDS)


def _check_outputs(made: Classifier) -> None:
    """Run a new classifier once on made-up sounds."""
    seconds = _probe_seconds(made)
    view = made_up_view(made, clips=4)
    count = len(view)
    training = [(layer, layer.training) for layer in made.network.modules()]
    try:
        made.network.eval()
        with torch.no_grad():
            given = made.network_input(view.cells, view)
            try:
                returned = made.network(given)
            except Exception as error:
                raise ValueError(
                    f"the module fails on {tuple(given.shape)}, what the front end makes of "
                    f"{count} sounds of {seconds:g} s: {error}. Is this its front end, and does "
                    "it take clips of this length (duration=…)?"
                ) from error
            scores = made.pick_scores(returned, count)
            if not scores.isfinite().all():
                raise ValueError(
                    f"the module returns NaN or infinite scores for made-up sounds of {seconds:g} "
                    "s: is this its front end, and are its weights loaded?"
                )
            if made.outputs is None and looks_like_probabilities(scores, fewest=1):
                raise ValueError(describe_probabilities(scores))
            made.outputs = made.outputs or "logits"
            logits = made.read_logits(returned, count)
    finally:
        for layer, mode in training:
            layer.training = mode
    if made.head.exclusive and logits.shape[1] == 1:
        raise ValueError(
            f"the module has one output, of which {made.head.name} makes the same whatever it is: "
            "declare head='binary' for two classes, or head='sigmoid' for one label"
        )
    if made.classes is not None and len(made.classes) != logits.shape[1]:
        counts = f"{scores.shape[1]} outputs"
        if scores.shape[1] != logits.shape[1]:
            counts += f", with head={made.head.name!r} {logits.shape[1]} classes"
        raise ValueError(
            f"there are {len(made.classes)} class names for a module of {counts}: name every "
            "class, in the order of the outputs"
        )


def _made_up_sounds(samples: int) -> Tensor:
    """Return unlike sounds, (4, 1, samples): noise, a swell of it, a quiet tone, clicks."""
    noise = torch.rand(samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    place = torch.arange(samples)
    clicks = (place % 997 == 0).to(noise)
    return torch.stack(
        [
            noise,
            noise * (place / samples) ** 4,
            0.01 * torch.sin(0.2 * place),
            clicks + 1e-4 * noise,  # not exactly silent in between
        ]
    )[:, None]


def _describe(choice: Any) -> Any:
    """Return a choice of the user, ready for JSON: a function by its name."""
    if callable(choice):
        return getattr(choice, "__qualname__", type(choice).__qualname__)
    return list(choice) if isinstance(choice, tuple) else choice
