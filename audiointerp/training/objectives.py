"""Training objectives of interpreters: one per method.

An objective makes the decoder and says what a batch of clips costs; the loop that trains it is in
`audiointerp.training.interpreter`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from audiointerp.dataset.base import ClipDataset
from audiointerp.evaluation.fidelity import average_drop, faithfulness
from audiointerp.interpretation.base import check_whole, pick
from audiointerp.interpretation.trained.base import Decoder, choose_layers, observe
from audiointerp.interpretation.trained.l2i import ROWS, L2IDecoder, log_magnitude
from audiointerp.interpretation.trained.lmac import TEMPERATURE, LMACDecoder
from audiointerp.masking import BASES, apply_mask, base_level
from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.registry import Registry

_SURE = 0.5
"""Share of a training from which on the masks of L-MAC are not drawn any more."""

OBJECTIVES: Registry[type[Objective]] = Registry("trained interpreter")


@dataclass(frozen=True)
class Step:
    """What a step of the training draws from, and where in the training it is.

    Attributes
    ----------
    generator : torch.Generator
        On the CPU.
    progress : float
        Share of all steps that are done, in [0, 1].
    """

    generator: torch.Generator
    progress: float


@dataclass(frozen=True)
class Objective(ABC):
    """What a decoder is trained for; its fields are the settings of the training.

    A subclass is a frozen dataclass filed in `OBJECTIVES` under its method's name.
    """

    method: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {"method": self.method} | asdict(self)

    @abstractmethod
    def make_decoder(
        self,
        classifier: Classifier,
        train: ClipDataset,
        *,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Decoder:
        """Return a decoder of a classifier's activations, as it is before its training.

        Parameters
        ----------
        classifier : Classifier
            In evaluation mode.
        train : ClipDataset
            The clips that it will be trained on.
        layers : sequence of str, optional
            What it reads; by default `choose_layers`.
        seed : int
            Draws the initial weights.
        """

    @abstractmethod
    def losses(
        self,
        decoder: Decoder,
        model: Classifier,
        described: Classifier,
        clips: View,
        clean: View,
        step: Step | None = None,
    ) -> dict[str, Tensor]:
        """Return what a batch of clips costs.

        Parameters
        ----------
        decoder : Decoder
        model, described : Classifier
            As `observe` takes them.
        clips : View
        clean : View
            The clips before another one was mixed in; the same where none was.
        step : Step, optional
            None in validation, where nothing is drawn.

        Returns
        -------
        dict of str to Tensor, shape (batch,)
            ``"loss"``, with a graph, and in validation what the history shall have beside it.
        """


def probe(classifier: Classifier, train: ClipDataset) -> View:
    """Return one clip of a set, analysed on the classifier's device."""
    weight = classifier.weight_type
    waveform = train[0].waveform[None]
    with torch.no_grad():
        return classifier.front_end.analyse(waveform if weight is None else waveform.to(weight[0]))


def draw_targets(logits: Tensor, others: float, generator: torch.Generator | None = None) -> Tensor:
    """Return the classes to explain in a training: the predicted one, or the second.

    Parameters
    ----------
    logits : Tensor, shape (batch, classes)
    others : float
        Probability of the second.
    generator : torch.Generator, optional
        On the CPU. None: the predicted ones.

    Returns
    -------
    Tensor of int64, shape (batch,)
    """
    if logits.shape[1] == 1:
        return logits.argmax(1)
    first, second = logits.topk(2).indices.unbind(1)
    is_other = torch.rand(len(logits), generator=generator).to(others) < others
    return torch.where(is_other, second, first)


