"""Paint a synthetic face: soft-edged shapes, back to front, antialiased by their distance to the edge.

Coordinates are pixels of the 178x218 picture with the origin between the eyes, x to the right and y down,
so a drawing is aligned as CelebA's pictures are: the eyes at (70, 111) and (108, 111).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from jobs.synthetic.traits import Traits

WIDTH, HEIGHT = 178, 218
EYES_AT = (89.0, 111.0)
EYE_X = 19.0
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


def paint(traits: Traits) -> Pixels:
    """The face as (218, 178, 3) uint8."""
    canvas = Canvas(traits.roll)
    paint_background(canvas, traits)
    if traits.hair_style == "long":
        paint_back_hair(canvas, traits)
    paint_body(canvas, traits)
    paint_ears(canvas, traits)
    paint_head(canvas, traits)
    paint_cheeks(canvas, traits)
    if traits.beard != "none" or traits.sideburns:
        paint_beard(canvas, traits)
    paint_nose(canvas, traits)
    paint_mouth(canvas, traits)
    for side in (-1, 1):
        paint_eye(canvas, traits, side)
        paint_brow(canvas, traits, side)
    if traits.hair_style != "bald":
        paint_hair(canvas, traits)
    if traits.hat:
        paint_hat(canvas, traits)
    if traits.glasses:
        paint_glasses(canvas, traits)
    return _develop(canvas, traits)


def paint_background(canvas: Canvas, t: Traits) -> None:
    """A gradient between two colours with one soft light in it; upright whatever the head's roll."""
    x = np.arange(WIDTH, dtype=np.float32) - EYES_AT[0]
    y = np.arange(HEIGHT, dtype=np.float32)[:, None] - EYES_AT[1]
    along = math.cos(t.background_angle) * x + math.sin(t.background_angle) * y
    ramp = np.minimum(np.maximum(0.5 + along / 220, 0), 1)
    glow = t.glow[2] * np.exp(-(((x - t.glow[0]) / 45) ** 2)) * np.exp(-(((y - t.glow[1]) / 45) ** 2))
    low, high = t.background[:, :, None, None].astype(np.float32)
    np.multiply(ramp, high - low, out=canvas.pixels)
    canvas.pixels += low + glow


def paint_back_hair(canvas: Canvas, t: Traits) -> None:
    """Long hair behind face and neck: a capsule open downwards, its sides waved."""
    x, y = canvas.x, canvas.y
    half = t.face_width + t.hair_volume + 2
    sway = t.wave * 4 * np.sin(y / 7 + t.parting) * (y > -30)
    flare = np.clip(y + 20, 0, 60) * 0.1
    u = (x + 3 * t.yaw + sway) / (half + flare)
    v = np.minimum((y + 12) / _crown(t), 0)
    end = t.hair_length - 14 * np.clip(np.abs(u) - 0.5, 0, 0.5) ** 2 * 4
    alpha = _cover((np.sqrt(u * u + v * v) - 1) * half, 2.0) * _cover(y - end, 5.0)
    canvas.blend(_all(), alpha, _strands(t, x, y) * 0.8)


def paint_body(canvas: Canvas, t: Traits) -> None:
    """Neck in the chin's shadow, shoulders in clothes, and what is worn round the neck."""
    window = canvas.window(-89, 30, 89, 107)
    x, y = canvas.at(window)
    neck = (25 if t.male else 20) + np.maximum(y - 68, 0) * 0.25
    shade = np.clip((y - 48) / 50, 0.45, 0.85) * (1 - 0.25 * np.abs(x + 20 * t.light[0]) / 40)
    canvas.blend(window, _cover(np.abs(x) - neck, 1.5), _skin(t, shade))
    top = 84 + 30 * (x / 89) ** 2 - 10 * _cover(24 - np.abs(x), 8.0) * (not t.necklace)
    cloth = t.clothes[:, None, None] * (1 + 0.25 * t.light[0] * x / 89 - 0.15 * np.abs(x) / 89)
    collar = 86 + 12 * _cover(np.abs(x) - 22, 16.0)
    canvas.blend(window, _cover(np.maximum(top, collar) - y, 1.5), cloth)
    if t.necklace:
        chain = _cover(np.abs(y - (90 - (x / 11) ** 2)) - 1.3, 1.0) * _cover(np.abs(x) - 22, 2.0)
        canvas.blend(window, chain, np.array([0.92, 0.82, 0.45], np.float32))
    if t.necktie:
        tie = _cover(np.abs(x) - (3 + np.abs(y - 92) * 0.35), 1.0) * _cover(86 - y, 1.0)
        canvas.blend(window, tie, t.hat_colour * 0.7)


