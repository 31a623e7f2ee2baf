"""References in tables, pictures and pages: marked, after the methods, and in no competition."""

import pandas as pd
import pytest
import torch

import audiointerp as ai
from audiointerp.plots import plot_attributions, plot_comparison, plot_plane
from audiointerp.tables import compare, estimate, fidelity_simplicity, mark
from audiointerp.tables.files import to_latex, write_csv
from audiointerp.tables.paper import make_tables


def results(methods=("gradcam", "saliency", "random", "ideal"), clips=12):
    """Return results in which later methods are better in everything."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for place, method in enumerate(methods):
        for mask in ("topK_5", "topK_30"):
            for clip in range(clips):
                noise = 0.01 * float(torch.rand(1, generator=generator))
                good = 0.2 * place + noise
                row = {"FF": good, "AI": 100 * good, "AD": 90 - 100 * good, "AG": 100 * good}
                row |= {"FidIn": good, "SPS": good, "COMP": 6 - good, "cells": 1000}
                row |= {"clip": f"c{clip}", "is_correct": clip % 3 > 0, "mask": mask}
                rows.append(row | {"method": method, "model": "m", "experiment": "clean"})
    frame = pd.DataFrame(rows)
    frame.attrs["notes"] = []
    return frame


def test_references_take_no_mark_and_methods_are_marked_as_if_there_were_none():
    frame, within = results(), ("model", "experiment", "mask")
    found = mark(estimate(frame), compare(frame, "method", within=within), "method", within=within)
    marks = found.set_index(["method", "mask"])["FF_mark"]
    assert marks["ideal", "topK_5"] == marks["random", "topK_5"] == ""
    assert (marks["saliency", "topK_5"], marks["gradcam", "topK_5"]) == ("better", "worse")
    alone = results()[lambda rows: rows["method"].isin(["gradcam", "saliency"])]
    expected = mark(
        estimate(alone), compare(alone, "method", within=within), "method", within=within
    )
    assert list(found.loc[:3, "AI_mark"]) == list(expected["AI_mark"])


def test_references_stay_in_the_comparisons():
    found = compare(results(), "method", within=("model", "experiment", "mask"))
    row = found[(found["first"] == "saliency") & (found["second"] == "random")].iloc[0]
    assert row["better"] == "random"
    assert row["p_holm"] < 0.05


def test_no_reference_is_on_the_front():
    plane = fidelity_simplicity(results())
    assert not plane.loc[plane["method"].isin(["random", "ideal"]), "front"].any()
    assert plane.loc[plane["method"] == "saliency", "front"].any()


def test_tables_mark_references_and_put_them_last(tmp_path):
    tables = make_tables(results(), resamples=50)
    for kind in ("summary", "masks_by_method", "methods_by_mask", "correct_and_wrong", "plane"):
        frame = tables.frames[kind]
        assert list(frame.columns)[frame.columns.get_loc("method") + 1] == "reference"
        assert (frame["reference"] == frame["method"].isin(["random", "ideal"])).all()
    (table,) = [table for table in tables.tables if table.kind == "methods_by_mask"]
    labels = [row.label for row in table.rows[:4]]
    assert labels == ["saliency", "gradcam", "random (reference)", "ideal (reference)"]
    assert all(cell.mark == "" for row in table.rows[2:4] for cell in row.cells)
    assert "random (reference)" in to_latex(table)
    (summary,) = [table for table in tables.tables if table.kind == "summary"]
    assert [row.label for row in summary.rows][-1].endswith("; reference)")
    captions = [table.caption for table in tables.tables if table.kind == "masks_by_method"]
    assert any("random (reference): all masks" in caption for caption in captions)
    assert len(tables.select("masks_by_method", method="random").tables) == 1
    write_csv(tables, tmp_path)
    assert "reference" in pd.read_csv(tmp_path / "summary.csv")


def test_tables_without_references_are_as_they_were():
    tables = make_tables(results(("saliency", "gradcam")), resamples=50)
    assert not any("reference" in frame for frame in tables.frames.values())


@pytest.mark.parametrize("methods", [("gradcam", "saliency", "random"), ("random", "energy")])
def test_the_plane_draws_references_apart(methods):
    picture = plot_plane(fidelity_simplicity(results(methods)))
    names = [text.get_text() for text in picture.axes[0].get_legend().get_texts()]
    assert "random (reference)" in names
    assert not any(name == "random" for name in names)


def test_the_figure_names_references():
    processor = ai.LogSTFTSpectrogram(sample_rate=8000)
    cells = processor(torch.randn(1, 1, 8000))
    maps = {"saliency": cells + 50, "random": torch.rand_like(cells)}
    masked = {name: {"topK_5": cells} for name in maps}
    for picture, marks in (
        (plot_comparison(cells, maps, masked, processor), {"random", "reference"}),
        (plot_attributions(cells, maps, processor), {"random (ref.)"}),
    ):
        texts = [text.get_text() for axes in picture.axes for text in axes.texts]
        assert marks | {"saliency"} <= set(texts)
        assert sum("ref" in text for text in texts) == 1
