"""What the benchmarks send: windows, steps of sessions one by one, and many steps in one body."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

FEATURES, STEPS, SESSIONS = 8, 24, 1_000
MANY = 8  # bodies of many steps: more than connections, so that no session is in two requests at once
CONNECTIONS = (1, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class Workload:
    """Bodies to be sent in turn; each holds `rows` steps or windows. Steps have no `step` field, so that bodies can be sent again."""

    name: str
    bodies: Sequence[bytes]
    rows: int = 1
    connections: Sequence[int] = CONNECTIONS
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@cache
def workloads() -> tuple[Workload, ...]:
    """Return all of them; the sessions of different bodies are different ones."""
    values = np.random.default_rng(0).normal(size=(SESSIONS, STEPS, FEATURES)).round(3)
    return (
        Workload("window of 24 x 8", [json.dumps({"inputs": window.tolist()}).encode() for window in values[:16]]),
        Workload("session step", [json.dumps(_step(values[i], f"s{i}")).encode() for i in range(SESSIONS)]),
        Workload("256 steps, JSON", [_instances(values, f"j{i}-", 256) for i in range(MANY)], 256, (1, 4)),
        _tensors(values, 1_024),
    )


def _step(window: np.ndarray, session: str) -> dict[str, object]:
    return {"inputs": window[:1].tolist(), "session": session}


def _instances(values: np.ndarray, prefix: str, rows: int) -> bytes:
    return json.dumps({"instances": [_step(values[i % SESSIONS], f"{prefix}{i}") for i in range(rows)]}).encode()


def _tensors(values: np.ndarray, rows: int) -> Workload:
    bodies = [tensors(values[np.arange(rows) % SESSIONS, :1], [f"t{i}-{j}" for j in range(rows)]) for i in range(MANY)]
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(bodies[0][1])}
    return Workload(f"{rows:,} steps, binary tensors", [body for body, _ in bodies], rows, (1, 4), headers)


def tensors(x: np.ndarray, sessions: Sequence[str], step: int | None = None) -> tuple[bytes, int]:
    """Return a body of the Open Inference Protocol with binary tensors, `x` being `[N, T, F]`, and the length of its JSON header."""
    ids = b"".join([struct.pack("<I", len(id)) + id for id in map(str.encode, sessions)])
    chunks = {"x": ("FP32", x.shape, x.astype("<f4").tobytes()), "session": ("BYTES", (len(sessions),), ids)}
    if step is not None:
        chunks["step"] = ("INT64", (len(sessions),), np.full(len(sessions), step, "<i8").tobytes())
    inputs = [
        {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": len(data)}}
        for name, (datatype, shape, data) in chunks.items()
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header + b"".join([data for _, _, data in chunks.values()]), len(header)


def begin(workload: Workload) -> list[bytes]:
    """Return bodies that begin the sessions of a workload, which its own bodies only continue."""
    names = {
        "session step": ("s", SESSIONS, 1),
        "256 steps, JSON": ("j", 256, MANY),
        f"{1_024:,} steps, binary tensors": ("t", 1_024, MANY),
    }
    if workload.name not in names:
        return []
    prefix, rows, bodies = names[workload.name]
    ids = [f"{prefix}{i}" for i in range(rows)] if bodies == 1 else [f"{prefix}{i}-{j}" for i in range(bodies) for j in range(rows)]
    steps = [{"inputs": [[0.0] * FEATURES], "session": {"id": id, "step": 0}} for id in ids]
    return [json.dumps({"instances": steps[i : i + 256]}).encode() for i in range(0, len(steps), 256)]
