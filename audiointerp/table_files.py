"""Tables → files: CSV, LaTeX (booktabs) and one PDF."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from tqdm.auto import tqdm

from audiointerp.paper import Cell, Row, Table, Tables, make_tables
from audiointerp.plots import plot_plane
from audiointerp.tables import HIGHER_IS_BETTER, SCORE, load_results

TITLES = {
    "accuracy": "Accuracy",
    "summary": "The best mask of each method",
    "masks_by_method": "All masks of each method",
    "methods_by_mask": "All methods under each mask",
    "correct_and_wrong": "Clips classified correctly and wrongly apart",
    "experiments": "Experiments side by side",
}
_PERCENT = ("AI", "AD", "AG", "accuracy")
_LEGEND = (
    "Mean over the clips [95 % bootstrap interval]. Best mean of a group: {best}; worst: {worst}. "
    "An asterisk: better, or worse, than every other of the group (paired Wilcoxon test, Holm, "
    "p < 0.05)."
)


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

    ``csv/<kind>.csv`` has the numbers in full, ``latex/<kind>.tex`` the tables to take into a
    paper, ``latex/tables.tex`` a document of them all; ``tables.pdf`` is made without LaTeX and has
    the pictures of the fidelity-simplicity plane too, which are also ``plane_<model>_<…>.png``.

    Parameters
    ----------
    results : path
        Holds ``<model>/<method>_<experiment>/`` folders.
    out : path
        Folder to write to.
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
    """
    loaded = load_results(results, on=on, models=models, experiments=experiments)
    with tqdm(total=4, desc="tables", unit="step") as bar:
        tables = make_tables(loaded, resamples=resamples, seed=seed)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        bar.update()
        written = write_csv(tables, folder / "csv")
        written += write_latex(tables, folder / "latex")
        bar.update()
        written += _write_planes(tables, folder)
        bar.update()
        written.append(write_pdf(tables, folder / "tables.pdf"))
        bar.update()
    return written


