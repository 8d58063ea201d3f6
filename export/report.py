"""Hold what was measured of a model's artefacts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from export.difference import as_text
from export.errors import ParityError

TOLERANCE = 2e-5  # scaled; float32 sums in another order differ by some 1e-6
UNLIMITED = float(np.finfo(np.float32).max)
FROZEN = (
    "a number of the example's, mostly its B or T, stands in the graph as a constant: build shapes from x.size(0) and x.size(1), and keep "
    "int(), .item(), NumPy and loops over T out of forward"
)
LENGTH = (
    "the model does something at this length, or on these inputs, that it does not do on the example: an if on the length or the number of "
    "a step, a count of padding, an index that reaches back; use torch.where on tensors, or give an example of the length that is served"
)


def _remedy(artefact: str) -> str:
    return LENGTH if artefact.endswith("window") or artefact == "lifted" else FROZEN


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest scaled difference found in one output of one artefact."""

    artefact: str
    output: str
    value: float
    where: str

    def row(self) -> str:
        return f"  {self.artefact:<22} {self.output:<8} {self.value:9.2e}   {self.where}"


@dataclass(frozen=True)
class Report:
    """All that was measured of one model."""

    differences: tuple[Difference, ...]
    streaming_reason: str  # empty when any cut of a sequence gives what the whole sequence gives
    input_limit: float = UNLIMITED  # the largest magnitude of an input for which every artefact agreed with the eager model; 0 for none
    signed: bool = True  # whether that holds for both signs; else for those that the example's columns have
    max_steps: int | None = None  # the largest T that was measured or that the model takes; None for no bound
    dropped: Mapping[str, str] = field(default_factory=dict)  # artefacts that no server runs and that disagree, with the reason

    def check(self) -> None:
        """Raise ParityError for a difference over the tolerance, or for a model that no magnitude of inputs suits."""
        worst = max(self.differences, default=None, key=lambda d: d.value if d.value == d.value else np.inf)
        if worst and not worst.value <= TOLERANCE:
            how = f"differs from the eager model by {worst.value:.2e}" if worst.value < np.inf else as_text(worst.value)
            found = f"{worst.artefact}: {worst.output} {how} at {worst.where}; allowed {TOLERANCE:.0e}"
            raise ParityError(f"{found}; {_remedy(worst.artefact)}")
        if not self.input_limit:
            raise ParityError(
                "inputs as large as the example's largest number, of either sign, give results that are not finite or differ between the "
                "runtimes: normalise inside the model, and clamp what goes into sqrt, log or exp"
            )

    def summary(self) -> str:
        """Return one line for each artefact, with its largest difference, and a verdict."""
        worst: dict[str, Difference] = {}
        for d in self.differences:
            name = d.artefact.partition(",")[0]
            worst[name] = max(worst.get(name, d), d, key=lambda found: found.value)
        lines = [f"  {name:<14} {d.value:9.2e} at most, in {d.output} at {d.where}" for name, d in worst.items()]
        return "\n".join([*lines, f"  every artefact agrees with the model, within {TOLERANCE:.0e} of each output's scale"])

    def table(self) -> str:
        """Return one line for each output of each artefact."""
        lines = [f"  {'artefact':<22} {'output':<8} {'largest':>9}   where", *(d.row() for d in self.differences)]
        return "\n".join(lines)