def paint_ears(canvas: Canvas, t: Traits) -> None:
    """Ears at both sides of the head; earrings hang from them."""
    for side in (-1, 1):
        centre = side * (t.face_width + 1) - 3 * t.yaw
        window = canvas.window(centre - 10, -10, centre + 10, 36)
        x, y = canvas.at(window)
        if t.hair_style != "long":
            away = _ellipse(x, y, centre, 8, 6.5, 13)
            shade = np.full_like(x, 0.62 + 0.25 * max(side * t.light[0], 0))
            canvas.blend(window, _cover(away, 1.2), _skin(t, shade))
            canvas.blend(window, 0.35 * _spot(x, y, centre, 8, 3, 7), t.skin * 0.5)
        if t.earrings:
            canvas.blend(window, _cover(_ellipse(x, y, centre, 27, 3, 5), 1.2), _gold())


def paint_head(canvas: Canvas, t: Traits) -> None:
    """The face: an egg lit as a rounded body, darker and redder away from the light."""
    window = canvas.window(-62, -66, 62, 84)
    x, y = canvas.at(window)
    u, v, r = _egg(x, y, t)
    lit = t.light[0] * u + t.light[1] * v + t.light[2] * np.sqrt(np.maximum(1 - 0.92 * r * r, 0))
    shade = np.clip(0.42 + 0.68 * lit, 0, 1.12)
    canvas.blend(window, _cover((r - 1) * t.face_width, 1.4), _skin(t, shade))
    if t.double_chin:
        chin = _chin(t)
        crease = _spot(x, y + (x / 11) ** 2, -3 * t.yaw, chin - 7, 18, 1.8)
        canvas.blend(window, 0.4 * crease, t.skin * 0.55)


def paint_cheeks(canvas: Canvas, t: Traits) -> None:
    """Blush, smile lines, eye sockets and the bags under the eyes."""
    window = canvas.window(-46, -22, 46, 58)
    x, y = canvas.at(window)
    blush = 0.5 if t.rosy else 0.22 if t.makeup else 0.1
    rose = np.array([0.86, 0.32, 0.3], np.float32) * (0.4 + 0.6 * t.skin[0])
    dark = t.skin * np.array([0.62, 0.52, 0.5], np.float32)
    for side in (-1, 1):
        canvas.blend(window, blush * _spot(x, y, side * 26 + 2 * t.yaw, 24, 10, 8), rose)
        canvas.blend(window, 0.3 * _spot(x, y, side * EYE_X, -4, 12, 7), dark)
        fold = x - side * (17 + (y - 26) * 0.28) - 4 * t.yaw
        depth = (0.12 if t.young else 0.3) + 0.2 * max(t.smile, 0)
        canvas.blend(window, depth * _spot(fold, y, 0, 34, 1.8, 9), dark)
        if t.bags:
            canvas.blend(window, 0.45 * _spot(x, y, side * EYE_X, 11, 9, 2.4), dark)


