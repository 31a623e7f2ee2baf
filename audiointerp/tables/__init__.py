"""Results folders → tables: means with intervals, scores, comparisons. Needs no torch.

`load_results` reads the runs, `estimate` gives every mean its interval, `compare` tests methods or
masks against each other clip by clip, `mark` says which are best. `audiointerp.tables.paper` puts
these together into the tables of a paper, `audiointerp.tables.files` writes them.
`docs/tables.md` says how to read them.
"""

from audiointerp.tables.summary import (
    ALPHA,
    CONFIDENCE,
    FIDELITY_COLUMNS,
    HIGHER_IS_BETTER,
    MASK_ORDER,
    METHOD_ORDER,
    METRIC_COLUMNS,
    RUN_COLUMNS,
    SAME,
    SCORE,
    SCORE_FLOOR,
    SIMPLICITY_COLUMNS,
    Kind,
    Mark,
    accuracy,
    best_masks,
    compare,
    estimate,
    fidelity_simplicity,
    in_order,
    interval,
    load_results,
    mark,
    normalise,
    rank_names,
    score,
    summarise,
    summarise_files,
)

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "FIDELITY_COLUMNS",
    "HIGHER_IS_BETTER",
    "MASK_ORDER",
    "METHOD_ORDER",
    "METRIC_COLUMNS",
    "RUN_COLUMNS",
    "SAME",
    "SCORE",
    "SCORE_FLOOR",
    "SIMPLICITY_COLUMNS",
    "Kind",
    "Mark",
    "accuracy",
    "best_masks",
    "compare",
    "estimate",
    "fidelity_simplicity",
    "in_order",
    "interval",
    "load_results",
    "mark",
    "normalise",
    "rank_names",
    "score",
    "summarise",
    "summarise_files",
]
