"""Intervals of the shipped model on held-out days, by several methods, as the data are and through a change of level.

    python -m benchmarks.intervals

Sessions are served by the service core in this process, one observation a request with a forecast of 24 hours and its intervals. The other
methods are computed beside them from the same forecasts. Each knows at every hour what had come until then, and nothing later.
"""

import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch

from examples import traffic_data
from examples.traffic_data import TEST_HOURS, WEEK, Series
from export.build import Calibration, Options, build_checkpoint
from export.packaging import checkpoint
from handlers.engine.context import ServiceContext
from handlers.engine.factory import open_backend
from handlers.engine.service import Service
from handlers.forecasting.intervals import Intervals
from handlers.protocols.base import HttpRequest
from handlers.protocols.frontend import Frontend
from handlers.settings import Settings
from handlers.signature import Signature
from handlers.stores.memory import MemoryStore

Doubles = npt.NDArray[np.float64]
HORIZON, CALIBRATION_HOURS, LEFT_OUT = 24, 2880, WEEK
LEVELS = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)  # all for the CRPS; four are shown
SHOWN, AHEAD = (50, 80, 90, 95), (1, 3, 6, 12, 24)
SHARES = np.array(LEVELS) / 100


@dataclass(frozen=True)
class Run:
    """One stream: forecasts `[N, H]` from N origins, what came, and half the width of the service's intervals `[N, L, H]`."""

    forecasts: Doubles
    observed: Doubles
    served: Doubles


