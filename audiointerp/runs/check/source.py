"""Load the classifiers to check: weight files and Python files."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from audiointerp.model.classifier import Classifier, classifier
from audiointerp.model.weights import load
from audiointerp.runs.check.bench import (
    Finding,
    one_line,
)


def open_source(source: str | os.PathLike[str]) -> Classifier | Finding:
    """Return the classifier of a weight file or of ``file.py:function``, or why there is none."""
    text = os.fspath(source)
    if text.endswith(".py"):
        raise ValueError(f"{text}: name the function that makes the classifier, {text}:FUNCTION")
    path, _, function = text.rpartition(":")
    if not path.endswith(".py"):
        return load(text)
    made = _call(Path(path), function)
    if isinstance(made, Classifier):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        module, options = made
        try:
            return classifier(module, **options)
        except (TypeError, ValueError) as error:
            return Finding(
                "classifier", "failed", one_line(error), "see the help of audiointerp.classifier"
            )
    raise ValueError(
        f"{text} returned {type(made).__name__}: expected a Classifier, as audiointerp.classifier "
        "makes it, or (module, {'front_end': …, 'classes': …})"
    )


def _call(path: Path, function: str) -> Any:
    """Run a Python file and return what one of its functions returns."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    # Modules beside the file can be imported by it, as if it were run from there.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        module = _run(path)
        made = getattr(module, function, None)
        if not callable(made):
            there = [name for name, value in vars(module).items() if _is_function(value, module)]
            raise ValueError(
                f"{path} has no function {function!r}; it has {', '.join(there) or 'none'}"
            )
        return made()
    except ValueError:
        raise
    except Exception as error:  # of the user's code, which may fail in any way
        raise ValueError(f"{path}: {type(error).__name__}: {error}{_place(error, path)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"audiointerp_checked_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what their annotations name
    spec.loader.exec_module(module)
    return module


def _is_function(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _place(error: Exception, path: Path) -> str:
    """Return where in a file an error arose."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name == path.name
    ]
    return f" (line {lines[-1]})" if lines else ""
