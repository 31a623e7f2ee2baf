"""Read weights from checkpoint files, whatever wraps them, without executing code.

`load_checkpoint` puts them into a module. Wrappers are found by the names of the module's own
weights: where all of these stand in the file behind a common prefix, such as ``state_dict.model.``
of a Lightning checkpoint, the prefix is taken off.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from audiointerp.model.signatures import identify

_INERT = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing add to names, anywhere in them."""
_DEEPEST = 8
"""Levels of dictionaries that are searched for weights."""
_BLOCK = 1 << 20
_IS_FOLDER = 0x10
"""The bit of a zip record's attributes that marks a folder to readers."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be fetched, read or fitted to the model; the message names it."""


@dataclass(frozen=True)
class Weights:
    """Weights found in a checkpoint.

    Attributes
    ----------
    tensors : dict of str to Tensor
        By the names of the network; further tensors that stand beside them are in it too.
    place : str
        Where in the file they are, "" for the top level: "model", "state_dict.net".
    unused : tuple of str
        Names of the tensors elsewhere in the file.
    """

    tensors: dict[str, Tensor]
    place: str
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        taken = f"{self.place!r}" if self.place else "the top level"
        return f"{taken}, not used: {_first(self.unused)}" if self.unused else taken


def load_checkpoint(
    network: nn.Module, path: str | os.PathLike[str], *, key: str | None = None
) -> str:
    """Load the weights of a checkpoint into a network, whatever they are wrapped in.

    Files of PyTorch and safetensors are read. The weights may lie at any depth in dictionaries
    (``{"state_dict": …}``, ``{"model": …}``, Lightning, moving averages) and behind prefixes of
    their names (``module.`` of data parallelism, ``_orig_mod.`` of torch.compile). Every weight of
    the network must be in the file with its name and shape, with finite values, or nothing is
    loaded. Only tensors and numbers are read: a pickle that would run code is refused. The
    checksums of a file that has them are checked.

    Parameters
    ----------
    network : Module
        Changed in place.
    path : path
    key : str, optional
        Where in the file the weights are, such as "model_ema". Needed only where the file holds
        them more than once, for instance next to their moving average.

    Returns
    -------
    str
        What was taken, such as "'state_dict.model'".

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or no checkpoint, if its weights do not fit, or if it holds
        several that do and no key chooses one of them.

    Examples
    --------
    >>> network = torch.nn.Linear(2, 3)
    >>> load_checkpoint(network, "last.ckpt")  # doctest: +SKIP
    "'state_dict.model'"
    """
    path = Path(path)
    own = network.state_dict()
    if not own:
        raise CheckpointError(f"a {type(network).__name__} has no weights that {path} could fill")
    found = find_weights(read_content(path), own, path, key=key)
    try:
        check_tensors(found.tensors, own)
    except ValueError as error:
        raise CheckpointError(
            f"{path} ({found}) does not fit this {type(network).__name__}: {error}"
        ) from error
    network.load_state_dict(found.tensors, strict=True)
    return str(found)