def paint_beard(canvas: Canvas, t: Traits) -> None:
    """Stubble, moustache, goatee, full beard or only sideburns, in the hair's colour."""
    window = canvas.window(-56, -12, 56, 82)
    x, y = canvas.at(window)
    _, _, r = _egg(x, y, t)
    mouth = _mouth_y(t)
    middle = 5 * t.yaw
    inside = _cover((r - 1.03) * t.face_width, 1.5)
    edge = mouth - 4 - 44 * (np.abs(x - middle) / t.face_width) ** 3
    jaw = _cover(edge - y, 5.0)
    moustache = _cover(_ellipse(x, y + np.abs(x - middle) * -0.15, middle, mouth - 9, 17, 4.6), 3.0)
    chin = _cover(_ellipse(x, y, middle - 2 * t.yaw, mouth + 19, 15, 12), 4.0)
    ring = _cover(np.abs(np.abs(x - middle) - 18) - 2.6, 2.0) * _cover(np.abs(y - mouth - 2) - 12, 3.0)
    burns = _cover(t.face_width * 0.89 - np.abs(x + 3 * t.yaw), 3.0) * _cover(y - 20, 6.0)
    parts = {
        "none": np.zeros_like(x),
        "mustache": moustache,
        "goatee": np.maximum(np.maximum(moustache, chin), ring),
        "stubble": 0.3 * np.maximum(jaw, moustache),
        "full": np.maximum(jaw, moustache),
    }
    hair = np.maximum(parts[t.beard], burns if t.sideburns else 0)
    canvas.blend(window, 0.9 * hair * inside, _strands(t, x, y) * 0.85)


def paint_nose(canvas: Canvas, t: Traits) -> None:
    """A lit bridge, a shadow on the far side, the tip, nostrils and the shadow below."""
    window = canvas.window(-24, -14, 24, 44)
    x, y = canvas.at(window)
    tip = 6 * t.yaw
    length, width = t.nose_length + 2 * t.pitch, t.nose_width
    lean = tip * np.clip(y / length, 0, 1)
    away = -1 if t.light[0] > 0 else 1
    dark, bright = t.skin * np.array([0.6, 0.47, 0.42], np.float32), np.minimum(t.skin * 1.18 + 0.04, 1)
    rise = np.clip((y + 10) / 26, 0, 1) * _cover(y - length, 6.0)
    ridge = np.exp(-(((x - lean) / 3) ** 2)) * rise
    flank = np.exp(-(((x - lean - away * (width * 0.75)) / 3.2) ** 2)) * rise
    canvas.blend(window, 0.42 * flank, dark)
    canvas.blend(window, 0.4 * ridge, bright)
    canvas.blend(window, 0.5 * _spot(x, y, tip, length + 3, width * 1.15, 2.6), dark)
    for side in (-1, 1):
        wing = np.abs(np.hypot(x - tip - side * width * 0.72, y - length + 2.5) - 4.2) - 0.3
        outer = _cover(-side * (x - tip - side * width * 0.8), 2.0)
        canvas.blend(window, 0.4 * _cover(wing, 2.2) * outer, dark)
        canvas.blend(window, 0.8 * _spot(x, y, tip + side * width * 0.48, length + 0.8, 2.1, 1.3), dark * 0.5)
    canvas.blend(window, 0.45 * _spot(x, y, tip + t.light[0] * 2, length - 4, 3.4, 3), bright)


