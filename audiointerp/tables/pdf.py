"""Tables → one PDF, made without LaTeX: contents, tables, pictures, with links and bookmarks."""

from __future__ import annotations

import os
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from tqdm.auto import tqdm

from audiointerp.evaluation import METRICS
from audiointerp.plots.words import shortened
from audiointerp.storage import replacing
from audiointerp.tables.cells import COUNTS, Cell, Column, Row
from audiointerp.tables.lettering import Lettering
from audiointerp.tables.links import Bookmark, Link, add_navigation
from audiointerp.tables.notes import note_lines
from audiointerp.tables.score import SCORE, describe_score
from audiointerp.tables.table import MEASURED_ON, TITLES, Drawing, Table, Tables
from audiointerp.text import printable

_WIDTH, _HEIGHT = 11.69, 8.27
"""A4 landscape, inches."""
_SIDE, _EDGE = 0.5, 0.4
"""Margins left and right, and above and below, inches."""
_LINE = 0.111
"""Inches from a line to the next: 8 points."""
_ROOM = (_HEIGHT - 2 * _EDGE) / _LINE - 1.3
"""Lines on a page, above its footer."""
_TITLE, _ABOVE = 2.2, 1.0
"""Lines that a title takes, with the space below it, and above it where it is not the first."""
_HEAD, _BETWEEN, _BELOW = 2.7, 0.35, 1.3
"""Lines above the rows of a table (caption, headings), between its groups and below it."""
_GAP = 0.3
"""Inches between tables side by side."""
_SMALL = 5.7
_LETTER, _PAD = 0.054, 0.1
"""Inches that a letter takes, on average, and that stay free beside a name."""
_MEAN, _CELL, _WIDEST_CELL, _COUNT_CELL = 0.3, 0.94, 1.08, 0.42
"""Inches that a mean takes, that a cell takes at least and at most, and that of a count takes."""
_NAME, _LABEL, _CAPTION, _HEADLINE = 34, 44, 150, 95
"""Letters of a line of the contents, a row's label, a caption, and the headline, at most."""
_ACROSS = 8
"""Columns of page numbers in the contents."""
_DRAWINGS = (2, 2)
"""Rows and columns of pictures on a page."""
_BEST, _WORST, _QUIET, _LINKED = "#00692f", "#a50026", "#666666", "#0b5394"

_LEGEND = (
    "Mean over the clips [95 % bootstrap interval]. Best mean of a group of rows: bold and green; "
    "worst: red and underlined. Asterisk: better, or worse, than every other of the group (paired "
    "Wilcoxon test, Holm, p < 0.05)."
)


class _Piece(NamedTuple):
    """Some groups of a table and where they stand, inches and lines from the upper left."""

    table: Table
    groups: list[tuple[str, tuple[Row, ...]]]
    left: float
    top: float
    continued: bool


@dataclass
class _Page:
    """What stands on a page: titles of kinds with their lines, pieces of tables, or pictures."""

    titles: list[tuple[str, float]] = field(default_factory=list)
    pieces: list[_Piece] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)


class _Entry(NamedTuple):
    """A line of the contents: its text and, for each column, the page to turn to."""

    text: str
    pages: tuple[int | None, ...]
    columns: tuple[str, ...] = ()
    """Headings of the columns, where the line is a title."""
    is_title: bool = False

    @property
    def height(self) -> float:
        """Lines that it takes."""
        return 2.4 if self.is_title else 1.3


class _Paragraph(NamedTuple):
    """A part of the key: lines, with a name before them or, without lines, a heading."""

    name: str
    lines: list[str]

    @property
    def height(self) -> float:
        """Lines that it takes, with the room below."""
        apart = 0.3 if self.name and self.lines else 0.0
        return 1.35 * max(1, len(self.lines)) + apart


_Part = TypeVar("_Part", _Entry, _Paragraph)


