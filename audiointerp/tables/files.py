"""Tables → files: CSV, LaTeX (booktabs) and one PDF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from audiointerp.spreadsheet import to_csv
from audiointerp.storage import check_writable, claim, replacing, write_atomically
from audiointerp.tables.cells import Cell, Column, Row
from audiointerp.tables.load import load_results
from audiointerp.tables.notes import note_lines, notes_frame
from audiointerp.tables.paper import make_tables
from audiointerp.tables.pdf import write_pdf
from audiointerp.tables.table import MEASURED_ON, TITLES, Table, Tables
from audiointerp.tables.tex import escape, file_names, letters_preamble

_LEGEND = (
    "Metrics were {on}. Mean over the clips [95\\,\\% bootstrap interval]. Best mean of a group of "
    "rows: \\textbf{{bold}}; worst: \\underline{{underlined}}. An asterisk: better, or worse, than "
    "every other of the group (paired Wilcoxon test, Holm, $p < 0.05$)."
)
_ENDINGS = (".csv", ".tex", ".pdf", ".html")
_ROWS_AT_MOST = 60
"""Of a table that fits a page of the document; longer ones are cut between groups."""


def write_tables(
    results: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    on: str = "features",
    models: Sequence[str] | None = None,
    experiments: Sequence[str] | None = None,
    resamples: int = 5_000,
    seed: int = 0,
) -> list[Path]:
    """Make all tables of a results folder and write them as CSV, LaTeX and PDF.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<experiment>/`` folders.
    out : path
        Folder to write to; see `export_tables`.
    on : {"features", "audio"}
        What the metrics were measured on.
    models, experiments : sequence of str, optional
        Which to show; all by default.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ValueError
        As `audiointerp.tables.load_results`; nothing is written then.
    OSError
        If `out` cannot be written; before anything is read.
    """
    out = check_folder(out)
    check_writable(out, folder=True)
    loaded = load_results(results, on=on, models=models, experiments=experiments)
    with tqdm(total=2, desc="tables", unit="step") as bar:
        tables = make_tables(loaded, resamples=resamples, seed=seed)
        bar.update()
        written = export_tables(tables, out)
        bar.update()
    return written


def check_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder that tables are written to.

    Raises
    ------
    ValueError
        If the name is that of a file of tables.
    """
    out = Path(out)
    if out.suffix.lower() in _ENDINGS:
        raise ValueError(f"{out}: the tables are several files in a folder; name the folder")
    return out


def export_tables(tables: Tables, out: str | os.PathLike[str]) -> list[Path]:
    """Write tables as CSV, LaTeX and PDF.

    ``csv/<kind>.csv`` has the numbers in full; ``latex/<kind>.tex`` the tables to take into a paper
    and the pictures, such as ``latex/plane_<model>_<experiment>.pdf`` of the fidelity-simplicity
    plane (what a file name in LaTeX cannot have becomes ``_``),
    ``latex/tables.tex`` a document of them all; ``tables.pdf`` is the same, made without LaTeX.

    Parameters
    ----------
    tables : Tables
        As `audiointerp.tables.paper.make_tables` returns them.
    out : path
        Folder to write to.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ClaimedError
        If another run is writing tables to the folder.
    """
    folder = Path(out)
    with claim(folder / "tables.pdf"):
        return [
            *write_csv(tables, folder / "csv"),
            *write_latex(tables, folder / "latex"),
            write_pdf(tables, folder / "tables.pdf"),
        ]


