"""One name or several, and settings by name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from test_paper import rows

import audiointerp as ai
from audiointerp.arguments import build, several
from audiointerp.dataset.audio import save_audio
from audiointerp.evaluation import metric_columns
from audiointerp.evaluation.describe import metrics_table
from audiointerp.interpretation import METHODS
from audiointerp.masking import MASKS, make_masks
from audiointerp.metrics import METRICS
from audiointerp.model import HEADS, MODELS, build_head, build_model
from audiointerp.processing import FRONT_ENDS, build_processor
from audiointerp.runs.experiment import mean_metrics, run_experiment
from audiointerp.runs.files import interpret_files
from audiointerp.runs.recipe import Recipe, by_stem
from audiointerp.tables import compare, estimate, load_results, mark, score


@pytest.mark.parametrize("one", ["saliency", Path("a/b.wav"), 5, b"raw"])
def test_one_thing_is_one(one):
    assert several(one) == (one,)


def test_several_things_are_several():
    assert several(["a", "b"]) == several(("a", "b")) == several(iter("ab")) == ("a", "b")
    assert several({"a": 1, "b": 2}) == ("a", "b")
    assert several([]) == ()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mask", [*MASKS][:2])
def test_a_recipe_takes_one_name(method, mask):
    recipe = Recipe(methods=method, masks=mask)
    assert (recipe.methods, recipe.masks) == ((method,), (mask,))


@pytest.mark.parametrize("metric", METRICS)
def test_the_letters_of_a_metric_are_no_metrics(metric):
    assert metric_columns(metric) == [metric]
    assert metric in metric_columns(METRICS, METRICS[metric].family)
    assert metric_columns(f"{metric}x") == []


def test_files_are_one_path_or_several():
    for files in ("a/dog.wav", ["a/dog.wav"]):
        assert by_stem("sound file", files) == {"dog": Path("a/dog.wav")}


def test_one_name_is_taken_in_every_call(tmp_path):
    """From weights to tables, every argument that takes names or paths is given one."""
    weights = tmp_path / "tiny.safetensors"
    processor = ai.LogSTFTSpectrogram(sample_rate=8000)
    clips = ai.SyntheticDataset(folds=5, clips=10, sample_rate=8000, duration=1.0)
    model = build_model(
        {"name": "Cnn14", "num_classes": 10, "num_bins": processor.num_bins, "width": 1 / 64},
        seed=0,
    )
    ai.save_weights(weights, model, processor, classes=clips.classes, duration=1.0)
    sound = tmp_path / "noise.wav"
    save_audio(sound, clips[0].waveform[0].numpy(), 8000)
    recipe = {"methods": "saliency", "target": clips.classes[3], "progress": False, "device": "cpu"}
    out = interpret_files(sound, weights, tmp_path / "out", masks="topK_30", **recipe)
    assert out.failures == {}
    assert sorted(path.name for path in out.written[0].glob("*_in.*")) == ["topK_30_in.wav"]
    done = run_experiment(
        weights,
        "synthetic",
        clips=10,
        results=tmp_path / "results",
        **recipe | {"methods": "gradcam", "masks": "bin"},
    )
    assert len(mean_metrics(done, "bin")) == 1
    rows = load_results(tmp_path / "results", models="tiny", experiments="clean")
    assert set(rows["mask"]) == {"bin"}


@pytest.mark.parametrize(
    ("make", "registry", "needed"),
    [
        (build_model, MODELS, {"num_classes": 3, "num_bins": 64}),
        (build_processor, FRONT_ENDS, {}),
        (build_head, HEADS, {}),
    ],
)
def test_an_unknown_setting_is_named_with_those_that_there_are(make, registry, needed):
    for name in registry:
        with pytest.raises(ValueError, match=r"has no setting widht: it takes") as caught:
            make({"name": name, **needed, "widht": 0.5})
        assert "__init__" not in str(caught.value)


def test_a_setting_that_misses_or_is_of_another_type_is_named():
    with pytest.raises(ValueError, match=r"Cnn10 needs the setting num_classes"):
        build_model({"name": "Cnn10", "num_bins": 64})
    with pytest.raises(ValueError, match=r"settings \{'num_classes': 'x'"):
        build_model({"name": "Cnn10", "num_classes": "x", "num_bins": 64})
    with pytest.raises(ValueError, match=r"did you mean width\?"):
        build_model({"name": "Cnn14", "num_classes": 2, "num_bins": 64, "widt": 1.0})


def test_a_class_that_takes_any_setting_gets_them():
    def collect(first: int, **others: int) -> dict[str, int]:
        return {"first": first, **others}

    assert build(collect, "it", {"first": 1, "second": 2}) == {"first": 1, "second": 2}
    with pytest.raises(ValueError, match="needs the setting first"):
        build(collect, "it", {"second": 2})


@pytest.mark.parametrize("by", ["model", ["model"]])
def test_rows_are_grouped_by_one_column(by):
    results = pd.concat(rows(method, "bin", {"FF": [0.1, 0.3]}) for method in ("lime", "shap"))
    estimates = estimate(results, by, resamples=10)
    assert estimates["FF"].tolist() == [pytest.approx(0.2)]
    comparisons = compare(results, "method", within=by)
    assert set(comparisons["model"]) == {"mel"}
    both = estimates.loc[[0, 0]].assign(method=["lime", "shap"]).reset_index(drop=True)
    assert len(mark(both, comparisons, "method", within=by)) == 2


def test_one_metric_or_mask_is_taken_by_name():
    assert list(make_masks(torch.rand(1, 1, 4, 4), "bin")) == ["bin"]
    assert metrics_table("FF") == metrics_table(["FF"])
    assert score([0.5], 100.0, names="FF", of="FF") == pytest.approx(0.5)
