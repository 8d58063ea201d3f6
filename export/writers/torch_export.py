"""Write a lifted model as a torch.export program, with B and T dynamic."""

import io
import itertools
from pathlib import Path

import torch

from export.graph.time_loop import PackedStep, ScannedLoop, pack
from export.lift.lifted import Lift
from export.writers.tracing import exporting


def write_program(lifted: Lift, x: torch.Tensor, target: Path) -> None:
    """Save the model as a torch.export program. Raises LiftError."""
    x = _with_distinct_sizes(lifted, x)
    torch._dynamo.reset()  # sizes of models exported earlier in the process would become guards in this one
    with exporting("torch.export"), lifted.scanning():
        program = _program(_scanned(lifted, x), lifted, x)
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    target.write_bytes(buffer.getvalue())


def _with_distinct_sizes(lifted: Lift, x: torch.Tensor) -> torch.Tensor:
    """Return x with three rows and, where T is 1 and free, more steps: torch.export takes sizes of 1 for constants."""
    x = x.repeat(2, *[1] * (x.dim() - 1))[:3]
    if x.shape[1] == 1 and lifted.steps[1] is None:
        x = x.repeat(1, max(5, lifted.steps[0]), *[1] * (x.dim() - 2))
    return x


def _scanned(lifted: Lift, x: torch.Tensor) -> torch.nn.Module:
    """Return the lifted model, or a scan over its exported step: the body of a scan cannot be the user's Python."""
    if lifted.step_module is None:
        return lifted.base
    packed, batch = pack(lifted.zeros(len(x))), {0: torch.export.Dim.DYNAMIC}
    step = torch.export.export(
        PackedStep(lifted.step_module, lifted.state).eval(), (x[:, :1], packed), dynamic_shapes=(batch, batch), strict=False
    )
    return ScannedLoop(step.module(check_guards=False), lifted.state, lifted.output_mode)


def _program(module: torch.nn.Module, lifted: Lift, x: torch.Tensor) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic} if lifted.steps[0] == lifted.steps[1] else {0: dynamic, 1: dynamic}, tuple({1: dynamic} for _ in lifted.state))
    program = torch.export.export(module, (x, *lifted.zeros(len(x))), dynamic_shapes=shapes, strict=False)
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # lines and paths of the building machine
    return program
