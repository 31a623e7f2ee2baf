"""The modules of the package import each other in one direction only."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from repository import REPOSITORY


def imports() -> dict[str, set[str]]:
    """Return what each module of the package imports of it, anywhere in its file."""
    files = {}
    for path in (REPOSITORY / "audiointerp").rglob("*.py"):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        whole = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        modules = {each if each in files else each.rpartition(".")[0] for each in named | whole}
        found[name] = (modules & files.keys()) - {name}
    return found


def test_no_module_imports_one_that_imports_it():
    left = imports()
    assert len(left) > 50
    # Taking away what imports nothing that is left, all modules go, unless some form a circle.
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left


def test_public_names_are_imported_when_they_are_used():
    """From the first moment on, Ctrl-C has to find the command line ready: torch takes seconds."""
    script = (
        "import sys, audiointerp.cli; assert not {'torch', 'numpy', 'typer'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)


def test_every_public_name_is_that_of_its_module():
    import audiointerp
    from audiointerp import public

    assert audiointerp.__all__ == public.__all__
    assert all(getattr(audiointerp, name) is getattr(public, name) for name in public.__all__)
    assert set(public.__all__) <= set(dir(audiointerp))
    assert audiointerp.masking.MASKS is audiointerp.MASKS
    with pytest.raises(AttributeError, match="no attribute 'saliency'"):
        _ = audiointerp.saliency