def paint_mouth(canvas: Canvas, t: Traits) -> None:
    """Lips bent by the smile; where they part, teeth and the dark of the mouth."""
    window = canvas.window(-30, 22, 34, 66)
    x, y = canvas.at(window)
    centre, half = 5 * t.yaw, 15.5 + 4 * t.smile
    q = np.clip((x - centre) / half, -1, 1)
    arc = 1 - q * q
    line = _mouth_y(t) + 6 * t.smile * (arc - 0.6) + np.sin(arc * 3.1) * 0.8
    gap = t.mouth_open * (3.6 + 1.2 * max(t.smile, 0)) * arc
    upper = t.lip_thickness * 0.8 * arc * (1 - 0.3 * np.exp(-((q / 0.16) ** 2)))
    lower = t.lip_thickness * np.sqrt(arc)
    lip = t.lip_colour if t.lipstick else _lip_colour(t)
    away = np.maximum(line - gap - upper - y, y - line - gap - lower)
    ends = _cover(np.abs(x - centre) - half, 1.5)
    tone = (
        0.84 + 0.26 * np.exp(-(((y - line - gap - lower * 0.45) / 2.2) ** 2)) - 0.14 * (y < line).astype(np.float32)
    )
    canvas.blend(window, 0.3 * _spot(x, y, centre, _mouth_y(t) + t.lip_thickness + 5, 11, 2.6), t.skin * 0.55)
    canvas.blend(window, _cover(away, 1.3) * ends, lip[:, None, None] * tone)
    inside = _cover(np.abs(y - line) - gap - 0.25, 1.2) * ends
    canvas.blend(window, inside, np.array([0.24, 0.07, 0.08], np.float32))
    teeth = _cover(np.maximum(line - gap - y, y - line - gap * 0.35), 1.2) * _cover(np.abs(q) - 0.86, 0.12)
    canvas.blend(window, teeth * min(t.mouth_open * 4, 1), np.array([0.95, 0.93, 0.89], np.float32))


def paint_eye(canvas: Canvas, t: Traits, side: int) -> None:
    """An almond of white with iris, pupil and a spark, the upper lid's line, lashes and shadow."""
    centre = side * EYE_X
    window = canvas.window(centre - 17, -16, centre + 17, 12)
    x, y = canvas.at(window)
    half = t.eye_width * (1 - 0.1 * t.yaw * side)
    height = (t.eye_height + 0.5) * (1 - 0.18 * max(t.smile, 0))
    q = side * (x - centre) / half  # 1 at the outer corner
    arc = 1 - q * q
    upper, lower = -height * arc - q * 0.7, height * 0.68 * arc - q * 0.7
    if t.makeup:
        shadow = _spot(x, y, centre + side * 2, -height - 3, 10, 3.6)
        canvas.blend(window, 0.6 * shadow, t.lip_colour * 0.45)
    inside = _cover(np.maximum(upper - y, y - lower), 1.2)
    white = np.clip(0.93 + (y - 1) * 0.03, 0.72, 0.96) * np.ones((3, 1, 1), np.float32)
    canvas.blend(window, inside, white)
    gaze, drop = centre + t.gaze + t.yaw, -0.6
    away = np.hypot(x - gaze, y - drop)
    iris = t.iris[:, None, None] * (0.8 + 0.06 * away + 0.1 * (y - drop))
    iris = iris * (1 - 0.55 * _cover(4.0 - away, 1.2))
    canvas.blend(window, inside * _cover(away - 5.0, 1.2), iris)
    canvas.blend(window, inside * _cover(away - 2.3, 1.1), np.full(3, 0.05, np.float32))
    spark = _cover(np.hypot(x - gaze - 1.6 * np.sign(t.light[0]), y - drop + 1.8) - 1.1, 1.0)
    canvas.blend(window, inside * spark, np.ones(3, np.float32))
    lash = 1.6 if t.makeup else 0.7 if t.male else 1.1
    lid = _cover(np.abs(y - upper) - lash * (0.6 + 0.4 * q), 1.1) * _cover(np.abs(q) - 1.04, 0.12)
    canvas.blend(window, 0.9 * lid, t.skin * 0.18)
    crease = _cover(np.abs(y - upper + 3.4) - 0.3, 1.6) * _cover(np.abs(q) - 0.9, 0.3)
    under = _cover(np.abs(y - lower) - 0.2, 1.3) * _cover(np.abs(q) - 0.95, 0.2)
    canvas.blend(window, np.maximum(0.45 * crease, 0.4 * under), t.skin * 0.45)


