"""Display tables that render in notebooks, and a collection to select from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import pandas as pd
from matplotlib.axes import Axes

from audiointerp.evaluation import metric_columns
from audiointerp.plots import PRINT_WIDTH, Picture
from audiointerp.tables.cells import Column, Row
from audiointerp.tables.html import table_html, with_legend
from audiointerp.tables.notes import Note, note_lines, notes_for

TITLES = {
    "accuracy": "Accuracy",
    "summary": "The best mask of each method",
    "plane": "The fidelity-simplicity plane",
    "masks_by_method": "All masks of each method",
    "methods_by_mask": "All methods under each mask",
    "correct_and_wrong": "Clips classified correctly and wrongly apart",
    "experiments": "Experiments side by side",
    "leaderboard": "Which methods find the sound",
    "conditions": "The same under each noise",
    "levels": "Over the level of the sound above the noise",
    "agreement": "Do fidelity and truth order the methods alike",
}
"""What the kinds of tables are called, in the order they are shown in."""
MEASURED_ON = {
    "features": "measured on masked features",
    "audio": "measured on masked sounds",
}

NAMES = ("model", "experiment", "method", "mask", "metric", "label")
"""By what rows can be chosen."""


@dataclass(frozen=True)
class Table:
    """A table for reading.

    Attributes
    ----------
    kind : str
        Which of the kinds of tables it is; a key of ``Tables.frames``.
    caption : str
        What it shows.
    stub : tuple of str
        Headings of the row labels: of the group, where there are several, and of the row.
    columns : tuple of Column
        Headings of the cells.
    rows : tuple of Row
        Rows of a group follow each other. Marks compare the rows of a group.
    about : mapping of str to str
        What all its rows are of, by kind: model, experiment, method or metric.
    notes : tuple of Note
        What its means do not show, such as missing clips; printed below it.
    """

    kind: str
    caption: str
    stub: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def choose_rows(self, rows: tuple[Row, ...], notes: Iterable[Note]) -> Table:
        """Return the table with these rows, and those of some notes that concern them."""
        names = ({**self.about, **row.about} for row in rows)
        return replace(self, rows=rows, notes=notes_for(notes, names))

    @property
    def groups(self) -> list[tuple[str, tuple[Row, ...]]]:
        """The rows by group."""
        rows = groupby(self.rows, key=lambda row: row.group)
        return [(group, tuple(members)) for group, members in rows]

    @property
    def html(self) -> str:
        """The table alone, without the styles and the legend that it needs around it."""
        return table_html(
            self.caption, self.stub, self.columns, self.groups, note_lines(self.notes)
        )

    def _repr_html_(self) -> str:
        return with_legend([self.html])


@dataclass(frozen=True)
class Drawing:
    """A picture that belongs to tables.

    Attributes
    ----------
    kind : str
        Which of the kinds it is shown under; a key of ``Tables.frames``.
    about : mapping of str to str
        What it is of, by kind, such as the model and the experiment.
    draw : callable
        ``draw(axes, title)`` draws it into axes whose place in the figure is final.
    legend : str
        What a reader must know to read it.
    """

    kind: str
    about: Mapping[str, str]
    draw: Callable[[Axes, str], None] = field(repr=False)
    legend: str

    @property
    def title(self) -> str:
        """What it is of, in words."""
        return ", ".join(self.about.values())

    @property
    def stem(self) -> str:
        """The name of its file, without an ending."""
        return "_".join([self.kind, *self.about.values()])

    def picture(self) -> Picture:
        """Return it as a picture of its own, as wide as a page of two columns."""
        figure = Picture(figsize=(PRINT_WIDTH, 4.6))
        figure.screen_dpi = 120
        # The margins must be final before names are placed.
        figure.subplots_adjust(left=0.08, right=0.985, top=0.93, bottom=0.1)
        self.draw(figure.add_subplot(), self.title)
        return figure


@dataclass(frozen=True)
class Tables:
    """All tables of some results, or those that `select` chose.

    Attributes
    ----------
    frames : dict of str to DataFrame
        The numbers in full, by kind: ``accuracy``, ``summary``, ``masks_by_method``,
        ``methods_by_mask``, ``correct_and_wrong``, ``experiments``, ``comparisons`` (every test
        between methods) and ``plane``. No tables for reading are made of the last two, nor of the
        experiments of a model that has one only.
    tables : list of Table
        The same for reading.
    drawings : list of Drawing
        Pictures of the numbers.
    on : str
        What the metrics were measured on, "features" or "audio".
    scored : tuple of str
        The metrics that the score is made of; none where no score is shown.
    notes : tuple of Note
        What the means do not show, of all the results.
    explains : str
        Which class of a clip is explained, as a clause.
    """

    frames: dict[str, pd.DataFrame]
    tables: list[Table]
    drawings: list[Drawing] = field(default_factory=list)
    on: str = "features"
    scored: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    explains: str = "the class is the one that the model predicts"

    @property
    def metrics(self) -> list[str]:
        """The metrics shown, in the order of ``METRICS``."""
        return metric_columns({name for frame in self.frames.values() for name in frame})

    def select(self, kind: str | Sequence[str], **names: str | Sequence[str]) -> Tables:
        """Return the tables of a kind and, in them, the rows of some names.

        ``tables.select("masks_by_method", method="shap", experiment=["clean", "horse"])``. What
        marks a row stays what it was in the whole table.

        Parameters
        ----------
        kind : str or sequence of str
            Which kinds of tables; a key of `frames`.
        **names : str or sequence of str
            By model, experiment, method, mask, metric or label ("correct" and "wrong"), where the
            kind has them: which to keep.

        Returns
        -------
        Tables

        Raises
        ------
        ValueError
            If there is no such kind, or no row of such a name.
        """
        wanted = {key: [name] if isinstance(name, str) else [*name] for key, name in names.items()}
        kinds = [kind] if isinstance(kind, str) else [*kind]
        if unknown := [name for name in kinds if name not in self.frames]:
            raise ValueError(
                f"no tables of the kind {unknown[0]!r}: choose from {', '.join(self.frames)}"
            )
        frames = {name: _keep(self.frames[name], name, wanted) for name in kinds}
        tables = []
        for table in (table for table in self.tables if table.kind in kinds):
            rows = tuple(row for row in table.rows if _is_of({**table.about, **row.about}, wanted))
            if rows:
                tables.append(table.choose_rows(rows, table.notes))
        drawings = [
            drawing
            for drawing in self.drawings
            if drawing.kind in kinds
            and all(drawing.about[key] in wanted[key] for key in drawing.about.keys() & wanted)
        ]
        return replace(self, frames=frames, tables=tables, drawings=drawings)

    def _repr_html_(self) -> str:
        return with_legend(table.html for table in self.tables)


def _keep(frame: pd.DataFrame, kind: str, wanted: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return the rows of a frame that have the wanted names, all of which must be there."""
    for key, names in wanted.items():
        known = list(dict.fromkeys(frame[key])) if key in NAMES and key in frame else []
        missing = [name for name in names if name not in known]
        if missing or not names:
            choices = f"choose from {', '.join(known)}" if known else "the kind is not told apart"
            raise ValueError(
                f"{kind}: no {key} {', '.join(map(repr, missing)) or '(none named)'}: {choices}"
            )
    chosen = pd.Series(True, index=frame.index)
    for key, names in wanted.items():
        chosen &= frame[key].isin(names)
    return frame[chosen].reset_index(drop=True)


def _is_of(about: Mapping[str, str], wanted: Mapping[str, list[str]]) -> bool:
    return all(about[key] in names for key, names in wanted.items())
