"""Load by wrk: bodies from files, taken in turn."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
HEADERS
local bodies, n = {}, 0
for i = 1, COUNT do
  local file = io.open("FOLDER/" .. i, "rb")
  bodies[i] = file:read("*a")
  file:close()
end
request = function()
  n = n % COUNT + 1
  return wrk.format(nil, nil, nil, bodies[n])
end
"""
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests a second, latencies in milliseconds, and how many requests had no answer, or none of status 200."""

    rate: float
    p50: float
    p99: float
    errors: int


def wrk(url: str, headers: Mapping[str, str], bodies: Sequence[bytes], connections: int, seconds: int, folder: Path) -> Measured:
    """Send the bodies in turn over that many connections for that long. `folder` is for wrk's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, body in enumerate(bodies, 1):
        (folder / str(i)).write_bytes(body)
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script = folder / "load.lua"
    script.write_text(SCRIPT.replace("HEADERS", lines).replace("COUNT", str(len(bodies))).replace("FOLDER", str(folder)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate is not None, said  # wrk always says it
    found = re.findall(r"\b(50|99)%\s+([\d.]+)(us|ms|s|m)\b", said)
    latency = {percentile: float(value) * UNITS[unit] for percentile, value, unit in found}
    errors = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    errors += sum(int(count) for count in re.findall(r"(?:connect|read|write|timeout) (\d+)", said))
    return Measured(float(rate[1]), latency["50"], latency["99"], errors)
