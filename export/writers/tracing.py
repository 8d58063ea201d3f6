"""Trace a lifted model: what the writers of TorchScript and ONNX share."""

import contextlib
import itertools
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from export.errors import LiftError
from export.graph.time_loop import Stepped
from export.lift.lifted import Lift
from export.user_code import at_user_line, is_user_file

KINDS = ("Tensor", "bool", "int", "float", "str")  # of arguments, as TorchScript names them
_exports = itertools.count(1)


def graph_module(lifted: Lift, x: torch.Tensor) -> torch.nn.Module:
    """Return the module that the exporters take: the lifted model, or a loop over its traced step. Raises LiftError."""
    if lifted.step_module is not None:
        with exporting("TorchScript"):
            return traced(Stepped(lifted.step_module, lifted.state, x, lifted.output_mode).eval(), lifted, x)
    if any(isinstance(module, torch.jit.ScriptModule) for module in lifted.base.modules()):
        with exporting("TorchScript"):  # the ONNX exporter takes a scripted part only inside a traced whole
            return traced(lifted.base, lifted, x)
    return lifted.base


def traced(module: torch.nn.Module, lifted: Lift, x: torch.Tensor) -> torch.jit.ScriptModule:
    """Trace `module` over `x` `[B, T, …]` and zero states."""
    with readable_properties(module):
        result: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, (x, *lifted.zeros(len(x))), check_trace=False
        )
    return result


@contextlib.contextmanager
def readable_properties(module: torch.nn.Module) -> Iterator[None]:
    """Make properties that raise None: the tracer reads every attribute, and a LightningModule without a trainer has none to give."""
    unreadable = {(type(part), name) for part in module.modules() for name in dir(type(part)) if _raises(part, name)}
    with contextlib.ExitStack() as stack:
        for owner, name in unreadable:
            stack.enter_context(mock.patch.object(owner, name, None))
        yield


def _raises(part: torch.nn.Module, name: str) -> bool:
    if not isinstance(getattr(type(part), name, None), property):
        return False
    try:
        getattr(part, name)
    except AttributeError:  # the tracer passes over these
        return False
    except Exception:
        return True
    return False


@contextlib.contextmanager
def exporting(target: str) -> Iterator[list[warnings.WarningMessage]]:
    """Prepare PyTorch for an export to `target`: quiet, without gradients or fused attention. Turns every failure into LiftError.

    Yields the list of warnings, which grows.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(record=True) as warned, torch.no_grad(), _stdout_closed():
        warnings.simplefilter("always")
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # the fused operator exists in PyTorch alone
            with mock.patch.object(torch.nn.functional, "_in_projection_packed", _attention_projections), _numbered_class_names():
                yield warned
        except LiftError:
            raise
        except Exception as e:
            found = f"{target} cannot hold this model: {_reason(e)}{at_user_line(e)}"
            raise LiftError(f"{found}; write that operation with others, or leave it outside the model") from e
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


def _reason(error: Exception) -> str:
    """Return what an exporter of PyTorch says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    missing = re.search(r"We don't have an op for aten::(\w+).*Argument types: (.*)", " ".join(lines))
    if missing:
        arguments = ", ".join(part.strip() for part in missing[2].split(",") if part.strip() in KINDS)
        return f"it has no {missing[1]} of {arguments}: make a float of a Python bool"
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"


def questions(warned: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return the user's lines at which the tracer took a Python number from a tensor: it may hold for the example only."""
    kind: type[Warning] = torch.jit.TracerWarning  # type: ignore[attr-defined]
    taken = [w for w in warned if issubclass(w.category, kind) and "Python" in str(w.message)]
    return sorted({f"{w.filename}:{w.lineno}" for w in taken if is_user_file(w.filename)})


def _attention_projections(*arguments: Any) -> list[torch.Tensor]:
    """Compute an attention's query, key and value one by one; PyTorch's packed form freezes T in the ONNX exporter."""
    *values, weight, bias = arguments
    biases = [None] * 3 if bias is None else bias.chunk(3)
    return [torch.nn.functional.linear(v, w, b) for v, w, b in zip(values, weight.chunk(3), biases, strict=True)]


@contextlib.contextmanager
def _numbered_class_names() -> Iterator[None]:
    """Name classes in a TorchScript file by the number of this export.

    TorchScript gives the second class of one name in a process another name, so archives would depend on what was exported before.
    """
    original, number, classes = torch._jit_internal._qualified_name, next(_exports), itertools.count()

    def qualified_name(thing: Any, *rest: Any) -> Any:
        if not isinstance(thing, type) or hasattr(thing, "_jit_override_qualname"):
            return original(thing, *rest)
        return f"__torch__.x{number:08}_{next(classes)}.{thing.__name__}"

    with mock.patch.object(torch._jit_internal, "_qualified_name", qualified_name):
        yield


@contextlib.contextmanager
def _stdout_closed() -> Iterator[None]:
    """Send file descriptor 1 to /dev/null: the ONNX exporter prints a failing graph from C++."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
