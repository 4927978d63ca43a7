"""Paints hair, beard and brows, and what is worn on the head."""

import numpy as np

from jobs.synthetic.canvas import Canvas, cover, ellipse, whole
from jobs.synthetic.head import EYE_X, crown, egg, hairline, mouth_y, strands
from jobs.synthetic.traits import Traits


def paint_back_hair(canvas: Canvas, t: Traits) -> None:
    """Long hair behind face and neck: a capsule open downwards, its sides waved."""
    x, y = canvas.x, canvas.y
    half = t.face_width + t.hair_volume + 2
    sway = t.wave * 4 * np.sin(y / 7 + t.parting) * (y > -30)
    flare = np.clip(y + 20, 0, 60) * 0.1
    u = (x + 3 * t.yaw + sway) / (half + flare)
    v = np.minimum((y + 12) / crown(t), 0)
    end = t.hair_length - 14 * np.clip(np.abs(u) - 0.5, 0, 0.5) ** 2 * 4
    alpha = cover((np.sqrt(u * u + v * v) - 1) * half, 2.0) * cover(y - end, 5.0)
    canvas.blend(whole(), alpha, strands(t, x, y) * 0.8)


def paint_beard(canvas: Canvas, t: Traits) -> None:
    """Stubble, moustache, goatee, full beard or only sideburns, in the hair's colour."""
    window = canvas.window(-56, -12, 56, 82)
    x, y = canvas.at(window)
    _, _, r = egg(x, y, t)
    mouth = mouth_y(t)
    middle = 5 * t.yaw
    inside = cover((r - 1.03) * t.face_width, 1.5)
    edge = mouth - 4 - 44 * (np.abs(x - middle) / t.face_width) ** 3
    jaw = cover(edge - y, 5.0)
    moustache = cover(ellipse(x, y + np.abs(x - middle) * -0.15, middle, mouth - 9, 17, 4.6), 3.0)
    chin = cover(ellipse(x, y, middle - 2 * t.yaw, mouth + 19, 15, 12), 4.0)
    ring = cover(np.abs(np.abs(x - middle) - 18) - 2.6, 2.0) * cover(np.abs(y - mouth - 2) - 12, 3.0)
    burns = cover(t.face_width * 0.89 - np.abs(x + 3 * t.yaw), 3.0) * cover(y - 20, 6.0)
    parts = {
        "none": np.zeros_like(x),
        "mustache": moustache,
        "goatee": np.maximum(np.maximum(moustache, chin), ring),
        "stubble": 0.3 * np.maximum(jaw, moustache),
        "full": np.maximum(jaw, moustache),
    }
    hair = np.maximum(parts[t.beard], burns if t.sideburns else 0)
    canvas.blend(window, 0.9 * hair * inside, strands(t, x, y) * 0.85)


def paint_brow(canvas: Canvas, t: Traits, side: int) -> None:
    """A tapered arc over the eye."""
    window = canvas.window(side * EYE_X - 18, -34, side * EYE_X + 18, -8)
    x, y = canvas.at(window)
    q = side * (x - side * (EYE_X + 0.5)) / 14.5
    middle = -15.0 - t.brow_arch * (1 - (q - 0.15) ** 2) - 1.5 * (1 - q) + 1.4 * t.pitch - max(t.smile, 0)
    thick = t.brow_thickness * (1 - 0.45 * np.clip(q, 0, 1)) * 1.1
    alpha = cover(np.abs(y - middle) - thick, 1.6) * cover(np.abs(q) - 1, 0.22)
    canvas.blend(window, 0.88 * alpha, np.minimum(t.hair, 0.72) * 0.62)


def paint_hair(canvas: Canvas, t: Traits) -> None:
    """The hair over the forehead and temples: the head's cap down to a hairline."""
    bottom = 40 if t.hair_style == "long" else 20
    window = canvas.window(-75, -111, 75, bottom)
    x, y = canvas.at(window)
    half = t.face_width + t.hair_volume * (0.8 if t.hair_style == "long" else 0.45)
    bumps = 0.035 * t.wave * np.sin(x * 0.33 + t.parting) * np.sin(y * 0.33 + t.parting)
    u, v = (x + 3 * t.yaw) / half, np.minimum((y + 12) / crown(t), 0)
    cap = cover((np.sqrt(u * u + v * v) - 1 + bumps) * half, 2.0)
    over = cover(y - hairline(t, x), 3.0)
    end = cover(y - (bottom if t.hair_style == "long" else t.hair_length), 6.0)
    forehead = 0.3 * cover(y - hairline(t, x) - 4, 7.0) * cover(np.abs(x) - t.face_width + 6, 6.0)
    canvas.blend(window, forehead * cap, t.skin * 0.5)
    canvas.blend(window, cap * over * end, strands(t, x, y))


def paint_hat(canvas: Canvas, t: Traits) -> None:
    """A knitted hat down to the brows' height."""
    window = canvas.window(-75, -111, 75, -20)
    x, y = canvas.at(window)
    half = t.face_width + 9
    u, v = (x + 3 * t.yaw) / half, np.minimum((y + 22) / (crown(t) - 2), 0)
    cap = cover((np.sqrt(u * u + v * v) - 1) * half, 1.6) * cover(y + 27 - (x / 26) ** 2, 1.6)
    tone = 0.95 + 0.3 * (t.light[0] * u - t.light[1] * -v) - 0.2 * cover(np.abs(y + 40) - 0.4, 2.0)
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
    frame = cover(np.abs(away) - 1.0, 1.2)
    rod = cover(np.abs(row + 3) - 0.9, 1.2) * cover(np.abs(x) - t.face_width, 1.5)
    bars = rod * np.maximum(cover(15 - q, 1.0), cover(q + 13.5, 1.0))
    canvas.blend(window, 0.12 * cover(away, 1.5), np.ones(3, np.float32))
    canvas.blend(window, np.maximum(frame, bars), t.hat_colour * 0.35)