def main() -> None:
    torch.set_num_threads(1)
    series = traffic_data.load()
    first = len(series) - TEST_HOURS
    with tempfile.TemporaryDirectory() as scratch:
        service, intervals = deployed(Path(scratch), series, first)
        earlier = stream(service, series, first - CALIBRATION_HOURS, first, "calibration")
        changed = series.volume.copy()
        changed[first + TEST_HOURS // 2 :] *= 1.3
        kinds = {"as the data are": series, "the second half times 1.3": Series(series.timestamps, changed)}
        runs = [(name, data, stream(service, data, first, len(data), f"stream-{i}")) for i, (name, data) in enumerate(kinds.items())]
    for name, data, run in runs:
        print(f"\n## {name}\n")
        for method, halves in methods(data, first, run, earlier, intervals, series).items():
            centre = seasonal(data, first) if method.startswith("seasonal") else run.forecasts
            report(method, centre, run.observed, halves)


def deployed(scratch: Path, series: Series, first: int) -> tuple[Frontend, Intervals]:
    """The shipped model, calibrated on the hours before `first`."""
    path = traffic_data.write_csv(series.between(first - CALIBRATION_HOURS, first), scratch / "calibration.csv")
    options = Options(calibration=Calibration(path, HORIZON))
    built = build_checkpoint(checkpoint.load(Path("model_store/traffic")), scratch, options)
    with zipfile.ZipFile(built.archive) as archive:
        archive.extractall(scratch / "archive")
    signature, settings = Signature.load(scratch / "archive" / "signature.json"), Settings(store="memory://", device="cpu")
    intervals = Intervals.of(signature)
    assert intervals is not None
    context = ServiceContext(open_backend(scratch / "archive", signature, settings), signature, MemoryStore(), settings)
    return Frontend(Service(context)), intervals


def stream(frontend: Frontend, series: Series, first: int, end: int, id: str) -> Run:
    """Stream the two weeks before `first` at once, then hour by hour until `end`, with a forecast and its intervals each."""
    begin = first - 2 * WEEK
    ask(frontend, {"observations": observations(series, begin, first - 1), "session": {"id": id, "step": 0}})
    forecasts, halves = [], []
    for hour in range(first - 1, end - 1):
        request = {"observations": observations(series, hour, hour + 1), "session": {"id": id}, "horizon": HORIZON, "levels": LEVELS}
        reply = ask(frontend, request)
        forecast = np.array(reply["forecast"])[:, 0]
        forecasts.append(forecast)
        halves.append([np.array(reply["intervals"][str(level)]["upper"])[:, 0] - forecast for level in LEVELS])
    return Run(np.array(forecasts), truth(series, first, end), np.array(halves))


def observations(series: Series, first: int, end: int) -> list[dict[str, Any]]:
    return [
        {"time": f"{time}:00:00", "volume": None if np.isnan(volume) else float(volume)}
        for time, volume in zip(series.timestamps[first:end], series.volume[first:end], strict=True)
    ]


def ask(frontend: Frontend, request: dict[str, Any]) -> dict[str, Any]:
    [response] = frontend.handle_batch([HttpRequest(orjson.dumps(request))])
    assert response.status == 200, response.body
    reply: dict[str, Any] = orjson.loads(response.body)
    return reply


def truth(series: Series, first: int, end: int) -> Doubles:
    """What came `[N, H]` after each origin; NaN where nothing was measured, or after `end`."""
    padded = np.concatenate([series.volume[:end], np.full(HORIZON, np.nan)]).astype(np.float64)
    return np.asarray(padded[np.arange(first, end)[:, None] + np.arange(HORIZON)])


def seasonal(series: Series, first: int) -> Doubles:
    """The volume of the same hour a week before, `[N, H]`; where that was not measured, of the week before that."""
    volume = traffic_data.filled(series.volume).astype(np.float64)
    targets = np.arange(first, len(series))[:, None] + np.arange(HORIZON)
    return np.asarray(volume[targets - WEEK])


def methods(data: Series, first: int, run: Run, earlier: Run, intervals: Intervals, whole: Series) -> dict[str, Doubles]:
    """Half the width of each method's intervals, `[N, L, H]`."""
    errors, calibration = np.abs(run.observed - run.forecasts), np.abs(earlier.observed - earlier.forecasts)
    measured = np.nanquantile(calibration, SHARES, axis=0)  # [L, H]
    naive = Series(whole.timestamps[:first], whole.volume[:first])
    naive_errors = np.abs(truth(naive, first - CALIBRATION_HOURS, first) - seasonal(naive, first - CALIBRATION_HOURS)[:CALIBRATION_HOURS])
    count = len(run.forecasts)
    unadapted = [
        [upper[:, 0] - forecast for _, upper in intervals.bounds(forecast[:, None].astype(np.float32), LEVELS, None)]
        for forecast in run.forecasts
    ]
    return {
        "seasonal naive, split conformal": np.repeat(np.nanquantile(naive_errors, SHARES, axis=0)[None], count, axis=0),
        "split conformal": np.repeat(measured[None], count, axis=0),
        "split conformal, scaled by the forecast's size (not adapted)": np.array(unadapted),
        "ACI per horizon, pool of 500": per_horizon(errors, calibration, aci),
        "one scale a level from one-step errors (quantile tracking)": one_scale(errors, measured),
        "served: scaled, tracked per group of horizons": run.served,
    }


def per_horizon(errors: Doubles, calibration: Doubles, method: Callable[[Doubles, Doubles, int], Doubles]) -> Doubles:
    return np.stack([method(errors[:, h], calibration[:, h], h + 1) for h in range(HORIZON)], axis=2)


def aci(errors: Doubles, calibration: Doubles, ahead: int, rate: float = 0.02, size: int = 500) -> Doubles:
    """Adaptive conformal inference (Gibbs and Candès, 2021) for one horizon: `[N, L]`. An error is known `ahead` steps after its origin."""
    pool, alpha = list(calibration[~np.isnan(calibration)][-size:]), 1 - SHARES
    halves = np.empty((len(errors), len(LEVELS)))
    for t in range(len(errors)):
        known = t - ahead  # the newest origin whose error has come
        if known >= 0 and not np.isnan(errors[known]):
            alpha = alpha + rate * ((1 - SHARES) - (errors[known] > halves[known]))
            pool = [*pool[1:], errors[known]]
        halves[t] = np.quantile(pool, np.clip(1 - alpha, 0, 1))
    return halves


def one_scale(errors: Doubles, measured: Doubles, rate: float = 0.05) -> Doubles:
    """Quantile tracking (Angelopoulos and others, 2023) of one factor a level, on errors of the next step alone, for all horizons."""
    factor, halves = np.zeros(len(LEVELS)), np.empty((len(errors), len(LEVELS), HORIZON))
    for t in range(len(errors)):
        if t and not np.isnan(errors[t - 1, 0]):
            factor = factor + rate * ((errors[t - 1, 0] > halves[t - 1, :, 0]) - (1 - SHARES))
        halves[t] = measured * np.exp(factor)[:, None]
    return halves


def report(method: str, centre: Doubles, observed: Doubles, halves: Doubles) -> None:
    """Print coverage, mean width and interval score by level and horizon, and the CRPS by horizon; the first week is left out."""
    centre, observed, halves = centre[LEFT_OUT:], observed[LEFT_OUT:], halves[LEFT_OUT:]
    errors = np.abs(observed - centre)[:, None]  # [N, 1, H]
    known = ~np.isnan(errors)
    missed = np.maximum(errors - halves, 0)
    score = 2 * halves + 2 / (1 - SHARES[:, None]) * missed  # Gneiting and Raftery, 2007
    crps = np.mean((1 - SHARES[:, None]) * score, axis=1) / 2  # twice the mean pinball loss of the intervals' ends
    print(f"### {method}\n")
    print("| level | " + " | ".join(f"{h} h: covered, width, score" for h in AHEAD) + " |")
    print("|---:" * (len(AHEAD) + 1) + "|")
    columns = [h - 1 for h in AHEAD]
    for i in (LEVELS.index(level) for level in SHOWN):
        cells = []
        for h in columns:
            chosen = known[:, 0, h]
            covered = 100 * np.mean(errors[chosen, 0, h] <= halves[chosen, i, h])
            cells.append(f"{covered:.1f} %, {2 * halves[chosen, i, h].mean():.0f}, {score[chosen, i, h].mean():.0f}")
        print(f"| {LEVELS[i]} % | " + " | ".join(cells) + " |")
    print("| CRPS | " + " | ".join(f"{np.nanmean(crps[:, h]):.0f}" for h in columns) + " |\n")


if __name__ == "__main__":
    main()
