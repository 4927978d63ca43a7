"""The picture that a synthetic face is painted on, and soft-edged shapes by their distance to the edge.

Coordinates are pixels of the 178x218 picture with the origin between the eyes, x to the right and y down,
so a drawing is aligned as CelebA's pictures are: the eyes at (70, 111) and (108, 111).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 178, 218
EYES_AT = (89.0, 111.0)
_MARGIN = 8  # a window is given upright; the head's roll may move its content by this much

Scalar = float | np.floating[Any]
Pixels = NDArray[Any]  # (3,) or (3, h, w) float32
Plane = NDArray[Any]  # (h, w) float32
Window = tuple[slice, slice]


class Canvas:
    """Pixels (3, HEIGHT, WIDTH) float32 in 0..1, and the head's coordinates at each of them."""

    def __init__(self, roll: float) -> None:
        columns = np.arange(WIDTH, dtype=np.float32) - EYES_AT[0]
        rows = (np.arange(HEIGHT, dtype=np.float32) - EYES_AT[1])[:, None]
        cos, sin = math.cos(roll), math.sin(roll)
        self.x = cos * columns + sin * rows
        self.y = cos * rows - sin * columns
        self.pixels = np.zeros((3, HEIGHT, WIDTH), np.float32)

    def window(self, left: float, top: float, right: float, bottom: float) -> Window:
        """The part of the picture that holds this box of head coordinates, at any roll drawn here."""
        x, y = EYES_AT
        columns = slice(max(int(x + left) - _MARGIN, 0), max(int(x + right) + _MARGIN, 0))
        return slice(max(int(y + top) - _MARGIN, 0), max(int(y + bottom) + _MARGIN, 0)), columns

    def at(self, window: Window) -> tuple[Plane, Plane]:
        """Head coordinates x, y of a window."""
        return self.x[window], self.y[window]

    def blend(self, window: Window, alpha: Plane, colour: Pixels) -> None:
        """Lay `colour`, (3,) or (3, h, w), over a window with opacity `alpha` (h, w)."""
        under = self.pixels[:, *window]
        layer = colour[:, None, None] if colour.ndim == 1 else colour
        step = layer - under
        step *= alpha
        under += step


def whole() -> Window:
    return slice(None), slice(None)


def cover(distance: Plane, softness: float) -> Plane:
    """Opacity of a shape from the signed distance to its edge (negative inside), `softness` pixels wide."""
    ramp = distance * (-0.5 / softness)
    ramp += 0.5
    np.minimum(np.maximum(ramp, 0, out=ramp), 1, out=ramp)
    eased: Plane = ramp * ramp * (3 - 2 * ramp)
    return eased


def spot(x: Plane, y: Plane, centre_x: Scalar, centre_y: Scalar, width: Scalar, height: Scalar) -> Plane:
    """A Gaussian spot, 1 in its middle."""
    u, v = (x - centre_x) / width, (y - centre_y) / height
    spot: Plane = np.exp(-(u * u + v * v))
    return spot


def ellipse(x: Plane, y: Plane, centre_x: Scalar, centre_y: Scalar, width: Scalar, height: Scalar) -> Plane:
    """Signed distance to an ellipse, about right near its edge."""
    u, v = (x - centre_x) / width, (y - centre_y) / height
    away: Plane = (np.sqrt(u * u + v * v) - 1) * min(width, height)
    return away
