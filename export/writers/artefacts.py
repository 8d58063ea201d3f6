"""Write a lifted model as TorchScript and as ONNX, both with the same names and with B and T dynamic.

Both files are made byte for byte reproducible: no path, no time, no compression whose result depends on a library's version.
"""

import contextlib
import io
import itertools
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import onnx
import torch

from export.errors import LiftError
from export.graph.time_loop import PackedStep, ScannedLoop, Stepped, pack
from export.lift.lifted import Lift
from export.lift.probe import user_line

OPSET = 18
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can state


def graph_module(lifted: Lift, x: torch.Tensor) -> torch.nn.Module:
    """What the exporters take: the lifted model itself, or a loop over its traced step. Raises LiftError."""
    if lifted.step is None:
        if any(isinstance(module, torch.jit.ScriptModule) for module in lifted.base.modules()):
            with _exporting("TorchScript"):  # the exporter to ONNX takes a scripted part only inside a traced whole
                return _traced(lifted.base, lifted, x)
        return lifted.base
    with _exporting("TorchScript"):
        return _traced(Stepped(lifted.step, lifted.state, x, lifted.per).eval(), lifted, x)


def _traced(module: torch.nn.Module, lifted: Lift, x: torch.Tensor) -> torch.jit.ScriptModule:
    traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
        module, (x, *lifted.zeros(len(x))), check_trace=False
    )
    return traced


_exports = itertools.count(1)


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """Call classes in the file by a number of this export: by their own names, TorchScript calls the second of a process otherwise."""
    original, number, classes = torch._jit_internal._qualified_name, next(_exports), itertools.count()

    def qualified(thing: Any, *rest: Any) -> Any:
        if not isinstance(thing, type) or hasattr(thing, "_jit_override_qualname"):
            return original(thing, *rest)
        return f"__torch__.x{number:08}_{next(classes)}.{thing.__name__}"

    with mock.patch.object(torch._jit_internal, "_qualified_name", qualified):
        yield


def write_torchscript(module: torch.nn.Module, lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Trace `module` over `x` `[B, T, …]` and save it to `target`. Raises LiftError for what TorchScript cannot hold."""
    buffer = io.BytesIO()
    with _exporting("TorchScript"):
        torch.jit.save(module if isinstance(module, torch.jit.ScriptModule) else _traced(module, lifted, x), buffer)
    target.write_bytes(without_debug_records(buffer.getvalue(), target.stem))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter to ONNX prints a failing graph from C++, past Python's own stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _exporting(target: str) -> Iterator[None]:
    """Quiet, without gradients, every failure one LiftError."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(), torch.no_grad(), _silent():
        warnings.simplefilter("ignore")  # the tracers warn of what the verifier then measures, and of their deprecation
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # one operator that no other runtime has
            with mock.patch.object(torch.nn.functional, "_in_projection_packed", _projections), _own_names():
                yield
        except LiftError:
            raise
        except Exception as e:
            reason = next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")
            found = f"{target} cannot hold this model: {type(e).__name__}: {reason[:200]} (at {user_line(e)})"
            raise LiftError(f"{found}; write that operation with others, or leave it outside the model") from e
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _projections(*arguments: Any) -> list[torch.Tensor]:
    """An attention's query, key and value, each by itself: as PyTorch packs them, the exporter to ONNX freezes T."""
    *values, weight, bias = arguments
    biases = [None] * 3 if bias is None else bias.chunk(3)
    return [torch.nn.functional.linear(v, w, b) for v, w, b in zip(values, weight.chunk(3), biases, strict=True)]


def without_debug_records(data: bytes, stem: str) -> bytes:
    """The same TorchScript file under one folder name, without the records that hold source lines and paths of this machine."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(source.namelist()):
            if not name.endswith((".debug_pkl", "/serialization_id")):  # the second is a digest over the first
                path = f"{stem}/{name.split('/', 1)[1]}"
                target.writestr(zipfile.ZipInfo(_numberless(path.encode()).decode(), FIXED_TIME), _numberless(source.read(name)))
    return result.getvalue()


def _numberless(data: bytes) -> bytes:
    """Without the export's number, in as many bytes."""
    return re.sub(rb"x\d{8}_", b"x00000000_", data)


def write_onnx(module: torch.nn.Module, lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Export `module` to `target` and check it at the checker's strictest. Raises LiftError. docs/decisions/onnx-exporter.md"""
    inputs = ["x", *(entry.input for entry in lifted.state)]
    states = [entry.output for entry in lifted.state]
    axes = {"x": {0: "B", 1: "T"}, "y": {0: "B"}, "output": {0: "B", 1: "T"}}
    axes |= {name: {1: "B"} for name in (*inputs[1:], *states)}
    if lifted.per == "step":
        axes["y"][1] = "T"
    with _exporting("ONNX"):
        torch.onnx.export(
            module, (x, *lifted.zeros(len(x))), target, dynamo=False, opset_version=OPSET,
            input_names=inputs, output_names=["y", "output", *states], dynamic_axes=axes,
        )  # fmt: skip
        onnx.checker.check_model(str(target), full_check=True)


def write_program(lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Save the model as a torch.export program, B and T dynamic. Raises LiftError."""
    x = x.repeat(2, *[1] * (x.dim() - 1))[:3]  # a batch of 2 could be taken for a constant, and so could a T of 1
    if x.shape[1] == 1 and lifted.steps[1] is None:
        x = x.repeat(1, max(5, lifted.steps[0]), *[1] * (x.dim() - 2))
    torch._dynamo.reset()  # what it learnt of other models' sizes in this process becomes guards in this one
    with _exporting("torch.export"), lifted.scanning():
        program = _program(_scanned(lifted, x), lifted, x)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    target.write_bytes(buffer.getvalue())


def _scanned(lifted: Lift, x: torch.Tensor) -> torch.nn.Module:
    """The lifted model, or a scan over its step as a graph of its own: a scan's body cannot be the user's Python."""
    if lifted.step is None:
        return lifted.base
    packed, batch = pack(lifted.zeros(len(x))), {0: torch.export.Dim.DYNAMIC}
    step = torch.export.export(
        PackedStep(lifted.step, lifted.state).eval(), (x[:, :1], packed), dynamic_shapes=(batch, batch), strict=False
    )
    return ScannedLoop(step.module(check_guards=False), lifted.state, lifted.per)


def _program(module: torch.nn.Module, lifted: Lift, x: torch.Tensor) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic} if lifted.steps[0] == lifted.steps[1] else {0: dynamic, 1: dynamic}, tuple({1: dynamic} for _ in lifted.state))
    program = torch.export.export(module, (x, *lifted.zeros(len(x))), dynamic_shapes=shapes, strict=False)
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # lines and paths of this machine
    return program


def add_metadata(target: Path, key: str, value: str) -> None:
    """Put one entry into an ONNX file's metadata."""
    model = onnx.load(str(target))
    onnx.helper.set_model_props(model, {key: value})
    onnx.save(model, str(target))
