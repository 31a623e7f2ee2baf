"""The notebooks: they run from a fresh copy, and what is committed is whole and of no machine."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from notebooks import (
    INJECTED,
    NOTEBOOKS,
    NotebookError,
    clean,
    execute,
    faults,
    parameter_names,
)
from repository import REPOSITORY

from audiointerp.dataset.synthetic import write_synthetic

# One thread for each of two test processes; no reader's settings of IPython.
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Quick:
    """How a notebook is run in seconds, and what must have come of it.

    With `folder`, the clips are those of a folder laid out like ESC-50. `copies` are folders of the
    repository it reads beside samples, noises and weights; `writes` are patterns of which it must
    have written a file each. It is passed over where `package` is not installed.
    """

    parameters: dict[str, Any]
    required: tuple[str, ...]
    pictures: int
    players: int = 0
    writes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    folder: bool = False
    package: str | None = None


TRAINING = (
    *("DATA", "SUBSET", "TRAIN_FOLDS", "VALIDATION_FOLD", "TEST_FOLD", "WIDTH", "EPOCHS", "CLIPS"),
    *("DEVICE", "SEED", "PRETRAINED", "CACHE", "WEIGHTS", "HOLES", "ROBUST", "PROGRESS"),
)
EXPERIMENTS = (
    *("DATA", "SUBSET", "FOLD", "TRAIN_FOLDS", "WEIGHTS", "TRUE_LABELS", "METHODS", "REFERENCES"),
    *("CLIPS", "RESULTS", "CACHE", "DEVICE", "SEED", "PROGRESS"),
)


def training(kind: str, **parameters: Any) -> Quick:
    weights = f"weights/my_{kind}"
    return Quick(
        # one clip of every class
        {"EPOCHS": 1, "HOLES_EPOCHS": 1, "CLIPS": 10} | parameters,
        TRAINING,
        pictures=6,
        players=3,
        writes=tuple(
            f"{weights}{end}"
            for end in (".safetensors", ".md", "_robust.safetensors", "_robust.md")
        ),
        folder="PRETRAINED" in parameters,
    )


def experiment(model: str, name: str, *methods: str, folder: bool = False) -> Quick:
    noise = () if name == "clean" else ("NOISE", "ALPHA")
    return Quick(
        {"CLIPS": 2, "METHODS": list(methods)},
        (*EXPERIMENTS, *noise),
        pictures=5 if name == "clean" else 7,
        players=0 if folder else 1 if name == "clean" else 4,
        writes=tuple(
            f"results/synthetic_{model}_robust/{method}_{name}/{part}"
            for method in (*methods, "random", "energy", "ideal")
            for part in ("run.json", "csvs/topK_30.csv")
        ),
        folder=folder,
    )


# Between them they have every method once; LIME, the slow one, where a clip is the smallest.
QUICK = {
    "train_model_stft.ipynb": training("logstft"),
    "train_model_mel.ipynb": training("logmel", PRETRAINED="weights/synthetic_logmel.safetensors"),
    "experiments_stft.ipynb": experiment("logstft", "clean", "saliency"),
    "experiments_mel.ipynb": experiment("logmel", "clean", "lime"),
    "experiments_mel_noise1.ipynb": experiment("logmel", "horse", "shap"),
    "experiments_mel_noise2.ipynb": experiment("logmel", "room", "gradcam"),
    "experiments_mel_noise3.ipynb": experiment("logmel", "white", "saliency", folder=True),
    "tables.ipynb": Quick(
        {"MODELS": ["esc10_logmel"], "RESAMPLES": 100, "OUT": "made", "CLIPS": 10}
        | {"METHODS": ["saliency", "random", "energy", "ideal"]},
        ("RESULTS", "MODELS", "OUT", "BENCHMARK", "WEIGHTS", "METHODS", "CLIPS", "SEED"),
        pictures=3,
        writes=(
            *("made/csv/*.csv", "made/latex/*.tex", "made/*.pdf"),
            "results/synthetic_benchmark/synthetic_logmel_robust/ideal_white/run.json",
        ),
        copies=("results/esc10_logmel",),
    ),
    "illustration.ipynb": Quick(
        {"METHODS": ["saliency", "gradcam"], "MASKS": ["topK_30"], "OUT": "made"},
        ("CLIP", "WEIGHTS", "METHODS", "MASKS", "DATA", "SUBSET", "OUT", "DEVICE", "SEED"),
        pictures=8,
        players=2,
        writes=("made/dog_in.pdf", "made/dog_in.png", "made/dog_out.pdf"),
    ),
    "docs/findings.ipynb": Quick(
        {"METHODS": ["saliency", "gradcam", "shap"], "REFERENCES": ["random", "energy", "ideal"]}
        | {"CLIPS": 2, "LEVELS": [0], "FEWER_CLIPS": 2, "SHORTCUT_CLIPS": 2, "RESAMPLES": 100},
        (
            *("DATA", "FOLD", "PLAIN", "ROBUST", "CHEATING", "NOISES", "METHODS", "REFERENCES"),
            *("CLIPS", "LEVELS", "FEWER_CLIPS", "SHORTCUT_CLIPS", "RESULTS", "BENCHMARK", "CACHE"),
            *("DEVICE", "SEED", "RESAMPLES", "PROGRESS"),
        ),
        pictures=4,
        writes=(
            "results/findings/noise/synthetic_logmel_robust/ideal_white/run.json",
            "results/findings/defects/synthetic_logmel/shap-gradient_room/csvs/topK_50_pos-ties.csv",
            "results/findings/shortcut_quiet/shortcut_logmel/saliency_clean/run.json",
        ),
    ),
    "docs/models/audit.ipynb": Quick(
        {"CLIPS": 6},
        ("WEIGHTS", "ROBUST", "FOLDER", "OUT", "FOLDS", "SHARE", "OTHERS", "CLIPS", "DEVICE"),
        pictures=2,
        players=1,
        writes=("results/audit/shortcut/audit.html", "results/audit/shortcut/audit_groups.csv"),
    ),
    "docs/models/transformers.ipynb": Quick(
        {"CLIPS": 20, "EPOCHS": 1, "TESTED": 6, "METHODS": ["saliency", "attnlrp", "random"]},
        ("CLIPS", "EPOCHS", "TESTED", "METHODS", "OUT", "SEED"),
        pictures=1,
        players=1,
        writes=("results/interpret/transformers/report.html",),
    ),
    "docs/models/vision.ipynb": Quick(
        {"CLIPS": 12, "EPOCHS": 1, "TESTED": 3, "METHODS": ["saliency", "random"]},
        ("CLIPS", "EPOCHS", "TESTED", "METHODS", "SEED"),
        pictures=2,
        players=2,
    ),
    "docs/models/packages.ipynb": Quick(
        {"SECONDS": 1.0}, ("CLIP", "SECONDS", "SEED"), pictures=1, players=1
    ),
    "docs/models/onnx.ipynb": Quick(
        {"SAMPLES": 20}, ("WEIGHTS", "CLIP", "SAMPLES"), pictures=1, players=2
    ),
    "docs/models/pitch.ipynb": Quick(
        {"SAMPLES": 8},
        ("CAPACITY", "SAMPLES", "OUT"),
        pictures=1,
        players=1,
        writes=("results/models/pitch/torchcrepe/*/mixture/summary.json",),
        package="torchcrepe",
    ),
    "docs/models/speech.ipynb": Quick(
        {"SAMPLES": 8, "STEPS": 2},
        ("STEPS", "SAMPLES", "OUT"),
        pictures=1,
        players=1,
        writes=("results/models/speech/silero/*/voice_and_beep/summary.json",),
        package="silero_vad",
    ),
    "docs/models/bats.ipynb": Quick(
        {"STEPS": 2},
        ("STEPS", "OUT", "MEASURED"),
        pictures=1,
        players=1,
        writes=("results/models/bats/*/*/generated_call/original_10_times_slower.wav",),
        copies=("benchmarks/results",),
        package="batdetect2",
    ),
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(REPOSITORY / name, as_version=4)


@pytest.fixture
def workspace(tmp_path):
    """Return a maker of a folder that holds what a fresh clone does, to be written to at will."""

    def make(copies=()):
        left_out = shutil.ignore_patterns("my_*", "attributions")
        for name in ("samples", "noises", "weights", *copies):
            shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=left_out)
        for name in ("results", "pretrained"):
            (tmp_path / name).mkdir(exist_ok=True)
        return tmp_path

    return make


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Return parameters that say where clips come from; each clip is made once."""
    own = tmp_path_factory.getbasetemp()
    # Processes of one test run share the cache, which is made for that.
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "notebook_clips"

    def parameters(folder: bool) -> dict[str, str]:
        if not folder:
            return {"CACHE": str(cache)}
        root = tmp_path_factory.mktemp("esc50") / "data"
        return {"DATA": str(write_synthetic(root, clips_per_class=5, progress=False))}

    return parameters


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
def test_it_runs_to_its_end_and_shows_what_it_must(name, workspace, clips):
    quick = QUICK[name]
    if quick.package is not None:
        pytest.importorskip(quick.package, reason=f"needs the package {quick.package}")
    names = parameter_names(read(name))
    folder = workspace(quick.copies)
    before = {path for path in folder.rglob("*") if path.is_file()}
    parameters = quick.parameters | (clips(quick.folder) if "CACHE" in names else {})
    notebook = execute(REPOSITORY / name, parameters, folder, environment=QUIET)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert outputs(notebook, "image/(png|svg)") >= quick.pictures
    assert outputs(notebook, "<audio") >= quick.players
    for pattern in quick.writes:
        assert set(folder.glob(pattern)) - before, f"{name} wrote no {pattern}"
    clean(notebook)
    # The cell that names the folder of the clips is the test's own.
    notebook.cells = [cell for cell in notebook.cells if cell.metadata.get("tags") != [INJECTED]]
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
    lengths = [len(cell.source.splitlines()) for cell in code if not cell.metadata.get("tags")]
    # The findings make their tables and the published errors themselves.
    assert max(lengths) <= (90 if name.startswith("docs/") else 16)


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


HOME = "/".join(["", "home", "ann"])
"""A folder as it must not stand in a notebook, so not in this file either."""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (output("error", ename="KeyError", evalue="'x'"), "ends in an error: KeyError: 'x'"),
        (output("stream", name="stderr", text="a warning"), "stderr: 'a warning'"),
        (output("stream", name="stdout", text=f"in {HOME}/x"), f"'{HOME}/x'"),
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
    notebook = made(cell="'results/home/'")
    notebook.cells[0].outputs = [good]
    assert faults(notebook) == []
