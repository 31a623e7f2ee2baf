"""Text is UTF-8 whatever the locale, and a console shows what it can."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import soundfile
from repository import REPOSITORY

RAIN, CAFE = "雨", unicodedata.normalize("NFD", "café")
FILES = sorted((REPOSITORY / "audiointerp").rglob("*.py"))


def text_calls(tree):
    """Yield the calls that open, read or write a file as text without naming an encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in ("read_text", "write_text"):
            place = 0 if name == "read_text" else 1
            is_named = "encoding" in given or len(node.args) > place
        elif name in ("run", "Popen", "check_output") and ("text" in given or None in given):
            is_named = False
        elif name == "open":
            is_method = isinstance(node.func, ast.Attribute)
            mode = given.get("mode", next(iter(node.args[0 if is_method else 1 :]), None))
            mode = mode.value if isinstance(mode, ast.Constant) else "r" if mode is None else "?b"
            is_named = "b" in str(mode) or "encoding" in given
            is_named |= is_method and getattr(node.func.value, "id", "") == "Image"
        else:
            continue
        if not is_named:
            yield node


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_text_file_is_opened_with_its_encoding(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [f"line {node.lineno}" for node in text_calls(tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "open(p)",
        "open(p, 'w')",
        "p.open()",
        "p.open('a', newline='')",
        "p.read_text()",
        "p.write_text(t)",
        "subprocess.run(c, text=True)",
    ],
)
def test_a_missing_encoding_is_found(code):
    assert list(text_calls(ast.parse(code)))


@pytest.fixture
def sounds(tmp_path):
    """Return a set of two classes in three folds, with names that cp1252 has not."""
    noise = np.random.default_rng(0).standard_normal(8000)
    for fold in (1, 2, 3):
        for number, name in enumerate((RAIN, CAFE)):
            folder = tmp_path / "set" / f"fold{fold}" / name
            folder.mkdir(parents=True)
            wave = np.convolve(noise, np.ones(1 + 5 * number), mode="same") * (0.02 * fold)
            soundfile.write(folder / f"{name}{fold}.wav", wave, 8000)
    return tmp_path / "set"


def test_every_command_works_where_files_and_console_are_in_cp1252(sounds, tmp_path):
    file = sounds / "fold3" / RAIN / f"{RAIN}3.wav"
    weights, results, out = tmp_path / f"{RAIN}.safetensors", tmp_path / "r", tmp_path / "o"
    folds = ["--train-folds", "1"]
    small = ["--validation-fold", "2", "--test-fold", "3", "--epochs", "1", "--width", "0.0625"]
    one = ["--fold", "3", "--method", "saliency", "--mask", "bin"]
    commands = [
        ["train", "--data", sounds, "--out", weights, *folds, *small],
        ["experiment", "--weights", weights, "--data", sounds, *folds, *one, "--results", results],
        ["tables", results, "--out", tmp_path / "t"],
        ["report", results, "--data", sounds, "--weights", weights],
        ["interpret", file, "--weights", weights, "--method", "saliency", "--out", out],
        ["report", out],
        ["figure", file, "--weights", weights, "--method", "saliency", "--out", tmp_path / "f"],
        ["check", weights],
    ]
    command = [sys.executable, "-X", "utf8=0", REPOSITORY / "tests" / "cp1252.py"]
    commands = json.dumps([[*map(str, each), *cpu(each)] for each in commands])
    done = subprocess.run([*command, commands], capture_output=True, check=False, cwd=tmp_path)
    said = done.stdout.decode("cp1252")
    assert done.returncode == 0, done.stderr.decode("cp1252", errors="replace")
    assert "\\u96e8" in said
    rows = (results / RAIN / "saliency_clean" / "csvs" / "bin.csv").read_bytes().decode("utf-8")
    assert f"fold3__{RAIN}__{RAIN}3.wav,{RAIN}," in rows
    assert f"fold3__{CAFE}__{CAFE}3.wav,{CAFE}," in rows


def cpu(command):
    return [] if command[0] in ("tables", "report") else ["--device", "cpu"]


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_locale_that_misreads_file_names_is_told():
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    told = {}
    for mode in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "audiointerp", "--help"],
            capture_output=True,
            env=os.environ | locale | {"PYTHONUTF8": mode},
            check=True,
            encoding="utf-8",
        )
        told[mode] = done.stderr
    assert "names of files as ascii" in told["0"]
    assert "set PYTHONUTF8=1" in told["0"]
    assert told["1"] == ""
