"""One clip and whole sets: what is scored, what is heard, what is written, what is refused."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from decoders import untrained
from fewer import FEW

from audiointerp.dataset import AudioError, Contamination, ESC50Dataset, SyntheticDataset
from audiointerp.interpretation import (
    METHODS,
    Interpreter,
    LIMEInterpreter,
    SaliencyInterpreter,
)
from audiointerp.interpretation.base import Explanation
from audiointerp.masking import BASES, MASKS, base_level
from audiointerp.model import build_model
from audiointerp.predict import Predict
from audiointerp.processing import LogSTFTSpectrogram, STFTSpectrogram, build_processor
from audiointerp.runs.clip import job_metrics
from audiointerp.runs.recipe import build_interpreter

CLASSES = ("dog", "cat", "rain")
RATE = 8000


@pytest.fixture(scope="module")
def processor():
    return LogSTFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)


@pytest.fixture(scope="module")
def model():
    settings = {"name": "Cnn14", "num_classes": 3, "num_bins": 65, "width": 1 / 16}
    made = build_model(settings, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    # An untrained classifier says 1/3 to everything; a larger one has opinions to interpret.
    with torch.no_grad():
        made.classifier.weight.copy_(
            4 * torch.randn(made.classifier.weight.shape, generator=generator)
        )
    made.classes = CLASSES
    made.duration = 1.0
    return made


@pytest.fixture(scope="module")
def waveforms():
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(3, 1, RATE, generator=generator)
    time = torch.arange(RATE) / RATE
    noise[0] *= (time < 0.4) * 1.0
    noise[1] = torch.sin(2 * torch.pi * 700 * time) + 0.01 * noise[1]
    return noise / noise.abs().amax(-1, keepdim=True)


@pytest.fixture
def make(model, processor, waveforms):
    """Return a maker of Predict objects for a method's name."""

    def build(method="saliency", **options):
        few = dict(FEW.get(method, {}))
        if "weights" in METHODS[method].requires:
            few["weights"] = untrained(method, model, processor(waveforms))
        interpreter = build_interpreter(
            method, model, processor, background=processor(waveforms), **few
        )
        return Predict(model, processor, interpreter, **options)

    return build


class Everything(Interpreter):
    """Attributes one to every cell."""

    name = "everything"

    def _explain(self, view, target):
        return Explanation(torch.ones_like(view.cells), target)


@torch.no_grad()
def probability(model, features):
    return model(features).double().softmax(1).numpy()


WITHOUT_TRUTH = [
    name for name in METHODS if METHODS[name].requires.isdisjoint({"truth", "attention"})
]


@pytest.mark.parametrize("method", WITHOUT_TRUTH)
def test_metrics_are_those_of_the_features_that_are_shown(make, model, waveforms, method):
    result = make(method).predict(waveforms[0], RATE)
    before = probability(model, result.view.cells)[0]
    c = before.argmax()
    assert result.target == c
    for mask in result.masks:
        inside, outside = (probability(model, part)[0] for part in result.masked[mask])
        row = result.metrics.loc[mask]
        assert row["FF"] == pytest.approx(before[c] - outside[c], abs=1e-6)
        assert row["AD"] == pytest.approx(100 * max(0, before[c] - inside[c]) / before[c], abs=1e-4)
        assert row["FidIn"] == (inside.argmax() == c)
        assert result.probabilities_on["features"].loc[mask, "in"] == pytest.approx(inside[c])
        every = result.class_probabilities_on["features"]
        assert list(every.columns) == list(CLASSES)
        assert every.loc[(mask, "in")].to_numpy() == pytest.approx(inside, abs=1e-6)
        assert every.loc[(mask, "out")].to_numpy() == pytest.approx(outside, abs=1e-6)


@pytest.mark.parametrize("method", WITHOUT_TRUTH)
def test_clips_interpreted_together_are_interpreted_as_alone(make, waveforms, method):
    predict = make(method, on=("features", "audio"))
    together = predict.predict_batch(waveforms, ["a", "b", "c"])
    assert [result.clip for result in together] == ["a", "b", "c"]
    for result, waveform in zip(together, waveforms, strict=True):
        (alone,) = predict.predict_batch(waveform[None], [result.clip])
        assert result.summary()["label"] == alone.summary()["label"]
        assert result.diagnostics == pytest.approx(alone.diagnostics, rel=1e-3, abs=1e-5)
        scale = alone.attribution.abs().max()
        torch.testing.assert_close(
            result.attribution, alone.attribution, rtol=0, atol=float(scale) * 1e-4
        )
        # Those that no rounding can tip over.
        for mask in {"minmax", "sigmoid", "identity"} & result.masks.keys():
            torch.testing.assert_close(result.masks[mask], alone.masks[mask], rtol=0, atol=1e-4)
            for part in ("in", "out"):
                np.testing.assert_allclose(
                    result.audio(mask, part).waveform, alone.audio(mask, part).waveform, atol=1e-3
                )
            for place in ("features", "audio"):
                np.testing.assert_allclose(
                    result.metrics_on[place].loc[mask],
                    alone.metrics_on[place].loc[mask],
                    rtol=1e-2,
                    atol=1e-2,
                )


