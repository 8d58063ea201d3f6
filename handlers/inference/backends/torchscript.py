"""TorchScript through PyTorch: the second opinion, and the way to run where ONNX Runtime is not wanted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from handlers.errors import ConfigurationError
from handlers.inference.backends.base import BackendError, Floats, Run


class TorchScriptBackend:
    """One scripted module, `model.pt`."""

    def __init__(self, artefact: Path, device: str, threads: int) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError('device: "cuda" was asked for and PyTorch found no usable GPU; use "auto" or "cpu"')
        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        try:
            self._module = torch.jit.load(str(artefact), map_location=self.device).eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as e:
            raise ConfigurationError(f"{artefact.name}: PyTorch cannot load it: {e}") from e

    def run(self, x: npt.NDArray[np.generic], states: Sequence[Floats], want_output: bool) -> Run:
        try:
            with torch.inference_mode():
                tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (x, *states)]
                y, output, *rest = self._module(*tensors)
                return Run(y.cpu().numpy(), output.cpu().numpy() if want_output else None, tuple(s.cpu().numpy() for s in rest))
        except RuntimeError as e:
            raise BackendError(f"TorchScript: {e}") from e
