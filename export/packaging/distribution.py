"""Read what the outputs of a model are parameters of: `distribution` of `model.json`, or `--distribution`.

One distribution for each series that the model predicts, with `;` between them, each as its kind and the outputs that are its parameters:

    normal:mu,sigma                     studentt:df,loc,scale         poisson:rate        negative-binomial:mean,dispersion
    quantiles:0.1,0.5,0.9               the levels; all outputs in their order, or named: quantiles:low=0.1,mid=0.5,high=0.9
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from export.errors import CheckpointError
from handlers.forecasting.distributions import FAMILIES, MEDIAN, QUANTILES


def outputs(text: str) -> tuple[str, ...]:
    """Return the outputs that a distribution names, in its order: the outputs of a model that names none itself."""
    return tuple(name for entry in _entries(text) for name in entry["outputs"])


def documents(text: str, outputs: Sequence[str], feedback: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return `distribution` of the signature of a model with those outputs, `feedback` from output to feature.

    Raises:
        CheckpointError: the distribution is none that is known, or does not fit the outputs or the feedback.
    """
    entries = _entries(text)
    if not entries:
        return []
    if len(entries) == 1 and entries[0]["kind"] == QUANTILES and len(outputs) == len(entries[0]["outputs"]) and "=" not in text:
        entries[0] |= {"outputs": list(outputs), "prediction": outputs[entries[0]["levels"].index(MEDIAN)]}
    named = [name for entry in entries for name in entry["outputs"]]
    if sorted(named) != sorted(outputs):
        raise CheckpointError(f"distribution: names {', '.join(named)}, but the outputs are {', '.join(outputs)}; each belongs to one")
    predictions = [entry["prediction"] for entry in entries]
    if set(feedback) != set(predictions):
        raise CheckpointError(
            f"distribution: the {' and '.join(e['statistic'] for e in entries)} must feed back, and nothing else: "
            f"--feedback {','.join(f'{name}=FEATURE' for name in predictions)}"
        )
    return entries


def _entries(text: str) -> list[dict[str, Any]]:
    return [_entry(part.strip()) for part in text.split(";")] if text else []


def _entry(text: str) -> dict[str, Any]:
    kind, _, rest = text.partition(":")
    names = [name.strip() for name in rest.split(",")]
    if kind == QUANTILES:
        return _quantiles(text, names)
    if kind not in FAMILIES:
        raise CheckpointError(f"distribution: unknown kind {kind!r}; known: {', '.join((*FAMILIES, QUANTILES))}")
    family = FAMILIES[kind]
    if len(names) != len(family.parameters) or not all(names):
        raise CheckpointError(f"distribution: {kind} needs the outputs of its {', '.join(family.parameters)}, got {text!r}")
    return {"kind": kind, "outputs": names, "prediction": names[family.prediction], "statistic": family.statistic}


def _quantiles(text: str, names: Sequence[str]) -> dict[str, Any]:
    pairs = [name.rpartition("=") for name in names]
    try:
        levels = [float(level) for _, _, level in pairs]
    except ValueError as e:
        raise CheckpointError(f"distribution: expected levels such as quantiles:0.1,0.5,0.9, got {text!r}") from e
    ascending = all(low < high for low, high in pairwise([0.0, *levels, 1.0]))
    if not ascending or MEDIAN not in (levels[1:-1]):
        raise CheckpointError(f"distribution: quantiles ascend between 0 and 1, with the median 0.5 and others on both sides, got {text!r}")
    outputs = [name or f"q{level}" for name, _, level in pairs]
    return {"kind": QUANTILES, "outputs": outputs, "levels": levels, "prediction": outputs[levels.index(MEDIAN)], "statistic": "median"}