@pytest.mark.filterwarnings("ignore:precision '(bfloat16|tf32)':UserWarning")
def test_a_lower_precision_is_named_in_the_settings_and_moves_the_numbers_little(make, waveforms):
    full, low = make(), make(precision="bfloat16")
    assert "precision" not in full.settings()
    assert low.settings() == full.settings() | {"precision": "bfloat16"}
    for clip in waveforms:
        expected, found = (predict.predict(clip, RATE) for predict in (full, low))
        difference = np.abs(found.probabilities - expected.probabilities).max()
        assert 0 < difference < 0.05
        again = make(precision="tf32").predict(clip, RATE)  # which a CPU does not have
        assert np.array_equal(again.probabilities, expected.probabilities)


def test_every_clip_of_a_batch_has_a_name(make, waveforms):
    with pytest.raises(ValueError, match="2 names for 3 clips"):
        make().predict_batch(waveforms, ["a", "b"])


def test_audio_metrics_are_those_of_the_sounds_that_are_heard(make, model, processor, waveforms):
    result = make(on="audio").predict(waveforms[0], RATE)
    before = result.probabilities[result.target]
    for mask in ("topK_30", "minmax"):
        heard = torch.from_numpy(result.audio(mask, "out").waveform)[None, None]
        out = probability(model, processor(heard))[0, result.target]
        assert result.metrics.loc[mask, "FF"] == pytest.approx(before - out, abs=1e-6)


def test_what_is_heard_is_what_was_scored(make, processor, waveforms):
    """Kept cells sound at the level they were scored at; half-way masks too."""
    result = make().predict(waveforms[0], RATE)
    features = result.view.cells
    half = torch.full_like(features, 0.97)
    masked = torch.lerp(torch.tensor(-100.0), features, half)
    heard = processor(processor.synthesise(result.view, masked))
    loud = features > features.max() - 30
    expected = -100 + (features + 100) * 0.97
    assert (heard - expected)[loud].abs().median() < 0.5


