"""`python -m export`: what it builds, and that every failure is one line, exit code 2, and a store as it was."""

import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export import __main__ as command
from export.packaging import mar as archive

ROOT = Path(__file__).parents[2]
SOURCE = """
import warnings

import torch
from torch import nn


class Load(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Trained(Load):  # like a LightningModule, with a property that cannot be read outside its trainer
    @property
    def trainer(self):
        raise RuntimeError("not attached to a trainer")


def broken():
    raise RuntimeError("no such\\ndata set")


def number():
    return 3


def leaves():
    raise SystemExit("no data")


def interrupted():
    raise KeyboardInterrupt


def quantized():
    warnings.simplefilter("ignore")
    return torch.ao.quantization.quantize_dynamic(Load(), {nn.LSTM}, dtype=torch.qint8)


def traced():
    warnings.simplefilter("ignore")
    return torch.jit.trace(Load().eval(), torch.zeros(1, 12, 2))
"""


@pytest.fixture
def place(tmp_path):
    """A factory's file, its weights in three formats, an example, and an empty store."""
    (tmp_path / "net.py").write_text(SOURCE)
    space: dict[str, type[nn.Module]] = {}
    exec(compile(SOURCE, str(tmp_path / "net.py"), "exec"), space)
    torch.manual_seed(4)
    state = space["Load"]().state_dict()
    torch.save(state, tmp_path / "w.pt")
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "w.ckpt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32))
    (tmp_path / "store").mkdir()
    return tmp_path


def arguments(place, factory="Load", weights="w.pt", example="x.npy", **more):
    named = {"weights": place / weights, "example": place / example, "store": place / "store", "name": "load"} | more
    return ["build", f"{place / 'net.py'}:{factory}", *(str(part) for k, v in named.items() for part in (f"--{k}", v))]


@pytest.mark.parametrize("weights", ["w.pt", "w.safetensors", "w.ckpt"])
def test_weights_in_every_format_make_the_same_archive(place, weights, capsys):
    assert command.main(arguments(place, weights=weights, features="power,temperature", outputs="next")) == 0
    assert "streaming: yes" in capsys.readouterr().out
    assert command.main(["inspect", str(place / "store" / "load-1.0.mar"), "--json"]) == 0
    document = orjson.loads(capsys.readouterr().out)
    assert document["inputs"]["features"] == ["power", "temperature"]
    assert [entry["name"] for entry in document["state"]] == ["h", "c"]
    assert command.main(["inspect", str(place / "store" / "load-1.0.mar")]) == 0
    assert "h_0 -> h_n  [1, B, 4] float32" in capsys.readouterr().out


def test_a_property_that_cannot_be_read_is_no_part_of_the_model(place, capsys):
    assert command.main(arguments(place, factory="Trained", weights="w.ckpt")) == 0
    document = orjson.loads(zipfile.ZipFile(place / "store" / "load-1.0.mar").read("signature.json"))
    assert set(document["artefacts"]) >= {"torchscript", "onnxruntime"}


def stored(place):
    return {path.name: path.read_bytes() for path in (place / "store").iterdir()}


def other_weights(place):
    """Weights of the same model, trained anew."""
    state = {name: value + 0.01 for name, value in torch.load(place / "w.pt").items()}
    save_file(state, place / "other.safetensors")
    return "other.safetensors"


def test_a_version_is_built_again_with_the_same_contents_and_replaced_only_when_told(place, capsys):
    assert command.main(arguments(place)) == 0
    before = stored(place)
    assert command.main(arguments(place)) == 0
    assert stored(place) == before
    assert command.main(arguments(place, weights=other_weights(place))) == 2
    expected = f"export: {place / 'store' / 'load-1.0.mar'} holds this version with other contents: build under another version, or insist"
    assert capsys.readouterr().err.startswith(expected)
    assert stored(place) == before
    assert command.main(arguments(place, weights="other.safetensors", version="1.1")) == 0
    assert command.main([*arguments(place, weights="other.safetensors"), "--replace"]) == 0
    assert stored(place).keys() == {"load-1.0.mar", "load-1.1.mar"}
    assert stored(place)["load-1.0.mar"] != before["load-1.0.mar"]


def test_an_archive_under_the_name_of_earlier_releases_counts_as_its_version(place):
    assert command.main(arguments(place)) == 0
    (place / "store" / "load-1.0.mar").rename(place / "store" / "load.mar")
    assert command.main(arguments(place, weights=other_weights(place))) == 2
    assert stored(place).keys() == {"load.mar"}
    assert command.main([*arguments(place, weights="other.safetensors"), "--replace"]) == 0
    assert stored(place).keys() == {"load-1.0.mar"}
    (place / "store" / "load-1.0.mar").rename(place / "store" / "load.mar")
    assert command.main(arguments(place, version="2.0")) == 0, "that is another version"
    assert stored(place).keys() == {"load.mar", "load-2.0.mar"}


def test_the_signature_records_what_the_model_answers_to_its_example(place):
    assert command.main(arguments(place)) == 0
    with zipfile.ZipFile(place / "store" / "load-1.0.mar") as contents:
        document = orjson.loads(contents.read("signature.json"))
    space = {}
    exec(compile(SOURCE, "net.py", "exec"), space)
    model = space["Load"]()
    model.load_state_dict(torch.load(place / "w.pt"))
    y = model(torch.tensor([document["inputs"]["example"]]))[0].tolist()
    assert document["outputs"]["example"] == pytest.approx(y, abs=1e-6)


