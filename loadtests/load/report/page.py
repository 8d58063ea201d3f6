"""Write the report page: verdict first, then what was unusual, the charts, the numbers of each kind of request, and the configuration."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtests.load.measurements import Second, percentile
from loadtests.load.report.charts import Axis, Band, Chart, Series, svg
from loadtests.load.result import PERCENTILES, Result, summary

STYLE = Path(__file__).with_name("style.css")
NINES = (0, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)
MEANING = {
    "passed": "Every objective was kept.",
    "failed": "At least one objective was not kept.",
    "not measured": "The load generator was the limit, so the times say nothing of the deployment.",
}


def write_report(result: Result, path: Path, capacity: str = "") -> None:
    """Write the page. `capacity` is the answer of a capacity search, of which the result is the confirmation."""
    path.write_text(page(result, capacity))


def page(result: Result, capacity: str = "") -> str:
    """Return the page as one self-contained HTML document."""
    title = f"Load test of {result.about.get('model', 'a model')} {result.about.get('version', '')}"
    sections = [_verdict(result, title, capacity), _objectives(result), _findings(result), *_charts(result), _kinds(result), _about(result)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}: {result.verdict}</title>'
    body = "".join(sections)
    return f'<!doctype html><html lang="en"><head>{head}<style>{STYLE.read_text()}</style></head><body><main>{body}</main></body></html>'


def _verdict(result: Result, title: str, capacity: str) -> str:
    total = result.measurements.total()
    tiles = [
        (f"{total.answered / result.seconds:,.0f}", "answered a second"),
        (_milliseconds(percentile(total.latencies, 50)), "median latency"),
        (_milliseconds(percentile(total.latencies, 99)), "99 % within"),
        (_milliseconds(percentile(total.latencies, 99.99)), "99.99 % within"),
        (f"{total.failed:,}", "failed attempts"),
        (f"{total.wrong:,}", "wrong answers"),
    ]
    shown = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
    limits = "".join(f"<p>{escape(limit)}</p>" for limit in result.limits)
    answer = f"<p class=capacity>{escape(capacity)}</p>" if capacity else ""
    kind = result.verdict.replace(" ", "-")
    mark = {"passed": "✓", "failed": "✗"}.get(result.verdict, "?")
    verdict = f'<p class="verdict {kind}"><b>{mark} {result.verdict}</b> {MEANING[result.verdict]}</p>'
    return f"<h1>{escape(title)}</h1>{verdict}{answer}{limits}<div class=tiles>{shown}</div>"


def _milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1e3:,.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:,.1f} ms"


def _objectives(result: Result) -> str:
    rows = [
        [
            o.objective.kind,
            o.objective.measure,
            f"{'≥' if o.objective.at_least else '≤'} {o.objective.bound:,g}",
            f"{o.measured:,.0f}" if o.measured >= 1000 else f"{o.measured:,.4g}",
            "✓ kept" if o.kept else "✗ not kept",
        ]
        for o in result.outcomes
    ]
    missing = f"<p>Never asked: {escape(', '.join(result.missing))}</p>" if result.missing else ""
    return "<h2>Objectives</h2>" + _table(["requests", "measure", "bound", "measured", ""], rows) + missing


def _findings(result: Result) -> str:
    events = [f"<li><b>fault</b> {escape(e.what)}, from second {e.at:.1f} to {e.until:.1f}</li>" for e in result.events]
    events += [f"<li><b>under faults</b> {result.integrity()}</li>"] if events else []
    items = [f"<li><b>{escape(f.name)}</b> {escape(f.sentence)}</li>" for f in result.findings]
    nothing = "<li>Nothing: no wrong answer, no failed request, no stall, no growing latency.</li>"
    return f"<h2>What was unusual</h2><ul class=findings>{''.join([*events, *items]) or nothing}</ul>"


def _charts(result: Result) -> Iterable[str]:
    seconds = [(at, result.measurements.seconds[at]) for at in sorted(result.measurements.seconds)]
    bands = [Band(event.at, event.until, event.what) for event in result.events]
    if result.measurements.warm_up:
        bands.insert(0, Band(0.0, result.measurements.warm_up, "warm-up"))
    time = Axis("seconds since the start", low=0.0, high=float(max((at for at, _ in seconds), default=0) + 1))
    yield "<h2>Over time</h2>"
    answered = [(at, second) for at, second in seconds if second.answered]
    lines = [Series(name, [(at + 0.5, percentile(s.latencies, p)) for at, s in answered], gap=1.5) for name, p in _OVER_TIME.items()]
    yield svg(Chart("Latency of each second's requests", time, Axis("ms, log scale", log=True), lines, bands, _LATENCY_NOTE))
    rates = [Series("answered", _points(seconds, lambda s: s.answered)), Series("offered", _points(seconds, lambda s: s.due))]
    yield svg(Chart("Requests a second", time, Axis("requests / s"), [s for s in rates if any(y for _, y in s.points)], bands))
    bad = [Series("failed attempts", _points(seconds, lambda s: s.failed)), Series("wrong answers", _points(seconds, lambda s: s.wrong))]
    if any(y for series in bad for _, y in series.points):
        yield svg(Chart("Failed attempts and wrong answers a second", time, Axis("a second"), bad, bands))
    yield "<h2>Latency by percentile</h2>"
    yield svg(_distribution(result))
    yield from _server(result.server, time, bands)


_OVER_TIME = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "maximum": 100.0}
_LATENCY_NOTE = "With an open loop a latency counts from the moment a request was due, so waiting behind a stalled server is part of it."


def _points(seconds: Sequence[tuple[int, Second]], of: Any) -> list[tuple[float, float]]:
    return [(at + 0.5, float(of(second))) for at, second in seconds]


def _distribution(result: Result) -> Chart:
    """Return the latency by percentile, with an axis on which each further nine takes the same room."""
    kinds = sorted(result.measurements.kinds.items(), key=lambda item: -item[1].answered)[:4]
    chosen = [("all requests", result.measurements.total()), *(kinds if len(kinds) > 1 else [])]
    series = [Series(name, [(1 / (1 - p / 100), percentile(kind.latencies, p)) for p in NINES]) for name, kind in chosen]
    ticks = [(1 / (1 - p / 100), f"{p:g} %") for p in (0, 50, 90, 99, 99.9, 99.99)]
    x = Axis("share of the requests that were answered within", log=True, ticks=ticks, low=1.0, high=10_000.0)
    return Chart("Latency by percentile", x, Axis("ms, log scale", log=True), series)


def _server(samples: Sequence[Mapping[str, Any]], time: Axis, bands: Sequence[Band]) -> Iterable[str]:
    """Yield what the server itself said meanwhile: rates from its counters, its sessions, and where its workers' time went."""
    if len(samples) < 2:
        return
    yield "<h2>What the server said</h2>"
    rates = [Series(name, _rates(samples, name)) for name in ("steps", "requests")]
    if not any(series.points for series in rates):
        yield "<p class=note>The server's counters moved fewer than two times: the run was too short for rates.</p>"
        return
    yield svg(Chart("Applied steps and requests a second, by the server's counters", time, Axis("a second"), rates, bands, _SERVER_NOTE))
    stages = sorted({name for sample in samples for name in sample if name.startswith("stage ")})
    work = [Series(name.removeprefix("stage "), _rates(samples, name)) for name in stages]
    yield svg(Chart("Work of all workers by stage", time, Axis("seconds of work a second"), work, bands))
    sessions = [(sample["at"], sample["sessions"]) for sample in samples if "sessions" in sample]
    yield svg(Chart("Live sessions in the store", time, Axis("sessions"), [Series("live", sessions)], bands))


