"""Whatever is given to `python -m export build`, it makes an archive or says in one line why not: no traceback, no defect of its own.

`GENERATED=300 pytest tests/export/test_fuzz.py` tries 300 builds instead of a few.
"""

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export import __main__ as command
from export.verify import parity, streaming
from export.writers import torch_export
from tests.conftest import left_out
from tests.support import generated_models

EXAMPLES = int(os.environ.get("GENERATED", "8"))
EXAMPLE_FAULTS = {
    "none": lambda x: x,
    "one axis less": lambda x: x[0],
    "one axis more": lambda x: x[..., None],
    "axes exchanged": lambda x: x.swapaxes(0, -1),
    "one step": lambda x: x[:, :1],
    "no step": lambda x: x[:, :0],
    "integers": lambda x: (x * 10).astype(np.int64),
    "doubles": lambda x: x.astype(np.float64),
    "bools": lambda x: x > 0,
    "NaN": lambda x: x * np.float32("nan"),
    "enormous": lambda x: np.clip(x.astype(np.float64) * 1e37, -3e38, 3e38).astype(np.float32),
    "zeros": lambda x: x * 0,
}
OPTIONS = ([], [], ["--tokens", "7"], ["--tokens", "30"], ["--axes", "BFT"], ["--x", "x"], ["--task", "classify"], ["--feedback", "y0=x0"])
WEIGHTS = ("fit", "fit", "fit", "of another size", "none")


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    """The grid of a build, with less of the same."""
    monkeypatch.setattr(torch_export, "write_program", left_out)
    for name, value in {"BATCHES": (1, 2), "STEPS": (1, 2, 19), "LONG": 40, "CUTS": 2, "LENGTHS": (70,)}.items():
        monkeypatch.setattr(parity, name, value)
    monkeypatch.setattr(streaming, "LONG", 100)


def command_line(data, place):
    """Draw a model, its weights, its example with at most one fault, and options; return the arguments of the command."""
    family = data.draw(st.sampled_from(generated_models.FAMILIES))
    drawn = data.draw(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in family.options.items()}))
    torch.manual_seed(3)
    model = family(**drawn)
    state, how = model.state_dict(), data.draw(st.sampled_from(WEIGHTS))
    weights = {name: value[..., :-1] for name, value in state.items()} if how == "of another size" else state if how == "fit" else {}
    torch.save(weights, place / "w.pt")
    arrays = [value.numpy() for value in model.example()]
    fault = EXAMPLE_FAULTS[data.draw(st.sampled_from(sorted(EXAMPLE_FAULTS)))]
    np.savez(place / "x.npz", fault(arrays[0]), *arrays[1:])
    given = {"weights": place / "w.pt", "example": place / "x.npz", "store": place / "store", "arguments": json.dumps(drawn)}
    options = data.draw(st.sampled_from(OPTIONS))
    if model.tokens and "--tokens" not in options:
        options = [*options, "--tokens", str(model.tokens)]
    named = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    return ["build", f"{generated_models.__file__}:{family.__name__}", *named, *options]


@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_archive_or_one_line(tmp_path_factory, capsys, data):
    place = tmp_path_factory.mktemp("drawn")
    arguments = command_line(data, place)
    capsys.readouterr()
    code, shown = command.main(arguments), capsys.readouterr()
    assert code in (0, 2), shown.err
    assert shown.err.count("\n") == (0 if code == 0 else 1)
    assert (place / "store").exists() == (code == 0)
