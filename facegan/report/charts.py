"""Line charts as inline SVG: no script, no font, no network; colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28
MOST_POINTS = 600  # more cannot be told apart, and the page has to stay small
COLOURS = 8  # classes c0 .. c7 of the style sheet

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: its label, its points by rising x, and which colour and dash of the style sheet it has."""

    label: str
    points: Sequence[Point]
    colour: int = 0
    dash: int = 0


def line_chart(series: Sequence[Series], x_label: str) -> str:
    """The series as one `<svg>` with a legend below; empty where no series has two finite points.

    Labels are escaped. The y axis spans all values but the most extreme 1 % at each end, so that one
    outlier does not flatten the rest.
    """
    drawn = [Series(s.label, thin(_finite(s.points)), s.colour, s.dash) for s in series]
    drawn = [s for s in drawn if len(s.points) > 1]
    if not drawn:
        return ""
    frame = Frame.around(drawn)
    lines = "".join(_polyline(s, frame) for s in drawn)
    label = escape(", ".join(s.label for s in drawn))
    legend = "".join(f'<span class="c{s.colour % COLOURS}">{escape(s.label)}</span>' for s in drawn)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label} over {escape(x_label)}">'
        f"{_axes(frame, x_label)}{lines}</svg>"
        f'<div class="legend">{legend}</div>'
    )


@dataclass(frozen=True)
class Frame:
    """The values that the chart's corners stand for."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def around(cls, series: Sequence[Series]) -> "Frame":
        """The frame that holds the series."""
        xs = [x for s in series for x, _ in s.points]
        ys = sorted(y for s in series for _, y in s.points)
        cut = len(ys) // 100
        low, high = ys[cut], ys[-1 - cut]
        margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(min(xs), max(xs), low - margin, high + margin)

    def place(self, x: float, y: float) -> Point:
        """Where (x, y) lies in the picture, in its units; beyond the frame it stays at the edge."""
        across = (x - self.x0) / ((self.x1 - self.x0) or 1)
        up = min(max((y - self.y0) / (self.y1 - self.y0), 0), 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    kept: list[Point] = []
    for k in range(stretches):
        stretch = points[len(points) * k // stretches : len(points) * (k + 1) // stretches]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) between low and high."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _polyline(series: Series, frame: Frame) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*p) for p in series.points))
    return f'<polyline class="c{series.colour % COLOURS} d{series.dash % 3}" points="{points}"/>'


def _axes(frame: Frame, x_label: str) -> str:
    marks = []
    for value in ticks(frame.y0, frame.y1):
        _, y = frame.place(frame.x0, value)
        marks.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    right, below = WIDTH - RIGHT, HEIGHT - BOTTOM + 16
    for value in ticks(frame.x0, frame.x1):
        x, _ = frame.place(value, frame.y0)
        if x < right - 40:  # the unit stands there
            marks.append(f'<text x="{x:.1f}" y="{below}" text-anchor="middle">{value:.6g}</text>')
    marks.append(f'<text class="unit" x="{right}" y="{below}" text-anchor="end">{escape(x_label)}</text>')
    return "".join(marks)
