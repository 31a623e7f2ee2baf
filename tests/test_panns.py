"""PANNs' AudioSet taggers as published, from same-shaped files of random weights."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest
import torch
from panns_files import panns_front_end, panns_tagger
from slow_panns import slow_embedding, slow_tagger

import audiointerp as ai
from audiointerp.dataset import save_audio
from audiointerp.dataset.audioset import audioset_classes
from audiointerp.model import MODELS, CheckpointError, checkpoint
from audiointerp.model.weights import load, save_weights
from audiointerp.plots import Picture
from audiointerp.runs.files import interpret_files

SMALL = ["Cnn6", "MobileNetV2"]
RATE = 32_000


def tagger_file(folder, name="Cnn6", **front_end):
    path = folder / f"{name}.pth"
    torch.save({"iteration": 1, "model": panns_tagger(name, **front_end)}, path)
    return path


def waveform(seconds=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, round(seconds * RATE), generator=generator)
    return 0.2 * noise * torch.linspace(0.01, 1, noise.shape[-1])


@pytest.fixture(scope="module")
def cnn6(tmp_path_factory):
    return tagger_file(tmp_path_factory.mktemp("panns"))


@pytest.fixture
def published(cnn6, tmp_path, monkeypatch):
    """A folder with the file under its published name, which then is the published one."""
    path = tmp_path / "pretrained" / "Cnn6_mAP=0.343.pth"
    path.parent.mkdir()
    path.write_bytes(cnn6.read_bytes())
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(checkpoint.PANNS_FILES, "Cnn6", checkpoint.PannsFile(path.name, md5))
    return path


@pytest.mark.parametrize("name", list(MODELS))
def test_probabilities_are_those_of_panns_forward(name, tmp_path):
    state, sound = panns_tagger(name), waveform(1.0)
    spectrogram, log_mel = panns_front_end()
    with torch.no_grad():
        features = log_mel(spectrogram(sound[:, 0])).transpose(2, 3)
        scale = (slow_embedding(name, features, state) @ state["fc_audioset.weight"].T).std()
        state["fc_audioset.weight"] *= 2 / scale  # else random deep networks are sure of everything
        expected = slow_tagger(name, features, state)
        torch.save({"model": state}, tmp_path / "tagger.pth")
        tagger = ai.load_panns(name, path=tmp_path / "tagger.pth")
        view = tagger.front_end.analyse(sound)
        found = tagger.probabilities(tagger.logits(view.cells, view))
    assert found.shape == (1, 527)
    assert 0.1 < expected.std() < 0.4
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=0)


def test_the_tagger_knows_what_it_is(cnn6):
    tagger = ai.load_panns("Cnn6", path=cnn6)
    assert tagger.head.name == "sigmoid"
    assert tagger.duration == 10.0
    assert tagger.normalize is False
    assert "CC BY 4.0" in tagger.licence
    assert tagger.front_end.settings() == ai.LogMelSTFTSpectrogram().settings()
    assert not tagger.network.training
    assert (tagger.classes[0], tagger.classes[74], len(tagger.classes)) == ("Speech", "Dog", 527)


def test_class_names_are_audiosets_in_order(real_data):
    with (real_data / "audioset" / "class_labels_indices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(527))
    assert audioset_classes() == tuple(row["display_name"] for row in rows)


def test_what_it_unpacks_to_hears_sounds_at_their_own_level(cnn6):
    tagger = ai.load_panns("Cnn6", path=cnn6)
    model, processor = tagger
    quiet = 0.01 * waveform(10.0)
    with torch.no_grad():
        expected = tagger.probabilities(tagger.logits(processor(quiet)))[0].numpy()
    for each in (model, tagger, tagger.network):
        predict = ai.Predict(each, processor, ai.SaliencyInterpreter(each), masks=["topK_5"])
        result = predict.predict(quiet[0], RATE)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
        decided = np.flatnonzero(expected >= 0.5)
        assert set(result.labels) == {audioset_classes()[place] for place in decided}


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_is_explained_for_several_labels(name, tmp_path):
    model, processor = ai.load_panns(name, path=tagger_file(tmp_path, name))
    sound = waveform()
    for interpreter in (ai.SaliencyInterpreter(model), ai.GradCAMInterpreter(model)):
        predict = ai.Predict(model, processor, interpreter, masks=["topK_30"])
        results = predict.predict_batch(sound, ["noise"], target=ai.Top(3))
        order = np.argsort(-results[0].probabilities)[:3]
        assert [result.target for result in results] == order.tolist()
        maps = [result.attribution for result in results]
        assert not torch.equal(maps[0], maps[1])
        for result, target in zip(results, order, strict=True):
            alone = predict.predict_batch(sound, ["noise"], target=int(target))[0]
            if (name, interpreter.name) != ("MobileNetV2", "saliency"):
                torch.testing.assert_close(result.attribution, alone.attribution)
            # Its gradient jumps at both ends of each ReLU6: a change of 1e-6 of the clip, as by the
            # rounding of a batch of another size, moves it by 3e-4.
            difference = float((result.attribution - alone.attribution).norm())
            assert difference < 0.01 * float(alone.attribution.norm())
            masked = result.class_probabilities_on["features"].loc[("topK_30", "out")]
            drop = result.probabilities[target] - masked.iloc[target]
            assert result.metrics.loc["topK_30", "FF"] == pytest.approx(drop, abs=1e-6)


def test_the_published_file_is_found_or_fetched(published, monkeypatch, tmp_path):
    found = ai.load_panns("Cnn6", folder=published.parent)
    assert torch.equal(found.network.classifier.bias, panns_tagger("Cnn6")["fc_audioset.bias"])
    asked = []
    monkeypatch.setattr(
        checkpoint, "download_panns", lambda *request: asked.append(request) or published
    )
    ai.load_panns("Cnn6", folder=tmp_path / "empty")
    assert asked == [("Cnn6", tmp_path / "empty")]


def test_a_changed_file_of_a_published_name_is_refused(published):
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    published.write_bytes(content)
    with pytest.raises(CheckpointError, match="the published file"):
        ai.load_panns("Cnn6", folder=published.parent)


def test_a_published_file_is_a_weight_file_too(published, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "AUDIOSET_SECONDS", 1.0)
    for plot in ("plot_masks", "plot_interpretation"):
        monkeypatch.setattr(
            f"audiointerp.runs.result.{plot}", lambda *_, **__: Picture(figsize=(1, 1))
        )
    assert load(published).classes == audioset_classes()
    sound = tmp_path / "noise.wav"
    save_audio(sound, waveform(1.0)[0, 0].numpy(), RATE)
    result = interpret_files(
        [sound],
        [published],
        tmp_path / "out",
        masks=["topK_5"],
        methods=["saliency", "gradcam"],
        target=ai.Top(2),
        progress=False,
    )
    assert result.table.groupby(["method", "explained"]).ngroups == 4


def test_a_tagger_saved_as_a_weight_file_comes_back(cnn6, tmp_path):
    tagger = ai.load_panns("Cnn6", path=cnn6)
    path = save_weights(
        tmp_path / "tagger.safetensors",
        tagger.network,
        tagger.front_end,
        classes=tagger.classes,
        duration=tagger.duration,
        card=tagger.network.card,
    )
    again = ai.load(path)
    for name in ("classes", "duration", "licence", "normalize"):
        assert getattr(again, name) == getattr(tagger, name), name
    assert again.head.settings() == tagger.head.settings()
    cells = tagger.front_end(waveform())
    with torch.no_grad():
        assert torch.equal(again(cells), tagger(cells))


@pytest.mark.parametrize(
    ("front_end", "message"),
    [
        ({"sr": 16000, "fmax": 8000}, r"melW: they differ"),
        ({"fmin": 20}, r"melW: they differ"),
        ({"n_fft": 512}, r"conv_real.weight: its shape is \(257, 1, 512\) in the file"),
        ({"n_mels": 128}, r"melW: its shape is \(513, 128\)"),
    ],
)
def test_a_file_of_another_front_end_is_refused(front_end, message, tmp_path):
    path = tagger_file(tmp_path, **front_end)
    with pytest.raises(CheckpointError, match=f"not trained on these features .*{message}"):
        ai.load_panns("Cnn6", path=path)


def test_a_file_without_its_front_end_is_taken(tmp_path):
    state = panns_tagger("Cnn6")
    own = {key: each for key, each in state.items() if "extractor" not in key}
    torch.save(own, tmp_path / "bare.pth")
    network = ai.load_panns("Cnn6", path=tmp_path / "bare.pth").network
    assert torch.equal(network.classifier.weight, state["fc_audioset.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc_audioset.bias": None}, r"has no fc_audioset\.bias.*transfer_panns"),
        ({"fc_audioset.bias": torch.zeros(50)}, r"fc_audioset\.bias is \(50,\).*\(527,\)"),
        ({"fc1.bias": None}, r"missing 1: fc1\.bias"),
    ],
)
def test_a_file_that_is_no_tagger_is_refused(change, message, tmp_path):
    state = panns_tagger("Cnn6") | change
    state = {key: each for key, each in state.items() if each is not None}
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        ai.load_panns("Cnn6", path=tmp_path / "other.pth")


def test_a_wrapped_tagger_is_unwrapped_and_its_card_says_so(tmp_path):
    state = {f"module.{name}": value for name, value in panns_tagger("Cnn6").items()}
    average = {f"module.{name}": value for name, value in panns_tagger("Cnn6", seed=1).items()}
    path = tmp_path / "wrapped.pth"
    torch.save({"state_dict": state, "ema": average}, path)
    with pytest.raises(CheckpointError, match=r"'state_dict\.module', 'ema\.module'"):
        ai.load_panns("Cnn6", path=path)
    network = ai.load_panns("Cnn6", path=path, key="ema").network
    assert torch.equal(network.classifier.weight, average["module.fc_audioset.weight"])
    assert network.card["weights"].startswith("wrapped.pth: 'ema.module'")


def test_another_architecture_is_named(cnn6):
    with pytest.raises(CheckpointError, match="not hold a Cnn10 but a Cnn6"):
        ai.load_panns("Cnn10", path=cnn6)
    with pytest.raises(ValueError, match="unknown model 'Cnn15'"):
        ai.load_panns("Cnn15", path=cnn6)
