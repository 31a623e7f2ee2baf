"""Recognise a file by its content: weights, or files commonly mistaken for weights."""

from __future__ import annotations

import os
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Layout = Literal["zip", "legacy", "safetensors"]


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes
    ----------
    description : str
        In words, with an article: "a Git LFS pointer".
    advice : str
        What to do about a file of this kind where weights are expected.
    layout : {"zip", "legacy", "safetensors"} or None
        How tensors are read from it: a PyTorch checkpoint, a zip archive since torch 1.6 and a
        sequence of pickles before; safetensors; None if tensors are not read from such files.
    """

    description: str
    advice: str
    layout: Layout | None = None


_CUT = "was the copy cut short?"
_EXPORT = "load it with the library that wrote it, and save the state_dict() of the network"
_UNPACK = "unpack it and give the file with the weights in it"
_FETCH = "the server sent it in place of the file: open the address in a browser to see why"

TORCH_ZIP = FileKind("a PyTorch checkpoint", "", "zip")
TORCH_LEGACY = FileKind("a PyTorch checkpoint", "", "legacy")
SAFETENSORS = FileKind("a safetensors file", "", "safetensors")
FOLDER = FileKind("a folder", "give the file with the weights in it")
EMPTY = FileKind("an empty file", _CUT)
UNKNOWN = FileKind("neither a safetensors file nor a PyTorch checkpoint", _CUT)

_HTML = FileKind("an HTML page", f"{_FETCH}; a proxy, a login or an error page?")
_JSON = FileKind("a JSON text", "give the file with the weights; this may be its configuration")
_AUDIO = FileKind("a sound file", "were sound and weights given in the wrong order?")

# What a text begins with, blanks left out, in lower case.
_TEXTS: tuple[tuple[bytes, FileKind], ...] = (
    (
        b"version https://git-lfs",
        FileKind("a Git LFS pointer, not the file itself", "run 'git lfs pull' where it is from"),
    ),
    (
        b"/annex/objects/",
        FileKind("a git-annex pointer, not the file itself", "run 'git annex get' on it"),
    ),
    (b"<!doctype html", _HTML),
    (b"<html", _HTML),
    (b"<?xml", FileKind("an XML text", f"{_FETCH}?")),
    (
        b"model_checkpoint_path:",
        FileKind("the index of TensorFlow checkpoints", "PyTorch weights are needed"),
    ),
)
_JSON_START = re.compile(rb'[{\[]\s*["{\[\]}\d-]')

_TENSORFLOW = FileKind("a TensorFlow checkpoint", f"PyTorch weights are needed: {_EXPORT}")

# What a file has at a place; counted from the end if that is negative.
_MAGICS: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file, such as Keras and h5py write", _EXPORT)),
    (0, b"\x93NUMPY", FileKind("a NumPy array (.npy)", _EXPORT)),
    (0, b"\x1f\x8b", FileKind("a gzip archive", _UNPACK)),
    (0, b"BZh", FileKind("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\0", FileKind("an xz archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", FileKind("a RAR archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", FileKind("a Zstandard archive", _UNPACK)),
    (0, b"GGUF", FileKind("a GGUF file", _EXPORT)),
    (4, b"TFL3", FileKind("a TensorFlow Lite model", _EXPORT)),
    (0, b"RIFF", _AUDIO),
    (0, b"OggS", _AUDIO),
    (0, b"fLaC", _AUDIO),
    (0, b"ID3", _AUDIO),
    (0, b"%PDF", FileKind("a PDF", "give the file with the weights")),
    (-8, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", _TENSORFLOW),  # the footer of its table of contents
)

_HEAD = 1 << 16
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that a checkpoint of before torch 1.6 starts with, as pickled."""
_TORCH_START = b"\x80\x02\x8a\n" + _TORCH_MAGIC
_ONNX = re.compile(rb"\x08[\x01-\x20](\x12.[\x20-\x7e]|:|\x1a.[\x20-\x7e])", re.DOTALL)
"""A protocol buffer whose first fields are those of an ONNX model: version, producer or graph."""
_TEXT_PICKLE = re.compile(rb"\(?c[\w.]+\n[\w.]+\n|\([ld]p\d+\n|[}\]]q\x00")
"""Pickles of the protocols 0 and 1, which have no mark: a global, a list or a dictionary."""


