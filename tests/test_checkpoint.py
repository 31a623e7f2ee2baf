"""Published PANNs weights: same-named, same-shaped files, damaged ones, hostile ones, downloads."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from panns_files import panns_state

from audiointerp.model import (
    MODELS,
    CheckpointError,
    checkpoint,
    download_panns,
    find_panns,
    transfer_panns,
)


def sampler():
    """What PANNs' balanced sampler saved: NumPy arrays among plain lists."""
    return {
        "indexes_per_class": [np.arange(5), np.arange(3, dtype=np.int32), np.array([1.5])],
        "queue": [3, 1, np.int64(2)],
        "pointers_of_classes": [0, np.float32(1)],
    }


def panns_file(path, name, *, zipped=True, **changes):
    content = {"iteration": 600_000, "model": panns_state(name), "sampler": sampler()} | changes
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def empty_model(name, num_bins=64, **kwargs):
    """A full-size model without the cost of drawing its weights."""
    with torch.device("meta"):
        model = MODELS[name](3, num_bins, **kwargs)
    model = model.to_empty(device="cpu")
    torch.nn.init.constant_(model.classifier.weight, 7.0)
    return model


def untouched(model):
    """Fill the model with -1 and return a check that nothing has changed since."""
    for tensor in model.state_dict().values():
        tensor.fill_(-1)
    return lambda: all(tensor.eq(-1).all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", list(MODELS))
def test_every_key_of_a_published_file_arrives_in_the_model(name, tmp_path):
    model = empty_model(name)
    transfer_panns(model, panns_file(tmp_path / "random.pth", name))
    dropped = ("spectrogram_extractor.", "logmel_extractor.", "fc_audioset.")
    expected = {k: v for k, v in panns_state(name).items() if not k.startswith(dropped)}
    loaded = model.base.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    assert model.classifier.weight.eq(7).all()


def test_files_in_the_format_before_torch_1_6_load(tmp_path):
    model = empty_model("Cnn6")
    transfer_panns(model, panns_file(tmp_path / "old.pth", "Cnn6", zipped=False))
    assert torch.equal(model.base.fc1.bias, panns_state("Cnn6")["fc1.bias"])


def test_arrays_pickled_by_numpy_1_load(tmp_path):
    path = panns_file(tmp_path / "old.pth", "Cnn6", zipped=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray\n" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    model = empty_model("Cnn6")
    transfer_panns(model, path)
    assert torch.equal(model.base.fc1.bias, panns_state("Cnn6")["fc1.bias"])


def test_a_bare_state_dict_loads(tmp_path):
    torch.save(panns_state("Cnn6"), tmp_path / "bare.pth")
    model = empty_model("Cnn6")
    transfer_panns(model, tmp_path / "bare.pth")
    assert torch.equal(model.base.fc1.bias, panns_state("Cnn6")["fc1.bias"])


WRAPPED = {
    "DataParallel": (lambda state: {"model": under("module.", state)}, "'model.module'"),
    "Lightning": (
        lambda state: {
            "pytorch-lightning_version": "2.6.0",
            "state_dict": under("net.", state) | {"loss.weight": torch.ones(2)},
        },
        "'state_dict.net', not used: state_dict.loss.weight",
    ),
    "our training": (
        lambda state: {"training": {}, "state_dict": under("model.base.", state)},
        "'state_dict.model.base'",
    ),
}


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_wrapped_network_loads_and_what_was_taken_is_said(case, tmp_path):
    wrap, place = WRAPPED[case]
    torch.save(wrap(panns_state("Cnn6")), tmp_path / "wrapped.ckpt")
    model = empty_model("Cnn6")
    assert transfer_panns(model, tmp_path / "wrapped.ckpt") == place
    assert torch.equal(model.base.fc1.bias, panns_state("Cnn6")["fc1.bias"])


def test_a_moving_average_beside_the_network_is_chosen_by_a_key(tmp_path):
    path = tmp_path / "both.pth"
    torch.save({"model": panns_state("Cnn6"), "model_ema": panns_state("Cnn6", seed=1)}, path)
    model = empty_model("Cnn6")
    is_untouched = untouched(model)
    with pytest.raises(
        CheckpointError, match=r"both\.pth .*'model', 'model_ema'.*--pretrained-key"
    ):
        transfer_panns(model, path)
    assert is_untouched()
    assert transfer_panns(model, path, key="model_ema").startswith("'model_ema'")
    assert torch.equal(model.base.fc1.bias, panns_state("Cnn6", seed=1)["fc1.bias"])


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = panns_state("Cnn6") | {"bn0.running_var": torch.full((64,), torch.nan)}
    model = empty_model("Cnn6")
    is_untouched = untouched(model)
    with pytest.raises(CheckpointError, match=r"random\.pth .*bn0\.running_var holds NaN"):
        transfer_panns(model, panns_file(tmp_path / "random.pth", "Cnn6", model=state))
    assert is_untouched()


def test_a_changed_bit_is_noticed_by_the_checksums_of_the_file(tmp_path):
    path = panns_file(tmp_path / "random.pth", "Cnn6")
    content = bytearray(path.read_bytes())
    content[content.index(panns_state("Cnn6")["fc1.bias"][:1].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"random\.pth is damaged: its record"):
        transfer_panns(empty_model("Cnn6"), path)


def test_a_page_under_a_published_name_is_named(tmp_path):
    path = tmp_path / "Cnn6_mAP=0.343.pth"
    path.write_text("<!doctype html><title>Log in</title>")
    with pytest.raises(CheckpointError, match=r"published file .*is it an HTML page\?"):
        transfer_panns(empty_model("Cnn6"), path)


def test_loading_opens_nothing_to_later_loads(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    transfer_panns(empty_model("Cnn6"), panns_file(tmp_path / "random.pth", "Cnn6"))
    assert set(torch.serialization.get_safe_globals()) == before


def test_another_architecture_is_named_and_nothing_is_loaded(tmp_path):
    path = panns_file(tmp_path / "random.pth", "Cnn6")
    model = empty_model("Cnn10")
    is_untouched = untouched(model)
    with pytest.raises(CheckpointError, match=r"not hold a Cnn10 but a Cnn6.*conv_block1\.bn2"):
        transfer_panns(model, path)
    assert is_untouched()


def test_one_unexpected_key_is_refused(tmp_path):
    state = panns_state("Cnn6") | {"fc_extra.weight": torch.zeros(2)}
    path = panns_file(tmp_path / "random.pth", "Cnn6", model=state)
    with pytest.raises(CheckpointError, match=r"unexpected 1: fc_extra\.weight"):
        transfer_panns(empty_model("Cnn6"), path)


def test_one_missing_key_is_refused(tmp_path):
    state = panns_state("Cnn6")
    del state["fc1.bias"]
    path = panns_file(tmp_path / "random.pth", "Cnn6", model=state)
    with pytest.raises(CheckpointError, match=r"missing 1: fc1\.bias"):
        transfer_panns(empty_model("Cnn6"), path)


def test_another_number_of_bins_is_refused_with_the_way_out(tmp_path):
    model = empty_model("Cnn6", num_bins=257)
    is_untouched = untouched(model)
    with pytest.raises(
        CheckpointError, match=r"64 frequency bins, the model for 257.*skip=\(\"bn0"
    ):
        transfer_panns(model, panns_file(tmp_path / "random.pth", "Cnn6"))
    assert is_untouched()


@pytest.mark.parametrize("skip", [("bn0",), "bn0"])
def test_skipping_bn0_keeps_the_models_own_and_loads_the_rest(skip, tmp_path):
    model = empty_model("Cnn6", num_bins=257)
    untouched(model)
    transfer_panns(model, panns_file(tmp_path / "random.pth", "Cnn6"), skip=skip)
    loaded, file = model.base.state_dict(), panns_state("Cnn6")
    for key, value in loaded.items():
        if key.startswith("bn0."):
            assert value.eq(-1).all()
        else:
            assert torch.equal(value, file[key])


def test_skipping_a_layer_that_is_not_there_lists_the_layers(tmp_path):
    path = panns_file(tmp_path / "random.pth", "Cnn6")
    with pytest.raises(CheckpointError, match=r"'bn', which is no layer of Cnn6.*conv_block4"):
        transfer_panns(empty_model("Cnn6"), path, skip=("bn",))


def test_another_width_is_refused(tmp_path):
    model = MODELS["Cnn14"](3, 64, width=1 / 8)
    with pytest.raises(CheckpointError, match="another width"):
        transfer_panns(model, panns_file(tmp_path / "random.pth", "Cnn14"))


class RunsCode:
    """Unpickling this the ordinary way makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(zipped, tmp_path):
    trap = tmp_path / "trap"
    path = tmp_path / "hostile.pth"
    panns_file(path, "Cnn6", zipped=zipped, sampler=RunsCode(trap))
    with pytest.raises(CheckpointError, match=r"mkdir.*was refused"):
        transfer_panns(empty_model("Cnn6"), path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap itself must work, or the test shows nothing"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("fraction", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(fraction, zipped, tmp_path):
    path = panns_file(tmp_path / "cut.pth", "Cnn6", zipped=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pth.*(cut short|damaged)"):
        transfer_panns(empty_model("Cnn6"), path)


def test_a_web_page_in_place_of_the_file_is_refused(tmp_path):
    path = tmp_path / "page.pth"
    path.write_text("<html>please log in</html>")
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        transfer_panns(empty_model("Cnn6"), path)


@pytest.mark.parametrize("content", [{"model": 3}, {}, [1, 2], {"iteration": 1}])
def test_a_file_without_weights_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        transfer_panns(empty_model("Cnn6"), tmp_path / "none.pth")


def test_a_missing_file_is_named_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint file .*none\.pth$"):
        transfer_panns(empty_model("Cnn6"), tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"download_panns\('Cnn6'\)"):
        transfer_panns(empty_model("Cnn6"), tmp_path / "Cnn6_mAP=0.343.pth")


def test_a_file_with_a_published_name_must_have_its_checksum(tmp_path):
    path = panns_file(tmp_path / "Cnn6_mAP=0.343.pth", "Cnn6")
    with pytest.raises(CheckpointError, match="published file e25e26b84585b14c7754c91e48efc9be"):
        transfer_panns(empty_model("Cnn6"), path)


# ---- downloads, from a server on this machine

CONTENT = b"pretend weights " * 4096
FILENAME = "Cnn6_mAP=0.343.pth"


@pytest.fixture
def server(monkeypatch):
    """A file server whose `mode` makes it behave or not; it records the paths it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            if self.server.mode == "missing":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            body = {"good": CONTENT, "wrong": CONTENT[::-1], "short": CONTENT[:1000]}
            self.wfile.write(body[self.server.mode])

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(
        checkpoint.PANNS_FILES,
        "Cnn6",
        checkpoint.PannsFile(FILENAME, hashlib.md5(CONTENT).hexdigest()),
    )
    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        http.mode, http.asked = "good", []
        http.url = f"http://127.0.0.1:{http.server_port}/files"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http
        http.shutdown()
        thread.join()


def fetch(server, folder):
    return download_panns("Cnn6", folder, base_url=server.url, progress=False)


def test_download_fetches_once_and_then_finds_the_file(server, tmp_path):
    folder = tmp_path / "new" / "pretrained"
    path = fetch(server, folder)
    assert path == folder / FILENAME
    assert path.read_bytes() == CONTENT
    assert fetch(server, folder) == path
    assert server.asked == [f"/files/{FILENAME}?download=1"]


def test_download_replaces_a_partial_file(server, tmp_path):
    (tmp_path / FILENAME).write_bytes(CONTENT[:100])
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("wrong", "discarded"),
        ("short", "discarded|could not fetch"),
        ("missing", "could not fetch"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(mode, message, server, tmp_path):
    server.mode = mode
    with pytest.raises(CheckpointError, match=message):
        fetch(server, tmp_path)
    assert server.asked
    assert list(tmp_path.iterdir()) == []


def test_a_bad_download_does_not_make_a_partial_file_acceptable(server, tmp_path):
    (tmp_path / FILENAME).write_bytes(CONTENT[:100])
    server.mode = "short"
    for _ in range(2):
        with pytest.raises(CheckpointError):
            fetch(server, tmp_path)


def test_without_a_network_the_error_says_where_to_place_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(CheckpointError, match=r"place it at .*Cnn10_mAP=0\.380\.pth"):
        download_panns("Cnn10", tmp_path, base_url="http://127.0.0.1:1", progress=False)


def test_a_model_without_known_checksum_is_not_fetched(tmp_path):
    with pytest.raises(CheckpointError, match="no checksum is known for MobileNetV2"):
        download_panns("MobileNetV2", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown model 'Cnn41'.*Cnn14.*MobileNetV2"):
        download_panns("Cnn41")


def test_every_model_has_its_published_file():
    assert checkpoint.PANNS_FILES.keys() == MODELS.keys()


def test_weights_are_found_where_downloads_go(tmp_path):
    assert find_panns("Cnn6", tmp_path) is None
    (tmp_path / "Cnn10_mAP=0.380.pth").touch()
    (tmp_path / "Cnn6_mAP=0.343.pth").mkdir()
    assert find_panns("Cnn6", tmp_path) is None
    assert find_panns("Cnn10", tmp_path) == tmp_path / "Cnn10_mAP=0.380.pth"
    with pytest.raises(ValueError, match="unknown model 'Cnn41'"):
        find_panns("Cnn41", tmp_path)