def read_content(path: Path, *, is_verified: bool = False) -> Any:
    """Return what a checkpoint holds: tensors, NumPy numbers and plain values.

    Parameters
    ----------
    path : Path
    is_verified : bool
        Whether the content is known to be right, so that its checksums need no look.

    Raises
    ------
    CheckpointError
        If there is no such file, it is no checkpoint, damaged, or would run code.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint file {path}")
    kind = identify(path)
    if kind.layout is None:
        raise CheckpointError(
            f"{path} is {kind.description}, not a PyTorch checkpoint: {kind.advice}"
        )
    if kind.layout == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is not a whole safetensors file ({error}): was the copy cut short?"
            ) from error
    if kind.layout == "zip" and not is_verified:
        _check_records(path)
    return _unpickle(path)


def find_weights(
    content: Any, names: Collection[str], path: Path, *, key: str | None = None
) -> Weights:
    """Return the tensors of a checkpoint that carry a network's names behind a common prefix.

    Parameters
    ----------
    content : object
        As `read_content` returns it.
    names : collection of str
        Of the network's weights. Where no prefix has all of them, the one that has most is taken.
    path : Path
        For messages.
    key : str, optional
        See `load_checkpoint`.

    Raises
    ------
    CheckpointError
        If there are no weights of such names, or several whose values differ.
    """
    flat = _flatten(content, path)
    if not flat:
        raise CheckpointError(
            f"{path} holds no weights: expected a state dict, or a dictionary with one in it"
        )
    places = _prefixes(flat, names)
    if not places:
        raise CheckpointError(
            f"{path} holds none of the network's weights. {some('missing', sorted(names))}; "
            f"{some('unexpected', sorted(flat))}"
        )
    chosen = places if key is None else [each for each in places if _is_under(each, key)]
    if not chosen:
        raise CheckpointError(
            f"{path} holds no weights of this network under {key!r}: choose from {_listed(places)}"
        )
    found = [_cut_out(flat, prefix, places) for prefix in chosen]
    if not all(_equal(found[0], other, names) for other in found[1:]):
        raise CheckpointError(
            f"{path} holds the network's weights more than once, as {_listed(chosen)}: choose "
            "one by its name, key=… (audiointerp train: --pretrained-key). Next to a moving "
            "average (ema, averaged) the other weights are those of the last step"
        )
    return found[0]


def check_tensors(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless tensors are a network's in name, shape and kind, and finite.

    Parameters
    ----------
    found : mapping of str to Tensor
    own : mapping of str to Tensor
        The network's; they may be on the meta device.
    """
    missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"other tensors are in it; {some('missing', missing)}; {some('unexpected', unexpected)}"
        )
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"of its tensors {name} is {tuple(value.shape)} in the file, expected "
                f"{tuple(own[name].shape)}"
            )
    for name, value in found.items():
        check_values(name, value, own[name].dtype)


def check_values(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raise a ValueError if a tensor is not of plain, finite numbers that `dtype` can hold."""
    kinds = {(each.is_floating_point, each.is_complex) for each in (value.dtype, dtype)}
    is_plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
    if len(kinds) > 1 or not is_plain:
        raise ValueError(f"{name} holds {value.dtype} ({value.layout}), expected {dtype}")
    if not (value.is_floating_point() or value.is_complex()) or not value.numel():
        return
    numbers = value.to(dtype)
    # One pass over the values; `isfinite` takes four times as long.
    bounds = torch.aminmax(torch.view_as_real(numbers) if numbers.is_complex() else numbers)
    if not all(bound.isfinite() for bound in bounds):
        raise ValueError(
            f"{name} holds NaN or infinite values: did the training diverge, or is the file "
            "damaged?"
        )


def some(kind: str, names: Collection[str]) -> str:
    """Return how many names there are of a kind, and the first of them."""
    return f"{kind} {len(names)}: {_first(names) or 'none'}"


def _is_under(prefix: str, key: str) -> bool:
    return prefix.startswith(f"{key}.") if key else not prefix


def _cut_out(flat: Mapping[str, Tensor], prefix: str, places: list[str]) -> Weights:
    """Return the tensors behind a prefix, but for those behind a longer one of the places."""
    inner = tuple(each for each in places if len(each) > len(prefix))
    tensors = {
        name.removeprefix(prefix): value
        for name, value in flat.items()
        if name.startswith(prefix) and not name.startswith(inner)
    }
    unused = (name for name, value in flat.items() if value.ndim and not name.startswith(prefix))
    return Weights(tensors, prefix.removesuffix("."), tuple(unused))


def _equal(one: Weights, other: Weights, names: Collection[str]) -> bool:
    """Return whether two places hold the same values, as those of one module of two names do."""
    pairs = [(one.tensors.get(name), other.tensors.get(name)) for name in names]
    return all(a is b or (a is not None and b is not None and _same(a, b)) for a, b in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _flatten(content: Any, path: Path) -> dict[str, Tensor]:
    """Return every tensor in nested dictionaries by its dotted name, without inert parts."""
    flat: dict[str, Tensor] = {}
    for name, value in _tensors(content, "", set(), 0):
        if flat.setdefault(name, value) is not value:
            raise CheckpointError(f"{path} holds two tensors of the name {name}")
    return flat


def _tensors(content: Any, prefix: str, seen: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(content, Mapping) or id(content) in seen or depth > _DEEPEST:
        return
    seen.add(id(content))  # pickled dictionaries can hold each other
    for name, value in content.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Tensor):
            yield _INERT.sub("", prefix + name), value
        else:
            yield from _tensors(value, f"{prefix}{name}.", seen, depth + 1)


def _prefixes(flat: Mapping[str, Tensor], names: Collection[str]) -> list[str]:
    """Return the prefixes behind which most of the names stand, in the file's order."""
    wanted, counts = frozenset(names), Counter[str]()
    for name in flat:
        parts = name.split(".")
        for start in range(len(parts)):
            tail = ".".join(parts[start:])
            if tail in wanted:
                counts[name.removesuffix(tail)] += 1
    most = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if count == most]