def identify(path: str | os.PathLike[str]) -> FileKind:
    """Return what a file is by its content, whatever its name says.

    Parameters
    ----------
    path : path
        Of a file or folder that exists.

    Returns
    -------
    FileKind
        `UNKNOWN` if it is none of the kinds known here.
    """
    path = Path(path)
    if path.is_dir():
        return FOLDER
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
        tail = file.read()
    if not head:
        return EMPTY
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    for look in (_of_safetensors, _of_text, _of_pickle):
        kind = look(head)
        if kind is not None:
            return kind
    for place, magic, kind in _MAGICS:
        part = head[place:] if place >= 0 else tail[place:]
        if part.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return _of_tar(path)
    if _ONNX.match(head):
        return FileKind("an ONNX model", _EXPORT)
    return UNKNOWN


def _of_safetensors(head: bytes) -> FileKind | None:
    length = int.from_bytes(head[:8], "little")
    is_one = head[8:9] == b"{" and 2 <= length < 1 << 32
    return SAFETENSORS if is_one else None


def _of_text(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((kind for start, kind in _TEXTS if text.startswith(start)), None)
    return _JSON if kind is None and _JSON_START.match(text) else kind


def _of_pickle(head: bytes) -> FileKind | None:
    if _TORCH_MAGIC in head[:40] or _TORCH_START.startswith(head[: len(_TORCH_START)]):
        return TORCH_LEGACY
    is_binary = head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if not is_binary and not _TEXT_PICKLE.match(head):
        return None
    name = _first_global(head)
    if not name:
        return FileKind("a pickle that is damaged or of no network", _CUT)
    return FileKind(
        f"a pickle of {name}", f"a pickle can run code, so it is not read here; {_EXPORT}"
    )


def _first_global(head: bytes) -> str:
    """Return the first function or class that a pickle asks for, "" if none is found."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name in ("GLOBAL", "INST"):
                strings = argument.split(" ")
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
            if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                name = ".".join(strings)
                return name if re.fullmatch(r"[\w.]{1,100}", name) else ""
    except Exception:  # cut or damaged, anywhere inside the reader
        return ""
    return ""


def _of_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged bytes can fail anywhere inside the reader
        return FileKind(
            "a zip archive that is damaged or has lost its end, perhaps a PyTorch checkpoint", _CUT
        )
    return next((kind for is_one, kind in _ARCHIVES if is_one(names)), _OTHER_ZIP)


def _has(names: list[str], *endings: str) -> bool:
    return any(name.endswith(endings) for name in names)


_OTHER_ZIP = FileKind("a zip archive, but no PyTorch checkpoint", _UNPACK)

# The first that fits. All names of a PyTorch archive are in a folder of its name.
_ARCHIVES: tuple[tuple[Callable[[list[str]], bool], FileKind], ...] = (
    (
        lambda names: _has(names, "/constants.pkl") and any("/code/" in name for name in names),
        FileKind(
            "a TorchScript program",
            "it holds code, which is not run here: read it with torch.jit.load where you trust "
            "it, and pass the module to audiointerp.classifier",
        ),
    ),
    (
        lambda names: _has(names, "archive_format", "serialized_exported_program.json"),
        FileKind("a program of torch.export", _EXPORT),
    ),
    (lambda names: _has(names, "/data.pkl"), TORCH_ZIP),
    (
        lambda names: "config.json" in names and _has(names, ".weights.h5"),
        FileKind("a Keras model", _EXPORT),
    ),
    (
        lambda names: bool(names) and all(name.endswith(".npy") for name in names),
        FileKind("NumPy arrays (.npz)", _EXPORT),
    ),
)


def _of_tar(path: Path) -> FileKind:
    try:
        with tarfile.open(path) as archive:
            names = {member.name for member in (archive.next() for _ in range(8)) if member}
    except Exception:  # damaged bytes can fail anywhere inside the reader
        names = set()
    if {"storages", "tensors"} <= names:
        return FileKind(
            "a PyTorch checkpoint in the tar format of before 2017",
            "torch reads these only unprotected; have whoever trained it save it again",
        )
    return FileKind("a tar archive", _UNPACK)
