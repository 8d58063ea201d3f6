"""Count and measure in memory what one worker does, and hand it out as increments.

`METRICS` is the one table of names; config/metrics.yaml and docs/metrics.md say the same, and a test compares them. A histogram is
handed out as Prometheus stores it: cumulative counters by upper bound (`le`), a sum and a count, so that those of several workers add up.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from threading import Lock


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """Kind, unit and labels of one exported name."""

    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram, exported as three counters. `bounds` are upper bounds, the last of them infinite."""

    unit: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    help: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An amount to add to a counter, or the value of a gauge."""

    name: str
    metric: Metric
    labels: Mapping[str, str]
    value: float


PREFIX = "cellstate_"
MODEL = ("model_name", "model_version")
MAX_TENANTS, OTHER = 100, "other"  # labels of a worker; each is a time series for as long as Prometheus remembers
INFINITE = float("inf")
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, INFINITE)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, INFINITE)

COUNTERS = {
    "requests_total": (
        ("action", "code"),
        "request objects answered, by what they asked (predict, step, fork …; unread if not to be told) and code",
    ),
    "tenant_requests_total": (
        ("tenant", "outcome"),
        "request objects by tenant: ok, refused (4xx) or failed (5xx); without a valid key, and of tenants beyond a hundred: other",
    ),
    "tenant_steps_applied_total": (("tenant",), "time steps that the sessions of a tenant consumed"),
    "steps_applied_total": ((), "time steps that sessions consumed"),
    "values_imputed_total": ((), "missing measurements that the predictions of sessions stood in for"),
    "predictions_scored_total": (
        (),
        "predictions of the next step that sessions of calibrated models, and of models of distributions, compared with what came",
    ),
    "predictions_covered_total": ((), "of those, the ones whose 80 % interval held what came"),
    "drifts_total": ((), "times that the errors of a session began to exceed those of the calibration, or what the distributions say"),
    "steps_replayed_total": ((), "time steps of requests answered again from the record"),
    "steps_refused_total": (
        ("code",),
        "time steps of sessions that were refused, by code; what could not be read as a step is in requests_total alone",
    ),
    "sessions_created_total": (("by",), "sessions created, by step, fork or import"),
    "sessions_closed_total": ((), "sessions closed by a request"),
    "sessions_expired_total": (
        (),
        "sessions that expired, counted when the sweep removes them: not those that began anew before, nor in Valkey",
    ),
    "commit_conflicts_total": ((), "records that another worker had changed first, and forks of those"),
    "retries_total": ((), "request objects served once more after such a conflict"),
    "store_errors_total": (("operation",), "failures of the store, by read, commit, sweep or usage"),
    "clock_jumps_total": ((), "jumps of the machine's clock that expiry did not follow"),
}
KNOWN: dict[str, list[tuple[str, ...]]] = {  # exported as 0 from the start: otherwise `rate()` misses the first increment
    **{name: [()] for name, (labels, _) in COUNTERS.items() if not labels},
    "sessions_created_total": [("step",), ("fork",), ("import",)],
    "store_errors_total": [("read",), ("commit",), ("sweep",), ("usage",)],
}
HISTOGRAMS = {
    "batch_rows": Histogram("Count", MODEL, ROWS, "request objects in one batch of TorchServe"),
    "stage_seconds": Histogram("Seconds", (*MODEL, "stage"), SECONDS, "time in one decode, read, run, commit or encode of a batch"),
}
METRICS: dict[str, Metric] = {
    **{name: Metric(Kind.COUNTER, "Count", (*MODEL, *labels), help) for name, (labels, help) in COUNTERS.items()},
    "store_available": Metric(Kind.GAUGE, "Count", MODEL, "1 while the session store works, 0 while it is unavailable"),
    "sessions": Metric(Kind.GAUGE, "Count", ("phase",), "sessions in the store, of all models: live, or ended and still remembered"),
    **{
        f"{name}_{part}": Metric(Kind.COUNTER, unit, (*h.labels, *more), h.help)
        for name, h in HISTOGRAMS.items()
        for part, unit, more in (("bucket", "Count", ("le",)), ("sum", h.unit, ()), ("count", "Count", ()))
    },
}

Key = tuple[str, tuple[str, ...]]


class Telemetry:
    """The metrics of one worker. `model` is its name and version. Any thread may count and take."""

    def __init__(self, model: Sequence[str] = ("", "")) -> None:
        self._model, self._lock = tuple(model), Lock()
        self._counts: dict[Key, float] = {(name, labels): 0.0 for name, known in KNOWN.items() for labels in known}
        self._gauges: dict[Key, float] = {}
        self._observed: dict[Key, list[float]] = {}  # a number for each bound, then the sum
        self._tenants: set[str] = set()  # that have a label of their own

    def tenant_label(self, tenant: str) -> str:
        """Return the label of a tenant: its name, or `other` for what is none and for tenants beyond the first hundred of this worker."""
        if tenant not in self._tenants and tenant and len(self._tenants) < MAX_TENANTS:
            self._tenants.add(tenant)
        return tenant if tenant in self._tenants else OTHER

    def count(self, name: str, amount: float = 1, *labels: str) -> None:
        if not amount:
            return
        with self._lock:
            self._counts[name, labels] = self._counts.get((name, labels), 0.0) + amount

    def set(self, name: str, value: float, *labels: str) -> None:
        with self._lock:
            self._gauges[name, labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        key, bounds = (name, labels), HISTOGRAMS[name].bounds
        with self._lock:
            numbers = self._observed.get(key)
            if numbers is None:
                numbers = self._observed[key] = [0.0] * (len(bounds) + 1)
            numbers[bisect_left(bounds, value)] += 1
            numbers[-1] += value

    def timing(self, stage: str) -> "Timing":
        """Observe how long the block takes, also when it raises."""
        return Timing(self, stage)

    def take(self) -> list[Sample]:
        """Return what was counted since the last call, and forget it."""
        with self._lock:
            counts, gauges, observed = self._counts, self._gauges, self._observed
            self._counts, self._gauges, self._observed = {}, {}, {}
        samples = [self._sample(name, (*self._model, *labels), value) for (name, labels), value in counts.items()]
        samples += [self._sample(name, self._gauge_labels(name, labels), value) for (name, labels), value in gauges.items()]
        return samples + [sample for key, numbers in observed.items() for sample in self._unfold(key, numbers)]

    def _gauge_labels(self, name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Prepend the model to the labels of a gauge that has it; the number of sessions is that of a whole store."""
        return (*self._model, *labels) if METRICS[name].labels[: len(MODEL)] == MODEL else labels

    def _unfold(self, key: Key, numbers: Sequence[float]) -> Iterator[Sample]:
        (name, labels), below = key, 0.0
        labels = (*self._model, *labels)
        for bound, number in zip(HISTOGRAMS[name].bounds, numbers, strict=False):
            below += number
            yield self._sample(f"{name}_bucket", (*labels, "+Inf" if bound == INFINITE else f"{bound:g}"), below)
        yield self._sample(f"{name}_sum", labels, numbers[-1])
        yield self._sample(f"{name}_count", labels, below)

    def _sample(self, name: str, labels: tuple[str, ...], value: float) -> Sample:
        metric = METRICS[name]
        return Sample(PREFIX + name, metric, dict(zip(metric.labels, labels, strict=True)), value)


class Timing:
    """Observes how long one stage takes."""

    __slots__ = ("_began", "_stage", "_telemetry")

    def __init__(self, telemetry: Telemetry, stage: str) -> None:
        self._telemetry, self._stage, self._began = telemetry, stage, 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._telemetry.observe("stage_seconds", time.perf_counter() - self._began, self._stage)