def write_csv(tables: Tables, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the numbers in full, one file for each kind of table; return the files."""
    files = []
    for kind, frame in tables.frames.items():
        files.append(_write(Path(folder) / f"{kind}.csv", frame.to_csv(index=False)))
    return files


def write_latex(tables: Tables, folder: str | os.PathLike[str]) -> list[Path]:
    """Write one LaTeX file for each kind of table and a document of them all.

    The tables need the package booktabs, and a page about 24 cm wide.

    Returns
    -------
    list of Path
        The files, ``tables.tex`` the last.
    """
    files = []
    sections = []
    for kind, group in groupby(tables.tables, key=lambda table: table.kind):
        text = "\n".join(to_latex(table) for table in group)
        files.append(_write(Path(folder) / f"{kind}.tex", text))
        sections.append(f"\\section{{{TITLES[kind]}}}\n\\input{{{kind}.tex}}\n\\clearpage\n")
    legend = _LEGEND.format(best=r"\textbf{bold}", worst=r"\underline{underlined}")
    document = (
        "\\documentclass[10pt]{article}\n"
        "\\usepackage[utf8]{inputenc}\n"
        "\\usepackage[T1]{fontenc}\n"
        "\\usepackage[a4paper,landscape,margin=1.2cm]{geometry}\n"
        "\\usepackage{booktabs}\n"
        "\\begin{document}\n"
        f"\\noindent {legend.replace('%', chr(92) + '%').replace('<', '$<$')}\n\n"
        + "\n".join(sections)
        + "\\end{document}\n"
    )
    return [*files, _write(Path(folder) / "tables.tex", document)]


def to_latex(table: Table) -> str:
    """Return a table as a LaTeX float (package booktabs)."""
    headings = " & ".join([escape(table.stub), *(_latex_heading(name) for name in table.columns)])
    body = []
    for place, (group, rows) in enumerate(_groups(table)):
        if place:
            body.append("\\addlinespace")
        if group:
            width = len(table.columns) + 1
            body.append(f"\\multicolumn{{{width}}}{{@{{}}l}}{{\\textit{{{escape(group)}}}}} \\\\")
        for row in rows:
            cells = " & ".join([escape(row.label), *map(_latex_cell, row.cells)])
            body.append(f"{cells} \\\\")
    return "\n".join(
        [
            "\\begin{table}[htbp]",
            "\\centering",
            "\\scriptsize",
            "\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape(table.caption)}}}",
            f"\\begin{{tabular}}{{@{{}}l*{{{len(table.columns)}}}{{l}}@{{}}}}",
            "\\toprule",
            f"{headings} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Return text that LaTeX sets as it stands."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    } | {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _latex_heading(name: str) -> str:
    unit = r" (\%)" if name in _PERCENT else ""
    arrow = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}[_direction(name)]
    return escape(name) + unit + arrow


def _latex_cell(cell: Cell) -> str:
    text = "--" if cell.text == "–" else cell.text.replace("-", "$-$")
    commands = {"best": "textbf", "better": "textbf", "worst": "underline", "worse": "underline"}
    if cell.mark:
        text = f"\\{commands[cell.mark]}{{{text}}}"
    if cell.mark in ("better", "worse"):
        text += "$^{\\ast}$"
    interval = cell.interval.replace("-", "$-$")
    # Braces: after a line break LaTeX would take the bracket for an option.
    return f"{text} {{\\tiny {interval}}}" if interval else text


def _direction(name: str) -> int:
    """Return 1 where higher is better, -1 where lower is, 0 where it is no metric."""
    if name in (SCORE, "accuracy"):
        return 1
    return {True: 1, False: -1, None: 0}[HIGHER_IS_BETTER.get(name)]


def _groups(table: Table) -> Iterator[tuple[str, list[Row]]]:
    return ((group, list(rows)) for group, rows in groupby(table.rows, key=lambda row: row.group))


_PAGE = (11.69, 8.27)
"""A4 landscape, inches."""
_MARGIN = 0.5
_LINE = 0.155
_STUB_WIDTH = 1.75
_BEST, _WORST, _QUIET = "#00692f", "#a50026", "#777777"


def write_pdf(tables: Tables, path: str | os.PathLike[str]) -> Path:
    """Draw all tables, and the fidelity-simplicity planes, into one PDF; return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pages = _pages(tables.tables)
    metadata = {"Title": "Tables", "CreationDate": None}
    with PdfPages(partial, metadata=metadata) as pdf:
        for number, page in enumerate(tqdm(pages, desc="pages", leave=False), start=1):
            # A font that every reader of PDF has needs no shaping: many times faster.
            plain = all(_is_western(table) for table in page)
            with rc_context({"pdf.use14corefonts": plain}):
                pdf.savefig(_draw_page(page, number))
        for _, figure in _planes(tables):
            pdf.savefig(figure)
    partial.replace(path)
    return path


def _height(table: Table) -> float:
    """Return the height of a table in lines: caption, headings, groups, rows, rules and space."""
    groups = list(_groups(table))
    return 4.6 + len(table.rows) + sum(1.0 for group, _ in groups if group) + 0.4 * len(groups)


def _pages(tables: Sequence[Table]) -> list[list[Table]]:
    """Put tables onto pages; every kind begins a new one."""
    room = (_PAGE[1] - 2 * _MARGIN) / _LINE - 3
    pages: list[list[Table]] = []
    used = room
    for table in tables:
        height = _height(table)
        if not pages or pages[-1][-1].kind != table.kind or used + height > room:
            pages.append([])
            used = 0.0
        pages[-1].append(table)
        used += height
    return pages


class _Lettering(Artist):
    """The texts of a page, each where its line begins.

    A page has a thousand short texts. ``Figure.text`` would lay out each as a block of lines,
    which takes seconds a page; here they go to the file as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[float, float, str, FontProperties, str]] = []

    def add(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 7,
        color: str = "black",
        weight: str = "normal",
        style: str = "normal",
    ) -> None:
        """Put a text at a place, inches from the lower left corner."""
        if text:
            font = _font(size, weight, style)
            self.texts.append((x, y, text, font, color))

    def draw(self, renderer: RendererBase) -> None:
        """Draw all texts."""
        inch = renderer.points_to_pixels(72)
        for x, y, text, font, color in self.texts:
            pen = renderer.new_gc()
            pen.set_foreground(color)
            renderer.draw_text(pen, x * inch, y * inch, text, font, 0)
            pen.restore()


@cache
def _font(size: float, weight: str, style: str) -> FontProperties:
    return FontProperties(
        family=["Helvetica", "DejaVu Sans"], size=size, weight=weight, style=style
    )


def _is_western(table: Table) -> bool:
    """Return whether the built-in fonts of PDF have all letters of a table."""
    labels = [part for row in table.rows for part in (row.group, row.label)]
    text = "".join([table.caption, table.stub, *table.columns, *labels])
    return text.encode("cp1252", errors="ignore").decode("cp1252") == text


def _draw_page(tables: Sequence[Table], number: int) -> Figure:
    figure = Figure(figsize=_PAGE)
    page = figure.add_artist(_Lettering())
    top = _PAGE[1] - _MARGIN
    page.add(_MARGIN, top, TITLES[tables[0].kind], size=11, weight="bold")
    legend = _LEGEND.format(best="bold and green", worst="red") + " (high), (low): what is better."
    page.add(_MARGIN, _MARGIN - 0.15, legend, size=6.5, color=_QUIET)
    page.add(_PAGE[0] - _MARGIN - 0.2, _MARGIN - 0.15, str(number), size=7, color=_QUIET)
    top -= 2 * _LINE
    for table in tables:
        _draw_table(figure, page, table, top)
        top -= _height(table) * _LINE
    return figure


def _draw_table(figure: Figure, page: _Lettering, table: Table, top: float) -> None:
    """Draw a table below a height, inches from the bottom of the page."""
    stub = max(_STUB_WIDTH, 0.075 * max(len(row.label) for row in table.rows))
    step = min(1.5, (_PAGE[0] - 2 * _MARGIN - stub) / len(table.columns))
    lefts = [_MARGIN + stub + place * step for place in range(len(table.columns))]
    right = lefts[-1] + step
    y = top - _LINE
    page.add(_MARGIN, y, table.caption, size=8.5)
    y -= 0.5 * _LINE
    _rule(figure, right, y, 1.0)
    y -= 1.05 * _LINE
    page.add(_MARGIN, y, table.stub)
    for left, name in zip(lefts, table.columns, strict=True):
        better = {1: " (high)", -1: " (low)", 0: ""}[_direction(name)]
        page.add(left, y, f"{name}{', %' if name in _PERCENT else ''}{better}")
    y -= 0.45 * _LINE
    _rule(figure, right, y, 0.5)
    for place, (group, rows) in enumerate(_groups(table)):
        y -= 0.4 * _LINE if place else 0.1 * _LINE
        if group:
            y -= _LINE
            page.add(_MARGIN, y, group, style="italic")
        for row in rows:
            y -= _LINE
            page.add(_MARGIN + (0.12 if group else 0), y, row.label)
            for left, cell in zip(lefts, row.cells, strict=True):
                _draw_cell(page, left, y, cell)
    _rule(figure, right, y - 0.45 * _LINE, 1.0)


def _draw_cell(page: _Lettering, left: float, y: float, cell: Cell) -> None:
    star = "*" if cell.mark in ("better", "worse") else ""
    looks = {}
    if cell.mark in ("best", "better"):
        looks = {"weight": "bold", "color": _BEST}
    elif cell.mark:
        looks = {"color": _WORST}
    page.add(left, y, cell.text + star, **looks)
    page.add(left + 0.42, y, cell.interval, size=5.5, color=_QUIET)


def _rule(figure: Figure, right: float, y: float, width: float) -> None:
    ends = [_MARGIN / _PAGE[0], right / _PAGE[0]]
    line = Line2D(ends, [y / _PAGE[1]] * 2, linewidth=width, color="black")
    figure.add_artist(line)


def _planes(tables: Tables) -> Iterator[tuple[str, Figure]]:
    for (model, experiment), plane in tables.frames["plane"].groupby(
        ["model", "experiment"], sort=False
    ):
        yield f"{model}_{experiment}", plot_plane(plane, heading=f"{model}, {experiment}")


def _write_planes(tables: Tables, folder: Path) -> list[Path]:
    files = []
    for name, figure in _planes(tables):
        files.append(folder / f"plane_{name}.png")
        figure.savefig(files[-1], dpi=150)
    return files


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