def test_a_scaler_goes_into_the_archive(place, capsys):
    (place / "scaler.json").write_text('{"mean": [1, 2], "scale": [3, 4]}')
    assert command.main(arguments(place, scaler=place / "scaler.json", opset="17")) == 0
    shown = capsys.readouterr().out
    assert "finding the state" in shown
    assert "every artefact agrees" in shown
    assert len(shown.splitlines()) < 16
    assert command.main(["inspect", str(place / "store" / "load-1.0.mar"), "--json"]) == 0
    names = [entry["path"] for entry in orjson.loads(capsys.readouterr().out)["recurrent"]]
    assert names == ["model.lstm"], "the model is inside its scaler"


def test_the_versions_of_the_tools_are_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--version"])
    assert ended.value.code == 0
    assert "torch 2" in capsys.readouterr().out


def test_every_option_has_a_help(capsys):
    with pytest.raises(SystemExit):
        command.main(["build", "--help"])
    shown = capsys.readouterr().out
    page = (ROOT / "docs" / "export.md").read_text()
    options = {word.strip("[],:") for word in shown.split() if word.strip("[]").startswith("--")}
    assert [option for option in sorted(options) if option not in page and option not in ("--help", "--verbose")] == []


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path / "ran"),)


def spoil(place):
    """Inputs that cannot be used, by the name of what is wrong."""
    np.save(place / "wide.npy", np.zeros((12, 3), np.float32))
    np.save(place / "objects.npy", np.array([Payload(place)], dtype=object), allow_pickle=True)
    (place / "text.npy").write_text("1 2 3")
    torch.save({"lstm.weight_ih_l0": torch.zeros(16, 2)}, place / "few.pt")
    (place / "code.pt").write_bytes(pickle.dumps({"a": Payload(place)}))
    torch.save({"model": Payload(place)}, place / "code.ckpt")
    (place / "empty.safetensors").write_bytes(b"")
    (place / "file").write_text("not a folder")


ERRORS = {
    "another width": ({"example": "wide.npy"}, "net.py:14"),
    "missing weights": ({"weights": "few.pt"}, "are missing: "),
    "a factory that raises": ({"factory": "broken"}, "broken raised RuntimeError: no such data set"),
    "a factory that ends the program": ({"factory": "leaves"}, "ended the program, by sys.exit('no data')"),
    "a quantized model": ({"factory": "quantized"}, "lstm: a quantized LSTM"),
    "a traced model": ({"factory": "traced"}, "a scripted LSTM"),
    "not a module": ({"factory": "number"}, "returned int"),
    "no such factory": ({"factory": "Nothing"}, "defines no 'Nothing'"),
    "pickled code": ({"weights": "code.pt"}, "save model.state_dict()"),
    "pickled code in a checkpoint": ({"weights": "code.ckpt"}, "save model.state_dict()"),
    "empty weights": ({"weights": "empty.safetensors"}, "empty.safetensors"),
    "no weights": ({"weights": "none.pt"}, "none.pt"),
    "no example": ({"example": "none.npy"}, "none.npy"),
    "an example of text": ({"example": "text.npy"}, "text.npy"),
    "an example of objects": ({"example": "objects.npy"}, "without pickled objects"),
    "a name with a path in it": ({"name": "../load"}, "name: expected"),
    "too many features": ({"features": "a,b,c"}, "3 names for 2 input columns"),
    "two features of one name": ({"features": "a,a"}, "features: 'a' is there twice; give each column a name of its own"),
    "a feature without a name": ({"features": "a,"}, "features: expected a text for each column, got ''"),
    "a feature that is called as the time": (
        {"features": "a,time", "calendar": '{"derived": {"a": {"of": "hour"}}}', "frequency": "1h"},
        "features: 'time' is what observations call their time",
    ),
    "too many outputs": ({"outputs": "a,b"}, "2 names for 1 output columns"),
    "tokens for numbers": ({"tokens": "9"}, "example"),
    "axes that are none": ({"axes": "FTB"}, "axes: expected one of BTF"),
    "an x that is no argument": ({"x": "volumes"}, "--x volumes: forward has no tensor of that name; it takes x"),
    "a pickled scaler": ({"scaler": "scaler.joblib"}, "run code"),
    "a store that is a file": ({"store": "file"}, "file"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_and_leaves_the_store_as_it_was(place, name, capsys):
    spoil(place)
    (place / "store" / "load-1.0.mar").write_bytes(b"the old archive")
    changed, expected = ERRORS[name]
    changed = changed | {"store": place / changed.get("store", "store")}
    assert command.main(arguments(place, **changed)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("export: ")
    assert expected in lines[0]
    assert [(p.name, p.read_bytes()) for p in (place / "store").iterdir()] == [("load-1.0.mar", b"the old archive")]
    assert not (place / "ran").exists()


def test_an_interrupt_is_one_line_too(place, capsys):
    assert command.main(arguments(place, factory="interrupted")) == 130
    assert capsys.readouterr().err == "export: interrupted; nothing was written\n"


def test_the_process_says_so_too(place):
    done = subprocess.run(
        [sys.executable, "-m", "export", "build", str(place / "nothing")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half", "zip without a signature"])
def test_inspecting_what_is_not_an_archive_is_one_line(tmp_path, content, capsys):
    path = tmp_path / "model.mar"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        with zipfile.ZipFile(path, "w") as other:
            other.writestr("readme", "hello")
    assert command.main(["inspect", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_killed_while_it_writes_the_old_archive_stands(tmp_path):
    """The writer stops itself between the last byte and the rename, where a reader could meet half an archive."""
    target = tmp_path / "load-1.0.mar"
    archive.write_archive(target, {"signature.json": b"old"})
    before = target.read_bytes()
    code = (
        "import os, signal, sys, pathlib\n"
        "from export.packaging.mar import write_archive\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_archive(pathlib.Path(sys.argv[1]), {'signature.json': b'new' * 100_000})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == before
