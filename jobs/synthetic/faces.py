"""Paint a synthetic face: soft-edged shapes, back to front, antialiased by their distance to the edge."""

import math

import numpy as np
from PIL import Image, ImageFilter

from jobs.synthetic.canvas import EYES_AT, HEIGHT, WIDTH, Canvas, Pixels, cover, ellipse, spot
from jobs.synthetic.hair import paint_back_hair, paint_beard, paint_brow, paint_glasses, paint_hair, paint_hat
from jobs.synthetic.head import EYE_X, chin, egg, gold, lip_colour, mouth_y, skin
from jobs.synthetic.traits import Traits


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


def paint_body(canvas: Canvas, t: Traits) -> None:
    """Neck in the chin's shadow, shoulders in clothes, and what is worn round the neck."""
    window = canvas.window(-89, 30, 89, 107)
    x, y = canvas.at(window)
    neck = (25 if t.male else 20) + np.maximum(y - 68, 0) * 0.25
    shade = np.clip((y - 48) / 50, 0.45, 0.85) * (1 - 0.25 * np.abs(x + 20 * t.light[0]) / 40)
    canvas.blend(window, cover(np.abs(x) - neck, 1.5), skin(t, shade))
    top = 84 + 30 * (x / 89) ** 2 - 10 * cover(24 - np.abs(x), 8.0) * (not t.necklace)
    cloth = t.clothes[:, None, None] * (1 + 0.25 * t.light[0] * x / 89 - 0.15 * np.abs(x) / 89)
    collar = 86 + 12 * cover(np.abs(x) - 22, 16.0)
    canvas.blend(window, cover(np.maximum(top, collar) - y, 1.5), cloth)
    if t.necklace:
        chain = cover(np.abs(y - (90 - (x / 11) ** 2)) - 1.3, 1.0) * cover(np.abs(x) - 22, 2.0)
        canvas.blend(window, chain, np.array([0.92, 0.82, 0.45], np.float32))
    if t.necktie:
        tie = cover(np.abs(x) - (3 + np.abs(y - 92) * 0.35), 1.0) * cover(86 - y, 1.0)
        canvas.blend(window, tie, t.hat_colour * 0.7)


def paint_ears(canvas: Canvas, t: Traits) -> None:
    """Ears at both sides of the head; earrings hang from them."""
    for side in (-1, 1):
        centre = side * (t.face_width + 1) - 3 * t.yaw
        window = canvas.window(centre - 10, -10, centre + 10, 36)
        x, y = canvas.at(window)
        if t.hair_style != "long":
            away = ellipse(x, y, centre, 8, 6.5, 13)
            shade = np.full_like(x, 0.62 + 0.25 * max(side * t.light[0], 0))
            canvas.blend(window, cover(away, 1.2), skin(t, shade))
            canvas.blend(window, 0.35 * spot(x, y, centre, 8, 3, 7), t.skin * 0.5)
        if t.earrings:
            canvas.blend(window, cover(ellipse(x, y, centre, 27, 3, 5), 1.2), gold())


def paint_head(canvas: Canvas, t: Traits) -> None:
    """The face: an egg lit as a rounded body, darker and redder away from the light."""
    window = canvas.window(-62, -66, 62, 84)
    x, y = canvas.at(window)
    u, v, r = egg(x, y, t)
    lit = t.light[0] * u + t.light[1] * v + t.light[2] * np.sqrt(np.maximum(1 - 0.92 * r * r, 0))
    shade = np.clip(0.42 + 0.68 * lit, 0, 1.12)
    canvas.blend(window, cover((r - 1) * t.face_width, 1.4), skin(t, shade))
    if t.double_chin:
        below = chin(t)
        crease = spot(x, y + (x / 11) ** 2, -3 * t.yaw, below - 7, 18, 1.8)
        canvas.blend(window, 0.4 * crease, t.skin * 0.55)


def paint_cheeks(canvas: Canvas, t: Traits) -> None:
    """Blush, smile lines, eye sockets and the bags under the eyes."""
    window = canvas.window(-46, -22, 46, 58)
    x, y = canvas.at(window)
    blush = 0.5 if t.rosy else 0.22 if t.makeup else 0.1
    rose = np.array([0.86, 0.32, 0.3], np.float32) * (0.4 + 0.6 * t.skin[0])
    dark = t.skin * np.array([0.62, 0.52, 0.5], np.float32)
    for side in (-1, 1):
        canvas.blend(window, blush * spot(x, y, side * 26 + 2 * t.yaw, 24, 10, 8), rose)
        canvas.blend(window, 0.3 * spot(x, y, side * EYE_X, -4, 12, 7), dark)
        fold = x - side * (17 + (y - 26) * 0.28) - 4 * t.yaw
        depth = (0.12 if t.young else 0.3) + 0.2 * max(t.smile, 0)
        canvas.blend(window, depth * spot(fold, y, 0, 34, 1.8, 9), dark)
        if t.bags:
            canvas.blend(window, 0.45 * spot(x, y, side * EYE_X, 11, 9, 2.4), dark)


