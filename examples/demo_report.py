"""The demo's table and picture. Knows arrays and hours; knows no server and no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.traffic_data import Series

SHADES = ("#ffe8d3", "#ffd1a6", "#ffba79")  # of the intervals, from the widest to the narrowest


def table(series: Series, predictions: Sequence[float], forecast: Sequence[float], hours: int) -> str:
    """The last day of the stream and the forecast of the next, hour by hour; then the mean errors. Vehicles per hour."""
    lines = [f"{'hour':<17} {'observed':>9} {'one-step':>9} {'forecast':>9} {'error':>7}"]
    lines += [_line(series, t, predictions[t - 1], None) for t in range(hours - 12, hours)]
    lines += [_line(series, hours + i, None, value) for i, value in enumerate(forecast)]
    one_step = series.volume[1:hours] - np.array(predictions[:-1])
    ahead = series.volume[hours : hours + len(forecast)] - np.array(forecast)
    lines.append(f"mean absolute error: {np.nanmean(np.abs(one_step)):.0f} one step ahead over {hours - 1} hours, ")
    lines[-1] += f"{np.nanmean(np.abs(ahead)):.0f} over the {len(forecast)}-hour forecast (vehicles per hour)"
    return "\n".join(lines)


def _line(series: Series, t: int, prediction: float | None, forecast: float | None) -> str:
    observed = float(series.volume[t])
    expected = prediction if forecast is None else forecast
    assert expected is not None  # each line has one of the two
    cells = ["" if value is None or np.isnan(value) else f"{value:.0f}" for value in (observed, prediction, forecast, expected - observed)]
    stamp = str(series.timestamps[t]).replace("T", " ") + ":00"
    return f"{stamp:<17} {cells[0]:>9} {cells[1]:>9} {cells[2]:>9} {cells[3]:>7}"


def plot(
    series: Series,
    predictions: Sequence[float],
    forecast: Sequence[float],
    intervals: Mapping[int, tuple[Sequence[float], Sequence[float]]],
    hours: int,
    target: Path,
) -> Path:
    """Observed, one step ahead, and the forecast with its intervals by level, over the last five days."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    begin, end = hours - 96, hours + len(forecast)
    stamps = series.timestamps.astype("datetime64[m]").astype(object)
    figure, axes = plt.subplots(figsize=(11, 4.2), layout="constrained")
    axes.plot(stamps[begin:end], series.volume[begin:end], color="0.25", linewidth=1.4, label="observed")
    axes.plot(stamps[begin + 1 : hours], predictions[begin : hours - 1], color="tab:blue", linewidth=1.2, label="streamed, one step ahead")
    axes.plot(stamps[hours:end], forecast, color="tab:orange", linewidth=2, label=f"forecast of {len(forecast)} hours")
    for shade, level in zip(SHADES, sorted(intervals, reverse=True), strict=False):
        lower, upper = intervals[level]
        axes.fill_between(stamps[hours:end], lower, upper, color=shade, linewidth=0, zorder=0, label=f"{level} %")
    axes.axvline(stamps[hours], color="0.6", linestyle=":", linewidth=1)
    axes.set(ylabel="vehicles per hour", title="I-94 westbound: a session's predictions and its forecast")
    axes.legend(loc="upper left", ncols=6, frameon=False)
    axes.set_ylim(0, float(np.nanmax(series.volume[begin:end])) * 1.18)
    figure.savefig(target, dpi=110)
    plt.close(figure)
    return target
