"""The classes of a set's clips, and how they are counted."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    hamming_loss,
    multilabel_confusion_matrix,
)
from tones import Chords, Tones, front_end, small_model

from audiointerp.dataset import AudioError
from audiointerp.model import HEADS, as_classifier, build_head, classifier
from audiointerp.runs import classification
from audiointerp.runs.classification import (
    SetPredictions,
    SkippedClipsWarning,
    accuracy,
    classify_set,
    confusion,
    predict_labels,
)


def test_labels_of_a_set_match_clip_by_clip_classification():
    model, processor, clips = small_model(seed=7), front_end(), Tones(5, 40)
    labels = predict_labels(model, processor, clips, batch_size=2)
    assert list(labels.columns) == ["clip", "target", "predicted", "is_correct", "probability"]
    assert labels["clip"].tolist() == clips.clip_ids
    assert labels["target"].tolist() == ["low", "high", "low", "high", "low"]
    assert model.training  # as it was
    model.eval()
    for row, clip in zip(labels.itertuples(), clips, strict=True):
        with torch.no_grad():
            logits = model(processor(clip.waveform[None]))[0].numpy().astype(float)
        chances = np.exp(logits) / np.exp(logits).sum()
        assert row.predicted == clips.classes[chances.argmax()]
        assert row.probability == pytest.approx(chances.max(), abs=1e-6)
        assert row.is_correct == (chances.argmax() == clip.label)
    share = (labels["target"] == labels["predicted"]).mean()
    assert accuracy(model, processor, clips) == pytest.approx(share)


def test_labels_refuse_a_set_of_other_classes():
    model = small_model()
    model.classes = ("cat", "dog")
    with pytest.raises(ValueError, match=r"\['low', 'high'\] are not the model's \['cat', 'dog'\]"):
        predict_labels(model, front_end(), Tones(2))


def test_confusion_counts_pairs_in_the_order_of_the_classes():
    pairs = [("b", "b"), ("b", "c"), ("b", "c"), ("c", "b"), ("a", "a")]
    counts = confusion(pd.DataFrame(pairs, columns=["target", "predicted"]), ("c", "b", "d", "a"))
    assert counts.index.tolist() == counts.columns.tolist() == ["c", "b", "d", "a"]
    for target in counts.index:
        for predicted in counts.columns:
            assert counts.loc[target, predicted] == pairs.count((target, predicted))


def test_confusion_refuses_labels_of_other_classes():
    labels = pd.DataFrame({"target": ["a"], "predicted": ["z"]})
    with pytest.raises(ValueError, match=r"labels z are not among the classes \['a', 'b'\]"):
        confusion(labels, ["a", "b"])


# ---- any head


def predictions_of(head, *, clips=40, classes=3, seed=0) -> SetPredictions:
    """Made-up predictions of clips with any number of labels, or one."""
    random = np.random.default_rng(seed)
    made = build_head(head)
    outputs = torch.from_numpy(random.standard_normal((clips, made.num_outputs(classes))))
    truth = random.random((clips, classes)) < 0.4
    if made.exclusive:
        truth = np.arange(classes) == random.integers(classes, size=clips)[:, None]
    names = tuple("abcdefgh"[:classes])
    chances = made.probabilities(made.logits(outputs)).numpy()
    return SetPredictions(made, names, [f"clip{n}" for n in range(clips)], chances, truth)


def test_labels_of_a_multi_label_set_are_named_with_all_that_are_decided():
    model, processor, clips = small_model(classes=3, head="sigmoid"), front_end(), Chords(9)
    labels = predict_labels(model, processor, clips, batch_size=4)
    assert labels["clip"].tolist() == clips.clip_ids
    assert labels["target"].tolist()[:5] == ["", "low", "middle", "low|middle", "high"]
    model.eval()
    for row, clip in zip(labels.itertuples(), clips, strict=True):
        with torch.no_grad():
            outputs = model(processor(clip.waveform[None]))[0].numpy().astype(float)
        chances = 1 / (1 + np.exp(-outputs))
        most = int(chances.argmax())
        assert row.predicted == clips.classes[most]
        assert row.probability == pytest.approx(chances[most], abs=1e-6)
        assert row.is_correct == bool(clip.label[most])
        decided = [name for name, p in zip(clips.classes, chances, strict=True) if p >= 0.5]
        assert row.decided == "|".join(decided)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_classifies_sets_of_single_labels(head):
    model, processor, clips = small_model(seed=3, head=head), front_end(), Tones(6, 40)
    found = classify_set(model, processor, clips, batch_size=4)
    view = processor.analyse(torch.stack([clip.waveform for clip in clips]))
    classifier = as_classifier(model.eval(), processor)
    with torch.no_grad():
        expected = classifier.probabilities(classifier.logits(view.cells, view))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.truth.tolist() == [[True, False], [False, True]] * 3
    assert confusion(found.labels, clips.classes).to_numpy().sum() == 6
    assert accuracy(model, processor, clips) == found.accuracy


def test_a_wrapped_module_is_classified_by_its_classifier():
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((3, 1)), torch.nn.Flatten())
    wrapped = classifier(
        network, front_end=front_end(), classes=("low", "middle", "high"), head="sigmoid"
    )
    clips = Chords(5)
    found = classify_set(wrapped, wrapped.front_end, clips)
    cells = wrapped.front_end(torch.stack([clip.waveform for clip in clips]))
    np.testing.assert_allclose(found.probabilities, torch.sigmoid(network(cells)), atol=1e-6)
    wrapped.classes = ("a", "b", "c")
    with pytest.raises(ValueError, match="are not the model's"):
        classify_set(wrapped, wrapped.front_end, clips)


@pytest.mark.parametrize("head", ["softmax", "binary"])
def test_accuracy_of_one_class_is_the_share_of_clips(head):
    found = predictions_of(head, classes=2)
    expected = accuracy_score(found.truth.argmax(1), found.probabilities.argmax(1))
    assert found.accuracy == pytest.approx(expected)
    low, high = found.accuracy_interval
    assert 0 < low < expected < high < 1


def test_accuracy_of_free_labels_is_the_share_of_decisions():
    found = predictions_of("sigmoid")
    expected = 1 - hamming_loss(found.truth, found.probabilities >= 0.5)
    assert found.accuracy == pytest.approx(expected)
    low, high = found.accuracy_interval
    by_clip = (found.truth == (found.probabilities >= 0.5)).mean(1)
    error = by_clip.std() / np.sqrt(len(by_clip))
    assert (low, high) == pytest.approx(
        (expected - 1.96 * error, expected + 1.96 * error), abs=0.02
    )


def test_average_precisions_are_scikit_learns_and_the_mean_leaves_out_absent_labels():
    found = predictions_of("sigmoid", classes=4)
    found.truth[:, 2] = False
    precisions = found.average_precisions
    assert list(precisions.index) == list("abcd")
    for place in (0, 1, 3):
        expected = average_precision_score(found.truth[:, place], found.probabilities[:, place])
        assert precisions.iloc[place] == pytest.approx(expected)
    assert np.isnan(precisions["c"])
    assert found.mean_average_precision == pytest.approx(precisions[["a", "b", "d"]].mean())


def test_the_interval_of_the_map_is_the_bootstraps(monkeypatch):
    found = predictions_of("sigmoid")
    monkeypatch.setattr(classification, "_WEIGHTS_AT_ONCE", 7 * 40)  # several draws, not one
    low, high = found.map_interval(resamples=300, seed=4)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(300):
        rows = random.integers(40, size=40)
        drawn.append(average_precision_score(found.truth[rows], found.probabilities[rows]))
    expected = np.quantile(drawn, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.04)
    assert low < found.mean_average_precision < high
    assert found.map_interval(resamples=300, seed=4) == (low, high)
    assert np.isnan(predictions_of("sigmoid", clips=1).map_interval()).all()


def test_labels_are_counted_as_scikit_learn_counts_them():
    found = predictions_of("sigmoid")
    counts = found.label_counts()
    assert list(counts.columns) == ["clips", "decided", "right", "AP"]
    tables = multilabel_confusion_matrix(found.truth, found.probabilities >= 0.5)
    for (_, row), ((_, false), (missed, right)) in zip(counts.iterrows(), tables, strict=True):
        assert row["clips"] == missed + right
        assert row["decided"] == false + right
        assert row["right"] == right


def test_several_labels_have_no_confusion_matrix():
    labels = predictions_of("sigmoid").labels
    with pytest.raises(ValueError, match=r"one label each; classify_set\(…\)\.label_counts\(\)"):
        confusion(labels, ["a", "b", "c"])


class Broken(Tones):
    """Tones of which some are broken files."""

    def __init__(self, clips, broken):
        super().__init__(clips)
        self.broken = broken

    def _decode(self, index):
        if index in self.broken:
            raise AudioError(f"{self.clip_ids[index]}.wav: empty")
        return super()._decode(index)


def test_broken_clips_are_left_out_with_a_warning():
    model, processor = small_model(), front_end()
    with pytest.warns(SkippedClipsWarning, match=r"2 of 5 clips .* first tone1: tone1\.wav: empty"):
        found = classify_set(model, processor, Broken(5, {1, 4}), batch_size=2)
    assert found.clip_ids == ["tone0", "tone2", "tone3"]
    assert found.failures == {"tone1": "tone1.wav: empty", "tone4": "tone4.wav: empty"}
    whole = classify_set(model, processor, Tones(5), batch_size=2)
    assert found.probabilities == pytest.approx(whole.probabilities[[0, 2, 3]], abs=1e-6)
    assert (found.truth == whole.truth[[0, 2, 3]]).all()
    assert whole.failures == {}


def test_a_set_without_a_clip_to_classify_is_an_error():
    with pytest.raises(AudioError, match="3 of 3 clips could not be classified, the first tone0"):
        classify_set(small_model(), front_end(), Broken(3, {0, 1, 2}))
