"""Files that are no weights are named by their content, whatever their names say."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save
from sklearn.linear_model import LinearRegression

from audiointerp.model import CheckpointError, load_checkpoint
from audiointerp.model.signatures import identify
from audiointerp.model.weights import WeightsError, load


def archive(**members):
    """A zip archive; double underscores in the names stand for slashes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
    return out.getvalue()


def tar(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name in names:
            made.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def saved(write, *arguments, **options):
    out = io.BytesIO()
    write(out, *arguments, **options)
    return out.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 327428481\n"
LEVELDB_FOOTER = b"\0" * 40 + struct.pack("<Q", 0xDB4775248B80FB57)

# What the file is, how its description reads, and a word of the advice.
OTHERS = {
    "lfs": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s327--4d7a.pth\n", "a git-annex pointer", "git annex get"),
    "html": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Log in</title>", "an HTML page", "proxy"),
    "html upper": (b"<HTML><body>403 Forbidden</body></HTML>", "an HTML page", "error page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an XML text", "server"),
    "json": (b'{\n  "architectures": ["ASTForAudioClassification"]}', "a JSON text", "config"),
    "json list": (b"[1, 2]", "a JSON text", "config"),
    "gzip": (gzip.compress(b"weights"), "a gzip archive", "unpack"),
    "tar": (tar("model/weights.pth"), "a tar archive", "unpack"),
    "torch tar": (tar("sys_info", "pickle", "storages", "tensors"), "tar format", "save it again"),
    "zip": (archive(a_DOT_pth=b"x"), "a zip archive, but no PyTorch checkpoint", "unpack"),
    "zip cut": (archive(archive__data_DOT_pkl=b"x" * 200)[:150], "a zip archive that", "cut short"),
    "npy": (saved(np.save, np.zeros(3)), "a NumPy array", "state_dict"),
    "npz": (saved(np.savez, a=np.zeros(3)), "NumPy arrays", "state_dict"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, such as Keras", "state_dict"),
    "keras": (
        archive(config_DOT_json=b"{}", model_DOT_weights_DOT_h5=b"x"),
        "a Keras model",
        "state_dict",
    ),
    "torchscript": (
        archive(net__data_DOT_pkl=b"x", net__constants_DOT_pkl=b"x", net__code__a_DOT_py=b"x"),
        "a TorchScript program",
        "torch.jit.load",
    ),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xff", "an ONNX model", "state_dict"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(64), "a TensorFlow Lite model", "state_dict"),
    "tensorflow": (bytes(80) + LEVELDB_FOOTER, "a TensorFlow checkpoint", "PyTorch"),
    "tensorflow index": (b'model_checkpoint_path: "model-9"\n', "TensorFlow", "PyTorch"),
    "sound": (b"RIFF\x24\0\0\0WAVEfmt ", "a sound file", "wrong order"),
    "empty": (b"", "an empty file", "cut short"),
    "bytes": (bytes(range(1, 200)), "neither a safetensors file nor", "cut short"),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("case", OTHERS)
def test_a_file_that_is_no_weights_is_named_by_its_content(case, suffix, tmp_path):
    content, description, advice = OTHERS[case]
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    found = identify(path)
    assert description in found.description
    assert advice in found.advice
    assert found.layout is None
    for read, kind in ((load, WeightsError), (read_as_checkpoint, CheckpointError)):
        with pytest.raises(kind) as error:
            read(path)
        assert str(path) in str(error.value)
        assert found.description in str(error.value)
        assert found.advice in str(error.value)


def read_as_checkpoint(path):
    load_checkpoint(torch.nn.Linear(2, 3), path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "name"),
    [(LinearRegression(), "sklearn.linear_model._base.LinearRegression"), (np.ones(2), "numpy")],
)
def test_a_renamed_pickle_is_named_by_what_it_is_of(value, name, protocol, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(value, protocol))
    if protocol < 2:
        name = "pickle of "  # an object that is made by copyreg or _reconstruct
    assert identify(path).description.startswith("a pickle of ")
    assert name in identify(path).description
    with pytest.raises(CheckpointError, match=r"model\.pth is a pickle of .*can run code"):
        read_as_checkpoint(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_plain_values_is_no_checkpoint(protocol, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"accuracy": 0.5}, protocol))
    assert identify(path).description == "a pickle that is damaged or of no network"


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.safetensors", "a"])
@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_pytorch_are_known_by_content(zipped, name, tmp_path):
    path = tmp_path / name
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    assert identify(path).layout == ("zip" if zipped else "legacy")


def test_safetensors_are_known_by_content(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(save({"w": torch.zeros(2)}))
    assert identify(path).layout == "safetensors"


def test_a_folder_and_text_that_only_looks_like_json(tmp_path):
    assert identify(tmp_path).description == "a folder"
    for text in ("[section]\nkey = 1\n", "{name} was here"):
        path = tmp_path / "settings.ini"
        path.write_text(text)
        assert identify(path).description.startswith("neither")
    path.write_text(json.dumps({"a": 1}))
    assert identify(path).description == "a JSON text"
