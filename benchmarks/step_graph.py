"""Would a graph for single steps (T = 1, the cell as matrix products and pointwise work) pay beside the sequence graph?

`python -m benchmarks.step_graph` compares both in ONNX Runtime and in eager PyTorch, one thread, the two interleaved in one run.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.graph.rnn import step

HIDDEN, LAYERS, FEATURES = 128, 2, 8
BATCHES = (1, 16, 64, 256, 1024)
ROUNDS = 200


class Sequence_(nn.Module):
    """The LSTM operator, as the archive has it."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (h, c) = self.lstm(x, (h, c))
        return output, h, c


class Step(nn.Module):
    """The same for T = 1, written out."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        below, hs, cs = x[:, 0], [], []
        for layer in range(LAYERS):
            suffix = f"_l{layer}"
            gates = below @ getattr(self.lstm, f"weight_ih{suffix}").t() + getattr(self.lstm, f"bias_ih{suffix}")
            below, cell = step(self.lstm, suffix, gates, (h[layer], c[layer]))
            hs.append(below)
            cs.append(cell)
        return below[:, None], torch.stack(hs), torch.stack(cs)


def session(module: nn.Module, folder: Path) -> ort.InferenceSession:
    target = folder / f"{type(module).__name__}.onnx"
    example = (torch.zeros(2, 1, FEATURES), torch.zeros(LAYERS, 2, HIDDEN), torch.zeros(LAYERS, 2, HIDDEN))
    axes = {"x": {0: "B"}, "h": {1: "B"}, "c": {1: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, example, target, dynamo=False, opset_version=18, input_names=["x", "h", "c"], dynamic_axes=axes)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])


def medians(works: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds a call, the works taking turns."""
    times = np.zeros((len(works), ROUNDS))
    for k in range(ROUNDS):
        for i, work in enumerate(works):
            began = time.perf_counter()
            work()
            times[i, k] = time.perf_counter() - began
    return [float(t) for t in np.median(times, axis=1) * 1e6]


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lstm = nn.LSTM(FEATURES, HIDDEN, LAYERS, batch_first=True).eval().requires_grad_(False)
    modules = [Sequence_(lstm), Step(lstm)]
    with tempfile.TemporaryDirectory() as folder:
        sessions = [session(module, Path(folder)) for module in modules]
        print(f"LSTM {LAYERS} x {HIDDEN}, F={FEATURES}, T=1, one thread; medians of {ROUNDS}, microseconds a call")
        print(
            f"{'B':>5} {'ORT sequence':>13} {'ORT step':>9} {'ratio':>6} {'eager sequence':>15} {'eager step':>11} {'ratio':>6}  difference"
        )
        for batch in BATCHES:
            x, h, c = torch.randn(batch, 1, FEATURES), torch.randn(LAYERS, batch, HIDDEN), torch.randn(LAYERS, batch, HIDDEN)
            feed = {"x": x.numpy(), "h": h.numpy(), "c": c.numpy()}
            works = [partial(s.run, None, feed) for s in sessions] + [partial(m, x, h, c) for m in modules]
            a, b, p, q = medians(works)
            difference = max(
                float(np.abs(u - v).max()) for u, v in zip(sessions[0].run(None, feed), sessions[1].run(None, feed), strict=True)
            )
            print(f"{batch:>5} {a:>13.0f} {b:>9.0f} {b / a:>6.2f} {p:>15.0f} {q:>11.0f} {q / p:>6.2f}  {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
