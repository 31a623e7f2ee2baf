"""Settings of methods that make tests fast: fewer samples than users take, and coarser parts."""

from __future__ import annotations

from typing import Any

from audiointerp.interpretation.segmentation import Grid

FEW: dict[str, dict[str, Any]] = {
    "lime": {"num_samples": 50},
    "integrated_gradients": {"steps": 16},
    "expected_gradients": {"samples": 8},
    "smoothgrad": {"samples": 4},
    "smoothgrad_squared": {"samples": 4},
    "vargrad": {"samples": 4},
    "kernelshap": {"num_samples": 60, "segmentation": Grid(4, 5)},
    "permutation_shap": {"num_permutations": 1, "segmentation": Grid(4, 5)},
    "occlusion": {"window": (16, 16), "stride": (16, 16)},
    "rise": {"num_samples": 50},
    "freqrise": {"num_samples": 50},
    "sobol": {"num_designs": 4, "segmentation": Grid(4, 5)},
    "linear_surrogate": {"num_samples": 40},
    "forest_surrogate": {"num_samples": 40, "trees": 50},
}
