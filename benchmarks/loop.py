"""The obvious loop over the public libraries, one clip at a time, as research notebooks have it.

Nothing here is used by the package: it is what `compare.py` measures the package against.
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import quantus
import shap
import torch
from captum.attr import Saliency
from lime.lime_image import LimeImageExplainer
from lime.wrappers.scikit_image import SegmentationAlgorithm
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from audiointerp.masking import make_masks

FLOOR = -100.0


def saliency(model: nn.Module, clips: Tensor) -> Tensor:
    """Captum's Saliency of the predicted class."""
    method = Saliency(model)
    maps = []
    for clip in clips.split(1):
        with torch.no_grad():
            target = model(clip).argmax(1)
        maps.append(method.attribute(clip.clone().requires_grad_(), target=target, abs=False))
    return torch.cat(maps).detach()


def gradcam(model: nn.Module, clips: Tensor) -> Tensor:
    """Grad-CAM of the predicted class, by the grad-cam library; time and frequency untransposed."""
    maps = []
    with GradCAM(model=model, target_layers=[model.target_layer]) as cam:
        for clip in clips.split(1):
            with torch.no_grad():
                target = int(model(clip).argmax(1))
            maps.append(cam(input_tensor=clip, targets=[ClassifierOutputTarget(target)]))
    return torch.as_tensor(np.stack(maps))


def lime(model: nn.Module, clips: Tensor, *, samples: int = 1000) -> Tensor:
    """LIME of the predicted class, by the lime package: its defaults, batches of 10."""

    def classify(images: np.ndarray) -> np.ndarray:
        features = torch.as_tensor(images[..., 0], dtype=clips.dtype, device=clips.device)
        with torch.no_grad():
            return model(features[:, None]).softmax(1).cpu().numpy()

    segmentation = SegmentationAlgorithm(
        "quickshift", kernel_size=4, max_dist=200, ratio=0.2, random_seed=0
    )
    maps = []
    for clip in clips:
        image = clip[0].double().cpu().numpy()
        image = np.stack([image] * 3, axis=-1)
        low, high = image.min(), image.max()
        with redirect_stderr(StringIO()):  # its progress bar
            found = LimeImageExplainer(random_state=0).explain_instance(
                image,
                classify,
                top_labels=1,
                hide_color=FLOOR,
                num_samples=samples,
                batch_size=10,
                segmentation_fn=lambda picture, low=low, high=high: segmentation(
                    (picture - low) / (high - low)
                ),
            )
        weights = dict(found.local_exp[found.top_labels[0]])
        segments = found.segments
        maps.append(np.vectorize(weights.get)(segments))
    return torch.as_tensor(np.stack(maps))


def deep_shap(explainer: shap.DeepExplainer, clips: Tensor) -> Tensor:
    """SHAP values of the predicted class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maps = [
            explainer.shap_values(clip, ranked_outputs=1, check_additivity=False)[0][..., 0]
            for clip in clips.split(1)
        ]
    return torch.as_tensor(np.concatenate(maps))


def simplicity(masks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Sparseness and complexity of every mask, by Quantus."""
    values = masks.cpu().numpy()
    labels = np.zeros(len(values), dtype=int)
    options = {"abs": True, "normalise": False, "disable_warnings": True}
    given = {"model": None, "x_batch": values, "y_batch": labels, "a_batch": values}
    sparseness = quantus.Sparseness(**options)(**given)
    complexity = quantus.Complexity(**options)(**given)
    return np.asarray(sparseness), np.asarray(complexity)


@torch.no_grad()
def scoring(model: nn.Module, clips: Tensor, attributions: Tensor) -> np.ndarray:
    """Fourteen masks and seven metrics of every clip: (clips, masks, metrics)."""
    table = []
    for clip, attribution in zip(clips.split(1), attributions.split(1), strict=True):
        rows = []
        for mask in make_masks(attribution).values():
            before, inside, outside = (
                model(features).double().softmax(1)[0]
                for features in (
                    clip,
                    FLOOR + (clip - FLOOR) * mask,
                    FLOOR + (clip - FLOOR) * (1 - mask),
                )
            )
            c = int(before.argmax())
            p, p_in, p_out = (float(each[c]) for each in (before, inside, outside))
            sparseness, complexity = simplicity(mask)
            rows.append(
                [
                    p - p_out,
                    100.0 * (p_in > p + 1e-6),
                    100 * max(0.0, p - p_in) / p,
                    100 * max(0.0, p_in - p) / (1 - p),
                    float(int(inside.argmax()) == c),
                    float(sparseness[0]),
                    float(complexity[0]),
                ]
            )
        table.append(rows)
    return np.asarray(table)
