"""What is published of a training run: the checkpoint, the page with its table, and the plot.

Knows how results look; computes no score and trains nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a server

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, DayLocator

from examples.checkpoint import ATTRIBUTION, save
from examples.traffic_data import CALENDAR, DAY, FEATURES, FREQUENCY, WEEK, Floats, Series, inputs
from examples.traffic_score import HORIZON, Scores
from export.models import Forecaster

COMMAND = "python -m examples.train_traffic"
EXAMPLE = 2 * DAY  # hours in model.json: what the exporter measures parity on
SHOWN = (1, 3, 6, 12, 24)  # horizons of the table


@dataclass(frozen=True)
class Run:
    """A trained model with what it predicted, `[O, HORIZON]`, for the hours of `series` from `first` on."""

    series: Series
    first: int
    model: Forecaster
    arguments: dict[str, object]
    predicted: Floats
    scores: Scores
    minutes: float


def summary(run: Run) -> str:
    """The Markdown table of all three forecasts."""
    scores = run.scores
    columns = ["1 hour", "mean of 1..24 h", *(f"{hour} h" for hour in SHOWN[1:])]
    rows = [f"| MAE, vehicles/h | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    named = {"persistence": scores.persistence, "weekly seasonal naive": scores.seasonal, "LSTM": scores.model}
    for name, errors in named.items():
        shown = [errors[0], errors.mean(), *(errors[hour - 1] for hour in SHOWN[1:])]
        rows.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in shown)} |")
    return "\n".join([*rows, "", _ratios(scores)])


def _ratios(scores: Scores) -> str:
    once = scores.persistence[0] / scores.model[0]
    day = 1 - scores.model.mean() / scores.seasonal.mean()
    return (
        f"One hour ahead persistence errs {once:.1f} times as much as the LSTM; averaged over 1 to {HORIZON} hours ahead the LSTM's error "
        f"is {day:.0%} below that of the weekly seasonal forecast."
    )


def write(run: Run, root: Path) -> None:
    save(root / "model_store" / "traffic", run.model, description(run), readme(run))
    images = root / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    plot(run, images / "traffic-forecast.png")
    (root / "docs" / "traffic.md").write_text(page(run), encoding="utf-8")


def description(run: Run) -> dict[str, object]:
    return {
        "name": "traffic",
        "version": "1.0",
        "factory": "export/models.py:Forecaster",
        "arguments": run.arguments,
        "task": "forecast",
        "features": list(FEATURES),
        "outputs": ["volume"],
        "feedback": {"volume": "volume"},
        "frequency": FREQUENCY,
        "calendar": CALENDAR,
        "example": inputs(run.series)[run.first - EXAMPLE : run.first].astype(np.float64).round(4).tolist(),
        "description": "Traffic volume of the next hour, vehicles per hour, on Interstate 94 westbound between Minneapolis and St Paul.",
        "attribution": ATTRIBUTION,
    }


def readme(run: Run) -> str:
    weights = sum(value.numel() for value in run.model.state_dict().values())
    return f"""# traffic 1.0

Forecasts the volume of the next hour on Interstate 94 westbound between Minneapolis and St Paul: `export.models.Forecaster`,
{run.arguments["num_layers"]} LSTM layers of {run.arguments["hidden_size"]}, {weights:,} numbers in float32.
Input rows: {", ".join(FEATURES)} (`examples/traffic_data.py`).

Measured on the last 60 days of the data, unseen in training and in every choice (definitions: `docs/traffic.md`):

{summary(run)}

Reproduce, from the repository root: `{COMMAND}` (about {run.minutes:.0f} minutes on one CPU core).

{ATTRIBUTION}
"""


def page(run: Run) -> str:
    hours = run.series.timestamps
    return f"""# Traffic: a forecast of the next hours

The example model forecasts the hourly volume on Interstate 94 westbound between Minneapolis and St Paul from a stream of
measurements. Written by `{COMMAND}`, which trains it and measures what follows (about {run.minutes:.0f} minutes on one CPU core).

## How good it is

Mean absolute error over the hours {hours[run.first]} to {hours[-1]}, the last 60 days of the data:

{summary(run)}

![A week of observed traffic with forecasts; error by hours ahead](images/traffic-forecast.png)

