"""Execute the notebooks: in a test with quick parameters, or in place for a commit.

``python tests/notebooks.py [NAME.ipynb ...]`` executes notebooks as a reader would, from the top of
the repository, and writes them back without what changes from run to run and machine to machine.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from repository import REPOSITORY

# In the order in which one uses what another has written.
NOTEBOOKS = (
    "train_model_stft.ipynb",
    "train_model_mel.ipynb",
    "experiments_stft.ipynb",
    "experiments_mel.ipynb",
    "experiments_mel_noise1.ipynb",
    "experiments_mel_noise2.ipynb",
    "experiments_mel_noise3.ipynb",
    "tables.ipynb",
    "illustration.ipynb",
    "docs/findings.ipynb",
    "docs/models/audit.ipynb",
    "docs/models/transformers.ipynb",
    "docs/models/vision.ipynb",
    "docs/models/packages.ipynb",
    "docs/models/onnx.ipynb",
    "docs/models/pitch.ipynb",
    "docs/models/speech.ipynb",
    "docs/models/bats.ipynb",
)
LARGEST = 3_000_000
"""Bytes of a committed notebook."""

INJECTED = "injected-parameters"
"""Tag of the cell with values for a run, as papermill has it."""

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_SECONDS = 3600
_BAR = re.compile(r"\d+%\||\d+(it|clip|epoch)? ?\[\d+:\d\d")
_WIDGET = "application/vnd.jupyter.widget-view+json"
_EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=\\n]+")
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|private|var)/|\b[A-Z]:\\+\w")


class NotebookError(ValueError):
    """A notebook that cannot be executed as asked, or must not be committed as it is."""


def execute(
    path: str | os.PathLike[str],
    parameters: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> NotebookNode:
    """Run a notebook from its first cell to its last and return it with its outputs.

    Parameters
    ----------
    path : path
        The notebook; the file is not changed.
    parameters : mapping, optional
        Values that take the place of those in its parameters cell.
    folder : path, optional
        Where it runs; the repository by default.
    environment : mapping, optional
        Variables for its kernel, beside those of this process.

    Raises
    ------
    NotebookError
        If it does not define a parameter.
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        _inject(notebook, parameters, Path(path).name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--HistoryManager.enabled=False", "--log-level=ERROR"],
        resources={"metadata": {"path": str(folder or REPOSITORY)}},
    )
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    found = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}  # the package, from any folder
    return client.execute(env={**os.environ, **found, **(environment or {})})


def parameter_names(notebook: NotebookNode) -> list[str]:
    """Return the names that the cell tagged "parameters" assigns, none without such a cell."""
    return [
        target.id
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", ())
        for statement in ast.parse(cell.source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def clean(notebook: NotebookNode) -> None:
    """Remove progress bars, times and what tells of the machine, in place."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]


def faults(notebook: NotebookNode) -> list[str]:
    """Return what speaks against committing a notebook, nothing if all is well."""
    found = []
    for number, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.output_type == "error":
                found.append(f"cell {number} ends in an error: {output.ename}: {output.evalue}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {number} writes to stderr: {output.text.strip()[:200]!r}")
            if _WIDGET in output.get("data", ()):
                found.append(f"cell {number} shows a widget, which is lost in the file")
        for text in [cell.source, *filter(None, map(_text, outputs))]:
            where = _machine_path(text)
            if where:
                found.append(f"cell {number} names a folder of this machine: {where!r}")
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST:
        found.append(f"the file has {size / 1e6:.1f} MB, more than {LARGEST / 1e6:g}")
    return found


def _inject(notebook: NotebookNode, parameters: Mapping[str, Any], name: str) -> None:
    """Put a cell of assignments after the one tagged "parameters", as papermill does."""
    known = parameter_names(notebook)
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise NotebookError(
            f"{name} has no parameter {', '.join(unknown)}: "
            f"its parameters are {', '.join(known) or 'none'}"
        )
    lines = [f"{parameter} = {value!r}" for parameter, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(lines))
    cell.metadata["tags"] = [INJECTED]
    tagged = ["parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells]
    notebook.cells.insert(tagged.index(True) + 1, cell)


def _is_bar(output: NotebookNode) -> bool:
    if _WIDGET in output.get("data", ()):
        return True
    is_stderr = output.output_type == "stream" and output.name == "stderr"
    lines = re.split(r"[\r\n]+", output.text) if is_stderr else []
    return is_stderr and all(_BAR.search(line) for line in lines if line.strip("\x1b[A "))


def _text(output: NotebookNode) -> str:
    """Return what an output shows as text; pictures and sounds inside it are left out."""
    texts = [output.get("text", ""), *output.get("traceback", [])]
    for kind, value in output.get("data", {}).items():
        if not kind.startswith(("image/png", "image/jpeg", "audio/")):
            texts.append(value if isinstance(value, str) else str(value))
    return _EMBEDDED.sub("", "\n".join(texts))


def _machine_path(text: str) -> str:
    """Return the first folder of this or any machine that a text names, "" if there is none."""
    for folder in {str(Path.home()), str(REPOSITORY), tempfile.gettempdir()} - {"/"}:
        if folder in text:
            return folder
    match = _FOLDERS.search(text)
    return text[match.start() : match.start() + 60] if match else ""


def main(names: list[str]) -> int:
    """Execute notebooks in place; return how many were refused and left as they were."""
    refused = 0
    for name in names or NOTEBOOKS:
        path = REPOSITORY / name
        print(f"{name} ...", flush=True)
        notebook = execute(path)
        clean(notebook)
        wrong = faults(notebook)
        if wrong:
            refused += 1
            print(f"{name}: not written\n  " + "\n  ".join(wrong), file=sys.stderr)
            continue
        nbformat.write(notebook, path)
        print(f"{name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    return refused


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
