"""Class activation maps next to grad-cam's; its planes are not turned to (freq, time)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import numpy as np
import pytorch_grad_cam as library
import torch
from pairs import PAIRS, TARGET, Call, Pair
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sides import Side
from torch import Tensor


def by_grad_cam(make: Callable[..., Any], **given: Any) -> Callable[[Side], Call]:
    """Return grad-cam's loop for a class of it."""

    def theirs(side: Side) -> Call:
        def explain(clips: Tensor) -> Tensor:
            maps = []
            with make(model=side.model, target_layers=[side.model.target_layer]) as cam:
                for clip in clips.split(1):
                    with redirect_stderr(StringIO()):  # its progress bar
                        maps.append(cam(input_tensor=clip, **given))
            return torch.as_tensor(np.stack(maps))

        return explain

    return theirs


for _name, _make in {
    "gradcam": library.GradCAM,
    "gradcamplusplus": library.GradCAMPlusPlus,
    "hirescam": library.HiResCAM,
    "xgradcam": library.XGradCAM,
    "layercam": library.LayerCAM,
    "eigencam": library.EigenCAM,
    "eigengradcam": library.EigenGradCAM,
    "scorecam": library.ScoreCAM,
    "ablationcam": library.AblationCAM,
}.items():
    _loop = by_grad_cam(_make, targets=[ClassifierOutputTarget(TARGET)])
    PAIRS[_name] = Pair("grad-cam", _loop, same=False)
# Of a list of targets Finer-CAM compares none with other classes.
PAIRS["finercam"] = Pair("grad-cam", by_grad_cam(library.FinerCAM, target_idx=TARGET), same=False)
