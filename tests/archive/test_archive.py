"""The archive: the same bytes for the same model, exactly what a worker needs, and nothing that the host would hide."""

import hashlib
import re
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import orjson
import pytest
import torch

from export.build import build
from export.writers import torch_export
from tests.conftest import MODELS, assert_close, left_out

ROOT = Path(__file__).parents[2]
HOSTS = {"MAR-INF/MANIFEST.json", "signature.json", "model-config.yaml"}


def files(archive):
    with zipfile.ZipFile(archive) as contents:
        return {name: contents.read(name) for name in contents.namelist()}


def differing(one, other):
    ours, theirs = files(one), files(other)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def test_the_same_checkpoint_is_the_same_archive_byte_for_byte(two, tmp_path):
    """From another process, by the command line."""
    command = [sys.executable, "-m", "export", "build", str(two.checkpoint), "--store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert differing(two.built.archive, tmp_path / "two-1.0.mar") == []
    assert (tmp_path / "two-1.0.mar").read_bytes() == two.built.archive.read_bytes()


@pytest.mark.parametrize("name", ["one", "projected-bidirectional", "words"])
def test_it_is_the_same_whatever_was_built_before_it_in_the_process(exported, name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_export, "write_program", left_out)
    again = build(exported(name).checkpoint, tmp_path).archive
    assert differing(exported(name).built.archive, again) == []
    assert again.read_bytes() == exported(name).built.archive.read_bytes()


def test_it_holds_the_handlers_the_artefacts_and_nothing_else(two):
    package = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "handlers").rglob("*.py")}
    held = files(two.built.archive)
    assert held.keys() == HOSTS | {"model.pt", "model.onnx", "model.pt2"} | package.keys()
    assert set(two.signature.artefacts.values()) == {"model.pt", "model.onnx", "model.pt2"}
    assert {name: held[name] for name in package} == package
    assert held["model-config.yaml"] == (ROOT / "config" / "model-config.yaml").read_bytes()


def test_the_manifest_names_the_handler_as_a_module_of_the_archive(two):
    model = orjson.loads(files(two.built.archive)["MAR-INF/MANIFEST.json"])["model"]
    assert (model["modelName"], model["modelVersion"], model["handler"]) == ("two", "1.0", "handlers.lstm_handler")
    assert f"{model['handler'].replace('.', '/')}.py" in files(two.built.archive)
    assert model["configFile"] in files(two.built.archive)


def test_nothing_at_its_root_is_hidden_by_the_hosts_own_modules(two):
    """The host may put its own folder first on the path: a module of ours by the same name would never be imported."""
    spec = find_spec("ts")
    assert spec is not None
    assert spec.origin is not None
    hosts = {path.stem for path in Path(spec.origin).parent.iterdir()}
    ours = {name.partition("/")[0].removesuffix(".py") for name in files(two.built.archive)}
    assert not ours & hosts
    assert {"service", "metrics"} <= hosts, "names that the host is known to have"


def test_nothing_in_it_tells_where_it_was_built(two):
    for name, data in files(two.built.archive).items():
        assert str(two.checkpoint.parent).encode() not in data, name
        assert name.startswith("handlers/") or b"site-packages" not in data, name
    with zipfile.ZipFile(two.built.archive) as contents:
        assert {info.date_time for info in contents.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_signature_says_what_the_model_is(exported):
    for name in MODELS:
        model = exported(name)
        lstm, signature = model.model.lstm, model.signature
        directions, p = (2 if lstm.bidirectional else 1), lstm.proj_size or lstm.hidden_size
        rows = lstm.num_layers * directions
        assert [(e.name, e.rows, e.size) for e in signature.state] == [("h", rows, p), ("c", rows, lstm.hidden_size)], name
        assert signature.output_size == directions * p
        assert signature.output_mode == ("step" if name == "step" else "sequence")
        assert signature.streaming == (not lstm.bidirectional)
        assert signature.streaming or signature.streaming_reason.startswith("cut at [")


def test_the_onnx_file_carries_the_signature_and_the_documented_names(two):
    held = files(two.built.archive)
    model = onnx.load_from_string(held["model.onnx"])
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert orjson.loads(metadata["cellstate.signature"]) == orjson.loads(held["signature.json"])
    assert [value.name for value in model.graph.input] == ["x", "h_0", "c_0"]
    assert [value.name for value in model.graph.output] == ["y", "output", "h_n", "c_n"]
    assert sorted(["h_0", "c_0"]) == ["c_0", "h_0"]
    onnx.checker.check_model(model, full_check=True)


def test_b_and_t_are_dynamic_in_the_graph(two):
    model = onnx.load_from_string(files(two.built.archive)["model.onnx"])
    axes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    assert axes == {"x": ["B", "T", 3], "h_0": [2, "B", 8], "c_0": [2, "B", 8]}


def test_digests_are_of_the_weights_and_of_the_graph(exported):
    signature = exported("two").built.signature
    graphs = signature["digests"]["graphs"]
    assert graphs["torchscript"] == hashlib.sha256(files(exported("two").built.archive)["model.pt"]).hexdigest()
    digests = [exported(name).built.signature["digests"] for name in ("two", "retrained", "step")]
    for part in ("model", "weights"):
        assert len({d[part] for d in digests}) == 3
        assert all(re.fullmatch("[0-9a-f]{64}", d[part]) for d in digests)


def test_the_measured_parity_is_in_the_signature_and_within_the_tolerance(exported):
    for name in MODELS:
        parity = exported(name).built.signature["parity"]
        seen = {(entry["artefact"], entry["output"]) for entry in parity["largest"]}
        assert {(artefact, output) for artefact in ("TorchScript", "ONNX Runtime") for output in ("y", "output", "h_n", "c_n")} <= seen
        worst = max(entry["difference"] for entry in parity["largest"])
        assert 0 <= worst <= parity["tolerance"] == 2e-5, f"{name}: {worst:.2e}"


@pytest.mark.parametrize("name", MODELS)
def test_torchscript_and_onnx_runtime_agree_without_any_of_our_code(exported, name):
    """The bare artefacts, as another server would run them."""
    model = exported(name)
    x = np.stack([model.sequence(7, seed) for seed in range(3)])
    random = np.random.default_rng(1)
    states = [random.uniform(-1, 1, (entry.rows, 3, entry.size)).astype(np.float32) for entry in model.signature.state]
    session = onnxruntime.InferenceSession(str(model.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    one = session.run(["y", "output", "h_n", "c_n"], {"x": x, "h_0": states[0], "c_0": states[1]})
    with torch.inference_mode():
        other = torch.jit.load(str(model.folder / "model.pt"))(*(torch.from_numpy(a) for a in (x, *states)))
    for output, a, b in zip(("y", "output", "h_n", "c_n"), one, other, strict=True):
        assert_close(a, b.numpy(), f"{output} of {name}")
