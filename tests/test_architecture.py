"""Imports run downward: the layers of docs/architecture.md."""

import ast

import pytest
from repository import REPOSITORY

LAYERS = (
    (
        "registry",
        "reading",
        "storage",
        "spreadsheet",
        "arguments",
        "device",
        "text",
        "version",
    ),
    ("dataset",),
    ("sound",),
    ("processing",),
    ("masking", "hiding"),
    ("evaluation", "metrics"),
    ("model",),
    ("speed",),
    ("interpretation",),
    ("plots",),
    ("runs", "predict"),
    ("tables", "training", "fit"),
    ("report",),
    ("public",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PACKAGE = REPOSITORY / "audiointerp"
FILES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).as_posix() not in ("__init__.py", "__main__.py")
)


def imported(file):
    """Return the packages of audiointerp that a file imports, anywhere in it."""
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("audiointerp."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("audiointerp.")}
    return names


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_nothing_from_a_layer_above(file):
    own = file.split("/")[0].removesuffix(".py")
    above = {name for name in imported(file) if LEVEL[name] > LEVEL[own]}
    assert not above


def test_every_package_has_a_layer():
    assert {file.split("/")[0].removesuffix(".py") for file in FILES} == set(LEVEL)
