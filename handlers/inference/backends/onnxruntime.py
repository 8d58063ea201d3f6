"""ONNX Runtime: the default backend, and the fastest for single steps on a CPU."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels report home unless told before the import

import onnxruntime as ort

from handlers.errors import ConfigurationError
from handlers.inference.backends.base import BackendError, Floats, Run
from handlers.signature import Signature

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OrtBackend:
    """One inference session over `model.onnx`."""

    def __init__(self, artefact: Path, signature: Signature, device: str, threads: int) -> None:
        self._session = _open(artefact, _wanted(device), threads)
        self.device = "cuda" if PROVIDERS["cuda"] in self._session.get_providers() else "cpu"
        if device == "cuda" and self.device != "cuda":
            raise ConfigurationError('device: "cuda" was asked for and ONNX Runtime found no usable GPU; use "auto" or "cpu"')
        self._inputs = ["x", *(entry.input for entry in signature.state)]
        states = [entry.output for entry in signature.state]
        self._names = {False: ["y", *states], True: ["y", "output", *states]}

    def run(self, x: npt.NDArray[np.generic], states: Sequence[Floats], want_output: bool) -> Run:
        try:
            y, *rest = self._session.run(self._names[want_output], dict(zip(self._inputs, (x, *states), strict=True)))
        except Exception as e:  # ONNX Runtime's own errors share no narrower base
            raise BackendError(f"ONNX Runtime: {e}") from e
        return Run(y, rest.pop(0) if want_output else None, tuple(rest))


def _wanted(device: str) -> list[str]:
    available = ort.get_available_providers()
    cuda = [PROVIDERS["cuda"]] if device != "cpu" and PROVIDERS["cuda"] in available and _gpu_present() else []
    return [*cuda, PROVIDERS["cpu"]]


def _gpu_present() -> bool:
    """Whether the machine has an NVIDIA device at all: without one the provider's loader writes an error for every session."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _open(artefact: Path, providers: list[str], threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a worker shares its cores with TorchServe
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(artefact), options, providers=providers)
    except Exception as e:  # see above
        raise ConfigurationError(f"{artefact.name}: ONNX Runtime cannot load it: {e}") from e