def write_pdf(tables: Tables, path: str | os.PathLike[str]) -> Path:
    """Draw contents, all tables and the pictures of them into one PDF.

    The contents lead to the pages, and so do bookmarks.

    Parameters
    ----------
    tables : Tables
        As `audiointerp.tables.paper.make_tables` returns them.
    path : path
        The file; its folder is made.

    Returns
    -------
    Path
        The file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pages, key = _lay_out(tables), _cut(_make_key(tables))
    # How many pages the contents take does not depend on the numbers in them.
    before = max(len(key), len(_cut(_list_contents(pages, before=0))))
    contents = _cut(_list_contents(pages, before=before))
    with replacing(path) as partial:
        _draw_pages(partial, pages, list(zip_longest(contents, key, fillvalue=[])), tables)
    return path


def _draw_pages(
    path: Path,
    pages: list[_Page],
    contents: list[tuple[list[_Entry], list[_Paragraph]]],
    tables: Tables,
) -> None:
    before, links = len(contents), []
    with PdfPages(path, metadata={"Title": "Tables", "CreationDate": None}) as pdf:
        plain = _is_western(
            tables.tables, [text for _, key in contents for p in key for text in p.lines]
        )
        for number, (entries, key) in enumerate(contents, start=1):
            figure, found = _draw_contents(entries, key, number, tables, plain=plain)
            _save(pdf, figure, plain=plain)
            links += found
        numbered = enumerate(pages, start=before + 1)
        for number, page in tqdm(numbered, "pages", len(pages), leave=False, disable=None):
            plain = not page.drawings and _is_western([piece.table for piece in page.pieces])
            figure, link = _draw_page(page, number, tables, plain=plain)
            _save(pdf, figure, plain=plain)
            links.append(link)
    add_navigation(path, list(_bookmarks(pages, before)), links)


def _save(pdf: PdfPages, figure: Figure, *, plain: bool) -> None:
    """Add a page. A font that every reader of PDF has needs no shaping: many times faster."""
    with rc_context({"pdf.use14corefonts": plain}):
        pdf.savefig(figure)


def _is_western(tables: Iterable[Table], texts: Iterable[str] = ()) -> bool:
    """Return whether the built-in fonts of PDF have all letters of some tables and texts."""
    texts = list(texts)
    for table in tables:
        texts += [table.caption, *table.stub, *(column.name for column in table.columns)]
        texts += [part for row in table.rows for part in (row.group, row.label)]
        texts += note_lines(table.notes)
    text = "".join(texts)
    return text.encode("cp1252", errors="ignore").decode("cp1252") == text


# What stands where.


def _lay_out(tables: Tables) -> list[_Page]:
    """Put tables and pictures onto pages, as many as have room."""
    pages: list[_Page] = []
    lowest = _ROOM
    for kind in TITLES:
        group = [table for table in tables.tables if table.kind == kind]
        if group:
            lowest = _flow(kind, group, pages, lowest)
        drawings = [drawing for drawing in tables.drawings if drawing.kind == kind]
        if drawings:
            pages += _pages_of_drawings(kind, drawings)
            lowest = _ROOM
    return pages


def _flow(kind: str, tables: Sequence[Table], pages: list[_Page], lowest: float) -> float:
    """Put the tables of a kind below a line of the last page; return the lowest line they reach.

    They go down the page, then down beside that where they are narrow, then to the next page; a
    table that meets the end of its column goes on between two of its groups.
    """
    width = max(map(_table_width, tables))
    across = max(1, int((_WIDTH - 2 * _SIDE + _GAP) // (width + _GAP)))
    lowest += _ABOVE
    if not pages or lowest + _TITLE + _lines(tables[0].groups) + len(_notes(tables[0])) > _ROOM:
        pages.append(_Page())
        lowest = 0.0
    start = y = lowest + _TITLE
    pages[-1].titles.append((kind, lowest))
    column = 0
    for table in tables:
        groups, continued = table.groups, False
        noted = len(_notes(table))
        while groups:
            fitting = _fitting(groups, _ROOM - y - noted)
            if not fitting and y > start:
                column, y = column + 1, start
                if column == across:
                    pages.append(_Page([(kind, 0.0)]))
                    column, lowest = 0, 0.0
                    start = y = _TITLE
                continue
            taken, groups = groups[: fitting or 1], groups[fitting or 1 :]
            left = _SIDE + column * (width + _GAP)
            pages[-1].pieces.append(_Piece(table, taken, left, y, continued))
            y += _lines(taken) + noted
            lowest, continued = max(lowest, y), True
    return lowest


def _fitting(groups: Sequence[tuple[str, tuple[Row, ...]]], room: float) -> int:
    """Return how many of the groups have room, one below the other."""
    count = 0
    while count < len(groups) and _lines(groups[: count + 1]) - _BELOW <= room:
        count += 1
    return count


def _lines(groups: Sequence[tuple[str, tuple[Row, ...]]]) -> float:
    """Return the height of some groups of a table with its headings, in lines."""
    rows = sum(len(members) for _, members in groups)
    return _HEAD + rows + _BETWEEN * (len(groups) - 1) + _BELOW


def _notes(table: Table) -> list[str]:
    """Return the lines that stand below each part of a table."""
    letters = max(40, int(_table_width(table) / _LETTER))
    return [part for line in note_lines(table.notes) for part in textwrap.wrap(line, letters)]


def _stub_widths(table: Table) -> list[float]:
    """Return the widths of the row labels, inches."""
    groups = [table.stub[0], *(row.group for row in table.rows)]
    labels = [table.stub[-1], *(row.label for row in table.rows)]
    columns = [groups, labels] if len(table.stub) > 1 else [labels]
    return [
        _PAD + _LETTER * max(_width(_fitted(text, _LABEL)) for text in column) for column in columns
    ]


def _fitted(text: str, letters: int) -> str:
    """Return a text of names for a place with room for some letters."""
    text = printable(text)
    length = len(text)
    while _width(shortened(text, length)) > letters:
        length -= 1
    return shortened(text, length)


def _width(text: str) -> int:
    """Return the width of a text in letters: those of East Asian scripts take two."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _cell_widths(table: Table) -> list[float]:
    """Return the widths of the cells, inches: their share of the page, within reason."""
    wide = [column for column in table.columns if column not in COUNTS]
    narrow = _COUNT_CELL * (len(table.columns) - len(wide))
    names = _PAD + _LETTER * max(len(_heading(column)) + 1 for column in wide)
    share = (_WIDTH - 2 * _SIDE - sum(_stub_widths(table)) - narrow) / len(wide)
    least = max(_CELL, names)
    width = min(max(share, least), max(_WIDEST_CELL, names)) if share < 2 * least else least
    return [_COUNT_CELL if column in COUNTS else width for column in table.columns]


def _table_width(table: Table) -> float:
    return sum(_stub_widths(table)) + sum(_cell_widths(table))


def _pages_of_drawings(kind: str, drawings: list[Drawing]) -> Iterator[_Page]:
    most = _DRAWINGS[0] * _DRAWINGS[1]
    for place in range(0, len(drawings), most):
        yield _Page([(kind, 0.0)], drawings=drawings[place : place + most])


def _find(pages: Sequence[_Page], before: int) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yield every table and picture: its kind, what it is of, and the number of its page.

    Of tables of the same that show other families of metrics, the first, which the others follow,
    as do pictures of what a table of the kind shows.
    """
    found = set()
    for number, page in enumerate(pages, start=before + 1):
        for shown in (*(piece.table for piece in page.pieces), *page.drawings):
            entry = shown.kind, tuple(shown.about.values())
            if entry not in found:
                found.add(entry)
                yield *entry, number


def _bookmarks(pages: Sequence[_Page], before: int) -> Iterator[Bookmark]:
    yield Bookmark("Contents", 1)
    last = ""
    for kind, names, number in _find(pages, before):
        if kind != last:
            yield Bookmark(TITLES[kind], number)
        if names:
            yield Bookmark(", ".join(names), number, level=1)
        last = kind


# The contents.


def _list_contents(pages: Sequence[_Page], before: int) -> list[_Entry]:
    """Return the lines of the contents: of each kind its title and a table of page numbers."""
    kinds: dict[str, dict[tuple[str, ...], int]] = {}
    for kind, names, number in _find(pages, before):
        kinds.setdefault(kind, {})[names] = number
    entries = []
    for kind, found in kinds.items():
        columns = tuple(dict.fromkeys(names[-1] if names[1:] else "" for names in found))
        lines: dict[str, dict[str, int]] = {}
        for names, number in found.items():
            label, column = (names[:-1], names[-1]) if names[1:] else (names, "")
            lines.setdefault(", ".join(label), {})[column] = number
        if list(lines) == [""]:
            entries.append(_Entry(TITLES[kind], (lines[""][""],), columns, is_title=True))
            continue
        for start in range(0, len(columns), _ACROSS):
            shown = columns[start : start + _ACROSS]
            title = TITLES[kind] if start == 0 else ""
            entries.append(_Entry(title, (), shown, is_title=True))
            entries += [
                _Entry(label, tuple(numbers.get(column) for column in shown))
                for label, numbers in lines.items()
            ]
    return entries


def _make_key(tables: Tables) -> list[_Paragraph]:
    """Return what the columns and the marks mean."""
    texts = (
        f"The metrics were {MEASURED_ON[tables.on]}; {tables.explains}.",
        _LEGEND,
        "Arrows in the headings point to what is better.",
    )
    key = [_Paragraph("How to read them", [])]
    key += [_Paragraph("", [*textwrap.wrap(text, 68), ""]) for text in texts]
    meanings = {name: METRICS[name].about for name in tables.metrics}
    if tables.scored:
        meanings[SCORE] = describe_score(tables.scored)
    key += [_Paragraph(name, textwrap.wrap(text, 58)) for name, text in meanings.items()]
    if tables.notes:
        key.append(_Paragraph("What the means do not show", []))
        lines = (textwrap.wrap(line, 68) for line in note_lines(tables.notes))
        key += [_Paragraph("", line) for line in lines]
    return key


def _cut(parts: Iterable[_Part]) -> list[list[_Part]]:
    """Cut the contents or the key into pages."""
    pages: list[list[_Part]] = [[]]
    used = 0.0
    for part in parts:
        if used + part.height > _ROOM - 2 * _TITLE:
            pages.append([])
            used = 0.0
        pages[-1].append(part)
        used += part.height
    return pages


def _draw_contents(
    entries: Sequence[_Entry],
    key: Sequence[_Paragraph],
    number: int,
    tables: Tables,
    *,
    plain: bool,
) -> tuple[Figure, list[Link]]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    page = figure.add_artist(Lettering(plain))
    links = []
    names, step = 2.5, 0.7
    y = _HEIGHT - _EDGE - 0.05
    models = ", ".join(dict.fromkeys(tables.frames["accuracy"]["model"]))
    page.add(_SIDE, y, _fitted(f"Tables: {models}", _HEADLINE), size=13, weight="bold")
    _draw_key(page, _SIDE + 6.9, y - (_TITLE + 2.1) * _LINE, key)
    y -= _TITLE * _LINE
    for entry in entries:
        y -= entry.height * _LINE
        weight = "bold" if entry.is_title else "normal"
        text = entry.text if entry.is_title else _fitted(entry.text, _NAME)
        page.add(_SIDE + (0 if entry.is_title else 0.12), y, text, size=8, weight=weight)
        width = min(step, 4.2 / max(1, len(entry.columns or entry.pages)))
        for place, column in enumerate(entry.columns):
            room = int(width / _LETTER)
            page.add(_SIDE + names + place * width, y, _fitted(column, room), color=_QUIET)
        for place, to in enumerate(entry.pages):
            if to is not None:
                left = _SIDE + names + place * width
                page.add(left, y, str(to), size=8, color=_LINKED)
                links.append(_link(number, left, y, 0.4, to))
    page.add(_WIDTH - _SIDE, _EDGE - 0.1, str(number), color=_QUIET, align="right")
    return figure, links


def _draw_key(page: Lettering, left: float, y: float, key: Sequence[_Paragraph]) -> None:
    longest = max((len(paragraph.name) for paragraph in key if paragraph.lines), default=0)
    indent = max(0.55, _PAD + 1.3 * _LETTER * longest)
    for paragraph in key:
        page.add(left, y, paragraph.name, size=8, weight="bold")
        for place, line in enumerate(paragraph.lines):
            x = left + (indent if paragraph.name else 0)
            page.add(x, y - 1.35 * place * _LINE, line, size=8)
        y -= paragraph.height * _LINE


# Pages of tables and pictures.


def _draw_page(page: _Page, number: int, tables: Tables, *, plain: bool) -> tuple[Figure, Link]:
    """Draw a page of tables or pictures; its footer leads to the contents."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    lettering = figure.add_artist(Lettering(plain))
    for kind, top in page.titles:
        y = _HEIGHT - _EDGE - (top + 0.6) * _LINE
        lettering.add(_SIDE, y, TITLES[kind], size=11, weight="bold")
    y = _HEIGHT - _EDGE - 0.6 * _LINE
    lettering.add(_WIDTH - _SIDE, y, MEASURED_ON[tables.on], color=_QUIET, align="right")
    foot = _EDGE - 0.1
    legend = _LEGEND if page.pieces else page.drawings[0].legend
    lettering.add(_SIDE, foot, legend, size=6.5, color=_QUIET)
    lettering.add(_WIDTH - _SIDE - 0.25, foot, "contents", color=_LINKED, align="right")
    lettering.add(_WIDTH - _SIDE, foot, str(number), color=_QUIET, align="right")
    for piece in page.pieces:
        _draw_piece(figure, lettering, piece)
    _draw_drawings(figure, page.drawings)
    return figure, _link(number, _WIDTH - _SIDE - 0.75, foot, 0.5, 1)


def _link(page: int, left: float, y: float, width: float, to: int) -> Link:
    box = (left - 0.03, y - 0.04, left + width, y + 0.11)
    return Link(page, tuple(72 * side for side in box), to)


def _draw_drawings(figure: Figure, drawings: Sequence[Drawing]) -> None:
    rows, columns = _DRAWINGS
    height = (_HEIGHT - 2 * _EDGE - _TITLE * _LINE) / rows
    width = (_WIDTH - 2 * _SIDE) / columns
    for place, drawing in enumerate(drawings):
        row, column = divmod(place, columns)
        left = _SIDE + column * width + 0.45
        bottom = _EDGE + (rows - 1 - row) * height + 0.42
        box = (left, bottom, width - 0.6, height - 0.75)
        axes = figure.add_axes(
            (box[0] / _WIDTH, box[1] / _HEIGHT, box[2] / _WIDTH, box[3] / _HEIGHT)
        )
        drawing.draw(axes, drawing.title)


def _draw_piece(figure: Figure, page: Lettering, piece: _Piece) -> None:
    """Draw some groups of a table with its headings."""
    table, left = piece.table, piece.left
    stubs = _stub_widths(table)
    right = left + _table_width(table)
    cells = [*accumulate(_cell_widths(table), initial=left + sum(stubs))][:-1]
    labels = [left, left + stubs[0]][-len(table.stub) :] if len(stubs) > 1 else [left]
    y = _HEIGHT - _EDGE - (piece.top + 0.75) * _LINE
    caption = _fitted(table.caption, _CAPTION) + (", continued" if piece.continued else "")
    page.add(left, y, caption, size=8)
    _rule(figure, left, right, y - 0.5 * _LINE, 0.8)
    y -= 1.45 * _LINE
    for x, text in zip(labels, table.stub, strict=True):
        page.add(x, y, text)
    for x, column in zip(cells, table.columns, strict=True):
        _draw_arrow(figure, x - 0.05, y, column.better)
        if column in COUNTS:
            page.add(x + _MEAN, y, _heading(column), align="right")
        else:
            page.add(x, y, _heading(column))
    _rule(figure, left, right, y - 0.4 * _LINE, 0.4)
    y -= 0.35 * _LINE
    for place, (group, rows) in enumerate(piece.groups):
        if place:
            _rule(figure, left, right, y - (0.4 + _BETWEEN / 2) * _LINE, 0.3, "0.65")
            y -= _BETWEEN * _LINE
        for line, row in enumerate(rows):
            y -= _LINE
            names = (group if line == 0 else "", row.label)[-len(labels) :]
            for x, text in zip(labels, names, strict=True):
                page.add(x, y, _fitted(text, _LABEL))
            for x, cell in zip(cells, row.cells, strict=True):
                _draw_cell(page, x, y, cell)
    _rule(figure, left, right, y - 0.5 * _LINE, 0.8)
    for line in _notes(table):
        y -= _LINE
        page.add(left, y - 0.4 * _LINE, line, size=_SMALL)


