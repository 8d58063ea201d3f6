"""What a worker opens when it starts; what cannot be opened refuses to start and says why."""

from dataclasses import replace

import pytest
import torch

from handlers.engine.factory import open_backend, open_store
from handlers.errors import ConfigurationError
from handlers.settings import Settings
from handlers.stores.lmdb import EmbeddedStore
from handlers.stores.memory import MemoryStore
from tests.support.signatures import TRAFFIC

ONNX = replace(TRAFFIC, artefacts={"onnxruntime": "model.onnx", "torchscript": "model.pt"})


def test_each_store_is_named_by_its_address(tmp_path):
    assert isinstance(open_store(Settings(store="memory://")), MemoryStore)
    store = open_store(Settings(store=f"lmdb://{tmp_path}/deep/sessions", store_bytes=1 << 20))
    assert isinstance(store, EmbeddedStore)
    assert (tmp_path / "deep" / "sessions" / "data.mdb").is_file()
    store.close()


@pytest.mark.parametrize("address", ["redis://x", "lmdb://", "/var/sessions", "None"])
def test_an_address_that_is_none_refuses(address):
    with pytest.raises(ConfigurationError, match=r"store: expected memory://, lmdb:///folder"):
        open_store(Settings(store=address))


def test_a_backend_without_its_artefact_refuses(tmp_path):
    with pytest.raises(ConfigurationError, match="no artefact for onnxruntime; it has torchscript"):
        open_backend(tmp_path, replace(ONNX, artefacts={"torchscript": "model.pt"}), Settings())
    with pytest.raises(ConfigurationError, match=r"model\.onnx is missing from the archive: build it again"):
        open_backend(tmp_path, ONNX, Settings())


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
def test_an_artefact_that_is_broken_refuses(tmp_path, backend):
    (tmp_path / ONNX.artefacts[backend]).write_bytes(b"no model at all")
    with pytest.raises(ConfigurationError, match=f"{ONNX.artefacts[backend]}.*cannot load it"):
        open_backend(tmp_path, ONNX, Settings(backend=backend, device="cpu"))


@pytest.mark.parametrize("backend", ["onnxruntime", "torchscript"])
def test_a_gpu_that_was_asked_for_and_is_not_there_refuses(exported, backend):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigurationError, match='"cuda" was asked for'):
        open_backend(exported("one").folder, exported("one").signature, Settings(backend=backend, device="cuda"))
