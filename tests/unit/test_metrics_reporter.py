"""The reporter writes lines that TorchServe can parse, and goes on after a failure."""

import io
import re
import sys
import time

import pytest

from handlers.metrics import Telemetry
from handlers.torchserve.metrics_reporter import MetricsReporter, format_line

# How TorchServe parses a metric, from its class Metric; a line that does not match is lost.
TORCHSERVE = re.compile(r"\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?")


@pytest.fixture
def telemetry():
    fresh = Telemetry(("traffic", "1.0"))
    fresh.take()
    return fresh


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-9, 0.1 + 0.2, 123_456_789_012.0, 1e22])
def test_torchserve_can_parse_every_line(telemetry, value):
    telemetry.count("requests_total", value, "step", "ok")
    telemetry.observe("stage_seconds", value, "run")
    for sample in telemetry.take():
        line = format_line(sample, "some-host")
        assert line.startswith("[METRICS]")
        assert line.endswith("\n")
        name, unit, number, labels, _, kind, *_ = TORCHSERVE.fullmatch(line.removeprefix("[METRICS]").rstrip("\n")).groups()
        assert (name, unit, kind) == (sample.name, sample.metric.unit, sample.metric.kind.name)
        assert float(number) == pytest.approx(sample.value, abs=1e-9)
        assert dict(pair.split(":") for pair in labels.split(",")) == sample.labels


class BreaksOnce(io.StringIO):
    """Standard output of which the first write fails, as on a full pipe or disk."""

    def __init__(self):
        super().__init__()
        self.failures = 0

    def write(self, text):
        if not self.failures:
            self.failures += 1
            raise OSError("no space left")
        return super().write(text)


def test_a_report_that_fails_is_logged_and_the_next_one_is_written(telemetry, caplog):
    output = BreaksOnce()
    telemetry.set("sessions", 1, "live")
    reporter = MetricsReporter(telemetry, 0.01, output).start()
    deadline = time.monotonic() + 30
    while "cellstate_sessions.Count:7" not in output.getvalue():
        assert time.monotonic() < deadline, "the reporter has stopped"
        telemetry.set("sessions", 7, "live")
    reporter.stop()
    assert output.failures == 1
    assert "metrics_report_failed" in caplog.text


def test_what_was_counted_before_the_stop_is_reported(telemetry):
    output = io.StringIO()
    reporter = MetricsReporter(telemetry, 3_600.0, output).start()
    telemetry.count("retries_total", 3)
    reporter.stop()
    assert "cellstate_retries_total.Count:3|" in output.getvalue()


def test_without_an_output_it_writes_to_standard_output(telemetry, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    telemetry.count("retries_total", 3)
    MetricsReporter(telemetry, 1.0).report()
    assert "cellstate_retries_total.Count:3|" in sys.stdout.getvalue()
