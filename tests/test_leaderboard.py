"""Results of a benchmark made by hand: what is pooled, marked, followed over levels, correlated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from audiointerp.report.benchmark import benchmark_page
from audiointerp.runs.names import condition_name, split_condition
from audiointerp.tables.files import export_tables
from audiointerp.tables.leaderboard import make_leaderboard, rank_agreement

METHODS = ("saliency", "gradcam", "random", "energy", "ideal")
TRUTH = {"saliency": 0.6, "gradcam": 0.7, "random": 0.3, "energy": 0.65, "ideal": 1.0}
FIDELITY = {"saliency": 0.5, "gradcam": 0.4, "random": 0.6, "energy": 0.3, "ideal": 0.2}
CLIPS, NOISES, LEVELS = 20, ("horse", "room"), (-5.0, 5.0)


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """Two noises at the main level and at two others; a fifth of the clips is taken wrongly."""
    random = np.random.default_rng(0)
    parts = []
    for method in METHODS:
        for noise in NOISES:
            for level in (None, *LEVELS):
                for mask in ("topK_30", "bin"):
                    spread = 0.0 if method == "ideal" else 0.02
                    gain = 0.0 if level is None else level / 100
                    shift = 0.1 * (mask == "bin")
                    parts.append(
                        pd.DataFrame(
                            {
                                "clip": [f"c{number}" for number in range(CLIPS)],
                                "explained": "dog",
                                "target": "dog",
                                "predicted": "dog",
                                "is_correct": [number % 5 != 0 for number in range(CLIPS)],
                                "FF": FIDELITY[method] + shift + 0.02 * random.normal(size=CLIPS),
                                "AUPRC": TRUTH[method]
                                + (gain if method != "ideal" else 0)
                                + spread * random.normal(size=CLIPS),
                                "mask": mask,
                                "method": method,
                                "experiment": condition_name(noise, level),
                            }
                        )
                    )
    table = pd.concat(parts, ignore_index=True)
    conditions = [split_condition(name) for name in table["experiment"]]
    noise, level = zip(*conditions, strict=True)
    return table.assign(
        AUPRC=table["AUPRC"].clip(0, 1),
        noise=noise,
        snr_db=level,
        model="mel",
        cells=1000.0,
        on="features",
    )


@pytest.fixture(scope="module")
def tables(results):
    return make_leaderboard(results, resamples=200)


@pytest.mark.parametrize(
    ("noise", "level", "name"),
    [
        ("horse", None, "horse"),
        ("a_b", -10.0, "a_b_-10dB"),
        ("x", 3.5, "x_3.5dB"),
        ("x", 0, "x_0dB"),
    ],
)
def test_the_name_of_a_condition_tells_noise_and_level(noise, level, name):
    assert condition_name(noise, level) == name
    found = split_condition(name)
    assert found[0] == noise
    assert (np.isnan(found[1]) and level is None) or found[1] == level


def test_a_row_pools_the_correct_clips_of_all_noises_at_the_main_level(results, tables):
    board = tables.frames["leaderboard"].set_index("method")
    assert list(board.index) == list(METHODS)
    kept = results[
        results["is_correct"] & (results["mask"] == "topK_30") & results["snr_db"].isna()
    ]
    for method, rows in kept.groupby("method"):
        assert board.loc[method, "AUPRC"] == pytest.approx(rows["AUPRC"].mean())
        assert board.loc[method, "FF"] == pytest.approx(rows["FF"].mean())
        assert board.loc[method, "rows"] == len(rows) == 2 * 16
        assert board.loc[method, "clips"] == 16
    assert (board["AUPRC_low"] <= board["AUPRC"]).all()
    assert tables.frames["accuracy"]["accuracy"].unique() == pytest.approx([80])


def test_all_clips_are_taken_where_that_is_asked_for(results):
    board = make_leaderboard(results, clips="all", resamples=50).frames["leaderboard"]
    assert set(board["clips"]) == {CLIPS}


def test_another_mask_has_its_own_fidelity_and_the_same_truth(results, tables):
    other = make_leaderboard(results, mask="bin", resamples=50).frames["leaderboard"]
    first = tables.frames["leaderboard"]
    assert (other["FF"] - first["FF"]).to_numpy() == pytest.approx(0.1, abs=0.02)


def test_references_are_marked_and_win_nothing(tables):
    board = tables.frames["leaderboard"].set_index("method")
    assert board["reference"].to_dict() == {
        "saliency": False, "gradcam": False, "random": True, "energy": True, "ideal": True
    }  # fmt: skip
    assert board.loc["gradcam", "AUPRC_mark"] in ("best", "better")
    assert board.loc["ideal", "AUPRC_mark"] == ""


def test_methods_are_tested_over_clips_not_over_clips_times_noises(tables):
    tests = tables.frames["comparisons"]
    pair = tests[(tests["first"] == "saliency") & (tests["second"] == "gradcam")]
    assert set(pair["clips"]) == {16}
    assert (pair["p_holm"] < 0.05).all()


def test_levels_have_a_row_for_each_noise_level_and_method(results, tables):
    levels = tables.frames["levels"]
    assert len(levels) == len(NOISES) * len(LEVELS) * len(METHODS)
    one = levels[
        (levels["noise"] == "room") & (levels["snr_db"] == -5) & (levels["method"] == "gradcam")
    ]
    rows = results[
        (results["experiment"] == "room_-5dB")
        & (results["method"] == "gradcam")
        & (results["mask"] == "topK_30")
        & results["is_correct"]
    ]
    assert one["AUPRC"].item() == pytest.approx(rows["AUPRC"].mean())
    names = [drawing.stem for drawing in tables.drawings if drawing.kind == "levels"]
    assert sorted(names) == sorted(
        f"levels_mel_{noise}_{metric}" for noise in NOISES for metric in ("AUPRC", "FF")
    )


def test_agreement_is_over_methods_without_the_one_that_knows_the_truth(results):
    main = results[(results["mask"] == "topK_30") & results["snr_db"].isna()]
    found = rank_agreement(main, resamples=100).set_index(["fidelity", "truth"])
    row = found.loc[("FF", "AUPRC")]
    methods = [name for name in METHODS if name != "ideal"]
    expected = spearmanr([FIDELITY[m] for m in methods], [TRUTH[m] for m in methods]).statistic
    assert row["methods"] == 4
    assert row["rho"] == pytest.approx(expected)
    assert row["rho_low"] <= row["rho"] <= row["rho_high"]


def test_a_metric_that_is_better_when_lower_agrees_by_its_direction(results):
    main = results[(results["mask"] == "topK_30") & results["snr_db"].isna()]
    main = main.assign(AD=100 * (1 - main["AUPRC"]))
    found = rank_agreement(main, resamples=20).set_index(["fidelity", "truth"])
    assert found.loc[("AD", "AUPRC"), "rho"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": "topK_5"}, "no run has the mask 'topK_5': choose from topK_30, bin"),
        ({"clips": "wrong"}, "clips='wrong': choose from correct, all"),
    ],
)
def test_a_request_that_fits_no_row_is_refused(results, change, message):
    with pytest.raises(ValueError, match=message):
        make_leaderboard(results, **change)


def test_results_without_a_main_level_or_a_correct_clip_are_refused(results):
    with pytest.raises(ValueError, match="main level"):
        make_leaderboard(results[results["snr_db"].notna()])
    with pytest.raises(ValueError, match="no clip is classified correctly"):
        make_leaderboard(results.assign(is_correct=False))


def test_without_other_levels_there_is_no_table_of_them(results):
    tables = make_leaderboard(results[results["snr_db"].isna()], resamples=20)
    assert {table.kind for table in tables.tables} == {
        "accuracy", "leaderboard", "conditions", "agreement"
    }  # fmt: skip
    assert {drawing.kind for drawing in tables.drawings} == {"agreement"}


def test_everything_is_written_and_the_page_shows_it(tables, tmp_path):
    files = export_tables(tables, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in files}
    assert {
        "csv/leaderboard.csv", "csv/levels.csv", "csv/agreement.csv", "latex/leaderboard.tex",
        "latex/agreement_mel.pdf", "tables.pdf",
    } <= names  # fmt: skip
    written = pd.read_csv(tmp_path / "csv" / "leaderboard.csv")
    assert written["AUPRC"].to_numpy() == pytest.approx(tables.frames["leaderboard"]["AUPRC"])
    page = benchmark_page(tables)
    assert page.count("<img ") == len(tables.drawings) == 5
    assert "gradcam" in page
    assert "random (reference)" in page
    assert "<script" not in page
