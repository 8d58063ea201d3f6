"""What cannot be lifted faithfully, said before it is tried: randomness, memory outside the state, control flow on values."""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from export import probe
from export.errors import LiftError
from export.tape import Tape


def check(model: nn.Module, inputs: probe.Inputs) -> None:
    """Raises LiftError with the module's path or the line, the reason, and what to do."""
    _check_random(model, inputs)
    _check_control_flow(model, inputs)


def _check_random(model: nn.Module, inputs: probe.Inputs) -> None:
    a, b = (probe.observe(model, inputs) for _ in range(2))
    if all(torch.equal(p, q) for p, q in zip(a.outputs, b.outputs, strict=True)):
        return
    paths = {c.site.path for c, d in zip(a.calls, b.calls, strict=True) if c.given and d.given and not torch.equal(c.given[0], d.given[0])}
    where = f"{', '.join(sorted(paths))}: its initial state is random" if paths else "two runs on the same input differ"
    raise LiftError(f"{where}; build initial states with zeros or a parameter, and keep dropout off outside training")


def _check_control_flow(model: nn.Module, inputs: probe.Inputs) -> None:
    """Run on tensors that have shapes and no values: whatever asks for a value, in an `if` or by `.item()`, cannot be in a graph."""
    fresh = probe.fresh_copy(model)
    tape = Tape(fresh)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = tuple(mode.from_tensor(v) if isinstance(v, Tensor) and v.dim() > 1 else v for v in inputs)
        try:
            with torch.no_grad(), tape.running({}):
                fresh(*fakes)
        except (DataDependentOutputException, GuardOnDataDependentSymNode) as e:
            raise LiftError(
                f"the model branches on values, or takes one out of a tensor, at {probe.user_line(e)}: a graph has one way through; "
                "use torch.where, or decide outside the model"
            ) from e
        except Exception:  # noqa: BLE001 - an operator without a fake form says nothing about control flow
            return