def paint_brow(canvas: Canvas, t: Traits, side: int) -> None:
    """A tapered arc over the eye."""
    window = canvas.window(side * EYE_X - 18, -34, side * EYE_X + 18, -8)
    x, y = canvas.at(window)
    q = side * (x - side * (EYE_X + 0.5)) / 14.5
    middle = -15.0 - t.brow_arch * (1 - (q - 0.15) ** 2) - 1.5 * (1 - q) + 1.4 * t.pitch - max(t.smile, 0)
    thick = t.brow_thickness * (1 - 0.45 * np.clip(q, 0, 1)) * 1.1
    alpha = _cover(np.abs(y - middle) - thick, 1.6) * _cover(np.abs(q) - 1, 0.22)
    canvas.blend(window, 0.88 * alpha, np.minimum(t.hair, 0.72) * 0.62)


def paint_hair(canvas: Canvas, t: Traits) -> None:
    """The hair over the forehead and temples: the head's cap down to a hairline."""
    bottom = 40 if t.hair_style == "long" else 20
    window = canvas.window(-75, -111, 75, bottom)
    x, y = canvas.at(window)
    half = t.face_width + t.hair_volume * (0.8 if t.hair_style == "long" else 0.45)
    bumps = 0.035 * t.wave * np.sin(x * 0.33 + t.parting) * np.sin(y * 0.33 + t.parting)
    u, v = (x + 3 * t.yaw) / half, np.minimum((y + 12) / _crown(t), 0)
    cap = _cover((np.sqrt(u * u + v * v) - 1 + bumps) * half, 2.0)
    over = _cover(y - _hairline(t, x), 3.0)
    end = _cover(y - (bottom if t.hair_style == "long" else t.hair_length), 6.0)
    forehead = 0.3 * _cover(y - _hairline(t, x) - 4, 7.0) * _cover(np.abs(x) - t.face_width + 6, 6.0)
    canvas.blend(window, forehead * cap, t.skin * 0.5)
    canvas.blend(window, cap * over * end, _strands(t, x, y))


def paint_hat(canvas: Canvas, t: Traits) -> None:
    """A knitted hat down to the brows' height."""
    window = canvas.window(-75, -111, 75, -20)
    x, y = canvas.at(window)
    half = t.face_width + 9
    u, v = (x + 3 * t.yaw) / half, np.minimum((y + 22) / (_crown(t) - 2), 0)
    cap = _cover((np.sqrt(u * u + v * v) - 1) * half, 1.6) * _cover(y + 27 - (x / 26) ** 2, 1.6)
    tone = 0.95 + 0.3 * (t.light[0] * u - t.light[1] * -v) - 0.2 * _cover(np.abs(y + 40) - 0.4, 2.0)
    canvas.blend(window, cap, t.hat_colour[:, None, None] * tone)


def paint_glasses(canvas: Canvas, t: Traits) -> None:
    """Two frames, round or square, a bridge and temples, with a faint shine on the glass."""
    window = canvas.window(-54, -16, 54, 20)
    x, y = canvas.at(window)
    q, row = np.abs(x) - (EYE_X + 0.5), y - 1
    if t.glasses_round:
        away = np.hypot(q, row) - 14
    else:
        away = np.hypot(np.maximum(np.abs(q) - 10, 0), np.maximum(np.abs(row) - 6, 0)) - 5
    frame = _cover(np.abs(away) - 1.0, 1.2)
    rod = _cover(np.abs(row + 3) - 0.9, 1.2) * _cover(np.abs(x) - t.face_width, 1.5)
    bars = rod * np.maximum(_cover(15 - q, 1.0), _cover(q + 13.5, 1.0))
    canvas.blend(window, 0.12 * _cover(away, 1.5), np.ones(3, np.float32))
    canvas.blend(window, np.maximum(frame, bars), t.hat_colour * 0.35)


