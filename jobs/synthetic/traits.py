"""What a synthetic face looks like: numbers drawn from (seed, index)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURES_PER_IDENTITY = 4

Colour = NDArray[Any]  # (3,) float32 RGB, or several in rows

SKIN = np.array(
    [
        (251, 225, 206),
        (243, 204, 176),
        (229, 181, 146),
        (203, 148, 110),
        (165, 110, 78),
        (124, 80, 57),
        (94, 61, 46),
    ],
    np.float32,
)
HAIR = {
    "black": (34, 28, 30),
    "brown": (92, 58, 38),
    "auburn": (140, 66, 36),
    "blond": (218, 178, 104),
    "gray": (176, 174, 172),
}
IRIS = ((82, 52, 32), (112, 76, 40), (92, 112, 66), (74, 116, 158), (112, 128, 134))
CLOTHES = ((58, 78, 122), (150, 58, 62), (66, 112, 92), (226, 222, 212), (52, 52, 58), (196, 158, 92))
BACKGROUND = ((108, 142, 176), (186, 170, 146), (104, 134, 108), (196, 196, 198), (82, 82, 98), (172, 118, 96))
LIPS = ((190, 40, 58), (206, 84, 96), (150, 44, 74))


@dataclass(frozen=True)
class Traits:
    """One face. Lengths in pixels of the 178x218 picture, colours RGB in 0..1, the rest as named."""

    male: bool
    young: bool
    # the person
    skin: Colour
    pallor: float  # 0 light .. 1 dark, the position on the scale of skin tones
    face_width: float
    face_height: float
    jaw: float  # 0 round .. 0.4 pointed
    eye_width: float
    eye_height: float
    iris: Colour
    brow_thickness: float
    brow_arch: float
    nose_width: float
    nose_length: float
    lip_thickness: float
    hair_name: str
    hair: Colour
    hair_style: str  # bald, receding, short, long
    hair_length: float
    hair_volume: float
    wave: float  # 0 straight .. 1 curly
    bangs: float  # 0 or 1
    parting: float
    beard: str  # none, stubble, mustache, goatee, full
    sideburns: bool
    double_chin: bool
    bags: bool
    # the picture
    yaw: float  # -1 .. 1
    pitch: float
    roll: float  # radians
    smile: float  # -0.15 .. 1
    mouth_open: float  # 0 .. 1
    gaze: float
    makeup: bool
    lipstick: bool
    lip_colour: Colour
    rosy: bool
    glasses: bool
    glasses_round: bool
    hat: bool
    hat_colour: Colour
    earrings: bool
    necklace: bool
    necktie: bool
    clothes: Colour
    background: Colour  # (2, 3): the gradient's two ends
    background_angle: float
    glow: Colour  # (3,) x, y, strength of the light spot in the background
    light: Colour  # (3,) unit vector towards the light; x right, y down, z to the viewer
    exposure: float
    warmth: float
    blurry: bool


def draw_traits(seed: int, index: int) -> Traits:
    """The traits of face `index` (from 0); neighbours share a person, every picture its own pose and light."""
    person = _person(_generator(seed, "person", identity_of(index)))
    return Traits(**person, **_picture(_generator(seed, "picture", index), person))


def identity_of(index: int) -> int:
    """Which person (from 0) is on picture `index` (from 0)."""
    return index // PICTURES_PER_IDENTITY


def _generator(seed: int, use: str, index: int) -> np.random.Generator:
    key = np.random.SeedSequence((seed, {"person": 0, "picture": 1}[use], index))
    return np.random.Generator(np.random.Philox(key))


def _person(rng: np.random.Generator) -> dict[str, Any]:
    male, young = bool(rng.random() < 0.45), bool(rng.random() < 0.75)
    pallor = float(rng.beta(1.0, 1.4))
    hair_name = _hair_name(rng, young, pallor)
    style = _hair_style(rng, male, young)
    chubby = rng.random() < 0.12
    full = rng.choice(["none", "stubble", "mustache", "goatee", "full"], p=[0.5, 0.18, 0.07, 0.1, 0.15])
    beard = str(full) if male else "none"
    return {
        "male": male,
        "young": young,
        "pallor": pallor,
        "skin": _between(SKIN, pallor) / 255 * rng.uniform(0.97, 1.03, 3).astype(np.float32),
        "face_width": rng.uniform(42, 46) + (2 if male else 0) + (5 if chubby else 0),
        "face_height": rng.uniform(60, 66) + (2 if male else 0),
        "jaw": rng.uniform(0.04, 0.2) if male else rng.uniform(0.16, 0.34),
        "eye_width": rng.uniform(10.0, 11.6),
        "eye_height": rng.uniform(4.2, 5.8) + (0 if male else 0.7),
        "iris": _colour(IRIS[int(rng.integers(2 if pallor > 0.45 else 5))]),
        "brow_thickness": rng.uniform(1.7, 3.1) if male else rng.uniform(1.0, 2.0),
        "brow_arch": rng.uniform(0.5, 2.6) if male else rng.uniform(1.5, 4.5),
        "nose_width": rng.uniform(6.4, 10.0) if male else rng.uniform(5.6, 8.2),
        "nose_length": rng.uniform(24, 29),
        "lip_thickness": rng.uniform(2.8, 4.6) if male else rng.uniform(3.4, 6.0),
        "hair_name": hair_name,
        "hair": _colour(HAIR[hair_name]) * rng.uniform(0.85, 1.15),
        "hair_style": style,
        "hair_length": rng.uniform(30, 110) if style == "long" else rng.uniform(-12, 6),
        "hair_volume": rng.uniform(4, 13),
        "wave": float(rng.choice([0.0, rng.uniform(0.3, 1.0)])),
        "bangs": float(style == "long" and rng.random() < 0.35),
        "parting": rng.uniform(-24, 24),
        "beard": beard,
        "sideburns": bool(male and style == "short" and (beard == "full" or rng.random() < 0.2)),
        "double_chin": bool(chubby and rng.random() < 0.6),
        "bags": bool(not young and rng.random() < 0.6),
    }


def _hair_name(rng: np.random.Generator, young: bool, pallor: float) -> str:
    if not young and rng.random() < 0.55:
        return "gray"
    if pallor > 0.5:
        return str(rng.choice(["black", "brown"], p=[0.85, 0.15]))
    return str(rng.choice(["black", "brown", "auburn", "blond"], p=[0.22, 0.36, 0.14, 0.28]))


def _hair_style(rng: np.random.Generator, male: bool, young: bool) -> str:
    if not male:
        return str(rng.choice(["long", "short"], p=[0.85, 0.15]))
    bald = 0.04 if young else 0.2
    return str(rng.choice(["bald", "receding", "short", "long"], p=[bald, bald, 0.92 - 2 * bald, 0.08]))


def _picture(rng: np.random.Generator, person: dict[str, Any]) -> dict[str, Any]:
    male, smile = person["male"], float(np.clip(rng.normal(0.45, 0.4), -0.15, 1.0))
    makeup = bool(not male and rng.random() < 0.4)
    lipstick = makeup or bool(not male and rng.random() < 0.2)
    ends = rng.permutation(len(BACKGROUND))[:2]
    light = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.6, -0.1), 0.75], np.float32)
    return {
        "yaw": float(np.clip(rng.normal(0, 0.45), -1, 1)),
        "pitch": float(np.clip(rng.normal(0, 0.4), -1, 1)),
        "roll": float(rng.normal(0, 0.025)),
        "smile": smile,
        "mouth_open": float(max(0.0, rng.uniform(-0.8, 1.0))) if smile < 0.5 else float(rng.random()),
        "gaze": rng.uniform(-1.4, 1.4),
        "makeup": makeup,
        "lipstick": lipstick,
        "lip_colour": _colour(LIPS[int(rng.integers(len(LIPS)))]),
        "rosy": bool(rng.random() < (0.25 if not male else 0.06)),
        "glasses": bool(rng.random() < 0.12),
        "glasses_round": bool(rng.random() < 0.5),
        "hat": bool(rng.random() < 0.05),
        "hat_colour": _colour(CLOTHES[int(rng.integers(len(CLOTHES)))]),
        "earrings": bool(not male and rng.random() < 0.3),
        "necklace": bool(not male and rng.random() < 0.2),
        "necktie": bool(male and rng.random() < 0.2),
        "clothes": _colour(CLOTHES[int(rng.integers(len(CLOTHES)))]),
        "background": np.stack([_colour(BACKGROUND[k]) * rng.uniform(0.7, 1.2) for k in ends]),
        "background_angle": rng.uniform(0, 2 * np.pi),
        "glow": np.array([rng.uniform(-90, 90), rng.uniform(-100, 40), rng.uniform(0, 0.35)], np.float32),
        "light": light / np.linalg.norm(light),
        "exposure": rng.uniform(0.88, 1.12),
        "warmth": rng.uniform(-0.05, 0.05),
        "blurry": bool(rng.random() < 0.04),
    }


def _between(scale: Colour, position: float) -> Colour:
    place = position * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    between: Colour = scale[low] + (scale[low + 1] - scale[low]) * np.float32(place - low)
    return between


def _colour(rgb: tuple[int, int, int]) -> Colour:
    return np.array(rgb, np.float32) / 255
