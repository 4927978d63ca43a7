"""Where the parts of a synthetic head are, and the colours of skin, lips and hair."""

import numpy as np

from jobs.synthetic.canvas import Pixels, Plane, spot
from jobs.synthetic.traits import Traits

EYE_X = 19.0


def egg(x: Plane, y: Plane, t: Traits) -> tuple[Plane, Plane, Plane]:
    """The head's own coordinates u, v and their radius, 1 on the outline; the jaw narrows downwards."""
    v = (y - 4) / (chin(t) - 4)
    taper = 1 - t.jaw * np.maximum(v, 0) ** 2
    u = (x + 3 * t.yaw) / (t.face_width * taper)
    return u, v, np.sqrt(u * u + v * v)


def chin(t: Traits) -> float:
    return t.face_height + 3 * t.pitch + 2 * max(t.mouth_open, 0)


def crown(t: Traits) -> float:
    """Height of the hair above the temples."""
    return 56 + 0.8 * t.hair_volume


def mouth_y(t: Traits) -> float:
    return 41.5 + 2 * t.pitch


def _part_x(t: Traits) -> float:
    return {"long": 0.6, "short": 0.2}.get(t.hair_style, 0.0) * t.parting


def hairline(t: Traits, x: Plane) -> Plane:
    """The row the hair comes down to, over the forehead and beside it."""
    if t.bangs:
        return -17 + 30 * np.maximum(np.abs(x) / t.face_width - 0.75, 0) + 1.5 * np.sin(x * 0.5)
    high = -55.0 if t.hair_style == "receding" else -43.0
    out = np.abs(x - _part_x(t)) / t.face_width
    down = 46.0 if t.hair_style == "long" else 34.0
    line = high + down * out**3
    if t.hair_style == "receding":
        line -= 8 * np.exp(-(((np.abs(x) - 24) / 9) ** 2))
    return line


def strands(t: Traits, x: Plane, y: Plane) -> Pixels:
    """The hair's colour (3, h, w): lit from the light's side, streaked, with a soft shine on the crown."""
    bend = (x - _part_x(t)) * (1 + 0.004 * (y + 40))
    bend = bend + t.wave * 5 * np.sin(y * 0.14 + t.parting)
    streak = np.sin(bend * 0.41) + 0.7 * np.sin(bend * 0.83 + t.hair_length)
    shine = spot(x, y, 34 * t.light[0], -46, 30, 11)
    tone = 0.88 + 0.045 * streak + 0.2 * t.light[0] * x / 60 - 0.0018 * (y + 40)
    hair: Pixels = t.hair[:, None, None] * tone + 0.16 * shine
    return hair


def skin(t: Traits, shade: Plane) -> Pixels:
    """Skin under `shade` (1 fully lit): shadows lose blue and green first, as light inside skin does."""
    shadow = t.skin * np.array([0.42, 0.3, 0.27], np.float32)
    skin: Pixels = shadow[:, None, None] + (t.skin - shadow)[:, None, None] * shade
    return skin


def lip_colour(t: Traits) -> Pixels:
    lip: Pixels = t.skin * np.array([0.84, 0.56, 0.54], np.float32)
    return lip


def gold() -> Pixels:
    return np.array([0.92, 0.8, 0.42], np.float32)
