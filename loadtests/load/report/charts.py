"""Draw line charts as inline SVG, coloured by the page's style sheet, so that they follow its light and dark colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 14, 40
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line. Its colour is that of its place in the chart; it is broken where two points lie further apart than `gap`."""

    name: str
    points: Sequence[Point]
    gap: float = math.inf


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the horizontal axis in which something happened."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Axis:
    """One axis: its title, scale and the ticks to draw; ticks are chosen where none are given."""

    title: str
    log: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """A line chart with a title that says what is to be seen."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    bands: Sequence[Band] = field(default=())
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) for v in (self.low, self.high, max(value, self.low))) if self.log else (self.low, self.high, value)
        share = (at - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def svg(chart: Chart) -> str:
    """Return a chart as a `figure` element; a chart without points as an empty string."""
    points = [point for series in chart.series for point in series.points]
    if not points:
        return ""
    x = _scale(chart.x, [p[0] for p in points], LEFT, WIDTH - RIGHT)
    y = _scale(chart.y, [p[1] for p in points], HEIGHT - BOTTOM, TOP)
    parts = [_grid(chart, x, y), *(_band(band, x) for band in chart.bands), *(_line(i, s, x, y) for i, s in enumerate(chart.series))]
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">{"".join(parts)}</svg>'
    legend = "".join(f'<li><i class="key s{i}"></i>{escape(series.name)}</li>' for i, series in enumerate(chart.series))
    note = f"<p class=note>{escape(chart.note)}</p>" if chart.note else ""
    return f"<figure><figcaption>{escape(chart.title)}</figcaption><ul class=legend>{legend}</ul>{drawing}{note}</figure>"


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    low = axis.low if axis.low is not None else min(values) if axis.log else 0.0
    high = axis.high if axis.high is not None else max(values)
    if axis.log:
        low = 10 ** math.floor(math.log10(max(low, 1e-3)))
        high = max(10 ** math.ceil(math.log10(max(high, low * 1.01))), low * 10)
    return Scale(low, high if high > low else low + 1.0, start, end, axis.log)


def _ticks(axis: Axis, scale: Scale) -> list[tuple[float, str]]:
    if axis.ticks:
        return list(axis.ticks)
    if axis.log:
        decades = range(round(math.log10(scale.low)), round(math.log10(scale.high)) + 1)
        return [(10.0**decade, f"{10.0**decade:,g}") for decade in decades]
    size = (scale.high - scale.low) / 5
    unit = 10 ** math.floor(math.log10(size))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= size)
    return [(i * step, f"{i * step:,g}") for i in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]


def _grid(chart: Chart, x: Scale, y: Scale) -> str:
    lines = [f"<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1={y(v):.1f} y2={y(v):.1f} />" for v, _ in _ticks(chart.y, y)]
    lines += [f"<text x={LEFT - 8} y={y(v) + 4:.1f} class=left>{text}</text>" for v, text in _ticks(chart.y, y)]
    lines += [f"<text x={x(v):.1f} y={HEIGHT - BOTTOM + 16} class=middle>{t}</text>" for v, t in _ticks(chart.x, x)]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    lines.append(f"<text x={(LEFT + WIDTH - RIGHT) / 2} y={HEIGHT - 6} class='middle title'>{escape(chart.x.title)}</text>")
    lines.append(f"<text transform='translate(12 {middle}) rotate(-90)' class='middle title'>{escape(chart.y.title)}</text>")
    return "".join(lines)


def _band(band: Band, x: Scale) -> str:
    start, width = x(band.start), max(2.0, x(band.end) - x(band.start))
    label = escape(band.label)
    text = f"<text x={start + 3:.1f} y={TOP + 10} class=band>{label}</text>"
    return f"<rect class=band x={start:.1f} width={width:.1f} y={TOP} height={HEIGHT - TOP - BOTTOM}><title>{label}</title></rect>{text}"


def _line(place: int, series: Series, x: Scale, y: Scale) -> str:
    title = f"<title>{escape(series.name)}</title>"
    parts = [" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in part) for part in _unbroken(series)]
    return "".join(f'<polyline class="s{place}" points="{points}">{title}</polyline>' for points in parts)


def _unbroken(series: Series) -> list[list[Point]]:
    """Return the stretches of a series without a gap. A point alone is drawn as a short dash."""
    parts: list[list[Point]] = []
    for point in series.points:
        if parts and point[0] - parts[-1][-1][0] <= series.gap:
            parts[-1].append(point)
        else:
            parts.append([point])
    return [part if len(part) > 1 else [part[0], (part[0][0] + 0.2, part[0][1])] for part in parts]
