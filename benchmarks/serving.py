"""The served path beside a hand-written ASGI app, in one run: `python -m benchmarks.serving` (needs wrk and requirements/bench.txt).

LSTM 2 x 128, 8 features; load by wrk on the same cores. A window is 24 x 8 numbers; a step is one observation of a session in the embedded
store, flushed to the disk before the answer, without a `step` field so that wrk needs no memory of its own.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import torch

from export.build import build_checkpoint
from export.models import Forecaster
from export.packaging.checkpoint import Checkpoint
from export.packaging.model_spec import ModelSpec
from host.torchserve.launcher import serving

FEATURES, STEPS, HIDDEN, SESSIONS = 8, 24, 128, 1_000
CONNECTIONS = (1, 16, 64)

LUA = """
local n = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "TOKEN"
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, (string.gsub([==[BODY]==], "SESSION", tostring(n % COUNT))))
end
local bad = 0
response = function(status) if status ~= 200 then bad = bad + 1 end end
"""


def archive(store: Path) -> Path:
    torch.manual_seed(0)
    model = Forecaster([0.0] * FEATURES, [1.0] * FEATURES, (0,), HIDDEN, 2).eval()
    spec = ModelSpec(name="bench", version="1.0", factory="export/models.py:Forecaster", task="forecast")
    return build_checkpoint(Checkpoint(model, spec, (torch.randn(1, STEPS, FEATURES),)), store).archive


def wrk(url: str, token: str, body: str, connections: int, seconds: int, folder: Path) -> str:
    """Requests a second and latency, as wrk says them; errors are said too."""
    script = folder / "load.lua"
    script.write_text(LUA.replace("TOKEN", token).replace("BODY", body).replace("COUNT", str(SESSIONS)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    percentiles = dict(re.findall(r"(50|99)%\s+([\d.]+\w+)", said))
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    assert rate is not None  # wrk always says it
    line = f"{float(rate[1]):8.0f} /s   p50 {percentiles['50']:>8}   p99 {percentiles['99']:>8}"
    return f"{line}   ERRORS {errors[1]}" if errors else line


@contextmanager
def peer(model: Path) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.peer:application", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([*command, "--no-access-log"], env=os.environ | {"MODEL_ONNX": str(model), "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.post(f"http://127.0.0.1:{port}/", json={"inputs": [[0.0] * FEATURES]})
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    seconds = parser.parse_args().seconds
    if shutil.which("wrk") is None:
        print("serving: wrk is not installed (Debian package wrk)", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    window = json.dumps({"inputs": torch.randn(STEPS, FEATURES).round(decimals=3).tolist()})
    step = json.dumps({"inputs": torch.randn(1, FEATURES).round(decimals=3).tolist(), "session": "sSESSION"})
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}; wrk -t1 on the same cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = archive(folder / "store")
        with zipfile.ZipFile(built) as contents:
            contents.extract("model.onnx", folder)
        with serving(folder / "run", folder / "store") as server:
            url, token = f"{server.url}/predictions/bench", server.headers()["Authorization"]
            for first in range(0, SESSIONS, 100):
                ids = [{"inputs": [[0.0] * FEATURES], "session": {"id": f"s{first + i}", "step": 0}} for i in range(100)]
                httpx.post(url, json={"instances": ids}, headers=server.headers(), timeout=60).raise_for_status()
            for label, body in (("window", window), ("session step", step)):
                for connections in CONNECTIONS:
                    print(
                        f"cellstate  {label:<13} {connections:>3} connections {wrk(url, token, body, connections, seconds, folder)}",
                        flush=True,
                    )
        with peer(folder / "model.onnx") as url:
            for connections in CONNECTIONS:
                print(
                    f"ASGI app   {'window':<13} {connections:>3} connections {wrk(url, '-', window, connections, seconds, folder)}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
