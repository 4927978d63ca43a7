"""CelebA's 40 attributes of a synthetic face, true to its drawing."""

from collections.abc import Callable

from jobs.synthetic.traits import Traits


def _hair_shows(t: Traits) -> bool:
    return t.hair_style != "bald" and not t.hat


def _forehead_hair_shows(t: Traits) -> bool:
    return _hair_shows(t) and t.hair_style != "receding"


# In CelebA's order. "Attractive" is a judgement, not a fact: never set.
RULES: dict[str, Callable[[Traits], bool]] = {
    "5_o_Clock_Shadow": lambda t: t.beard == "stubble",
    "Arched_Eyebrows": lambda t: t.brow_arch > 3.2,
    "Attractive": lambda t: False,
    "Bags_Under_Eyes": lambda t: t.bags,
    "Bald": lambda t: t.hair_style == "bald" and not t.hat,
    "Bangs": lambda t: _forehead_hair_shows(t) and t.bangs > 0,
    "Big_Lips": lambda t: t.lip_thickness > 5.0,
    "Big_Nose": lambda t: t.nose_width > 9.0,
    "Black_Hair": lambda t: _hair_shows(t) and t.hair_name == "black",
    "Blond_Hair": lambda t: _hair_shows(t) and t.hair_name == "blond",
    "Blurry": lambda t: t.blurry,
    "Brown_Hair": lambda t: _hair_shows(t) and t.hair_name == "brown",
    "Bushy_Eyebrows": lambda t: t.brow_thickness > 2.6,
    "Chubby": lambda t: t.face_width > 48.5,
    "Double_Chin": lambda t: t.double_chin,
    "Eyeglasses": lambda t: t.glasses,
    "Goatee": lambda t: t.beard == "goatee",
    "Gray_Hair": lambda t: _hair_shows(t) and t.hair_name == "gray",
    "Heavy_Makeup": lambda t: t.makeup,
    "High_Cheekbones": lambda t: t.smile > 0.6,
    "Male": lambda t: t.male,
    "Mouth_Slightly_Open": lambda t: t.mouth_open > 0.25,
    "Mustache": lambda t: t.beard in ("mustache", "goatee", "full"),
    "Narrow_Eyes": lambda t: t.eye_height < 4.7,
    "No_Beard": lambda t: t.beard in ("none", "mustache"),
    "Oval_Face": lambda t: t.face_height / t.face_width > 1.42,
    "Pale_Skin": lambda t: t.pallor < 0.08,
    "Pointy_Nose": lambda t: t.nose_width < 6.4,
    "Receding_Hairline": lambda t: t.hair_style == "receding" and not t.hat,
    "Rosy_Cheeks": lambda t: t.rosy,
    "Sideburns": lambda t: t.sideburns,
    "Smiling": lambda t: t.smile > 0.35,
    "Straight_Hair": lambda t: _forehead_hair_shows(t) and t.wave < 0.25,
    "Wavy_Hair": lambda t: _forehead_hair_shows(t) and t.wave >= 0.25,
    "Wearing_Earrings": lambda t: t.earrings,
    "Wearing_Hat": lambda t: t.hat,
    "Wearing_Lipstick": lambda t: t.lipstick,
    "Wearing_Necklace": lambda t: t.necklace,
    "Wearing_Necktie": lambda t: t.necktie,
    "Young": lambda t: t.young,
}
ATTRIBUTES = tuple(RULES)


def attributes(traits: Traits) -> dict[str, bool]:
    """Whether each of CelebA's 40 attributes is true of the drawing."""
    return {name: rule(traits) for name, rule in RULES.items()}
