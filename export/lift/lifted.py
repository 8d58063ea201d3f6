"""Lift the state out of a module: `forward(x)` becomes `forward(x, h_0, c_0) -> (y, output, h_n, c_n)`; the user's class is not edited.

1. *Probe.* Run copies of the model and record every recurrent call, and which tensor is computed from which. A call that begins with a
   constant state (zeros, or a learned one) is a **site**, whose state a stream carries. A state that is an argument is carried too.
   A call that begins with a state computed from the input is computed anew in every pass.
2. *Rewire.* `Lifted` runs a copy of the model from the given states and returns the final states. `initial` holds the model's own initial
   states, with which a new stream begins.
3. *Loop.* A model that calls a cell once a step would be traced with a fixed T. Such a model is lifted for T = 1, and a loop that is part
   of the graph runs the step. What the model does to its state between two calls is part of the step (`loop_state`).
Models that cannot be lifted are refused here. Whether a lifted model streams is measured later, by `export.verify.streaming`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from export.errors import LiftError
from export.graph.time_loop import EagerLoop
from export.lift import checks, probe
from export.lift import output_layout as layout
from export.lift.arguments import Arguments, resize
from export.lift.carriers import Carrier, Run, Start
from export.lift.convention import call_forward
from export.lift.dataflow import Dataflow
from export.lift.find_carriers import find_carriers
from export.lift.infer import infer_arguments
from export.lift.output_layout import Layout
from export.lift.recorder import Call, CallRecorder, Site
from export.lift.sampling import Sampler
from handlers.signature import StateEntry


class Lifted(nn.Module):
    """The model with its state explicit: x `[B, T, F]` or `[B, T]` and one `[rows, B, size]` for each state -> y, output, states."""

    def __init__(self, model: nn.Module, carriers: Sequence[Carrier], output: Site, arguments: Arguments, y: Layout) -> None:
        super().__init__()
        self.model = probe.fresh_copy(model)
        self._recorder, self._carriers, self._output = CallRecorder(self.model), carriers, output
        self._arguments, self._y = arguments, y
        self.scanning = False  # set while torch.export runs the model

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        start = started(self._carriers, states)
        flow = Dataflow(start.places) if start.places else None
        with self._recorder.recording(start.sites, flow, lifted=True, scanning=self.scanning):
            result = call_forward(self.model, self._arguments.from_graph(x, start.arguments))
        run = Run(probe.tensors(result), _Calls({call.site: call for call in self._recorder.calls}), self._recorder.flow)
        y = self._y.arrange(run.outputs, x.size(0), x.size(1))
        return y, _output(run.calls[self._output]), *(part for carrier in self._carriers for part in carrier.leave(run))


class _Calls(dict[Site, Call]):
    """The calls of one pass. Raises LiftError for a call that other lengths have."""

    def __missing__(self, site: Site) -> Call:
        raise LiftError(
            f"{site.path}: how often it is called depends on T, and it is not once a step: no graph holds that; call it once over all steps"
        )


def started(carriers: Sequence[Carrier], states: Sequence[Tensor]) -> Start:
    """Return the start of a pass from the graph's state tensors."""
    start, rest = Start(), list(states)
    for carrier in carriers:
        parts, rest = rest[: len(carrier.entries)], rest[len(carrier.entries) :]
        carrier.enter(parts, start)
    return start


def _output(call: Call) -> Tensor:
    """Return the top layer's activation, `[B, T, D*P]`."""
    if call.is_cell:
        return call.output[:, None]
    return call.output if call.module.batch_first else call.output.transpose(0, 1)