def _develop(canvas: Canvas, t: Traits) -> Pixels:
    """Exposure and white balance, then bytes; a blurry picture loses its edges."""
    balance = np.array([1 + t.warmth, 1, 1 - t.warmth], np.float32) * (255 * t.exposure)
    pixels = canvas.pixels * balance[:, None, None]
    pixels += 0.5
    np.minimum(np.maximum(pixels, 0, out=pixels), 255, out=pixels)
    picture = np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))
    if t.blurry:
        picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2.5)))
    return picture


def _all() -> Window:
    return slice(None), slice(None)


def _cover(distance: Plane, softness: float) -> Plane:
    """Opacity of a shape from the signed distance to its edge (negative inside), `softness` pixels wide."""
    ramp = distance * (-0.5 / softness)
    ramp += 0.5
    np.minimum(np.maximum(ramp, 0, out=ramp), 1, out=ramp)
    eased: Plane = ramp * ramp * (3 - 2 * ramp)
    return eased


def _spot(x: Plane, y: Plane, centre_x: Scalar, centre_y: Scalar, width: Scalar, height: Scalar) -> Plane:
    """A Gaussian spot, 1 in its middle."""
    u, v = (x - centre_x) / width, (y - centre_y) / height
    spot: Plane = np.exp(-(u * u + v * v))
    return spot


def _ellipse(x: Plane, y: Plane, centre_x: Scalar, centre_y: Scalar, width: Scalar, height: Scalar) -> Plane:
    """Signed distance to an ellipse, about right near its edge."""
    u, v = (x - centre_x) / width, (y - centre_y) / height
    away: Plane = (np.sqrt(u * u + v * v) - 1) * min(width, height)
    return away


def _egg(x: Plane, y: Plane, t: Traits) -> tuple[Plane, Plane, Plane]:
    """The head's own coordinates u, v and their radius, 1 on the outline; the jaw narrows downwards."""
    v = (y - 4) / (_chin(t) - 4)
    taper = 1 - t.jaw * np.maximum(v, 0) ** 2
    u = (x + 3 * t.yaw) / (t.face_width * taper)
    return u, v, np.sqrt(u * u + v * v)


def _chin(t: Traits) -> float:
    return t.face_height + 3 * t.pitch + 2 * max(t.mouth_open, 0)


def _crown(t: Traits) -> float:
    """Height of the hair above the temples."""
    return 56 + 0.8 * t.hair_volume


def _mouth_y(t: Traits) -> float:
    return 41.5 + 2 * t.pitch


def _part_x(t: Traits) -> float:
    return {"long": 0.6, "short": 0.2}.get(t.hair_style, 0.0) * t.parting


def _hairline(t: Traits, x: Plane) -> Plane:
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


def _strands(t: Traits, x: Plane, y: Plane) -> Pixels:
    """The hair's colour (3, h, w): lit from the light's side, streaked, with a soft shine on the crown."""
    bend = (x - _part_x(t)) * (1 + 0.004 * (y + 40))
    bend = bend + t.wave * 5 * np.sin(y * 0.14 + t.parting)
    streak = np.sin(bend * 0.41) + 0.7 * np.sin(bend * 0.83 + t.hair_length)
    shine = _spot(x, y, 34 * t.light[0], -46, 30, 11)
    tone = 0.88 + 0.045 * streak + 0.2 * t.light[0] * x / 60 - 0.0018 * (y + 40)
    hair: Pixels = t.hair[:, None, None] * tone + 0.16 * shine
    return hair


def _skin(t: Traits, shade: Plane) -> Pixels:
    """Skin under `shade` (1 fully lit): shadows lose blue and green first, as light inside skin does."""
    shadow = t.skin * np.array([0.42, 0.3, 0.27], np.float32)
    skin: Pixels = shadow[:, None, None] + (t.skin - shadow)[:, None, None] * shade
    return skin


def _lip_colour(t: Traits) -> Pixels:
    lip: Pixels = t.skin * np.array([0.84, 0.56, 0.54], np.float32)
    return lip


def _gold() -> Pixels:
    return np.array([0.92, 0.8, 0.42], np.float32)
