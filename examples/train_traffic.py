"""Train the traffic forecaster and write all that is said about it: `python -m examples.train_traffic`.

Writes model_store/traffic/ (weights, model.json, README) and docs/traffic.md with its plot. Everything in the recipe was chosen with
`--validate`, which leaves the test hours out of the data altogether and scores the 60 days before them instead.
Knows how to train; what a score is and how it is shown is in `traffic_score` and `traffic_report`.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from examples.traffic_data import DAY, FEATURES, TEST_HOURS, Floats, Series, inputs, load
from examples.traffic_report import Run, summary, write
from examples.traffic_score import HORIZON, advance, forecasts, roll, score, stream
from export.models import Forecaster

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recipe:
    hidden_size: int = 64
    num_layers: int = 2
    iterations: int = 1800
    batch: int = 64
    context: int = 7 * DAY  # hours measured, then HORIZON hours rolled out, then `rest` hours measured again
    rest: int = DAY
    settle: int = DAY  # the first hours after a zero state are not in the loss
    rest_weight: float = 0.3
    rate: float = 4e-3
    decay: float = 1e-4
    average: float = 0.99  # exponential moving average of the weights
    seed: int = 0

    @property
    def span(self) -> int:
        return self.context + HORIZON + self.rest


def normalisation(rows: Floats) -> tuple[list[float], list[float]]:
    """mean and std for `Forecaster`: of the volume in the training hours; the calendar is of size one already."""
    plain = len(FEATURES) - 1
    return [round(float(rows[:, 0].mean()), 3)] + [0.0] * plain, [round(float(rows[:, 0].std()), 3)] + [1.0] * plain


def windows(series: Series, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Random stretches of the series: x `[B, span, F]`, and the volume an hour later `[B, span]`, NaN where not measured."""
    generator = np.random.default_rng(recipe.seed)
    rows, volume = inputs(series), series.volume
    for _ in range(recipe.iterations):
        starts = generator.integers(0, len(series) - recipe.span, recipe.batch)
        hours = starts[:, None] + np.arange(recipe.span)  # [B, span]
        yield torch.from_numpy(rows[hours]), torch.from_numpy(volume[hours + 1])


def absolute_error(y: Tensor, target: Tensor) -> Tensor:
    """Mean over the measured targets; the mean absolute error is what is reported, so it is what is minimised."""
    measured = ~target.isnan()
    return (y[measured] - target[measured]).abs().mean()


def loss(model: Forecaster, x: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    """One step ahead over a measured week, then a day on own predictions, then measured again: a stream with a hole in it."""
    settle, hole, after = recipe.settle, recipe.context, recipe.context + HORIZON
    y, state = advance(model, x[:, :hole])
    rolled, state = roll(model, y[:, -1], state, x[:, hole:after, 1:])
    rest, _ = advance(model, x[:, after:], state)
    return (
        absolute_error(y[:, settle:], target[:, settle:hole])
        + absolute_error(rolled, target[:, hole:after])
        + recipe.rest_weight * absolute_error(rest, target[:, after:])
    ) / model.output_std[0]


def train(series: Series, recipe: Recipe) -> tuple[Forecaster, dict[str, object]]:
    """The trained model, and the arguments that build it anew."""
    torch.manual_seed(recipe.seed)
    mean, std = normalisation(inputs(series))
    model = Forecaster(mean, std, (0,), recipe.hidden_size, recipe.num_layers, per="step")
    average = AveragedModel(model, avg_fn=lambda old, new, n: old.lerp(new, 1 - min(recipe.average, float(n + 1) / (float(n) + 10))))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.iterations, pct_start=0.15)
    for iteration, (x, target) in enumerate(windows(series, recipe)):
        value = loss(model, x, target, recipe)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]  # PyTorch's own annotation is missing
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(model)
        if iteration % 200 == 0:
            print(f"iteration {iteration:5d} of {recipe.iterations}: loss {value.item():.4f}", flush=True)
    arguments: dict[str, object] = {"mean": mean, "std": std, "outputs": [0], "per": "sequence"}
    arguments |= {"hidden_size": recipe.hidden_size, "num_layers": recipe.num_layers}
    return rebuilt(average.module, arguments), arguments


def rebuilt(trained: nn.Module, arguments: dict[str, Any]) -> Forecaster:
    """The same weights as they ship: one prediction for a window."""
    model = Forecaster(**arguments)
    model.load_state_dict(trained.state_dict())
    return model.eval()


def run(series: Series, recipe: Recipe) -> Run:
    """Train on all but the last `TEST_HOURS` of the series, score on those."""
    first, started = len(series) - TEST_HOURS, time.monotonic()
    model, arguments = train(series.until(first), recipe)
    carried = stream(model, series)
    predicted = forecasts(model, series, carried, first)
    minutes = (time.monotonic() - started) / 60
    return Run(series, first, model, arguments, predicted, score(series, predicted, first), minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="write model_store/ and docs/ below it, instead of the repository")
    parser.add_argument("--validate", action="store_true", help="leave the test hours out, score the 60 days before them, write nothing")
    parser.add_argument("--iterations", type=int, default=Recipe.iterations, help="fewer for a quick run")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the weights depend on it in the last digits; two threads gain little here and crawl on busy cores
    series = load()
    if options.validate:
        series = series.until(len(series) - TEST_HOURS)
    result = run(series, Recipe(iterations=options.iterations, seed=options.seed))
    print(summary(result))
    if not options.validate:
        write(result, options.out)


if __name__ == "__main__":
    main()
