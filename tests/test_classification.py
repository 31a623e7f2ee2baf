"""The classes of a set's clips, and how they are counted."""

import numpy as np
import pandas as pd
import pytest
import torch
from tones import Tones, front_end, small_model

from audiointerp.runs.classification import accuracy, confusion, predict_labels


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
