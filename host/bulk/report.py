"""What a backtest found: as a document, as a table, and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host.bulk.backtest import Backtest, Scored
from host.bulk.series import SeriesError
from host.table import align

Json = dict[str, Any]
SHOWN = 6  # steps of the horizon in the table
ERRORS, INTERVALS = ("mae", "rmse", "mase"), ("coverage", "width", "score")


def document(backtest: Backtest, scored: Sequence[Scored]) -> Json:
    """Return all scores. Those of the seasonal naive forecast stand in `naive`, in the same form."""
    plan = backtest.plan
    return {
        "model": backtest.model,
        "series": sum(1 for one in scored if one.origins),
        "forecasts": sum(one.origins for one in scored),
        "failed": {one.name: one.error for one in scored if one.error},
        "horizon": plan.horizon,
        "every": plan.every,
        "season": plan.season,
        "levels": list(plan.levels),
        "by_horizon": [
            {"ahead": ahead, **served, "naive": naive}
            for ahead, (served, naive) in enumerate(zip(backtest.totals.document(), backtest.naive.document(), strict=True), 1)
        ],
    }


def table(found: Json) -> str:
    """Return the scores of a few steps of the horizon as text: a block for the errors, and one for the intervals of each level.

    Each number stands beside that of the seasonal naive forecast.
    """
    lines = [line for line in found["by_horizon"] if line["ahead"] in _shown(found["horizon"])]
    blocks = [_block(["ahead", *ERRORS], [[line["ahead"], *_cells(line, line["naive"], ERRORS)] for line in lines])]
    for level in map(str, found["levels"]):
        cells = [_cells(line["intervals"][level], line["naive"]["intervals"][level], INTERVALS) for line in lines]
        rows = [[line["ahead"], *row] for line, row in zip(lines, cells, strict=True)]
        blocks.append(_block([f"{level} %", *INTERVALS], rows))
    return "\n\n".join(blocks)


def _block(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    headers = [names[0], *(header for name in names[1:] for header in (name, "(naive)"))]
    return "\n".join(align([headers, *rows], right=range(len(headers))))


def _shown(horizon: int) -> set[int]:
    return {max(1, round(horizon * part / SHOWN)) for part in range(1, SHOWN + 1)} | {1}


def _cells(served: Json, naive: Json, names: Sequence[str]) -> list[str]:
    return [cell for name in names for cell in (_number(served[name]), f"({_number(naive[name])})")]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def plot(found: Json, path: Path) -> None:
    """Draw error and coverage by step of the horizon, as PNG, SVG or PDF.

    Raises:
        SeriesError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as e:
        raise SeriesError("--plot needs matplotlib: pip install matplotlib") from e
    matplotlib.use("agg")
    from matplotlib import pyplot

    levels, lines = found["levels"], found["by_horizon"]
    ahead = [line["ahead"] for line in lines]
    figure, panels = pyplot.subplots(1, 2 if levels else 1, figsize=(12 if levels else 6, 4), layout="constrained", squeeze=False)
    error = panels[0, 0]
    error.plot(ahead, [line["mase"] for line in lines], color="C0", label=f"{found['model'].get('name', 'model')}")
    error.plot(ahead, [line["naive"]["mase"] for line in lines], color="C7", label=f"seasonal naive ({found['season']})")
    error.set(xlabel="steps ahead", ylabel="MASE", ylim=(0, None), title=f"{found['forecasts']:,} forecasts of {found['series']:,} series")
    error.legend()
    for i, level in enumerate(levels):
        covered = panels[0, 1]
        covered.axhline(level, color=f"C{i}", linestyle=":")
        covered.plot(ahead, [line["intervals"][str(level)]["coverage"] for line in lines], color=f"C{i}", label=f"{level} %")
        covered.plot(ahead, [line["naive"]["intervals"][str(level)]["coverage"] for line in lines], color=f"C{i}", alpha=0.3)
        covered.set(xlabel="steps ahead", ylabel="covered, %", title="coverage; pale: seasonal naive")
        covered.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as e:
        raise SeriesError(f"{path}: {e}") from e
    finally:
        pyplot.close(figure)
