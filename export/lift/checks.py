"""Refuse models that cannot be lifted faithfully, before an artefact is written."""

import random
import traceback
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from export.difference import as_text, difference
from export.errors import LiftError
from export.lift import probe
from export.lift.arguments import Arguments
from export.lift.convention import call_forward
from export.lift.recorder import RECURRENT, CallRecorder
from export.user_code import at_user_line, last_user_line

TOLERANCE = 1e-4  # scaled; the faults looked for here are larger
RUNS = 16  # of a model that draws random numbers; the chance of missing a fair coin flip is 2^-16


def check_precision(model: nn.Module) -> None:
    """Raise LiftError for weights that are not float32."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise LiftError(f"{name}: {str(value.dtype).removeprefix('torch.')}, and requests and states are float32: call model.float()")


def check_scripted(model: nn.Module) -> None:
    """Raise LiftError for a recurrent module that is already compiled by TorchScript."""
    for path, module in model.named_modules():
        name = getattr(module, "original_name", "")
        if isinstance(module, torch.jit.ScriptModule) and name in [kind.__name__ for kind in RECURRENT]:
            raise LiftError(f"{path}: a scripted {name}, whose state cannot be reached: build it as a plain nn.{name} and load its weights")


def check_quantized(model: nn.Module) -> None:
    """Raise LiftError for quantized modules."""
    for path, module in model.named_modules():
        if "quantized" in type(module).__module__:
            name = f"{path or 'the model'}: a quantized {type(module).__name__}"
            raise LiftError(f"{name}, whose state cannot be reached: export the model as it was before it was quantized")


def check_example(arguments: Arguments) -> None:
    """Raise LiftError for an example with a number that no request can hold."""
    if not torch.isfinite(arguments.window()).all():
        raise LiftError("the example holds NaN or an infinite number, and no request can hold one: give a window without holes")


def check_model(model: nn.Module, arguments: Arguments) -> None:
    """Raise LiftError for a model that draws random numbers or branches on values of tensors."""
    given = arguments.resized(2, arguments.steps)
    _check_random(model, given)
    _check_control_flow(model, given)


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the line that first asks torch for random numbers."""

    line = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and not self.line:
            self.line = last_user_line(traceback.extract_stack())
        return func(*args, **(kwargs or {}))


