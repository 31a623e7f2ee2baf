"""Results of a benchmark → tables, pictures, and one page that shows them all."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from audiointerp.report.page import fill_plain_page
from audiointerp.storage import check_writable, claim, write_atomically
from audiointerp.tables.files import check_folder, export_tables
from audiointerp.tables.html import STYLE, tables_html
from audiointerp.tables.leaderboard import Clips, load_benchmark, make_leaderboard
from audiointerp.tables.table import MEASURED_ON, TITLES, Drawing, Tables

PAGE = "benchmark.html"
"""Name of the page, in the folder of the tables."""
_INTRODUCTION = (
    "Each clip is the sum of a known foreground and a known background, and its true label is "
    "explained. Metrics of localisation and sound compare an interpretation with what is known; "
    "metrics of fidelity ask the network alone. References are no methods: a random map is the "
    "floor, the ideal one the ceiling, and a map that any method should beat knows nothing of the "
    "network."
)


def write_benchmark(
    results: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    mask: str = "topK_30",
    clips: Clips = "correct",
    on: str = "features",
    models: Sequence[str] | None = None,
    resamples: int = 5_000,
    seed: int = 0,
) -> list[Path]:
    """Make the tables and pictures of a benchmark and write them: CSV, LaTeX, PDF and a page.

    Parameters
    ----------
    results : path
        Where `audiointerp.runs.benchmark.run_benchmark` wrote its runs.
    out : path
        Folder to write to; as `audiointerp.tables.files.export_tables`, and ``benchmark.html``.
    mask, clips, resamples, seed
        See `audiointerp.tables.leaderboard.make_leaderboard`.
    on : {"features", "audio"}
        What the metrics were measured on.
    models : sequence of str, optional
        Which to show; all by default.

    Returns
    -------
    list of Path
        The files, the page last.

    Raises
    ------
    ValueError
        If there are no results of a benchmark, or none with the mask; nothing is written then.
    ClaimedError
        If another run is writing to the folder.
    OSError
        If `out` cannot be written; before anything is read.
    """
    out = check_folder(out)
    check_writable(out, folder=True)
    loaded = load_benchmark(results, on=on, models=models)
    tables = make_leaderboard(loaded, mask=mask, clips=clips, resamples=resamples, seed=seed)
    written = export_tables(tables, out)
    page = out / PAGE
    with claim(page):
        return [*written, write_atomically(page, benchmark_page(tables))]


def benchmark_page(tables: Tables) -> str:
    """Return a page of all tables and pictures, which needs no script and loads nothing."""
    sections = []
    for kind, title in TITLES.items():
        shown = [table.html for table in tables.tables if table.kind == kind]
        drawings = [drawing for drawing in tables.drawings if drawing.kind == kind]
        if not shown and not drawings:
            continue
        pictures = "".join(map(_picture, drawings))
        legends = [legend for legend, _ in groupby(drawing.legend for drawing in drawings)]
        notes = "".join(f'<p class="quiet">{escape(legend)}</p>' for legend in legends)
        sections.append(
            f'<section class="card wide"><h2>{escape(title)}</h2>'
            f"{tables_html(shown) if shown else ''}{pictures}{notes}</section>"
        )
    names = dict.fromkeys(tables.frames["leaderboard"]["model"])
    introduction = (
        f'<section class="card wide"><p>{escape(_INTRODUCTION)}</p>'
        f"<p>The metrics were {escape(MEASURED_ON[tables.on])}.</p></section>"
    )
    title = f"Benchmark: {', '.join(names)}"
    return fill_plain_page(title, introduction + "".join(sections), STYLE)


def _picture(drawing: Drawing) -> str:
    buffer = io.BytesIO()
    drawing.picture().savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(drawing.title, quote=True)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )
