"""Tables → HTML for notebooks: readable on light and dark pages, and without styles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from audiointerp.tables.cells import Cell, Column, Row

# Colours are those of the page around; marks are tinted, which shows on white and on black. Where
# styles are taken away, as on GitHub, bold, underlined and small remain.
STYLE = """
.audiointerp-tables {overflow-x: auto; font-family: Arial, Helvetica, sans-serif}
.audiointerp-tables table {border-collapse: collapse; margin: 0 0 1.2em; font-size: 12px;
 font-variant-numeric: tabular-nums; border: 0}
.audiointerp-tables caption {text-align: left; white-space: nowrap; font-size: 13px;
 font-weight: 600; padding: 0 0 4px; color: inherit}
.audiointerp-tables th, .audiointerp-tables td {text-align: left !important; padding: 2px 5px;
 white-space: nowrap; border: 0; vertical-align: top}
.audiointerp-tables thead th {border-bottom: 1px solid currentColor}
.audiointerp-tables tbody + tbody > tr:first-child > * {border-top: 1px solid rgba(128,128,128,.5)}
.audiointerp-tables tbody th {font-weight: 400}
.audiointerp-tables small {font-size: 10px; opacity: .75}
.audiointerp-tables .best {background: rgba(0,160,80,.24)}
.audiointerp-tables .worst {background: rgba(220,50,60,.22)}
.audiointerp-tables p {font-size: 11px; opacity: .85; margin: 0}
.audiointerp-tables table:has(+ .note) {margin-bottom: .2em}
.audiointerp-tables .note:has(+ table), .audiointerp-tables .note:has(+ p:not(.note))
 {margin-bottom: 1.2em}
"""
_LEGEND = (
    "Mean over the clips <small>[95 % bootstrap interval]</small>. In each group of rows: "
    "<strong>best</strong>, <u>worst</u>; an asterisk where it is better, or worse, than every "
    "other (paired Wilcoxon test, Holm, p &lt; 0.05). ↑ higher is better, ↓ lower is."
)


def table_html(
    caption: str,
    stub: Sequence[str],
    columns: Sequence[Column],
    groups: Iterable[tuple[str, Sequence[Row]]],
    notes: Iterable[str] = (),
) -> str:
    """Return one table as HTML, to be shown within `with_legend`.

    Parameters
    ----------
    caption : str
        What it shows.
    stub : sequence of str
        Headings of the row labels: of the group, where there are several, and of the row.
    columns : sequence of Column
    groups : iterable of (str, sequence of Row)
        Names of the groups and their rows.
    notes : iterable of str
        Lines to stand below it.
    """
    heads = [*map(escape, stub), *map(_heading, columns)]
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    bodies = "".join(
        f"<tbody>{''.join(_rows(group, rows, grouped=len(stub) > 1))}</tbody>"
        for group, rows in groups
    )
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>{bodies}</table>"
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    )


def with_legend(tables: Iterable[str]) -> str:
    """Return tables as HTML to put into a page, with one legend below them.

    Parameters
    ----------
    tables : iterable of str
        As `table_html` returns them.

    Returns
    -------
    str
        A ``div`` with its own styles, which concern nothing else on the page.
    """
    return tables_html(tables, style=f"<style>{STYLE}</style>")


def tables_html(tables: Iterable[str], *, style: str = "") -> str:
    """Return tables with one legend below them, for a page that has the `STYLE` of its own."""
    body = "".join(tables) or "<p>No tables.</p>"
    return f'<div class="audiointerp-tables">{style}{body}<p>{_LEGEND}</p></div>'


def _heading(column: Column) -> str:
    unit = f", {column.unit}" if column.unit else ""
    return escape(column.name + unit) + {1: " ↑", -1: " ↓", 0: ""}[column.better]


def _rows(group: str, rows: Sequence[Row], *, grouped: bool) -> Iterator[str]:
    """Yield the lines of a group; its name stands once, beside all of them."""
    for place, row in enumerate(rows):
        label = f'<th scope="row">{escape(row.label)}</th>'
        if grouped and place == 0:
            span = f' rowspan="{len(rows)}"'
            label = f'<th scope="rowgroup"{span}>{escape(group)}</th>{label}'
        yield f"<tr>{label}{''.join(map(_cell, row.cells))}</tr>"


def _cell(cell: Cell) -> str:
    text = cell.text.replace("-", "−")
    star = "*" if cell.mark in ("better", "worse") else ""
    if cell.mark in ("best", "better"):
        open_, text = '<td class="best">', f"<strong>{text}{star}</strong>"
    elif cell.mark:
        open_, text = '<td class="worst">', f"<u>{text}</u>{star}"
    else:
        open_ = "<td>"
    interval = cell.interval.replace("-", "−")
    return f"{open_}{text}{f' <small>{interval}</small>' if interval else ''}</td>"
