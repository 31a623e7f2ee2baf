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
from audiointerp.evaluation.localisation import (  # isort: skip
    Ranking,
    auprc,
    auroc,
    best_iou,
    f1_of,
    mean_iou,
    pointing_game,
    relevance_mass,
    relevance_rank,
    time_ranking,
)
from audiointerp.evaluation import sound  # noqa: F401  isort: skip (for its records)
from audiointerp.evaluation.arithmetic import si_sdr  # isort: skip
from audiointerp.evaluation.truth import (  # isort: skip
    TRUTH_FACTS,
    Truth,
    event_cells,
    event_frames,
    sounding_frames,
    truth_facts,
    why_no_truth,
)
from audiointerp.evaluation.curves import area, masking_curves, road  # isort: skip
from audiointerp.evaluation import speechbrain  # noqa: F401  isort: skip (for its record)
from audiointerp.evaluation.describe import metrics_table  # isort: skip

__all__ = [
    "AI_MARGIN",
    "EVIDENCE",
    "METRICS",
    "SCORED_FAMILIES",
    "TRUTH_FACTS",
    "Evidence",
    "MaskCells",
    "Metric",
    "Ranking",
    "Truth",
    "area",
    "auprc",
    "auroc",
    "available_metrics",
    "average_drop",
    "average_gain",
    "average_increase",
    "best_iou",
    "check_extra",
    "complexity",
    "evaluate_evidence",
    "event_cells",
    "event_frames",
    "f1_of",
    "faithfulness",
    "families_on_request",
    "input_fidelity",
    "masking_curves",
    "mean_iou",
    "metric_columns",
    "metrics_table",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
    "road",
    "robust_faithfulness",
    "robust_input_fidelity",
    "si_sdr",
    "sounding_frames",
    "sparseness",
    "time_ranking",
    "truth_facts",
    "why_no_truth",
]