def paint_nose(canvas: Canvas, t: Traits) -> None:
    """A lit bridge, a shadow on the far side, the tip, nostrils and the shadow below."""
    window = canvas.window(-24, -14, 24, 44)
    x, y = canvas.at(window)
    tip = 6 * t.yaw
    length, width = t.nose_length + 2 * t.pitch, t.nose_width
    lean = tip * np.clip(y / length, 0, 1)
    away = -1 if t.light[0] > 0 else 1
    dark, bright = t.skin * np.array([0.6, 0.47, 0.42], np.float32), np.minimum(t.skin * 1.18 + 0.04, 1)
    rise = np.clip((y + 10) / 26, 0, 1) * cover(y - length, 6.0)
    ridge = np.exp(-(((x - lean) / 3) ** 2)) * rise
    flank = np.exp(-(((x - lean - away * (width * 0.75)) / 3.2) ** 2)) * rise
    canvas.blend(window, 0.42 * flank, dark)
    canvas.blend(window, 0.4 * ridge, bright)
    canvas.blend(window, 0.5 * spot(x, y, tip, length + 3, width * 1.15, 2.6), dark)
    for side in (-1, 1):
        wing = np.abs(np.hypot(x - tip - side * width * 0.72, y - length + 2.5) - 4.2) - 0.3
        outer = cover(-side * (x - tip - side * width * 0.8), 2.0)
        canvas.blend(window, 0.4 * cover(wing, 2.2) * outer, dark)
        canvas.blend(window, 0.8 * spot(x, y, tip + side * width * 0.48, length + 0.8, 2.1, 1.3), dark * 0.5)
    canvas.blend(window, 0.45 * spot(x, y, tip + t.light[0] * 2, length - 4, 3.4, 3), bright)


def paint_mouth(canvas: Canvas, t: Traits) -> None:
    """Lips bent by the smile; where they part, teeth and the dark of the mouth."""
    window = canvas.window(-30, 22, 34, 66)
    x, y = canvas.at(window)
    centre, half = 5 * t.yaw, 15.5 + 4 * t.smile
    q = np.clip((x - centre) / half, -1, 1)
    arc = 1 - q * q
    line = mouth_y(t) + 6 * t.smile * (arc - 0.6) + np.sin(arc * 3.1) * 0.8
    gap = t.mouth_open * (3.6 + 1.2 * max(t.smile, 0)) * arc
    upper = t.lip_thickness * 0.8 * arc * (1 - 0.3 * np.exp(-((q / 0.16) ** 2)))
    lower = t.lip_thickness * np.sqrt(arc)
    lip = t.lip_colour if t.lipstick else lip_colour(t)
    away = np.maximum(line - gap - upper - y, y - line - gap - lower)
    ends = cover(np.abs(x - centre) - half, 1.5)
    tone = (
        0.84 + 0.26 * np.exp(-(((y - line - gap - lower * 0.45) / 2.2) ** 2)) - 0.14 * (y < line).astype(np.float32)
    )
    canvas.blend(window, 0.3 * spot(x, y, centre, mouth_y(t) + t.lip_thickness + 5, 11, 2.6), t.skin * 0.55)
    canvas.blend(window, cover(away, 1.3) * ends, lip[:, None, None] * tone)
    inside = cover(np.abs(y - line) - gap - 0.25, 1.2) * ends
    canvas.blend(window, inside, np.array([0.24, 0.07, 0.08], np.float32))
    teeth = cover(np.maximum(line - gap - y, y - line - gap * 0.35), 1.2) * cover(np.abs(q) - 0.86, 0.12)
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
        shadow = spot(x, y, centre + side * 2, -height - 3, 10, 3.6)
        canvas.blend(window, 0.6 * shadow, t.lip_colour * 0.45)
    inside = cover(np.maximum(upper - y, y - lower), 1.2)
    white = np.clip(0.93 + (y - 1) * 0.03, 0.72, 0.96) * np.ones((3, 1, 1), np.float32)
    canvas.blend(window, inside, white)
    gaze, drop = centre + t.gaze + t.yaw, -0.6
    away = np.hypot(x - gaze, y - drop)
    iris = t.iris[:, None, None] * (0.8 + 0.06 * away + 0.1 * (y - drop))
    iris = iris * (1 - 0.55 * cover(4.0 - away, 1.2))
    canvas.blend(window, inside * cover(away - 5.0, 1.2), iris)
    canvas.blend(window, inside * cover(away - 2.3, 1.1), np.full(3, 0.05, np.float32))
    spark = cover(np.hypot(x - gaze - 1.6 * np.sign(t.light[0]), y - drop + 1.8) - 1.1, 1.0)
    canvas.blend(window, inside * spark, np.ones(3, np.float32))
    lash = 1.6 if t.makeup else 0.7 if t.male else 1.1
    lid = cover(np.abs(y - upper) - lash * (0.6 + 0.4 * q), 1.1) * cover(np.abs(q) - 1.04, 0.12)
    canvas.blend(window, 0.9 * lid, t.skin * 0.18)
    crease = cover(np.abs(y - upper + 3.4) - 0.3, 1.6) * cover(np.abs(q) - 0.9, 0.3)
    under = cover(np.abs(y - lower) - 0.2, 1.3) * cover(np.abs(q) - 0.95, 0.2)
    canvas.blend(window, np.maximum(0.45 * crease, 0.4 * under), t.skin * 0.45)


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