The upper panel is the last week of the data, not a chosen one. The lower panel is the table's measurement at every hour ahead.

## What is measured

- **Persistence** forecasts, for every hour ahead, the last measured volume. **Weekly seasonal naive** forecasts the volume of the
  same hour a week earlier. The **LSTM** runs as a service would run it: one row an hour from {hours[0]} on, its state carried
  all the way; more than one hour ahead it feeds back its own predictions, with the calendar of the coming hours and no measurement.
- A forecast of {HORIZON} hours starts from every hour. A pair of origin and target counts, for all three alike, when the target, the
  origin and the hour a week before the target were measured: {run.scores.counted[0]} pairs one hour ahead,
  {run.scores.counted[-1]} at {HORIZON} hours.
- An hour without a measurement (104 of 17,520) is never a target. In training its input is the value of a week earlier; in a stream
  it is the model's own prediction of the hour before, which is also what a client should send.
- The 60 days were not seen in training and decided nothing: the recipe was chosen with `{COMMAND} --validate`, which
  drops them and scores the 60 days before.

## What goes in

One row describes one hour: `{"`, `".join(FEATURES)}`; the answer is the
volume of the hour after. Hour and weekday (Monday is 0) are those of the row, as sine and cosine of `2π·hour/24` and `2π·weekday/7`.
`holiday_next` is 1 when the hour after the row falls in a US federal holiday, or in the day on which it is observed; Columbus Day and
Veterans Day are left out, since on them the road is within a tenth of a workday's traffic. A client need not compute any of it: it sends
`"observations": [{{"time": "2018-09-29T23:00:00", "volume": 3856}}]`, and the service derives the rest with the code that training used
([forecasts](forecasts.md)).

{ATTRIBUTION}
"""


def plot(run: Run, path: Path) -> None:
    figure, (week, errors) = pyplot.subplots(2, 1, figsize=(10, 8.5), layout="constrained")
    _plot_week(run, week)
    _plot_errors(run.scores, errors)
    figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes from every version of the library
    pyplot.close(figure)


def _plot_week(run: Run, axes: Axes) -> None:
    start = len(run.series) - WEEK
    hours = run.series.timestamps
    axes.plot(hours[start:], run.series.volume[start:], color="0.15", linewidth=1.8, label="observed")
    axes.plot(hours[start:], run.predicted[start - run.first :, 0], color="tab:orange", linewidth=1.3, label="LSTM, one hour ahead")
    for number, origin in enumerate((start + DAY - 1, start + 4 * DAY + 11)):
        ahead = slice(origin + 1, origin + 1 + HORIZON)
        label = f"LSTM, {HORIZON} hours from one origin" if number == 0 else None
        axes.plot(hours[ahead], run.predicted[origin + 1 - run.first], color="tab:blue", linewidth=2, linestyle="--", label=label)
        axes.plot(hours[origin], run.series.volume[origin], "o", color="tab:blue", label="origin" if number == 0 else None)
    axes.xaxis.set_major_locator(DayLocator())  # type: ignore[no-untyped-call]  # Matplotlib's dates carry no types
    axes.xaxis.set_major_formatter(DateFormatter("%a %d %b"))  # type: ignore[no-untyped-call]
    axes.set(title="The last week of the test period", ylabel="vehicles per hour", ylim=(0, 7800))
    axes.legend(loc="upper center", ncols=4, frameon=False)
    axes.margins(x=0.01)


def _plot_errors(scores: Scores, axes: Axes) -> None:
    ahead = np.arange(1, HORIZON + 1)
    axes.plot(ahead, scores.persistence, color="0.55", marker=".", label="persistence")
    axes.plot(ahead, scores.seasonal, color="tab:green", marker=".", label="weekly seasonal naive")
    axes.plot(ahead, scores.model, color="tab:blue", marker=".", label="LSTM")
    axes.set(title="Error on the last 60 days", xlabel="hours ahead", ylabel="mean absolute error, vehicles per hour")
    ticks = [100, 200, 500, 1000, 2000]
    axes.set(yscale="log", xticks=[1, *range(3, HORIZON + 1, 3)], yticks=ticks, yticklabels=[str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