_SERVER_NOTE = "Workers report every few seconds, so the server's numbers move in steps."


def _rates(samples: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return the rate of a counter between samples in which it moved: workers report now and then."""
    moved = [sample for sample in samples if name in sample]
    kept = moved[:1]
    for sample in moved[1:]:
        if sample[name] != kept[-1][name]:
            kept.append(sample)
    return [((a["at"] + b["at"]) / 2, max(0.0, b[name] - a[name]) / (b["at"] - a["at"])) for a, b in pairwise(kept) if b["at"] > a["at"]]


def _kinds(result: Result) -> str:
    kinds = {**dict(sorted(result.measurements.kinds.items())), "all requests": result.measurements.total()}
    rows = []
    for name, kind in kinds.items():
        numbers = summary(kind, result.seconds)
        times = [f"{numbers['ms'][f'p{p:g}']:,.1f}" for p in PERCENTILES]
        rows.append([name, f"{kind.answered:,}", f"{numbers['per_second']:,.1f}", f"{kind.failed:,}", f"{kind.wrong:,}", *times])
    head = ["requests", "answered", "a second", "failed", "wrong", *(f"p{p:g}" if p < 100 else "max" for p in PERCENTILES)]
    return "<h2>Every kind of request</h2><p class=note>Latencies in milliseconds, warm-up excluded.</p>" + _table(head, rows)


def _about(result: Result) -> str:
    about = result.about
    m = result.measurements
    rows = [[name, str(about[name])] for name in ("model", "version", "digest", "url", "session_store") if about.get(name)]
    rows.append(["parity", f"largest difference {m.largest_difference:.2e}, allowed {about.get('tolerance', 0):.0e} (scaled)"])
    rows += [[name, str(value)] for name, value in {**about.get("plan", {}), **about.get("machine", {})}.items() if value != ""]
    late = f"p99 {percentile(m.lateness, 99):.2f} ms" if m.lateness.get_total_count() else "not an open loop"
    busiest = max(m.processor.values(), default=0.0)
    rows.append(["generator", f"lateness {late}; busiest process {busiest:.0%} of a core; {m.connections:,} connections in use at most"])
    return "<h2>Deployment, configuration, machine</h2>" + _table([], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table>{top}<tbody>{body}</tbody></table></div>"
