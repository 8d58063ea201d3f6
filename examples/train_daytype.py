"""Train a small classifier of days from their 24 hourly levels, and ship it: `python -m examples.train_daytype`.

Workday or weekend, by the traffic of the day alone. A holiday on a workday counts as weekend: the road is that of a day off, and the label
says what kind of day it was. Writes model_store/daytype/. Knows its data and its training; knows nothing of serving.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.checkpoint import ATTRIBUTION, save
from examples.traffic_data import DAY, LEVELS, MISSING, TEST_HOURS, Floats, Ints, Series, holidays, level_edges, load, tokens, weekday
from export.models import TokenClassifier

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m examples.train_daytype"
CLASSES = ["workday", "weekend"]
ARGUMENTS: dict[str, Any] = {"vocabulary": LEVELS + 1, "classes": len(CLASSES), "embedding_size": 16, "hidden_size": 32}
TEST_DAYS = TEST_HOURS // DAY
EPOCHS, BATCH, RATE, DECAY, SEED = 15, 32, 5e-3, 1e-2, 0


@dataclass(frozen=True)
class Days:
    """`volume` `[D, 24]` with NaN where not measured, `label` `[D]`: an index into `CLASSES`."""

    volume: Floats
    label: Ints

    def split(self, day: int) -> tuple["Days", "Days"]:
        return Days(self.volume[:day], self.label[:day]), Days(self.volume[day:], self.label[day:])


@dataclass(frozen=True)
class Result:
    model: TokenClassifier
    edges: list[float]
    accuracy: float
    majority: float
    example: list[int]  # the last training day


def days(series: Series) -> Days:
    """The series starts at midnight and has whole days only."""
    noon = series.timestamps.reshape(-1, DAY)[:, 12]  # [D]
    off = (weekday(noon) >= 5) | holidays(noon)
    return Days(series.volume.reshape(-1, DAY), off.astype(np.int64))


def train(ids: Ints, label: Ints, epochs: int) -> TokenClassifier:
    """ids `[D, 24]`, label `[D]`."""
    torch.manual_seed(SEED)
    model = TokenClassifier(**ARGUMENTS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    x, target = torch.from_numpy(ids), torch.from_numpy(label)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            optimiser.zero_grad()
            nn.functional.nll_loss(model(x[rows]), target[rows]).backward()  # type: ignore[no-untyped-call]  # PyTorch's annotation is missing
            optimiser.step()
    return model.eval()


def run(everything: Days, epochs: int) -> Result:
    """Train on all but the last `TEST_DAYS`, score on those; the levels too are those of the training days."""
    training, test = everything.split(len(everything.label) - TEST_DAYS)
    edges = level_edges(training.volume)
    model = train(tokens(training.volume, edges), training.label, epochs)
    with torch.inference_mode():
        answers = model(torch.from_numpy(tokens(test.volume, edges))).argmax(dim=1).numpy()  # [TEST_DAYS]
    common = np.bincount(training.label).argmax()
    example = tokens(training.volume[-1], edges).tolist()
    return Result(model, edges, float((answers == test.label).mean()), float((test.label == common).mean()), example)


def summary(result: Result) -> str:
    return (
        f"Accuracy on {TEST_DAYS} days: {result.accuracy:.0%} ({round(result.accuracy * TEST_DAYS)} right); "
        f"always `workday`: {result.majority:.0%} ({round(result.majority * TEST_DAYS)} right)."
    )


def description(result: Result) -> dict[str, object]:
    return {
        "name": "daytype",
        "version": "1.0",
        "factory": "export/models.py:TokenClassifier",
        "arguments": ARGUMENTS,
        "task": "classify",
        "tokens": ARGUMENTS["vocabulary"],
        "outputs": CLASSES,
        "frequency": "1h",
        "example": result.example,
        "preprocessing": {
            "tokens": f"24 hours from midnight; id = number of edges at or below the volume; {MISSING} when the hour was not measured",
            "edges": result.edges,
            "missing": MISSING,
        },
        "description": "Whether a day's hourly traffic volumes, as 24 levels, are a workday's or a day off's; answers log-probabilities.",
        "attribution": ATTRIBUTION,
    }


def readme(result: Result) -> str:
    return f"""# daytype 1.0

Tells a workday from a day off by its traffic: `export.models.TokenClassifier` over 24 token ids, one for each hour from midnight.
Ids 0 to {LEVELS - 1} are the volume's level between the edges in `model.json` (quantiles of the training days), {MISSING} is an hour
without a measurement; `examples.traffic_data.tokens` computes them. Classes: `workday`, `weekend`; a US holiday on a workday counts
as `weekend`.

{summary(result)} These are the last {TEST_DAYS} days of the data, unseen in training and in every choice.

Reproduce, from the repository root: `{COMMAND}` (under a minute on one CPU core).

{ATTRIBUTION}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="write model_store/ below it, instead of the repository")
    parser.add_argument("--validate", action="store_true", help="leave the test days out, score the 60 days before them, write nothing")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="fewer for a quick run")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the weights depend on it in the last digits; two threads gain little here and crawl on busy cores
    series = load()
    if options.validate:
        series = series.until(len(series) - TEST_HOURS)
    result = run(days(series), options.epochs)
    print(summary(result))
    if not options.validate:
        save(options.out / "model_store" / "daytype", result.model, description(result), readme(result))


if __name__ == "__main__":
    main()