def test_a_mask_of_ones_changes_nothing_at_all(model, processor, waveforms):
    predict = Predict(model, processor, Everything(model), on=("features", "audio"))
    result = predict.predict(waveforms[0], RATE)
    assert np.array_equal(result.audio("bin").waveform, result.audio().waveform)
    for metrics in result.metrics_on.values():
        row = metrics.loc["bin"]
        assert (row["AI"], row["FidIn"], row["SPS"]) == (0, 1, 0)
        # The same features in a batch of another size: convolutions round differently.
        assert row["AD"] == pytest.approx(0, abs=1e-4)
        assert row["AG"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", WITHOUT_TRUTH)
def test_a_clip_scores_the_same_alone_and_in_a_batch(make, waveforms, method):
    predict = make(method, on=("features", "audio"))
    together = predict.interpret(waveforms)
    for index in range(len(waveforms)):
        alone = predict.interpret(waveforms[index : index + 1])
        assert torch.allclose(alone.probabilities[0], together.probabilities[index], atol=1e-6)
        scale = together.attribution[index].abs().max()
        difference = (alone.attribution[0] - together.attribution[index]).abs().max()
        assert difference <= 1e-4 * scale


def test_scoring_does_not_depend_on_the_batch_size(make, waveforms):
    small, large = (make(batch_size=size).interpret(waveforms) for size in (1, 64))
    for key, metrics in small.metrics.items():
        assert torch.allclose(metrics["FF"], large.metrics[key]["FF"], atol=1e-6)


def test_a_file_and_its_waveform_give_the_same(make, tmp_path, waveforms):
    path = tmp_path / "clip.wav"
    soundfile.write(path, waveforms[0, 0].numpy(), RATE, subtype="FLOAT")
    from_file = make().predict(path)
    from_waveform = make().predict(waveforms[0].numpy(), RATE)
    pd.testing.assert_frame_equal(from_file.metrics, from_waveform.metrics)
    assert from_file.clip == "clip"


def test_a_clip_is_mixed_down_resampled_and_fitted_to_the_model(make, waveforms):
    stereo = torch.cat([waveforms[0], waveforms[0]])[:, :5000]
    result = make().predict(stereo, 16000)
    assert result.view.waveform.shape == (1, 1, RATE)
    assert float(result.view.waveform.abs().max()) == pytest.approx(1)


def test_a_class_can_be_asked_for_by_name_or_number(make, waveforms):
    by_name = make().predict(waveforms[0], RATE, target="rain")
    by_number = make().predict(waveforms[0], RATE, target=2)
    assert by_name.target == by_number.target == 2
    assert by_name.target_label == "rain"
    pd.testing.assert_frame_equal(by_name.metrics, by_number.metrics)
    before = by_name.probabilities[2]
    out = by_name.probabilities_on["features"].loc["topK_30", "out"]
    assert by_name.metrics.loc["topK_30", "FF"] == pytest.approx(before - out)


def test_a_result_shows_itself_in_a_notebook(make, waveforms):
    result = make().predict(waveforms[0], RATE)
    assert result._repr_html_().count("<audio") == 7
    assert result.plot("topK_30")._repr_png_().startswith(b"\x89PNG")
    assert result.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_saved_result_is_whole_and_can_be_read(make, tmp_path, waveforms):
    result = make(on=("features", "audio")).predict(waveforms[0], RATE)
    folder = result.save(tmp_path / "a" / "clip", ["topK_30"])
    assert {path.name for path in folder.iterdir()} == {
        *("original.wav", "masks.png", "topK_30.png", "topK_30_in.wav", "topK_30_out.wav"),
        *("metrics.csv", "metrics_audio.csv", "attribution.npy", "summary.json"),
        *("probabilities.csv", "probabilities_audio.csv"),
    }
    sound, rate = soundfile.read(folder / "topK_30_in.wav", dtype="float32")
    assert rate == RATE
    assert np.array_equal(sound, result.audio("topK_30").waveform)
    table = pd.read_csv(folder / "metrics.csv", index_col="mask")
    pd.testing.assert_frame_equal(table, result.metrics)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["label"] == result.label
    assert build_processor(summary["front_end"]).settings() == result.processor.settings()
    result.save(folder, ["topK_5"])
    assert not (folder / "topK_30.png").exists()


def test_saving_replaces_no_foreign_folder_and_leaves_nothing_half_written(
    make, tmp_path, waveforms
):
    result = make().predict(waveforms[0], RATE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no earlier result"):
        result.save(tmp_path / "mine")
    with pytest.raises(ValueError, match="unknown mask 'topk_30'"):
        result.save(tmp_path / "new", ["topk_30"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": ["topk_5"]}, "Did you mean 'topK_5'"),
        ({"masks": []}, "no mask given"),
        ({"on": "sound"}, "unknown place"),
        ({"base": "zero"}, "unknown masking base 'zero'"),
        ({"domain": "amplitude"}, "unknown masking domain"),
        ({"precision": "half"}, "unknown precision 'half'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_wrong_setting_is_refused_at_once(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_parts_that_do_not_belong_together_are_refused(model, processor):
    other = build_model(model.settings(), seed=0).eval()
    with pytest.raises(ValueError, match="another model"):
        Predict(model, processor, SaliencyInterpreter(other))
    power = STFTSpectrogram(sample_rate=RATE, n_fft=128, hop_length=64)
    with pytest.raises(ValueError, match="makes power already"):
        Predict(model, power, SaliencyInterpreter(model), domain="power")
    with pytest.raises(ValueError, match="257 frequency bins, the model expects 65"):
        Predict(model, LogSTFTSpectrogram(), SaliencyInterpreter(model))


@pytest.mark.parametrize(("base", "hidden"), [("quiet", -100.0), ("floor", -80.0)])
def test_a_method_that_hides_otherwise_than_the_masks_is_warned_of(model, processor, base, hidden):
    with pytest.warns(UserWarning, match="explains what the metrics do not measure"):
        Predict(model, processor, LIMEInterpreter(model, base=hidden), base=base)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("base", BASES)
def test_a_method_made_for_the_base_hides_as_the_masks_do(model, processor, waveforms, base):
    interpreter = build_interpreter("lime", model, processor, base=base)
    Predict(model, processor, interpreter, base=base)
    features = processor(waveforms[:1])
    expected = base_level(features, base, floor=processor.floor)
    assert torch.equal(interpreter.base(features), expected)


@pytest.mark.parametrize(
    ("audio", "rate", "error", "message"),
    [
        (np.ones(RATE, np.float32), None, ValueError, "needs its sample rate"),
        (np.zeros(RATE, np.float32), RATE, AudioError, "silent"),
        (np.full(RATE, np.nan, np.float32), RATE, AudioError, "NaN"),
        (np.ones(RATE, np.int16), RATE, ValueError, "divide 16-bit"),
        (np.ones((RATE, 2), np.float32), RATE, ValueError, "transpose"),
        (np.ones((1, 1, RATE), np.float32), RATE, ValueError, "shape"),
        ("nowhere.wav", None, AudioError, "no such file"),
    ],
)
def test_an_unusable_clip_is_refused_with_the_likely_mistake(make, audio, rate, error, message):
    with pytest.raises(error, match=message):
        make().predict(audio, rate)


@pytest.mark.parametrize(
    ("target", "message"), [("dgo", "Did you mean 'dog'"), (3, "target 3: expected 0 … 2")]
)
def test_an_unknown_class_is_refused_with_the_choices(make, waveforms, target, message):
    with pytest.raises(ValueError, match=message):
        make().predict(waveforms[0], RATE, target=target)


@pytest.fixture
def clips(tiny_esc50):
    return ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=1.0, folds=[1, 2])


def tables(folder):
    return {path.stem: pd.read_csv(path) for path in (folder / "csvs").iterdir()}


def test_a_set_is_filed_by_mask_with_one_row_per_clip(make, clips, tmp_path):
    folder = tmp_path / "tiny" / "saliency_clean"
    result = make().predict_set(clips, folder, progress=False)
    assert {path.stem for path in (folder / "csvs").iterdir()} == set(MASKS)
    table = pd.read_csv(folder / "csvs" / "topK_30.csv")
    assert list(table.columns) == ["clip", "target", "predicted", "is_correct", *job_metrics()]
    assert list(table["clip"]) == clips.clip_ids
    assert list(table["target"]) == [clips.classes[label] for label in clips.labels]
    assert ((table["target"] == table["predicted"]) == table["is_correct"]).all()
    assert result.accuracy == table["is_correct"].mean()
    assert np.isfinite(table[list(job_metrics())].to_numpy()).all()
    run = json.loads((folder / "run.json").read_text())
    assert run["settings"]["processor"]["n_fft"] == 128
    assert run["report"]["clips"] == 6
    assert len(run["settings"]["model_hash"]) == 16


def test_a_set_agrees_with_its_clips_one_by_one(make, clips, tmp_path):
    predict = make()
    result = predict.predict_set(clips, tmp_path / "run", clips_per_batch=4, progress=False)
    rows = result.tables["features", "topK_30"].set_index("clip")
    for index in (0, 5):
        alone = predict.predict(clips[index].waveform, RATE)
        assert rows.loc[clips[index].clip_id, "FF"] == pytest.approx(
            alone.metrics.loc["topK_30", "FF"], abs=1e-6
        )


def test_attributions_are_filed_by_clip_not_by_position(make, clips, tiny_esc50, tmp_path):
    make().predict_set(clips, tmp_path / "all", progress=False)
    few = ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=1.0, folds=2)
    make().predict_set(few, tmp_path / "few", progress=False)
    for clip in few.clip_ids:
        together, alone = (
            np.load(tmp_path / name / "attributions" / f"{clip}.npy") for name in ("all", "few")
        )
        assert np.allclose(together, alone, atol=1e-5 * np.abs(alone).max())


def test_a_stopped_run_goes_on_where_it_was(make, clips, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    make().predict_set(clips, whole, clips_per_batch=2, progress=False)
    predict = make()
    explain, calls = predict.interpreter.explain, []

    def stop_at_third(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return explain(*args, **kwargs)

    monkeypatch.setattr(predict.interpreter, "explain", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict.predict_set(clips, stopped, clips_per_batch=2, progress=False)
    assert len(pd.read_csv(stopped / "csvs" / "bin.csv")) == 4
    # A write that was cut off within the last number of a line, which still reads as a number.
    table = stopped / "csvs" / "topK_5.csv"
    table.write_text(table.read_text()[:-5])
    again = make()
    result = again.predict_set(clips, stopped, clips_per_batch=2, progress=False)
    for mask, expected in tables(whole).items():
        pd.testing.assert_frame_equal(tables(stopped)[mask], expected, atol=1e-4)
    assert json.loads((stopped / "run.json").read_text())["report"]["clips_this_time"] == 3
    assert not result.failures


def test_a_finished_run_is_not_done_again_and_saved_maps_are_used(
    make, clips, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    make(masks=["bin"]).predict_set(clips, folder, progress=False)
    predict = make(masks=["bin"])
    monkeypatch.setattr(predict.interpreter, "explain", None)
    predict.predict_set(clips, folder, progress=False)
    (folder / "csvs" / "bin.csv").unlink()
    predict.predict_set(clips, folder, progress=False)
    assert len(pd.read_csv(folder / "csvs" / "bin.csv")) == 6


def test_masks_and_places_can_be_added_to_a_run_without_explaining_again(
    make, clips, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    make(masks=["bin"]).predict_set(clips, folder, progress=False)
    before = pd.read_csv(folder / "csvs" / "bin.csv")
    more = make(masks=["bin", "topK_5"], on=("features", "audio"))
    monkeypatch.setattr(more.interpreter, "explain", None)
    more.predict_set(clips, folder, progress=False)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "csvs" / "bin.csv"), before, atol=1e-4)
    assert len(pd.read_csv(folder / "csvs_audio" / "topK_5.csv")) == 6


def test_two_runs_are_never_mixed(make, clips, tmp_path):
    make(masks=["bin"]).predict_set(clips, tmp_path / "run", progress=False)
    other = make(masks=["bin"], base="quiet")
    with pytest.raises(ValueError, match=r"other settings \(base\)"):
        other.predict_set(clips, tmp_path / "run", progress=False)
    other.predict_set(clips, tmp_path / "run", overwrite=True, progress=False)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["base"] == "quiet"


def test_sets_of_two_seeds_are_never_mixed(make, tmp_path):
    one, other = (
        SyntheticDataset(5, sample_rate=RATE, duration=1.0, clips=1, seed=seed) for seed in (0, 1)
    )
    assert one.clip_ids == other.clip_ids
    predict = make(masks=["bin"], classes=("dog", "cat", "crow"))
    predict.predict_set(one, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"other settings \(dataset.seed\)"):
        predict.predict_set(other, tmp_path / "run", progress=False)


def test_a_broken_clip_is_reported_and_the_rest_finishes(make, tiny_esc50, tmp_path):
    (tiny_esc50 / "audio" / "1-1001-A-0.wav").write_bytes(b"not audio")
    clips = ESC50Dataset(tiny_esc50, sample_rate=RATE, duration=1.0, folds=[1, 2])
    result = make(masks=["bin"]).predict_set(clips, tmp_path / "run", progress=False)
    assert list(result.failures) == ["1-1001-A-0"]
    assert "not an audio file" in result.failures["1-1001-A-0"]
    assert len(result.tables["features", "bin"]) == 5
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["report"]["failures"] == result.failures


def test_noise_is_part_of_the_settings(make, tiny_esc50, tmp_path):
    generator = np.random.default_rng(0)
    soundfile.write(tmp_path / "hiss.wav", 0.1 * generator.standard_normal(4000), RATE)
    noise = Contamination(tmp_path / "hiss.wav")
    clips = ESC50Dataset(tiny_esc50, 1, sample_rate=RATE, duration=1.0, contamination=noise)
    make(masks=["bin"]).predict_set(clips, tmp_path / "run", progress=False)
    text = (tmp_path / "run" / "run.json").read_text()
    assert json.loads(text)["settings"]["dataset"]["contamination"]["alpha"] == 0.6
    assert not re.search(re.escape(str(tmp_path)), text)


def test_a_set_that_does_not_fit_the_model_is_refused(make, model, processor, tiny_esc50, tmp_path):
    fast = ESC50Dataset(tiny_esc50, 1, sample_rate=16000, duration=1.0)
    with pytest.raises(ValueError, match="16000 Hz, the front end at 8000"):
        make().predict_set(fast, tmp_path / "run", progress=False)
    clips = ESC50Dataset(tiny_esc50, 1, sample_rate=RATE, duration=1.0)
    birds = Predict(model, processor, SaliencyInterpreter(model), classes=("dog", "cat", "crow"))
    with pytest.raises(ValueError, match="does not know: rain"):
        birds.predict_set(clips, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