@dataclass(frozen=True)
class Lift:
    """A lifted model, and what writers and verifiers need to know of it."""

    module: nn.Module  # x, *states -> y, output, *states; runs eagerly, for any T
    base: Lifted  # traced by the writers, never run otherwise; for T = 1 only if `looping`
    looping: bool
    carriers: tuple[Carrier, ...]
    state: tuple[StateEntry, ...]  # in the order of the graph's inputs; sorted by name, inputs and outputs agree
    initial: Tensor  # [S]: what a new stream begins with
    output_size: int  # D*P
    output_mode: str  # y: "sequence" [B, O] or "step" [B, T, O]
    width: int  # O
    steps: tuple[int, int | None]  # the least and the most T that the model takes; None for no bound
    arguments: Arguments
    sampler: Sampler
    layout: Layout
    description: dict[str, Any]

    def window(self) -> Tensor:
        """Return the example as the graph takes it: `[2, T, F]` or `[2, T]`, static inputs repeated at every step."""
        return self.arguments.window()

    @property
    def tokens(self) -> bool:
        """Whether x is token ids `[B, T]`."""
        return self.arguments.tokens

    @property
    def step_module(self) -> Lifted | None:
        """The module for T = 1, if the model loops over its steps."""
        return self.base if self.looping else None

    @contextlib.contextmanager
    def scanning(self) -> Iterator[None]:
        """Write recurrences as scans, for torch.export."""
        self.base.scanning = True
        try:
            yield
        finally:
            self.base.scanning = False

    def inputs(self, batch: int, steps: int, generator: torch.Generator) -> Tensor:
        """Draw inputs like the example, `[batch, steps, …]`."""
        return self.sampler.draw(batch, steps, generator)

    @property
    def states_are_arguments(self) -> bool:
        """Whether the unmodified model takes every state that the graph takes."""
        start = started(self.carriers, self.start(1))
        return len(start.arguments) == len(self.state)

    def unmodified(self, model: nn.Module, x: Tensor, states: Sequence[Tensor] | None = None) -> Tensor:
        """Run the model as its user wrote it on the graph's x, from the given states or from the start of a stream, and return y."""
        start = started(self.carriers, self.start(len(x)) if states is None else states)
        result = probe.run(
            model, self.arguments.from_graph(x, start.arguments), f"inputs like the example's, B={x.shape[0]} T={x.shape[1]}"
        )
        return self.layout.arrange(probe.tensors(result), x.shape[0], x.shape[1])

    @property
    def output_names(self) -> list[str]:
        """The graph's outputs, in order."""
        return ["y", "output", *(entry.output for entry in self.state)]

    def random_states(self, batch: int, generator: torch.Generator) -> list[Tensor]:
        """Draw states within ±1, the range of an LSTM's h."""
        return [torch.randn(entry.rows, batch, entry.size, generator=generator).clamp(-1, 1) for entry in self.state]

    def zeros(self, batch: int) -> list[Tensor]:
        return [torch.zeros(entry.rows, batch, entry.size) for entry in self.state]

    def start(self, batch: int) -> list[Tensor]:
        """Return the initial states of a new stream."""
        result, offset = [], 0
        for entry in self.state:
            part = self.initial[offset : offset + entry.length].reshape(entry.rows, 1, entry.size)
            result.append(part.expand(entry.rows, batch, entry.size).contiguous())
            offset += entry.length
        return result


