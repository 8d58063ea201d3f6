"""Scrape a server's metrics during a run, to stand beside what its clients saw."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import httpx

LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>[-+\w.]+)")
STAGE = re.compile(r'stage="(\w+)"')
COUNTERS = {
    "cellstate_steps_applied_total": "steps",
    "cellstate_steps_replayed_total": "replayed",
    "cellstate_requests_total": "requests",
    "cellstate_commit_conflicts_total": "conflicts",
    "cellstate_store_errors_total": "store errors",
    "cellstate_batch_rows_sum": "rows",
    "cellstate_batch_rows_count": "batches",
    "ts_queue_latency_microseconds": "queue",
    "ts_inference_requests_total": "torchserve requests",
}


def parse(text: str) -> dict[str, float]:
    """Return the sums over workers and models of what a report shows: counters by their short names, and seconds by stage."""
    found: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        name, labels = match["name"], match["labels"] or ""
        if name in COUNTERS:
            found[COUNTERS[name]] += float(match["value"])
        elif name == "cellstate_stage_seconds_sum" and (stage := STAGE.search(labels)):
            found[f"stage {stage[1]}"] += float(match["value"])
        elif name == "cellstate_sessions" and 'phase="live"' in labels:
            found["sessions"] = max(found["sessions"], float(match["value"]))
    return dict(found)


class Scraper:
    """Takes samples of one server's metrics. `headers` hold an API key with the scope `operate`."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, headers
        self.samples: list[dict[str, Any]] = []

    def sample(self, at: float) -> None:
        """Take a sample `at` seconds after the start of the load. A server that does not answer gives none."""
        if not self._url:
            return
        try:
            response = httpx.get(self._url, headers=self._headers, timeout=2.0)
        except httpx.HTTPError:
            return
        if response.status_code == 200 and (metrics := parse(response.text)):
            self.samples.append({"at": at, **metrics})


def stages(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of work a second that each stage took over a run, busiest first."""
    if len(samples) < 2:
        return {}
    first, last = samples[0], samples[-1]
    length = max(1e-9, last["at"] - first["at"])
    shares = {name.removeprefix("stage "): (last[name] - first.get(name, 0.0)) / length for name in last if name.startswith("stage ")}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))
