"""Copies of a network with randomised layers, from the output to the input."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from audiointerp.model.classifier import Classifier
from audiointerp.processing import View
from audiointerp.registry import check_different


def list_layers(classifier: Classifier, view: View) -> list[str]:
    """Return the layers that can be randomised, from the output to the input.

    A layer is a module with parameters or statistics of its own, such as a convolution or a batch
    norm; its weight, bias and running statistics count together.

    Parameters
    ----------
    classifier : Classifier
        In evaluation mode.
    view : View
        Of any clip: the network is run once to see in which order its layers end. One that is
        used without being called, as in attention, comes with the module around it.

    Returns
    -------
    list of str
        Dotted names in the network.
    """
    modules = dict(classifier.network.named_modules())
    ended: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        ended.setdefault(name, len(ended))

    handles = [
        module.register_forward_hook(partial(note, name)) for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            classifier.logits(view.cells, view)
    finally:
        for handle in handles:
            handle.remove()

    def place(name: str) -> int:
        while name not in ended and name:
            name = name.rpartition(".")[0]
        return ended.get(name, -1)

    own = [name for name, module in modules.items() if _has_state(module)]
    return sorted(own, key=place, reverse=True)


def randomised(
    network: nn.Module, layers: Sequence[str], *, cascading: bool, seed: int = 0
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a network with one layer after the other drawn anew.

    A layer is drawn by its ``reset_parameters``, as if it had not been trained; one that has none
    gets its own values in random order. The draws depend on the seed and the layer's name only and
    are made on the CPU. The network itself is left as it is.

    Parameters
    ----------
    network : Module
    layers : sequence of str
        Dotted names, in their order; see `list_layers`.
    cascading : bool
        Whether layers that were drawn stay so: the last copy has them all. Otherwise each copy
        differs from the network in one layer.
    seed : int

    Yields
    ------
    name : str
        Of the layer drawn last.
    copy : Module
        Valid until the next one.

    Raises
    ------
    ValueError
        If there is no such layer, one has nothing to draw, or the network cannot be copied.

    References
    ----------
    J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """
    modules = dict(network.named_modules())
    check_different("layer", layers)
    for name in layers:
        if name not in modules or not _has_state(modules[name]):
            own = [each for each, module in modules.items() if _has_state(module)]
            raise ValueError(f"no layer {name!r} with parameters: choose from {', '.join(own)}")
    changed = _copy(network)
    for name in layers:
        if not cascading:
            changed = _copy(network)
        _draw(changed.get_submodule(name), layer_seed(seed, name))
        yield name, changed


def layer_seed(seed: int, name: str) -> int:
    """Return the seed of a layer's parameters."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or (
        hasattr(module, "reset_parameters") and any(True for _ in module.buffers(recurse=False))
    )


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} cannot be copied ({error}), so that its parameters cannot "
            "be randomised and be as they were: does it hold a lock, or activations?"
        ) from error


@torch.no_grad()
def _draw(module: nn.Module, seed: int) -> None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    device = tensors[0].device
    module.to("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if reset is not None:
            reset()
        else:
            for values in module.parameters(recurse=False):
                values.copy_(values.flatten()[torch.randperm(values.numel())].view_as(values))
    module.to(device)
