"""Tensor files with a description: safetensors with a checksum of the whole content.

What the text says is the business of those who write it: `audiointerp.model.weights` for
classifiers, `audiointerp.interpretation.trained.files` for trained interpreters.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from audiointerp.model.state import check_values
from audiointerp.storage import write_atomically

CHECKSUM = "crc32"
"""Field of the text with the CRC-32 of all the rest; files of earlier versions have none."""


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and the likely mistake."""


def write_described(path: Path, text: Mapping[str, str], tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors and the text that describes them, whole or not at all.

    Equal arguments give equal files.

    Parameters
    ----------
    path : Path
        Folders that are missing are made.
    text : mapping of str to str
        With the file's ``format``.
    tensors : mapping of str to Tensor

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    for name, value in stored.items():
        check_values(name, value, value.dtype)
    text = {**text, CHECKSUM: _checksum(text, stored)}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not save_file, whose files only their owner can read.
    return write_atomically(path, _in_order(save(stored, text)))


def read_described(
    path: Path, formats: Collection[str], otherwise: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the text and the tensors of a file, undamaged as far as it can tell.

    Parameters
    ----------
    path : Path
        A safetensors file.
    formats : collection of str
        Those that the text may name.
    otherwise : str
        What the message says of a file that names another.

    Raises
    ------
    WeightsError
        If the file is damaged or of another format.
    """
    try:
        with safe_open(path, "pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a whole safetensors file ({error}); was the copy cut short?"
        ) from error
    if text.get("format") not in formats:
        raise WeightsError(f"{path}: {otherwise}")
    written = text.pop(CHECKSUM, None)
    if written is not None and written != _checksum(text, tensors):
        raise WeightsError(
            f"{path}: damaged, its content is not what its checksum is of; copy it again"
        )
    return text, tensors


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU, of any dtype: NumPy has no bfloat16."""
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())


def _checksum(text: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of a file's text and tensors, in whatever order they lie in it."""
    value = zlib.crc32(json.dumps(dict(text), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(as_bytes(tensor), value)
    return f"{value:08x}"


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its text in the order of the fields; they come at random.

    The header's length comes first, in 8 bytes, little-endian; it is padded to a multiple of 8.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[8 + length :]))
