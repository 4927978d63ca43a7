"""Line charts: as inline SVG in the page, whose style sheet colours them, and as a picture for a file.

Neither needs a script, a font or a network; both come from the same frame, ticks and thinned lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28
MOST_POINTS = 600  # more cannot be told apart, and the page has to stay small
# Classes c0 .. c7 of the style sheet, here as in its light form.
COLOURS = ("#2563eb", "#e8590c", "#0f9d58", "#b5179e", "#c92a2a", "#0891b2", "#7c6f00", "#6741d9")
INK, SOFT, LINE = "#1d2129", "#667085", "#e3e6eb"
SCALE = 2  # pixels of the picture to a unit of the chart

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: its label, its points by rising x, and which colour of the style sheet it has."""

    label: str
    points: Sequence[Point]
    colour: int = 0


def line_chart(series: Sequence[Series], x_label: str) -> str:
    """The series as one `<svg>` with a legend below; empty where no series has two finite points.

    Labels are escaped. The y axis spans all values but the most extreme 1 % at each end, so that one
    outlier does not flatten the rest.
    """
    drawn = _drawable(series)
    if not drawn:
        return ""
    frame = Frame.around(drawn)
    lines = "".join(_polyline(s, frame) for s in drawn)
    label = escape(", ".join(s.label for s in drawn))
    legend = "".join(f'<span class="c{s.colour % len(COLOURS)}">{escape(s.label)}</span>' for s in drawn)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label} over {escape(x_label)}">'
        f"{_axes(frame, x_label)}{lines}</svg>"
        f'<div class="legend">{legend}</div>'
    )


def picture(title: str, series: Sequence[Series], x_label: str) -> Image.Image | None:
    """The same chart under its title, with its legend, as a picture; None where no series has a finite point."""
    drawn = _drawable(series, least=1)
    if not drawn:
        return None
    frame, top, font = Frame.around(drawn), 24, ImageFont.load_default(11 * SCALE)
    sheet = Image.new("RGB", (WIDTH * SCALE, (top + HEIGHT + 20 * len(drawn)) * SCALE), "white")
    draw = ImageDraw.Draw(sheet)

    def at(x: float, y: float) -> Point:
        return x * SCALE, (top + y) * SCALE

    draw.text(at(LEFT, -20), title, INK, ImageFont.load_default(14 * SCALE))
    for value in ticks(frame.y0, frame.y1):
        _, y = frame.place(frame.x0, value)
        draw.line([at(LEFT, y), at(WIDTH - RIGHT, y)], LINE, SCALE)
        draw.text(at(LEFT - 6, y), f"{value:.6g}", SOFT, font, anchor="rm")
    for value in ticks(frame.x0, frame.x1):
        draw.text(
            at(frame.place(value, frame.y0)[0], HEIGHT - BOTTOM + 12), f"{value:.6g}", SOFT, font, anchor="mm"
        )
    draw.text(at(WIDTH - RIGHT, HEIGHT - 2), x_label, SOFT, font, anchor="rm")
    for k, s in enumerate(drawn):
        colour, y = COLOURS[s.colour % len(COLOURS)], HEIGHT + 8 + 20 * k
        points = [at(*frame.place(*point)) for point in s.points]
        draw.line(points, colour, 3, joint="curve")
        if len(points) == 1:
            draw.circle(points[0], 3 * SCALE, colour)
        draw.line([at(LEFT, y), at(LEFT + 14, y)], colour, 3 * SCALE)
        draw.text(at(LEFT + 20, y), s.label, INK, font, anchor="lm")
    return sheet


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


def _drawable(series: Sequence[Series], least: int = 2) -> list[Series]:
    """The series with at least so many finite points, thinned."""
    kept = []
    for s in series:
        points = [(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)]
        if len(points) >= least:
            kept.append(Series(s.label, thin(points), s.colour))
    return kept


def _polyline(series: Series, frame: Frame) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (frame.place(*p) for p in series.points))
    return f'<polyline class="c{series.colour % len(COLOURS)}" points="{points}"/>'


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
