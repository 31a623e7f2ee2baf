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
    check_extra,
    evaluate_evidence,
    families_on_request,
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
from audiointerp.evaluation.curves import area, masking_curves, road  # isort: skip
from audiointerp.evaluation.describe import metrics_table  # isort: skip

__all__ = [
    "AI_MARGIN",
    "EVIDENCE",
    "METRICS",
    "SCORED_FAMILIES",
    "Evidence",
    "MaskCells",
    "Metric",
    "area",
    "available_metrics",
    "average_drop",
    "average_gain",
    "average_increase",
    "check_extra",
    "complexity",
    "evaluate_evidence",
    "faithfulness",
    "families_on_request",
    "input_fidelity",
    "masking_curves",
    "metric_columns",
    "metrics_table",
    "road",
    "robust_faithfulness",
    "robust_input_fidelity",
    "sparseness",
]
