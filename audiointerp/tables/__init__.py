"""Results folders → tables: means with intervals, scores, comparisons.

`load_results` reads the runs, `estimate` gives every mean its interval, `compare` tests methods or
masks against each other clip by clip, `mark` says which are best. `audiointerp.tables.paper` puts
these together into the tables of a paper, `audiointerp.tables.files` writes them. What is known of
a metric, its unit, its direction, its bounds, comes from its record in
`audiointerp.evaluation.METRICS`. `docs/tables.md` says how to read the tables.
"""

from audiointerp.tables.load import EXPLAINED, RUN_COLUMNS, load_results
from audiointerp.tables.notes import IncompleteWarning, Note
from audiointerp.tables.order import in_order, rank_names
from audiointerp.tables.score import SCORE, SCORE_FLOOR, normalise, score, scored_metrics
from audiointerp.tables.summary import (
    ALPHA,
    SAME,
    Kind,
    Mark,
    accuracy,
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    mark,
    summarise,
    summarise_files,
)

__all__ = [
    "ALPHA",
    "EXPLAINED",
    "RUN_COLUMNS",
    "SAME",
    "SCORE",
    "SCORE_FLOOR",
    "IncompleteWarning",
    "Kind",
    "Mark",
    "Note",
    "accuracy",
    "best_masks",
    "compare",
    "estimate",
    "fidelity_simplicity",
    "in_order",
    "load_results",
    "mark",
    "normalise",
    "rank_names",
    "score",
    "scored_metrics",
    "summarise",
    "summarise_files",
]
