"""Check that what a model puts out are parameters of the distribution that it is declared to predict."""

from collections.abc import Sequence

import numpy as np
import torch

from export.errors import ParityError
from export.lift.lifted import Lift
from export.verify.runners import eager_runner
from handlers.forecasting.distributions import FAMILIES, QUANTILES, Distribution, distributions
from handlers.signature import Signature

BATCH, STEPS = 64, 8
MAX_CROSSED = 0.5


def check_distributions(signature: Signature, lifted: Lift, seed: int = 0) -> None:
    """Run the model on inputs like the example, from the start of a stream.

    Raises:
        ParityError: a parameter is out of its range, or quantiles are in another order than declared.
    """
    if not signature.distribution:
        return
    steps = min(max(STEPS, signature.min_steps), signature.max_steps or STEPS)
    x = lifted.inputs(BATCH, steps, torch.Generator().manual_seed(seed))
    y = eager_runner(lifted)(x, lifted.start(BATCH))[0].reshape(-1, len(signature.outputs)).numpy()
    for distribution in distributions(signature):
        names = [signature.outputs[column] for column in distribution.columns]
        if distribution.kind == QUANTILES:
            _check_order(names, float(np.mean(y[:, distribution.columns[0]] > y[:, distribution.columns[-1]])))
        elif not (valid := distribution.valid(y)).all():
            _raise_out_of_range(distribution, names, y[~valid][0, list(distribution.columns)].tolist())


def _check_order(names: Sequence[str], crossed: float) -> None:
    """Check how often the outer quantiles cross; those of a trained model may do so now and then."""
    if crossed > MAX_CROSSED:
        raise ParityError(
            f"distribution: {names[0]} is above {names[-1]} in {crossed:.0%} of predictions on inputs like the example: name the "
            "quantiles in the order of the model's columns"
        )


def _raise_out_of_range(distribution: Distribution, names: Sequence[str], values: Sequence[float]) -> None:
    family = FAMILIES[distribution.kind]
    bounds = [f"{names[place]} greater than 0" for place in family.positive] + [
        f"{names[place]} at least 0" for place in family.nonnegative
    ]
    got = ", ".join(f"{name} {value:.3g}" for name, value in zip(names, values, strict=True))
    raise ParityError(
        f"distribution: {distribution.kind} needs {' and '.join(bounds)}, and the model gives {got} on inputs like the example: pass "
        "such a parameter through softplus or exp in forward"
    )