def _heading(column: Column) -> str:
    return f"{column.name}, {column.unit}" if column.unit else column.name


def _draw_cell(page: Lettering, left: float, y: float, cell: Cell) -> None:
    """Draw a mean, its digits below those of the cell above, and its interval."""
    looks = {}
    if cell.mark in ("best", "better"):
        looks = {"weight": "bold", "color": _BEST}
    elif cell.mark:
        looks = {"color": _WORST, "underline": True}
    page.add(left + _MEAN, y, cell.text, align="right", **looks)
    if cell.mark in ("better", "worse"):
        page.add(left + _MEAN + 0.005, y, "*", weight="bold", color=looks["color"])
    page.add(left + _MEAN + 0.065, y, cell.interval, size=_SMALL, color=_QUIET)


def _draw_arrow(figure: Figure, x: float, y: float, better: int) -> None:
    """Draw a triangle that points to what is better; the built-in fonts have none."""
    if better:
        base, tip = (y, y + 0.06)[::better]
        corners = [(x - 0.028, base), (x + 0.028, base), (x, tip)]
        shape = Polygon([_share(*corner) for corner in corners], facecolor=_QUIET, linewidth=0)
        figure.add_artist(shape)


def _rule(
    figure: Figure, left: float, right: float, y: float, width: float, color: str = "black"
) -> None:
    (x0, height), (x1, _) = _share(left, y), _share(right, y)
    figure.add_artist(Line2D([x0, x1], [height, height], linewidth=width, color=color))


def _share(x: float, y: float) -> tuple[float, float]:
    """Return a place, inches, as shares of the page."""
    return x / _WIDTH, y / _HEIGHT
