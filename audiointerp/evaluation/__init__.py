"""Metrics of an interpretation: one record per metric, in `METRICS`, by family.

A new metric is one record, ``METRICS["name"] = Metric(...)``, in the file of its family; tables,
report and tests then include it.
"""

from audiointerp.evaluation.record import (
    EVIDENCE,
    METRICS,
    SCORED_FAMILIES,
    Evidence,
    Metric,
    available_metrics,
    evaluate_evidence,
    metric_columns,
)

from audiointerp.evaluation.fidelity import (  # isort: skip (the order of the columns)
    AI_MARGIN,
    average_drop,
    average_gain,
    average_increase,
    faithfulness,
    input_fidelity,
)
from audiointerp.evaluation.simplicity import MaskCells, complexity, sparseness  # isort: skip
from audiointerp.evaluation.robust_fidelity import (  # isort: skip
    robust_faithfulness,
    robust_input_fidelity,
)
from audiointerp.evaluation.describe import metrics_table  # isort: skip

__all__ = [
    "AI_MARGIN",
    "EVIDENCE",
    "METRICS",
    "SCORED_FAMILIES",
    "Evidence",
    "MaskCells",
    "Metric",
    "available_metrics",
    "average_drop",
    "average_gain",
    "average_increase",
    "complexity",
    "evaluate_evidence",
    "faithfulness",
    "input_fidelity",
    "metric_columns",
    "metrics_table",
    "robust_faithfulness",
    "robust_input_fidelity",
    "sparseness",
]
