"""Run a lifted model or one of its artefacts: x and states in; y, output and states out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor

from export.errors import ParityError
from export.lift.lifted import Lift
from export.report import FROZEN

Runner = Callable[[Tensor, Sequence[Tensor]], list[Tensor]]  # x, states -> y, output, *states


def eager_runner(lifted: Lift) -> Runner:
    """Run the lifted module itself."""
    return _module_runner(lifted.module)


def torchscript_runner(path: Path) -> Runner:
    """Run a TorchScript file."""
    return _module_runner(torch.jit.load(str(path)).eval())  # type: ignore[no-untyped-call]


def program_runner(path: Path) -> Runner:
    """Run a torch.export program."""
    return _module_runner(torch.export.load(path).module())


def _module_runner(module: Callable[..., Sequence[Tensor]]) -> Runner:
    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(module(x, *states))

    return run


def onnx_runner(path: Path) -> Runner:
    """Run an ONNX file in ONNX Runtime on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, (x, *states), strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


RUNNERS = {"torchscript": torchscript_runner, "onnxruntime": onnx_runner, "torch.export": program_runner}
LABELS = {"torchscript": "TorchScript", "onnxruntime": "ONNX Runtime", "torch.export": "torch.export"}


def open_artefact(backend: str, path: Path) -> Runner:
    """Open the artefact of `backend`. The runner raises ParityError where the artefact fails, mostly because a size is frozen in it."""
    runner, label = RUNNERS[backend](path), LABELS[backend]

    def run(x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        try:
            return runner(x, states)
        except Exception as e:
            reason = next((line.strip() for line in reversed(str(e).splitlines()) if line.strip()), type(e).__name__)
            raise ParityError(f"{label} fails at B={x.shape[0]} T={x.shape[1]}: {reason[:200]}; {FROZEN}") from e

    return run


def run_in_pieces(runner: Runner, x: Tensor, states: Sequence[Tensor], cuts: Sequence[int], per_step: bool) -> list[Tensor]:
    """Run x `[B, T, …]` piece by piece, carrying the states; return what one run over the whole sequence should return."""
    ys, outputs, carried = [], [], list(states)
    for piece in torch.tensor_split(x, list(cuts), dim=1):
        y, output, *carried = runner(piece.contiguous(), carried)
        ys.append(y)
        outputs.append(output)
    return [torch.cat(ys, 1) if per_step else ys[-1], torch.cat(outputs, 1), *carried]


def random_cuts(steps: int, generator: torch.Generator) -> list[int]:
    """Draw up to 38 distinct places to cut a sequence of `steps` steps, ascending."""
    pieces = int(torch.randint(2, min(steps, 40), (1,), generator=generator))
    return sorted((torch.randperm(steps - 1, generator=generator)[: pieces - 1] + 1).tolist())
