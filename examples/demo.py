"""The whole path on real data: export, archive, serve, stream two weeks, kill the workers half way, forecast a day, compare with offline.

Exits with 1 when the stream differs from the offline run by more than the exported tolerance, or a step was lost or applied twice.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cellstate import Client, RetryEvent, RetryPolicy, Stream
from examples import demo_report, traffic_data
from examples.traffic_data import Floats, Series
from export.build import Built, Calibration, Options, build_checkpoint
from export.models import Forecaster
from export.packaging import checkpoint
from host.torchserve.launcher import TorchServe, serving

CHECKPOINT = Path("model_store/traffic")
HOURS = 2 * traffic_data.WEEK  # streamed
HORIZON = traffic_data.DAY  # forecast
LEVELS = (50, 80, 95)  # of its intervals


@dataclass
class Streamed:
    """What the client saw. Row t of `inputs` went in; `predictions[t]` is the volume expected at the hour after it."""

    inputs: list[list[float]] = field(default_factory=list)  # [HOURS, F], as an offline run is fed
    predictions: list[float] = field(default_factory=list)  # [HOURS]
    forecast: list[float] = field(default_factory=list)  # [HORIZON]
    intervals: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)  # lower and upper bounds by level, [HORIZON]
    positions: list[int] = field(default_factory=list)  # as each answer had it
    final: int = 0  # as the service had it at the end
    retries: int = 0
    replayed: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where archive, run folder and plot go (default: out/demo)")
    out: Path = parser.parse_args().out.resolve()
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    (out / "store").mkdir(parents=True)
    say("1/5", f"exporting {CHECKPOINT} to TorchScript and ONNX, verifying, archiving")
    series = traffic_data.load()
    held_out = traffic_data.write_csv(series.between(-traffic_data.TEST_HOURS, -HOURS - HORIZON), out / "held-out.csv")
    built = build_checkpoint(checkpoint.load(CHECKPOINT), out / "store", Options(calibration=Calibration(held_out, HORIZON)))
    print(built.report.table(), f"\n  -> {built.archive} ({built.archive.stat().st_size:,} bytes)")
    series = series.between(-HOURS - HORIZON, None)
    say("2/5", "starting TorchServe and waiting for a real answer")
    with serving(out / "run", out / "store") as server:
        say("3/5", f"ready at {server.url}; streaming {HOURS} hours of traffic, one observation a request")
        streamed = stream(server, series)
    say("4/5", "server stopped; running the same inputs through the eager model, offline")
    return judge(built, series, streamed, out)


def say(step: str, text: str) -> None:
    print(f"[{step}] {text}", flush=True)


def stream(server: TorchServe, series: Series) -> Streamed:
    """Send hour after hour, and ask for the forecast of the day ahead with each; end the workers with SIGKILL half way."""
    retries: list[RetryEvent] = []
    with Client(server.url, server.first_key, policy=RetryPolicy(on_retry=retries.append)) as client:
        seen = _feed(client.stream("traffic", "i94-westbound"), server, series)
    seen.retries = len(retries)
    return seen


def _feed(session: Stream, server: TorchServe, series: Series) -> Streamed:
    calendar, seen, began = traffic_data.calendar(series.timestamps), Streamed(), time.monotonic()
    for hour in range(HOURS):
        if hour == HOURS // 2:
            workers = server.worker_pids("traffic")
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            say("   ", f"hour {hour}: workers {', '.join(map(str, workers))} ended with SIGKILL; the client goes on sending")
        volume = float(series.volume[hour])
        observation = {"time": f"{series.timestamps[hour]}:00:00", "volume": None if np.isnan(volume) else volume}
        result = session.forecast(HORIZON, [observation], levels=LEVELS)
        seen.inputs.append([seen.predictions[-1] if np.isnan(volume) else volume, *calendar[hour].tolist()])
        seen.predictions.append(float(result.prediction[0]))
        seen.positions.append(result.session.step)
        seen.replayed += result.session.replayed
        if (hour + 1) % 56 == 0:
            print(f"      hour {hour + 1:3}/{HOURS}  {(hour + 1) / (time.monotonic() - began):5.0f} steps/s", flush=True)
    seen.forecast = result.forecast[:, 0].tolist()
    seen.intervals = {level: (lower[:, 0].tolist(), upper[:, 0].tolist()) for level, (lower, upper) in result.intervals.items()}
    seen.final = session.describe().step
    return seen


def _future(series: Series) -> Floats:
    """`[HORIZON, K]`: the calendar of the hours to be forecast."""
    return traffic_data.future(series.timestamps[HOURS - 1], HORIZON)


def offline(inputs: Floats, future: Floats) -> tuple[Floats, Floats]:
    """The eager model on whole sequences: inputs `[T, F]` -> predictions `[T]`, forecast `[HORIZON]`.

    It carries no state at all: for each further hour of the forecast it runs everything again from the first hour on.
    """
    loaded = checkpoint.load(CHECKPOINT)
    whole = Forecaster(**{**loaded.spec.arguments, "per": "step"})
    whole.load_state_dict(loaded.model.state_dict())
    x, forecast = torch.from_numpy(inputs), []
    with torch.no_grad():
        predictions = whole.eval()(x[None])[0, :, 0]
        for hour in range(HORIZON):
            y = whole(x[None])[0, -1]  # [1]
            forecast.append(float(y))
            x = torch.cat([x, torch.cat([y, torch.from_numpy(future[hour])])[None]])
    return predictions.numpy(), np.array(forecast, np.float32)


def judge(built: Built, series: Series, streamed: Streamed, out: Path) -> int:
    predictions, forecast = offline(np.array(streamed.inputs, np.float32), _future(series))
    scale = max(1.0, float(np.abs(predictions).max()))
    difference = max(np.abs(predictions - streamed.predictions).max(), np.abs(forecast - streamed.forecast).max()) / scale
    tolerance = built.signature["parity"]["tolerance"]
    complete = streamed.positions == list(range(1, HOURS + 1)) and streamed.final == HOURS
    print(demo_report.table(series, streamed.predictions, streamed.forecast, HOURS))
    picture = demo_report.plot(series, streamed.predictions, streamed.forecast, streamed.intervals, HOURS, out / "traffic.png")
    say("5/5", f"plot: {picture}")
    sent = f"steps sent {HOURS}, position at the end {streamed.final}"
    print(f"{sent}; sent again {streamed.retries}, replayed {streamed.replayed}")
    print(f"stream against offline run: largest difference {difference:.1e} of the largest volume, allowed {tolerance:.0e}")
    ok = complete and bool(difference <= tolerance)
    print("ok: every step applied exactly once, and the stream equals the offline run" if ok else "FAILED: see the line above")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
