"""Weight files: what goes in comes out, and what is no weight file is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from audiointerp.model import TransferCnn6, TransferCnn14
from audiointerp.model.weights import WeightsError, check_fit, load, model_hash, save_weights
from audiointerp.processing import LogMelSTFTSpectrogram, LogSTFTSpectrogram

CLASSES = ("dog", "rain", "sea_waves")
CARD = {"data": "made up", "licence": "CC0", "accuracy": 95.5}


@pytest.fixture
def model() -> TransferCnn14:
    torch.manual_seed(0)
    model = TransferCnn14(3, 64, width=1 / 16)
    for module in model.modules():  # running statistics of their own, as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def file(model, tmp_path) -> Path:
    return save_weights(
        tmp_path / "small.safetensors",
        model,
        LogMelSTFTSpectrogram(),
        classes=CLASSES,
        duration=5.0,
        card=CARD,
    )


def text_of(file: Path) -> dict[str, str]:
    """Return the text of a weight file, but for its checksum."""
    with safe_open(file, "pt") as opened:
        return {name: value for name, value in opened.metadata().items() if name != "crc32"}


def rewrite(file: Path, **changes: str | None) -> Path:
    """Write a weight file again with some of its text changed or, for None, left out.

    Like a file of earlier versions it has no checksum.
    """
    text = text_of(file)
    text |= {name: value for name, value in changes.items() if value is not None}
    text = {name: value for name, value in text.items() if changes.get(name, "") is not None}
    save_file(load_file(file), file, text)
    return file


def test_a_model_comes_back_with_all_that_belongs_to_it(model, file):
    again, processor = load(file)
    assert type(again) is TransferCnn14
    assert again.settings() == model.settings()
    assert not again.training
    assert again.classes == CLASSES
    assert again.duration == 5.0
    assert again.card == CARD
    assert type(processor) is LogMelSTFTSpectrogram
    assert processor.settings() == LogMelSTFTSpectrogram().settings()
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    features = processor(0.1 * torch.randn(2, 1, 16000))
    with torch.no_grad():
        assert torch.equal(again(features), model(features))


def test_another_model_and_front_end_come_back_too(tmp_path):
    processor = LogSTFTSpectrogram(n_fft=128, hop_length=64, sample_rate=8000)
    model = TransferCnn6(2, processor.num_bins)
    path = save_weights(tmp_path / "a" / "b.safetensors", model, processor, classes=["x", "y"])
    again, front_end = load(path)
    assert type(again) is TransferCnn6
    assert front_end.settings() == processor.settings()
    assert again.duration is None
    assert again.card == {}
    assert model_hash(again) == model_hash(model)


def test_the_hash_is_of_names_and_values_alone(model, file):
    assert len(model_hash(model)) == 16
    assert int(model_hash(model), 16) >= 0
    loaded, _ = load(file)
    assert model_hash(loaded) == model_hash(model)
    assert model_hash(model.train()) == model_hash(model.eval())
    before = model_hash(model)
    with torch.no_grad():
        model.classifier.bias[1] += 1e-6
    assert model_hash(model) != before


def test_the_hash_tells_running_statistics_and_shapes_apart(model):
    before = model_hash(model)
    model.base.bn0.running_mean[3] += 1e-6
    assert model_hash(model) != before

    def hashed(values: torch.Tensor) -> str:
        module = torch.nn.Module()
        module.register_buffer("values", values)
        return model_hash(module)

    assert hashed(torch.zeros(2, 3)) != hashed(torch.zeros(3, 2))
    assert hashed(torch.zeros(2)) != hashed(torch.zeros(2, dtype=torch.int32))


def test_a_weight_file_may_be_read_by_whoever_may_read_other_new_files(file):
    other = file.with_name("other")
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode


def test_writing_is_all_or_nothing(model, tmp_path, monkeypatch):
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"earlier")

    def broken(partial, data):
        with partial.open("wb") as file:
            file.write(data[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, model, LogMelSTFTSpectrogram(), classes=CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "small.pth"}, "end in .safetensors"),
        ({"classes": ("dog", "rain")}, "2 class names for a model of 3"),
        ({"classes": "cat"}, "1 class names for a model of 3"),
        ({"classes": ("dog", "dog", "rain")}, "same name: dog"),
        ({"processor": LogSTFTSpectrogram()}, "makes 257 frequency bins, the model expects 64"),
    ],
)
def test_what_does_not_fit_is_not_written(model, tmp_path, changes, message):
    arguments = {"path": "small.safetensors", "classes": CLASSES}
    arguments |= {"processor": LogMelSTFTSpectrogram()} | changes
    path = tmp_path / "new" / arguments.pop("path")
    with pytest.raises(ValueError, match=message):
        save_weights(path, model, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path):
    with pytest.raises(WeightsError, match=r"gone.safetensors: no such file"):
        load(tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match="a folder"):
        load(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_a_truncated_file(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=r"small.safetensors: .*was the copy cut short\?"):
        load(file)


def test_another_programs_safetensors(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="is it another program's"):
        load(path)
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match="is it another program's"):
        load(path)


@pytest.mark.parametrize("ending", ["pth", "pt", "ckpt"])
def test_a_pytorch_checkpoint(model, tmp_path, ending):
    path = tmp_path / f"Cnn14.{ending}"
    torch.save({"model": model.state_dict()}, path)
    with pytest.raises(WeightsError, match=r"a PyTorch checkpoint.*load_panns"):
        load(path)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["evil.safetensors", "evil.pth", "evil.pkl"])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    path, mark = tmp_path / name, tmp_path / "ran"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(WeightsError, match=name):
        load(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the payload is a live one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": json.dumps(["a", "b"])}, "2 class names for a model of 3"),
        ({"classes": "null"}, "does not describe its own tensors"),
        ({"classes": None}, "classes"),
        ({"processor": json.dumps(LogSTFTSpectrogram().settings())}, "257 frequency bins"),
        ({"processor": json.dumps({"name": "MFCC"})}, "unknown front end 'MFCC'"),
        ({"model": json.dumps({"name": "Cnn15", "num_classes": 3})}, "unknown model 'Cnn15'"),
        ({"model": "[1, 2]"}, "does not describe its own tensors"),
        ({"model": "{"}, "does not describe its own tensors"),
        ({"duration": None}, "duration"),
    ],
)
def test_text_that_does_not_fit_the_tensors(file, changes, message):
    with pytest.raises(WeightsError, match=message):
        load(rewrite(file, **changes))


@pytest.mark.parametrize("settings", [TransferCnn14(3, 64, 1 / 8), TransferCnn6(3, 64)])
def test_tensors_of_another_architecture(file, settings):
    with pytest.raises(WeightsError, match=r"small.safetensors: .*tensors"):
        load(rewrite(file, model=json.dumps(settings.settings())))


def test_tensors_that_are_missing_or_too_many(file):
    text, tensors = text_of(file), load_file(file)
    for change in ({"extra": torch.zeros(1)}, {"classifier.bias": None}):
        changed = {name: value for name, value in (tensors | change).items() if value is not None}
        save_file(changed, file, text)
        with pytest.raises(WeightsError, match=next(iter(change))):
            load(file)


def test_a_model_that_knows_no_bins_fits_any_front_end():
    check_fit(torch.nn.Linear(3, 3), LogSTFTSpectrogram())


def test_equal_models_give_equal_files(model, tmp_path):
    files = [
        save_weights(
            tmp_path / f"{number}.safetensors",
            model,
            LogMelSTFTSpectrogram(),
            classes=CLASSES,
            duration=5.0,
            card=CARD | {"note": "naïve 雨"},
        ).read_bytes()
        for number in range(5)
    ]
    assert len(set(files)) == 1
    assert int.from_bytes(files[0][:8], "little") % 8 == 0  # tensors are aligned


def test_a_changed_bit_of_the_tensors_is_noticed(file):
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in range(start, len(content), 50_021):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"small\.safetensors: damaged"):
            load(file)


def test_a_changed_setting_is_noticed(file):
    content = file.read_bytes()
    assert content.count(b'\\"hop_length\\": 320') == 1
    file.write_bytes(content.replace(b'\\"hop_length\\": 320', b'\\"hop_length\\": 321'))
    with pytest.raises(WeightsError, match=r"small\.safetensors: damaged"):
        load(file)


def test_a_file_of_earlier_versions_has_no_checksum_and_is_read(model, file):
    again, _ = load(rewrite(file))
    assert model_hash(again) == model_hash(model)


@pytest.mark.parametrize("name", ["small.pth", "small", "small.ckpt"])
def test_a_weight_file_is_known_by_its_content(model, file, name):
    again, _ = load(file.rename(file.with_name(name)))
    assert model_hash(again) == model_hash(model)


def test_a_checkpoint_of_a_training_says_where_the_weight_file_is(model, tmp_path):
    path = tmp_path / "best.safetensors"
    training = {"settings": {}, "history": []}
    torch.save({"state_dict": model.state_dict(), "training": training}, path)
    with pytest.raises(WeightsError, match=r"checkpoint of a training.*\.safetensors.*--resume"):
        load(path)


def test_another_programs_file_says_how_to_use_its_weights(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"load_checkpoint\(network, path\).*classifier"):
        load(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(model, file, value, tmp_path):
    tensors = load_file(file)
    tensors["base.conv_block3.bn1.running_var"][2] = value
    save_file(tensors, file, text_of(file))
    with pytest.raises(WeightsError, match=r"conv_block3\.bn1\.running_var holds NaN or infinite"):
        load(file)
    model.load_state_dict(tensors)
    path = tmp_path / "new" / "diverged.safetensors"
    with pytest.raises(ValueError, match="holds NaN or infinite"):
        save_weights(path, model, LogMelSTFTSpectrogram(), classes=CLASSES)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.int32, "int32"),
        (torch.bool, "bool"),
        (torch.complex64, "complex64"),
        (torch.float64, None),
        (torch.float16, None),
        (torch.bfloat16, None),
    ],
)
def test_tensors_of_another_type_are_refused_unless_they_are_real_numbers(file, dtype, message):
    tensors = load_file(file)
    tensors["classifier.bias"] = torch.tensor([0.5, 1.0, -2.0]).to(dtype)
    save_file(tensors, file, text_of(file))
    if message is not None:
        with pytest.raises(WeightsError, match=rf"classifier\.bias holds torch\.{message}"):
            load(file)
    else:
        bias = load(file).network.classifier.bias
        assert bias.dtype == torch.float32
        assert bias.tolist() == [0.5, 1.0, -2.0]


@pytest.mark.parametrize("duration", [0, -1, float("nan"), float("inf"), 1e9, True, "5"])
def test_a_duration_that_is_none_is_neither_written_nor_read(model, file, duration, tmp_path):
    with pytest.raises(WeightsError, match="duration"):
        load(rewrite(file, duration=json.dumps(duration)))
    with pytest.raises((ValueError, TypeError), match="duration"):
        save_weights(
            tmp_path / "x.safetensors",
            model,
            LogMelSTFTSpectrogram(),
            classes=CLASSES,
            duration=duration,
        )
    assert not (tmp_path / "x.safetensors").exists()
