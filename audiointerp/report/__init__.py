"""One page to look at and listen to: results → a single HTML file.

The page holds everything it shows, pictures, sounds and numbers, so that it works from a disk
and without a network; its content security policy lets the browser load nothing else. There are
two kinds: of saved interpretations (`audiointerp.report.saved`), and of an experiment's runs
(`audiointerp.report.runs`, and `audiointerp.report.listen` where its clips are at hand).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from audiointerp.arguments import several
from audiointerp.metrics import METRICS
from audiointerp.report.listen import BY, CLIPS, Listening, listen
from audiointerp.report.media import Form, check_form
from audiointerp.report.runs import find_runs, page_of_runs, read_runs
from audiointerp.report.saved import find_saved, page_of_saved
from audiointerp.storage import check_writable, claim, write_atomically

PAGE = "report.html"
"""Name of the page, in the folder that it is made from."""

PathLike = str | os.PathLike[str]


def write_report(
    folder: PathLike,
    *,
    results: Iterable[PathLike] | None = None,
    out: PathLike | None = None,
    sound: Form = "auto",
    data: PathLike | None = None,
    weights: Sequence[PathLike] = (),
    noises: Sequence[PathLike] = (),
    masks: Sequence[str] | None = None,
    clips: int | Sequence[str] = CLIPS,
    by: str = BY,
) -> Path:
    """Write a page of the interpretations, or of the runs of an experiment, in a folder.

    Parameters
    ----------
    folder : path
        What ``audiointerp interpret`` wrote, or any folder above or of a saved `Interpretation`;
        or a run of ``audiointerp experiment``, ``<model>/<method>_<experiment>``, or a folder of
        runs.
    results : iterable of path, optional
        Only these saved interpretations in it; all by default.
    out : path, optional
        The page; ``<folder>/report.html`` by default. A name without ``.html`` gets it; in a folder
        that is there, the page is ``report.html``. An earlier one is replaced.
    sound : {"auto", "wav", "mp3"}
        WAV, 16 bit, is lossless. MP3 of the highest variable rate is a fraction of it. "auto"
        takes WAV for a page with less than 12 MB of sound. A rate that MP3 does not have stays
        WAV.
    data : "synthetic" or path, optional
        Of runs: the set they were made with, whose clips are then looked at and listened to.
        Without it the page of a run has tables only.
    weights : sequence of path
        Of runs: weight files of their models, for class probabilities before and after masking.
    noises : sequence of path
        Of runs: the noise files they were made with.
    masks : sequence of str, optional
        Of runs: masks to make audible; ``topK_5`` and ``topK_30`` by default.
    clips : int or sequence of str
        Of runs: how many clips to listen to, half the best and half the worst; or which.
    by : str
        Of runs: the metric that those are best and worst by, under the first mask.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ValueError
        If there are no results, or they, the set, the weights or the noises are not usable or do
        not belong together; nothing is written.
    ClaimedError
        If another run is writing the page.
    OSError
        If the page cannot be written; before anything is read.
    """
    folder = Path(folder)
    METRICS[by]
    check_form(sound)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    target = _target(folder, out)
    check_writable(target)
    with claim(target):
        saved = find_saved(folder) if results is None else list(map(Path, several(results)))
        runs = find_runs(folder) if results is None else []
        if saved and runs:
            raise ValueError(
                f"{folder}: holds both saved interpretations, {saved[0]}, and runs of an "
                f"experiment, {runs[0]}: name a folder that holds one kind"
            )
        if runs:
            options = Listening(
                data,
                several(weights),
                several(noises),
                None if masks is None else several(masks),
                clips if isinstance(clips, int) else several(clips),
                by,
            )
            read = read_runs(folder, runs)
            heard = listen(read, options, sound)
            content = page_of_runs(_title(folder, runs), read, heard)
        elif saved:
            if data is not None or weights or noises or masks is not None:
                raise ValueError(
                    f"{folder}: holds saved interpretations, whose sounds and probabilities are in "
                    "it; a set, weights, noises and masks are for the runs of an experiment"
                )
            content = page_of_saved(folder, saved, sound)
        else:
            raise ValueError(
                f"{folder}: no result of `audiointerp interpret` and no run of `audiointerp "
                "experiment` in it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        return write_atomically(target, content)


def _target(folder: Path, out: PathLike | None) -> Path:
    """Return the page that a name stands for: a file that ends in .html, or one in a folder."""
    if out is None:
        return folder / PAGE
    path = Path(out)
    if path.is_dir():
        return path / PAGE
    return path if path.suffix.lower() in (".html", ".htm") else Path(f"{path}.html")


def _title(folder: Path, runs: Sequence[Path]) -> str:
    """Return a run's name with its model's, or that of the folder of several."""
    full = folder.resolve()
    return f"{full.parent.name}/{full.name}" if folder in runs else full.name
