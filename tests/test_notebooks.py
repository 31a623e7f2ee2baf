"""The notebooks: they run from a fresh copy, and what is committed is whole and of no machine."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from notebooks import (
    NOTEBOOKS,
    REPOSITORY,
    NotebookError,
    clean,
    execute,
    faults,
    parameter_names,
)

# One thread for each of two test processes; no reader's settings of IPython.
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Quick:
    """How a notebook is run in seconds, and what must have come of it.

    `copies` are folders of the repository it reads beside samples, noises and weights; `writes` are
    patterns of files of which it must have written at least one each.
    """

    parameters: dict[str, Any]
    pictures: int
    writes: tuple[str, ...] = ()
    players: int = 0
    copies: tuple[str, ...] = ()
    required: tuple[str, ...] = field(default=("DATA", "SUBSET", "DEVICE"))


TRAINING = (
    *("DATA", "SUBSET", "TRAIN_FOLDS", "VALIDATION_FOLD", "TEST_FOLD", "WIDTH", "EPOCHS", "CLIPS"),
    *("DEVICE", "SEED", "PRETRAINED", "WEIGHTS"),
)
EXPERIMENTS = (
    *("DATA", "SUBSET", "FOLD", "TRAIN_FOLDS", "WEIGHTS", "METHODS", "CLIPS", "RESULTS"),
    *("DEVICE", "SEED"),
)

QUICK = {
    "train_model_stft.ipynb": Quick(
        {"EPOCHS": 1, "CLIPS": 2},
        pictures=4,
        writes=("weights/my_logstft.safetensors", "weights/my_logstft.md"),
        players=1,
        required=TRAINING,
    ),
    "train_model_mel.ipynb": Quick(
        {"EPOCHS": 1, "CLIPS": 2, "PRETRAINED": "weights/synthetic_logmel.safetensors"},
        pictures=4,
        writes=("weights/my_logmel.safetensors", "weights/my_logmel.md"),
        players=1,
        required=TRAINING,
    ),
    **{
        f"experiments_{name}.ipynb": Quick(
            {"CLIPS": 2},
            pictures=1,
            writes=("results/*/*/csvs/*.csv",),
            required=EXPERIMENTS,
        )
        for name in ("stft", "mel", "mel_noise1", "mel_noise2", "mel_noise3")
    },
    "tables.ipynb": Quick(
        {}, pictures=1, copies=("results",), required=("RESULTS", "MODELS"), writes=("**/*.pdf",)
    ),
    "illustration.ipynb": Quick(
        {}, pictures=1, players=1, required=("CLIP", "WEIGHTS", "METHODS", "MASKS", "OUT")
    ),
}


def read(name: str) -> nbformat.NotebookNode:
    if not (REPOSITORY / name).is_file():
        pytest.skip(f"{name} is being written")
    return nbformat.read(REPOSITORY / name, as_version=4)


@pytest.fixture
def workspace(tmp_path):
    """Return what a fresh clone holds of sounds and weights, to be written to at will."""

    def make(copies=()):
        left_out = shutil.ignore_patterns("my_*", "attributions", "demo", "training")
        for name in ("samples", "noises", "weights", *copies):
            shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
        for name in ("results", "pretrained"):
            (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path

    return make


def outputs(notebook: nbformat.NotebookNode, pattern: str) -> int:
    """Count the outputs that hold a pattern, in their kind or as HTML."""
    return sum(
        bool(re.search(pattern, kind) or (kind == "text/html" and re.search(pattern, str(value))))
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind, value in output.get("data", {}).items()
    )


# --- run -----------------------------------------------------------------------------------------


def test_every_notebook_has_quick_parameters():
    assert sorted(QUICK) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_to_its_end_and_shows_what_it_must(name, workspace):
    quick = QUICK[name]
    read(name)
    folder = workspace(quick.copies)
    before = {path for path in folder.rglob("*") if path.is_file()}
    notebook = execute(REPOSITORY / name, quick.parameters, folder, environment=QUIET)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert outputs(notebook, "image/(png|svg)") >= quick.pictures
    assert outputs(notebook, "<audio") >= quick.players
    for pattern in quick.writes:
        assert set(folder.glob(pattern)) - before, f"{name} wrote no {pattern}"
    clean(notebook)
    assert faults(notebook) == []


# --- as committed --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_committed_file_was_executed_whole_and_is_of_no_machine(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert faults(notebook) == []
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert outputs(notebook, "image/(png|svg)") >= QUICK[name].pictures


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_set_by_one_cell_and_reads_as_a_text(name):
    notebook = read(name)
    assert set(QUICK[name].required) <= set(parameter_names(notebook))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    assert len(notebook.cells) - len(code) >= len(code) - 2
    assert max(len(cell.source.splitlines()) for cell in code) <= 15


# --- the machinery -------------------------------------------------------------------------------

CELLS = {
    "parameters": "A = 1\nB, C = 2, 3\nD = 'x'",
    "bar": "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
    "text bar": "from tqdm import tqdm\nfor _ in tqdm(range(3), desc='work', unit='clip'): pass",
    "result": "import os\n(A, D, os.listdir())",
}


def made(**cells: str) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells.values())))
    for cell, name in zip(notebook.cells, cells, strict=True):
        cell.metadata["tags"] = [name]
    return notebook


def written(notebook: nbformat.NotebookNode, folder):
    nbformat.write(notebook, folder / "made.ipynb")
    return folder / "made.ipynb"


def test_parameters_take_the_place_of_the_defaults_and_bars_go(tmp_path):
    path = written(made(**CELLS), tmp_path)
    before = path.read_bytes()
    (tmp_path / "here").mkdir()
    notebook = execute(path, {"A": [1, None], "D": "it's"}, tmp_path / "here")
    assert path.read_bytes() == before
    assert notebook.cells[1].metadata.tags == ["injected-parameters"]
    assert notebook.cells[4].outputs[0]["data"]["text/plain"] == '([1, None], "it\'s", [])'
    assert {fault[:13] for fault in faults(notebook)} == {"cell 2 shows ", "cell 3 writes"}
    clean(notebook)
    assert [len(cell.outputs) for cell in notebook.cells] == [0, 0, 0, 0, 1]
    assert faults(notebook) == []
    assert "widgets" not in notebook.metadata
    nbformat.validate(notebook)


def test_a_failing_cell_is_an_error(tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(written(made(cell="1 / 0"), tmp_path), folder=tmp_path)


def test_a_parameter_that_the_notebook_does_not_define_is_refused(tmp_path):
    path = written(made(**CELLS), tmp_path)
    with pytest.raises(NotebookError, match=r"no parameter E: its parameters are A, D"):
        execute(path, {"A": 1, "E": 2}, tmp_path)
    with pytest.raises(NotebookError, match=r"its parameters are none"):
        execute(written(made(cell="A = 1"), tmp_path), {"A": 1}, tmp_path)


def output(kind: str, **content: Any) -> nbformat.NotebookNode:
    return nbformat.v4.new_output(kind, **content)


def shown(kind: str, value: str) -> nbformat.NotebookNode:
    return output("display_data", data={kind: value})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (output("error", ename="KeyError", evalue="'x'"), "ends in an error: KeyError: 'x'"),
        (output("stream", name="stderr", text="a warning"), "stderr: 'a warning'"),
        (output("stream", name="stdout", text="in /home/ann/x"), "'/home/ann/x'"),
        (output("stream", name="stdout", text=f"at {REPOSITORY}"), "folder of this machine"),
        (shown("text/plain", "PosixPath('/Users/ann')"), "/Users/ann"),
        (shown("text/html", r"<p>C:\Users\ann</p>"), r"C:\\\\Users"),
        (shown("image/png", "A" * 3_000_001), r"3\.0 MB, more than 3"),
    ],
)
def test_what_must_not_be_committed_is_named(bad, message):
    notebook = made(cell="1")
    notebook.cells[0].outputs = [bad]
    clean(notebook)
    (fault,) = faults(notebook)
    assert re.search(message, fault)


@pytest.mark.parametrize(
    "good",
    [
        output("stream", name="stdout", text="results/home/x and https://a.org/home/b, 1/2"),
        shown("image/png", "iVBOR/tmp/abc/home/"),
        shown("text/html", '<audio src="data:audio/wav;base64,UklGR /tmp/'.replace(" ", "") + '">'),
    ],
)
def test_pictures_sounds_and_relative_paths_are_no_fault(good):
    notebook = made(cell="'results/work/'")
    notebook.cells[0].outputs = [good]
    assert faults(notebook) == []