def _check_records(path: Path) -> None:
    """Compare every record of a PyTorch zip archive with its CRC-32, which torch does not do."""
    name = "its table of contents"
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if not any(record.CRC for record in records):
                return  # torch was told to write no checksums, by set_crc32_options(False)
            for record in records:
                name = f"its record {record.filename!r}"
                _check_entry(record)
                with archive.open(record) as file:
                    while file.read(_BLOCK):
                        pass
    except Exception as error:  # damaged bytes can fail anywhere inside the reader
        raise CheckpointError(
            f"{path} is damaged: {name} is not as it was written ({error}). Copy or download it "
            "again"
        ) from error


def _check_entry(record: zipfile.ZipInfo) -> None:
    """Raise unless a record is as torch writes them: a file, not compressed.

    Of a directory, and of a record of no compressed bytes, torch's reader copies nothing and
    reports success: the tensor would hold whatever was in the memory.
    """
    if record.is_dir() or record.external_attr & _IS_FOLDER:
        raise zipfile.BadZipFile("marked as a folder")
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
        raise zipfile.BadZipFile("compressed, which torch does not do")


@contextmanager
def _allowed() -> Iterator[None]:
    """Allow what checkpoints hold beside tensors: NumPy arrays and the options of a command line.

    Files of NumPy 1 say ``numpy.core``, those of NumPy 2 ``numpy._core``.
    """
    multiarray = np._core.multiarray
    functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (
            ("_reconstruct", multiarray._reconstruct),
            ("scalar", multiarray.scalar),
        )
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdSUO"}
    plain = [np.ndarray, np.dtype, *dtypes, argparse.Namespace]
    with torch.serialization.safe_globals([*functions, *plain]):
        yield


def _unpickle(path: Path) -> Any:
    try:
        with _allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own message advises to switch the protection off, so it is not passed on.
        asked = re.search(r"GLOBAL ([\w.]+)|unsupported .*class ([\w.]+)", str(error))
        if asked is None:
            raise CheckpointError(
                f"{path} is not a PyTorch checkpoint of tensors, or it is damaged"
            ) from None
        raise CheckpointError(
            f"{path} asks for {asked[1] or asked[2]}, which is neither a tensor nor a number: it "
            "was refused and none of its code was run. Do not open it by other means. Where a "
            "network was saved whole, ask for its state_dict()"
        ) from None
    except Exception as error:  # damaged bytes can fail anywhere inside the reader
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint: was the download cut short?"
        ) from error


def _listed(prefixes: list[str]) -> str:
    return ", ".join(repr(prefix.removesuffix(".")) for prefix in prefixes)


def _first(names: Collection[str]) -> str:
    return f"{', '.join([*names][:3])}{', …' if len(names) > 3 else ''}"