def lift(model: nn.Module, example: Any, vocabulary: int = 0, axes: str = "", x: str = "") -> Lift:
    """Lift the state out of a copy of `model`. `example` is the argument of its forward, a tuple of its arguments, or a dictionary by name.

    x is `[B, T, F]` numbers or `[B, T]` token ids, or time first if the model takes it so. `vocabulary` is the number of token ids,
    `axes` (BTF, TBF, BFT) and `x`, the name of an argument, are needed only where the example is ambiguous.
    Raises LiftError with the reason and a remedy.
    """
    checks.check_quantized(model)
    checks.check_precision(model)
    checks.check_scripted(model)
    arguments = infer_arguments(model, example, axes, x)
    checks.check_example(arguments)
    checks.check_model(model, arguments)
    sampler = probe.make_sampler(model, arguments, vocabulary)
    steps = layout.step_range(model, arguments)
    first, second = layout.two_sizes(model, arguments, steps)
    changed = probe.observe(model, _varied(arguments, sampler, 2, first.steps, kept_row=0))
    y = layout.find_layout(first, second, changed, arguments)
    steps = layout.step_range(model, arguments, y)
    looping = _loops(model, arguments, steps)
    length = 1 if looping else arguments.steps
    one, other = probe.observe(model, arguments.resized(2, length)), probe.observe(model, _varied(arguments, sampler, 3, length))
    loop = [probe.observe(model, arguments.resized(2, n)) for n in (3, 4)] if looping else []
    carriers, output = find_carriers(arguments, one, other, loop, _sites_not_carried(first, second))
    base, copied = (Lifted(model, carriers, output, arguments, y).eval() for _ in range(2))
    result = Lift(
        module=EagerLoop(copied, y.kind) if looping else copied,
        base=base,
        looping=looping,
        carriers=carriers,
        state=tuple(entry for carrier in carriers for entry in carrier.entries),
        initial=torch.cat([part.flatten() for carrier in carriers for part in carrier.initial]),
        output_size=next(call.output.shape[-1] for call in one.calls if call.site == output),
        output_mode=y.kind,
        width=y.width,
        steps=steps,
        arguments=arguments,
        sampler=sampler,
        layout=y,
        description={"recurrent": [_describe(call) for call in one.calls], "looped": looping},
    )
    checks.check_lifted(model, result)
    return result


def _varied(arguments: Arguments, sampler: Sampler, batch: int, steps: int, kept_row: int | None = None) -> Any:
    """Return forward's arguments with other numbers, except those of row `kept_row`."""
    x = sampler.draw(batch, steps, torch.Generator().manual_seed(7))
    if kept_row is not None:
        own = resize(arguments.window(), 1, steps)
        x[kept_row] = own[kept_row]
    return arguments.from_graph(x)


def _loops(model: nn.Module, arguments: Arguments, steps: tuple[int, int | None]) -> bool:
    """Return whether the model calls its recurrent modules more often for more steps. Raises LiftError where no graph holds that."""
    lengths = (1, 3) if steps[0] == 1 else (steps[0], steps[0] + 3)
    if steps[1] is not None and steps[1] < lengths[1]:
        return False  # one length only: the loop may as well be unrolled
    few, many = (probe.observe(model, arguments.resized(2, n)).calls for n in lengths)
    if not few:
        raise LiftError(
            f"{many[-1].site.path}: not called at all for a sequence of one step: begin the loop over time at the first step, with zeros "
            "in the place of what comes before it"
        )
    if len(few) != len(many) and steps[0] > 1:
        raise LiftError(
            f"{many[-1].site.path}: called once a step, in a model that needs {steps[0]} steps at once: no graph holds that; "
            "call an nn.LSTM once over all steps"
        )
    return len(few) != len(many)


def _sites_not_carried(first: layout.Seen, second: layout.Seen) -> set[Site]:
    """Return sites that begin anew in every pass: their length does not follow T (a decoder over a horizon), or their rows the batch."""
    pairs = list(zip(first.observation.calls, second.observation.calls, strict=False))
    folded = {a.site for a, b in pairs if (a.rows, b.rows) != (first.batch, second.batch)}
    if first.steps == second.steps:
        return folded
    return folded | {a.site for a, b in pairs if not a.is_cell and a.steps == b.steps and a.steps > 1}


def _describe(call: Call) -> dict[str, Any]:
    module: Any = call.module
    return {
        "path": call.site.path,
        "kind": type(module).__name__,
        "layers": getattr(module, "num_layers", 1),
        "directions": 2 if getattr(module, "bidirectional", False) else 1,
        "hidden_size": module.hidden_size,
        "proj_size": getattr(module, "proj_size", 0),
    }