def draw_logistic(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Return values drawn from the logistic distribution, on the CPU.

    Added to a logit, its sign is that of a coin which falls by the logit's probability.
    """
    uniform = torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    return uniform.logit()


@OBJECTIVES.register("lmac")
@dataclass(frozen=True)
class LMACObjective(Objective):
    """The loss of L-MAC.

    For each clip, with its mask M of the class c:

    -keep · log p_c(in) + remove · log p_c(out) + sparsity · mean(M) + guidance · distance.

    ``in`` and ``out`` are the clip's cells masked in and out as the metrics mask them, from the
    masking base. What is kept must be enough for the class, what is left must not be, and the
    mask must be small. `keep` and `remove` are those of the paper. There the mean of the masks of a
    batch is weighed by 0.4 once for each of its 16 clips, which is 6.4 for the mean of one.

    In the first half of the training the masks are drawn, nearly binary, from what the decoder
    says (binary concrete distributions; Maddison et al., ICLR 2017), with noise that fades out. The
    paper does without. A mask that is 0.5 everywhere makes every cell quieter, which no network has
    met; from there all cells come to be kept or all to be removed, and the training stays at that.
    Random holes leave many networks their class, so that the part of each cell is learned.

    With `guidance` the masks are tuned for the ear, as in the paper's second stage: for clips whose
    masked-in magnitudes are like the clean ones (a cosine of `alike` and more) the term of sparsity
    is replaced by the squared distance between the two, log(1 + magnitude), as a share of the
    clean one's square. Start from a decoder that was trained without.

    Parameters
    ----------
    width : int
        See `LMACDecoder`.
    base : str
        Masking base.
    keep, remove, sparsity, guidance, alike : float
    others : float
        Probability that of a clip into which another one was mixed the network's second class is
        explained instead of the first, so that decoders learn to tell classes apart. The paper
        explains the first only. Of other clips there is nothing of a second class to keep, and
        its large loss would outweigh the rest.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or the probability is none.
    """

    width: int = 16
    base: str = "floor"
    keep: float = 4.0
    remove: float = 0.2
    sparsity: float = 6.4
    guidance: float = 0.0
    alike: float = 0.6
    others: float = 0.25

    method: ClassVar[str] = "lmac"

    def __post_init__(self) -> None:
        BASES[self.base]
        for name in ("keep", "remove", "sparsity", "guidance"):
            check_number(name, getattr(self, name), 0, math.inf)
        for name in ("alike", "others"):
            check_number(name, getattr(self, name), 0, 1)

    def make_decoder(
        self,
        classifier: Classifier,
        train: ClipDataset,
        *,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> LMACDecoder:
        """Return a decoder with random weights; see `Objective`."""
        view = probe(classifier, train)
        layers = choose_layers(classifier, view) if layers is None else list(layers)
        channels = plane_channels(classifier, layers, view)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return LMACDecoder(layers, channels, self.width, self.base)

    def losses(
        self,
        decoder: Decoder,
        model: Classifier,
        described: Classifier,
        clips: View,
        clean: View,
        step: Step | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss; in validation also what `masking_losses` measures. See `Objective`."""

        def choose(logits: Tensor) -> Tensor:
            if step is None:
                return logits.argmax(1)
            is_mixed = (clips.cells != clean.cells).flatten(1).any(1)
            return draw_targets(logits, self.others * is_mixed, step.generator)

        seen = observe(model, described, decoder.layers, clips, choose, gradient=True)
        logit = decoder(seen, clips.cells.shape[2:])
        if not logit.isfinite().all():  # no mask, and a loss that ends the training
            return {"loss": logit.mean((1, 2, 3)) * float("nan")}
        if step is not None and step.progress < _SURE:
            noise = draw_logistic(logit.shape, step.generator).to(logit)
            logit = logit + (1 - step.progress / _SURE) / TEMPERATURE * noise
        mask = logit.sigmoid()
        found = self.masking_losses(model, clips, clean, mask, seen.logits, seen.target)
        return found if step is None else {"loss": found["loss"]}

    def masking_losses(
        self,
        model: Classifier,
        clips: View,
        clean: View,
        mask: Tensor,
        logits: Tensor,
        target: Tensor,
    ) -> dict[str, Tensor]:
        """Return what masks cost and how faithful they are.

        Parameters
        ----------
        model : Classifier
        clips, clean : View
        mask : Tensor, shape (batch, 1, bins, frames)
            In [0, 1].
        logits : Tensor, shape (batch, classes)
            Of the clips.
        target : Tensor of int64, shape (batch,)

        Returns
        -------
        dict of str to Tensor, shape (batch,)
            ``loss``; ``mask``, the mask's mean; and the metrics ``FF``, ``AD`` and ``FidIn``.
        """
        front_end = model.front_end
        level = base_level(clips.cells, self.base, floor=front_end.floor)
        inside, outside = apply_mask(clips.cells, mask, level)
        twice = clips[torch.arange(len(clips), device=mask.device).repeat(2)]
        both = model.logits(torch.cat([inside, outside]), twice)
        before = model.probabilities(logits)
        kept, left = model.probabilities(both).chunk(2)
        goal = target.to(kept.device)
        size = mask.mean((1, 2, 3)).to(kept)
        cost = self.sparsity * size
        if self.guidance:
            wanted = log_magnitude(clean.cells, log=front_end.log)
            heard = log_magnitude(inside, log=front_end.log)
            alike = cosine(heard.detach(), wanted) >= self.alike
            power = wanted.square().sum((1, 2, 3)).clamp(min=torch.finfo(wanted.dtype).tiny)
            distance = (heard - wanted).square().sum((1, 2, 3)) / power
            cost = torch.where(alike.to(kept.device), self.guidance * distance.to(kept), cost)
        loss = self.keep * -_log(pick(kept, goal)) + self.remove * _log(pick(left, goal)) + cost
        kept, left = kept.detach(), left.detach()
        return {
            "loss": loss,
            "mask": size.detach(),
            "FF": faithfulness(before, left, goal),
            "AD": average_drop(before, kept, goal),
            "FidIn": model.head.keeps(before, kept, goal).to(kept),
        }


@OBJECTIVES.register("l2i")
@dataclass(frozen=True)
class L2IObjective(Objective):
    """The loss of L2I, with the weights of the paper.

    For each clip: reconstruction · mean (V - W·H)² + sparsity · mean(H) + fidelity, where V is
    log(1 + magnitude) with a root mean square of 1 over the training frames, and fidelity is the
    head's loss of the decoder's outputs against the classifier's probabilities. W is learned before
    the training, from frames that are drawn evenly from all training clips.

    Parameters
    ----------
    width, components : int
    threshold : float
        See `L2IDecoder`.
    reconstruction, sparsity : float
    frames : int
        How many frames the dictionary is learned from.
    iterations : int
        Of the factorisation.

    Raises
    ------
    ValueError
        If a weight is negative or not finite.
    """

    width: int = 32
    components: int = 48
    threshold: float = 0.2
    reconstruction: float = 10.0
    sparsity: float = 0.8
    frames: int = 20_000
    iterations: int = 200

    method: ClassVar[str] = "l2i"

    def __post_init__(self) -> None:
        for name in ("reconstruction", "sparsity"):
            check_number(name, getattr(self, name), 0, math.inf)
        check_whole("frames", self.frames, 1)

    def make_decoder(
        self,
        classifier: Classifier,
        train: ClipDataset,
        *,
        layers: Sequence[str] | None = None,
        seed: int = 0,
    ) -> L2IDecoder:
        """Return a decoder with its dictionary and else random weights; see `Objective`.

        By default it reads the last three of `choose_layers`, as the paper's.
        """
        view = probe(classifier, train)
        layers = choose_layers(classifier, view)[-3:] if layers is None else list(layers)
        seen = observe(classifier, classifier, layers, view, lambda logits: logits.argmax(1))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            decoder = L2IDecoder(
                layers,
                [plane.shape[1] for plane in seen.planes],
                [min(ROWS, plane.shape[2]) for plane in seen.planes],
                view.cells.shape[2],
                classifier.head.num_outputs(seen.logits.shape[1]),
                self.components,
                self.width,
                self.threshold,
                classifier.front_end.log,
            )
        spectra = draw_frames(classifier, train, self.frames, seed)
        spectra = log_magnitude(spectra, log=decoder.log)
        decoder.scale.fill_(spectra.square().mean().sqrt().clamp(min=1e-6))
        dictionary = learn_dictionary(
            spectra / decoder.scale, self.components, iterations=self.iterations, seed=seed
        )
        decoder.dictionary.copy_(dictionary)
        return decoder

    def losses(
        self,
        decoder: Decoder,
        model: Classifier,
        described: Classifier,
        clips: View,
        clean: View,
        step: Step | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss; in validation also its parts and how often the two agree.

        See `Objective`.
        """
        seen = observe(model, described, decoder.layers, clips, lambda logits: logits.argmax(1))
        activations = decoder(seen, clips.cells.shape[3])
        rebuilt = decoder.reconstruct(activations)
        error = (decoder.spectrogram(clips.cells) - rebuilt).square().mean((1, 2))
        few = activations.mean((1, 2))
        logits = model.head.logits(decoder.classify(decoder.pool(activations)))
        wanted = model.head.probabilities(seen.logits)
        fidelity = torch.stack(
            [
                model.head.loss(one[None], other[None])
                for one, other in zip(logits, wanted, strict=True)
            ]
        )
        loss = self.reconstruction * error + self.sparsity * few + fidelity
        if step is not None:
            return {"loss": loss}
        agrees = (logits.argmax(1) == seen.logits.argmax(1)).to(loss)
        parts = {"error": error, "activation": few, "fidelity": fidelity, "agrees": agrees}
        return {"loss": loss} | {name: each.detach() for name, each in parts.items()}


@torch.no_grad()
def draw_frames(classifier: Classifier, clips: ClipDataset, count: int, seed: int) -> Tensor:
    """Return frames of all clips of a set, as many of each, shape (bins, frames).

    Parameters
    ----------
    classifier : Classifier
    clips : ClipDataset
    count : int
        About how many in all.
    seed : int
        Draws them.
    """
    weight = classifier.weight_type
    device = torch.device("cpu") if weight is None else weight[0]
    generator = torch.Generator().manual_seed(seed)
    each = math.ceil(count / len(clips))
    drawn = []
    for place in range(len(clips)):
        cells = classifier.front_end.analyse(clips[place].waveform[None].to(device)).cells[0, 0]
        drawn.append(cells[:, torch.randperm(cells.shape[1], generator=generator)[:each]])
    return torch.cat(drawn, 1)


def learn_dictionary(
    spectra: Tensor, components: int, *, iterations: int = 200, seed: int = 0
) -> Tensor:
    """Return the spectra that some frames are made of, by non-negative matrix factorisation.

    In the least-squares sense, by scikit-learn's coordinate descent.

    Parameters
    ----------
    spectra : Tensor, shape (bins, frames)
        Not negative.
    components : int
    iterations : int
    seed : int
        Draws where the factorisation starts.

    Returns
    -------
    Tensor, shape (bins, components)
        Of the spectra's dtype and device; the largest value of every column is 1, or 0 where the
        component is not used.
    """
    from sklearn.decomposition import NMF

    factorisation = NMF(
        components, init="random", max_iter=iterations, tol=0, random_state=seed
    ).fit(spectra.T.cpu().numpy())
    dictionary = torch.from_numpy(factorisation.components_.T).to(spectra)
    largest = dictionary.amax(0)
    return dictionary / torch.where(largest > 0, largest, torch.ones_like(largest))


def plane_channels(classifier: Classifier, layers: Sequence[str], view: View) -> list[int]:
    """Return the number of channels of some layers' planes."""
    seen = observe(classifier, classifier, layers, view, lambda logits: logits.argmax(1))
    return [plane.shape[1] for plane in seen.planes]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine between batches, shape (batch,); 0 where one is all zero."""
    first, second = first.flatten(1), second.flatten(1)
    norms = first.norm(dim=1) * second.norm(dim=1)
    return (first * second).sum(1) / norms.clamp(min=torch.finfo(first.dtype).tiny)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise a ValueError unless a setting is a finite number between two."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}: expected a number from {low:g} to {high:g}")


def _log(probability: Tensor) -> Tensor:
    return probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
