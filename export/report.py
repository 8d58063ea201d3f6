"""Hold what was measured of a model's artefacts."""

from dataclasses import dataclass

import numpy as np

from export.errors import ParityError

TOLERANCE = 2e-5  # scaled; float32 sums in another order differ by some 1e-6
UNLIMITED = float(np.finfo(np.float32).max)
FROZEN = (
    "the graph holds the example's B or T, or values from it, as constants: build shapes from x.size(0) and x.size(1), and keep int(), "
    ".item(), NumPy and loops over T out of forward"
)


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
    most_steps: int | None = None  # the largest T that was measured or that the model takes; None for no bound

    def check(self) -> None:
        """Raise ParityError for a difference over the tolerance, or for a model that no magnitude of inputs suits."""
        worst = max(self.differences, default=None, key=lambda d: d.value if d.value == d.value else np.inf)
        if worst and not worst.value <= TOLERANCE:
            found = f"{worst.artefact}: {worst.output} differs from the eager model by {worst.value:.2e} at {worst.where}"
            raise ParityError(f"{found}; allowed {TOLERANCE:.0e}; {FROZEN}")
        if not self.input_limit:
            raise ParityError(
                "inputs as large as the example's largest number, of either sign, give results that are not finite or differ between the "
                "runtimes: normalise inside the model, and clamp what goes into sqrt, log or exp"
            )

    def table(self) -> str:
        lines = [f"  {'artefact':<22} {'output':<8} {'largest':>9}   where", *(d.row() for d in self.differences)]
        return "\n".join(lines)