def _check_random(model: nn.Module, given: Any) -> None:
    draws = _Draws()  # type: ignore[no-untyped-call]
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    with draws:
        first = probe.observe(model, given)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    drew = before[:2] != after[:2] or not torch.equal(before[2], after[2])
    for _ in range(RUNS if drew else 1):
        again = probe.observe(model, given)
        if len(again.outputs) == len(first.outputs) and all(map(_equal, first.outputs, again.outputs)):
            continue
        pairs = zip(first.calls, again.calls, strict=False)
        paths = {c.site.path for c, d in pairs if c.given and d.given and not _equal(c.given[0], d.given[0])}
        where = f"{', '.join(sorted(paths))}: begins with a random state" if paths else "two runs on the same input differ"
        raise LiftError(
            f"{where}{f' (drawn at {draws.line})' if draws.line else ''}: nothing random can be served; begin with zeros or a parameter, "
            "and use nn.Dropout, which is off in evaluation mode, or training=self.training"
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, NaN for NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _check_control_flow(model: nn.Module, given: Any) -> None:
    """Run the model on tensors without values: code that asks for a value, in an `if` or by `.item()`, cannot be in a graph."""
    fresh = probe.fresh_copy(model)
    recorder = CallRecorder(fresh)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = tree_map(lambda v: mode.from_tensor(v) if isinstance(v, Tensor) and v.dim() > 1 else v, given)
        try:
            with torch.no_grad(), recorder.recording(), mock.patch.object(Tensor, "numpy", _numpy):
                call_forward(fresh, fakes)
        except LiftError:
            raise
        except (DataDependentOutputException, GuardOnDataDependentSymNode) as e:
            raise LiftError(
                f"the model branches on values, or takes one out of a tensor{at_user_line(e)}: a graph has one way through; "
                "use torch.where, or decide outside the model"
            ) from e
        except Exception:  # noqa: BLE001 - an operator without a fake form says nothing about control flow
            return


_to_numpy = Tensor.numpy


def _numpy(value: Tensor, **options: Any) -> Any:
    """Stand for `Tensor.numpy`: a tensor without values has no memory that NumPy could read."""
    if isinstance(value, FakeTensor):
        line = last_user_line(traceback.extract_stack())
        raise LiftError(
            f"the model gives a tensor to NumPy{f' (at {line})' if line else ''}: a graph holds PyTorch's operations alone; use those"
        )
    return _to_numpy(value, **options)


def check_lifted(model: nn.Module, lifted: Any) -> None:
    """Raise LiftError unless the lifted module has no other memory, keeps rows apart, and gives the model's y."""
    generator = torch.Generator().manual_seed(11)
    x, other = (lifted.inputs(3, lifted.arguments.steps, generator) for _ in range(2))
    with torch.no_grad():
        y, _, again = (lifted.module(value, *lifted.start(3))[0] for value in (x, other, x))
    if not torch.isfinite(y).all():
        raise LiftError(
            "y is not a finite number for inputs like the example's: look for log, sqrt or a division of what may be zero or negative, and "
            "clamp it"
        )
    if not difference(again, y) <= TOLERANCE:
        raise LiftError(
            "the model keeps something between calls beside the states of its recurrent modules, and two equal calls differ: make it a "
            "recurrent state or an input"
        )
    with torch.no_grad():
        alone = torch.cat([lifted.module(x[b : b + 1], *lifted.start(1))[0] for b in range(3)])
    if not difference(alone, y) <= TOLERANCE:
        raise LiftError(
            "rows of a batch influence each other: a row alone gives another y than among others; the server batches strangers, so keep "
            "axis 0 apart (softmax and mean over other axes, batch_first as x has it)"
        )
    _check_kept_state(model, lifted, x, other)
    _check_same_y(model, lifted, x)
    _check_same_y(model, lifted, lifted.sampler.widened(4, lifted.arguments.steps, generator))


def _check_kept_state(model: nn.Module, lifted: Any, first: Tensor, second: Tensor) -> None:
    """Raise LiftError for a module that keeps its state between calls and changes it there: a stream would lose the change."""
    if lifted.arguments.states:
        return
    kept = probe.fresh_copy(model)
    with torch.no_grad():
        for x in (first, second):
            result = call_forward(kept, lifted.arguments.from_graph(x))
        _, _, *states = lifted.module(first, *lifted.start(len(first)))
        carried = lifted.module(second, *states)[0]
    found = lifted.layout.arrange(probe.tensors(result), second.shape[0], second.shape[1])
    if difference(found, lifted.unmodified(model, second)) <= TOLERANCE or difference(found, carried) <= TOLERANCE:
        return
    raise LiftError(
        "the model keeps something from call to call, and its second call begins with neither the initial nor the last state: keep the "
        "state as the recurrent module returned it, and do what changes it within forward"
    )


def _check_same_y(model: nn.Module, lifted: Any, x: Tensor) -> None:
    expected = lifted.unmodified(model, x)
    rows = torch.isfinite(expected).flatten(1).all(1)  # a widened input may leave the numbers
    x = x[rows]
    if not len(x):
        return
    with torch.no_grad():
        y = lifted.module(x, *lifted.start(len(x)))[0]
    found = difference(y, expected[rows])
    if found <= TOLERANCE:
        return
    packed = bool(probe.observe(model, lifted.arguments.from_graph(x)).packed)
    how = "stepped one by one" if lifted.looping else "with its state lifted out"
    raise LiftError(
        f"the model {how} {as_text(found)} over whole sequences: "
        + ("y also depends on lengths that the model takes from x, by which it packs: make lengths an argument" if packed else "")
        + ("its loop looks at all steps at once, or counts them: call an nn.LSTM over the whole sequence" if lifted.looping else "")
        + ("" if packed or lifted.looping else "y also depends on something else than x and the carried states")
    )
