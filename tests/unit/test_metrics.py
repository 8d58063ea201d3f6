"""What is counted comes out once, adds up, and is said the same in the code, in TorchServe's configuration and in the documentation."""

import re
import threading
from pathlib import Path

import pytest
import yaml

from handlers.metrics import HISTOGRAMS, METRICS, PREFIX, Kind, Telemetry

ROOT = Path(__file__).parents[2]
MODEL = {"model_name": "traffic", "model_version": "1.0"}


def taken(telemetry):
    """Name and label values of each sample, and its value."""
    return {(s.name.removeprefix(PREFIX), *(v for k, v in s.labels.items() if k not in MODEL)): s.value for s in telemetry.take()}


@pytest.fixture
def telemetry():
    fresh = Telemetry(("traffic", "1.0"))
    fresh.take()
    return fresh


def test_counts_without_labels_are_there_from_the_first_report_on():
    first = taken(Telemetry(("traffic", "1.0")))
    assert first["steps_applied_total",] == 0
    assert all(value == 0 for value in first.values())


def test_what_was_taken_is_not_given_again(telemetry):
    telemetry.count("steps_applied_total", 2)
    telemetry.count("steps_applied_total", 3)
    telemetry.count("requests_total", 1, "step", "ok")
    telemetry.set("sessions", 7, "live")
    assert taken(telemetry) == {("steps_applied_total",): 5, ("requests_total", "step", "ok"): 1, ("sessions", "live"): 7}
    assert taken(telemetry) == {}


def test_a_histogram_counts_each_value_under_every_bound_that_it_does_not_exceed(telemetry):
    for value in (0.0001, 0.0002, 3.0, 99.0):
        telemetry.observe("stage_seconds", value, "run")
    seen = taken(telemetry)
    buckets = {labels[-1]: value for labels, value in seen.items() if labels[0] == "stage_seconds_bucket"}
    assert list(buckets) == [*(f"{bound:g}" for bound in HISTOGRAMS["stage_seconds"].bounds[:-1]), "+Inf"]
    assert (buckets["0.0001"], buckets["0.00025"], buckets["1"], buckets["10"], buckets["+Inf"]) == (1, 2, 2, 3, 4)
    assert seen["stage_seconds_count", "run"] == 4
    assert seen["stage_seconds_sum", "run"] == pytest.approx(102.0003)


def test_a_stage_that_fails_was_still_measured(telemetry):
    with pytest.raises(ZeroDivisionError), telemetry.timing("commit"):
        raise ZeroDivisionError
    assert taken(telemetry)["stage_seconds_count", "commit"] == 1


def test_nothing_is_lost_or_told_twice_while_another_thread_takes(telemetry):
    total, counting = 0.0, threading.Event()

    def count():
        for _ in range(20_000):
            telemetry.count("retries_total")
        counting.set()

    worker = threading.Thread(target=count)
    worker.start()
    while not counting.is_set():
        total += sum(sample.value for sample in telemetry.take())
    worker.join()
    assert total + sum(sample.value for sample in telemetry.take()) == 20_000


def test_torchserve_is_configured_for_every_metric_and_for_no_other():
    """TorchServe drops a metric that its configuration does not name."""
    declared = yaml.safe_load((ROOT / "config" / "metrics.yaml").read_text())["model_metrics"]
    for kind in Kind:
        theirs = {entry["name"]: (entry["unit"], tuple(entry["dimensions"])) for entry in declared[kind.value]}
        assert theirs == {PREFIX + name: (m.unit, m.labels) for name, m in METRICS.items() if m.kind is kind}


def test_every_metric_is_documented_as_it_is():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    told = {(name, kind, labels, text) for name, kind, labels, text in rows if name.startswith(PREFIX)}
    plain = {name: (m.kind.value, m.labels, m.help) for name, m in METRICS.items() if not name.startswith(tuple(HISTOGRAMS))}
    grouped = {name: ("histogram", h.labels, h.help) for name, h in HISTOGRAMS.items()}
    right = {
        (PREFIX + name, kind, ", ".join(f"`{label}`" for label in labels if label not in MODEL) or "–", text)
        for name, (kind, labels, text) in (plain | grouped).items()
    }
    assert told == right