def write_csv(tables: Tables, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the numbers, to ten digits, one file for each kind of table; return the files.

    Notes on the results are in ``notes.csv``, where there are any.
    """
    files = []
    frames = dict(tables.frames)
    notes = Path(folder) / "notes.csv"
    if tables.notes:
        frames[notes.stem] = notes_frame(tables.notes)
    else:
        notes.unlink(missing_ok=True)  # of earlier results
    for kind, frame in frames.items():
        text = to_csv(frame, index=False, float_format="%.10g")
        files.append(_write(Path(folder) / f"{kind}.csv", text))
    return files


def write_latex(tables: Tables, folder: str | os.PathLike[str]) -> list[Path]:
    """Write one LaTeX file for each kind of table, the pictures, and a document of them all.

    The tables need the package booktabs, and a page about 24 cm wide.

    Returns
    -------
    list of Path
        The files, ``tables.tex`` the last.
    """
    folder = Path(folder)
    files = []
    sections, texts = [], []
    for kind, group in groupby(tables.tables, key=lambda table: table.kind):
        text = "\n".join(to_latex(part) for table in group for part in _cut(table))
        files.append(_write(folder / f"{kind}.tex", text))
        texts.append(text)
        sections.append(f"{_entry(kind)}\\input{{{kind}.tex}}\n\\clearpage\n")
    stems = file_names((drawing.stem for drawing in tables.drawings), ".pdf")
    named = zip(stems, tables.drawings, strict=True)
    for kind, group in groupby(named, key=lambda each: each[1].kind):
        figures = []
        for name, drawing in group:
            with replacing(folder / name) as partial:
                drawing.picture().savefig(partial, metadata={"CreationDate": None})
            figures.append(f"\\includegraphics[width=0.48\\linewidth]{{{name}}}")
            files.append(folder / name)
        sections.append(f"{_entry(kind)}\\noindent\n" + "\\hfill\n".join(figures))
    notes = list(map(_latex_note, note_lines(tables.notes)))
    document = _document([*sections, *notes], [*texts, *notes], tables.on)
    return [*files, _write(folder / "tables.tex", document)]


def _entry(kind: str) -> str:
    """Return a line for the contents; the captions say what the tables are."""
    return f"\\phantomsection\\addcontentsline{{toc}}{{section}}{{{TITLES[kind]}}}\n"


def _document(sections: Sequence[str], texts: Sequence[str], on: str) -> str:
    return "\n".join(
        [
            "\\documentclass[10pt]{article}",
            letters_preamble(texts),
            "\\usepackage[a4paper,landscape,margin=1.2cm]{geometry}",
            "\\usepackage{booktabs}",
            "\\usepackage{graphicx}",
            "\\usepackage{multicol}",
            "\\usepackage[hidelinks]{hyperref}",
            "% As many tables on a page as it has room for.",
            "\\renewcommand{\\topfraction}{1}",
            "\\renewcommand{\\bottomfraction}{1}",
            "\\renewcommand{\\textfraction}{0}",
            "\\setcounter{topnumber}{9}",
            "\\setcounter{totalnumber}{9}",
            "\\setlength{\\abovecaptionskip}{2pt}",
            "\\setlength{\\floatsep}{8pt}",
            "\\setlength{\\intextsep}{8pt}",
            "\\makeatletter",
            "\\setlength{\\@fptop}{0pt}",
            "\\setlength{\\@fpsep}{8pt}",
            "\\makeatother",
            "\\begin{document}",
            f"\\noindent {_LEGEND.format(on=MEASURED_ON[on])}",
            "",
            "\\tableofcontents",
            "\\begin{multicols}{2}\\footnotesize",
            "\\listoftables",
            "\\end{multicols}",
            "\\clearpage",
            *sections,
            "\\end{document}",
            "",
        ]
    )


def to_latex(table: Table) -> str:
    """Return a table as a LaTeX float (package booktabs)."""
    headings = [f"\\multicolumn{{2}}{{l}}{{{_latex_heading(column)}}}" for column in table.columns]
    body = []
    for place, (group, rows) in enumerate(table.groups):
        if place:
            body.append("\\addlinespace[2pt]")
        for first, row in zip((True, *[False] * len(rows)), rows, strict=False):
            labels = [escape(group) if first else "", escape(row.label)][-len(table.stub) :]
            body.append(" & ".join([*labels, *map(_latex_cell, row.cells)]) + " \\\\")
    # The mean and its interval are columns of their own, so that both stand below each other.
    columns = "l" * len(table.stub) + f"*{{{len(table.columns)}}}{{r@{{\\hspace{{5pt}}}}l}}"
    return "\n".join(
        [
            "\\begin{table}[htbp]",
            "\\centering",
            "\\scriptsize",
            "\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape(table.caption)}}}",
            f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            "\\toprule",
            " & ".join([*map(escape, table.stub), *headings]) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            *map(_latex_note, note_lines(table.notes)),
            "\\end{table}",
            "",
        ]
    )


def _latex_note(line: str) -> str:
    return f"\\par\\smallskip\\parbox{{0.95\\linewidth}}{{\\raggedright {escape(line)}}}"


def _latex_heading(column: Column) -> str:
    unit = f" ({escape(column.unit)})" if column.unit else ""
    arrow = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}[column.better]
    return escape(column.name) + unit + arrow


def _latex_cell(cell: Cell) -> str:
    text = "--" if cell.text == "–" else cell.text.replace("-", "$-$")
    commands = {"best": "textbf", "better": "textbf", "worst": "underline", "worse": "underline"}
    if cell.mark:
        text = f"\\{commands[cell.mark]}{{{text}}}"
    if cell.mark in ("better", "worse"):
        # Of no width: the digits stay below each other.
        text += "\\rlap{$^{\\ast}$}"
    interval = cell.interval.replace("-", "$-$")
    return f"{text} & " + (f"{{\\tiny {interval}}}" if interval else "")


def _cut(table: Table) -> list[Table]:
    """Cut a table between groups, so that no part is longer than a page."""
    parts: list[list[Row]] = [[]]
    for _, rows in table.groups:
        if parts[-1] and len(parts[-1]) + len(rows) > _ROWS_AT_MOST:
            parts.append([])
        parts[-1] += rows
    numbers = [f" – {place} of {len(parts)}" for place in range(1, len(parts) + 1)]
    return [
        replace(table, caption=table.caption + (number if len(parts) > 1 else ""), rows=tuple(rows))
        for number, rows in zip(numbers, parts, strict=True)
    ]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, text)
