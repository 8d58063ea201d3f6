"""Report metrics to TorchServe, which parses them from lines of the worker's standard output and adds up those of several workers."""

import logging
import socket
import sys
import time
from threading import Event, Thread
from typing import TextIO

from handlers.metrics import Sample, Telemetry

log = logging.getLogger("cellstate")


class MetricsReporter:
    """Write what `telemetry` counted to `output`, or to standard output, every `interval` seconds from a daemon thread."""

    def __init__(self, telemetry: Telemetry, interval: float, output: TextIO | None = None) -> None:
        self._telemetry, self._interval, self._output = telemetry, interval, output
        self._hostname = socket.gethostname()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="metrics-reporter", daemon=True)

    def start(self) -> "MetricsReporter":
        self._thread.start()
        return self

    def stop(self) -> None:
        """Report once more and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._report_safely()
        self._report_safely()

    def _report_safely(self) -> None:
        """Report, and log any failure: an exception would end the thread, and the metrics would stand still unnoticed."""
        try:
            self.report()
        except Exception:
            log.exception("metrics_report_failed; it is tried again in %g s", self._interval)

    def report(self) -> None:
        """Write one line for each sample. Few lines now and then: TorchServe parses each."""
        output = self._output or sys.stdout
        output.write("".join(format_line(sample, self._hostname) for sample in self._telemetry.take()))
        output.flush()


def format_line(sample: Sample, hostname: str) -> str:
    """Format one sample as `ts.metrics` does. TorchServe's pattern for a number knows no `+` in an exponent, so none is used."""
    metric, value = sample.metric, f"{sample.value:.9f}".rstrip("0").rstrip(".")
    labels = ",".join(f"{name}:{label}" for name, label in sample.labels.items())
    return f"[METRICS]{sample.name}.{metric.unit}:{value}|#{labels}|#type:{metric.kind.name}|#hostname:{hostname},{int(time.time())}\n"
