"""What the Open Inference Protocol tells of a server and a model. For a server that answers GET, which TorchServe leaves to itself."""

from collections.abc import Sequence
from typing import Any

from handlers.engine.request import ALL_OUTPUTS, IMPUTED, LABEL, OPAQUE, PROBABILITIES, SAMPLES
from handlers.protocols.open_inference.binary import BYTES
from handlers.protocols.open_inference.decode import FORECAST, FUTURE, LOWER, TIMES, UPPER, X, Y
from handlers.protocols.open_inference.encode import FP32, INT32, INT64
from handlers.protocols.open_inference.observations import TIME
from handlers.protocols.open_inference.rows import ERROR, GENERATION, SESSION, STATUS, STEP
from handlers.signature import Signature

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_torchscript"}  # by backend, in the words of the protocol
ANY = -1  # a dimension that a request chooses


def server_metadata(version: str) -> dict[str, Any]:
    """The answer to `GET /v2`."""
    return {"name": "cellstate", "version": version, "extensions": ["binary_tensor_data", "sequence", "parameters"]}


def model_metadata(signature: Signature, versions: Sequence[str], backend: str) -> dict[str, Any]:
    """The answer to `GET /v2/models/{model}`: the tensors that a request may hold and ask for; only `x` is required."""
    inputs, outputs = [_x(signature)], [_y(signature), _tensor("output", FP32, ANY, ANY, signature.output_size)]
    outputs += [_tensor(entry.output, FP32, entry.rows, ANY, entry.size) for entry in signature.state]
    if signature.streaming:
        inputs += [_tensor(entry.input, FP32, entry.rows, ANY, entry.size) for entry in signature.state]
        inputs += [_tensor(OPAQUE, BYTES, ANY), _tensor(SESSION, BYTES, ANY), _tensor(STEP, INT64, ANY), _tensor(GENERATION, INT64, ANY)]
        outputs += [_tensor(OPAQUE, BYTES, ANY), _tensor(STEP, INT64, ANY), _tensor(GENERATION, INT64, ANY)]
        outputs += [_tensor(STATUS, INT32, ANY), _tensor(ERROR, BYTES, ANY)]
    if signature.streaming and signature.feedback:
        outputs.append(_tensor(IMPUTED, INT64, ANY))
        outputs.append(_tensor(FORECAST, FP32, ANY, ANY, len(signature.predictions)))
        if signature.future_columns:
            inputs.append(_tensor(FUTURE, FP32, ANY, ANY, len(signature.future_columns)))
        if signature.intervals or signature.distribution:
            outputs += [_tensor(name, FP32, ANY, ANY, ANY, len(signature.predictions)) for name in (LOWER, UPPER)]
        if signature.distribution:
            outputs.append(_tensor(SAMPLES, FP32, ANY, ANY, ANY, len(signature.predictions)))
    if signature.labels:
        outputs.append(_tensor(LABEL, BYTES, ANY, *_steps(signature)))
        outputs.append(_tensor(PROBABILITIES, FP32, ANY, *_steps(signature), len(signature.labels)))
    if signature.distribution:
        outputs.append(_tensor(ALL_OUTPUTS, FP32, ANY, *_steps(signature), len(signature.outputs)))
    if signature.calendar:
        inputs.append(_tensor(TIME, BYTES, ANY, ANY))
        outputs.append(_tensor(TIMES, BYTES, ANY, ANY))
    return {"name": signature.name, "versions": list(versions), "platform": PLATFORMS[backend], "inputs": inputs, "outputs": outputs}


def _x(signature: Signature) -> dict[str, Any]:
    name = signature.tensors.get(X, X)
    return _tensor(name, INT64, ANY, ANY) if signature.tokens else _tensor(name, FP32, ANY, ANY, len(signature.features))


def _y(signature: Signature) -> dict[str, Any]:
    return _tensor(signature.tensors.get(Y, Y), FP32, ANY, *_steps(signature), len(signature.predictions))


def _steps(signature: Signature) -> tuple[int, ...]:
    """The axis of time steps, where the model predicts at every step."""
    return (ANY,) if signature.output_mode == "step" else ()


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}
