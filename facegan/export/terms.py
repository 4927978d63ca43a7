"""What a set's terms say of passing on, and the refusal to export what they forbid.

A set carries its terms in a file `terms.txt`, which a run's snapshots repeat: "free", or what is forbidden.
"""

from pathlib import Path
from typing import Any

from facegan.errors import FaceganError
from facegan.run.snapshot import Snapshot

FREE = "free"
# Sets whose terms are for research only and forbid passing on their pictures, by what their source is called.
RESTRICTED = {
    "celeba": "CelebA: for non-commercial research only, its pictures and parts of them must not be passed on "
    "(mmlab.ie.cuhk.edu.hk/projects/CelebA.html)",
}


def source_of(snapshot: Snapshot) -> dict[str, Any]:
    """What the set's index said of the source of its pictures; empty where nothing did."""
    source = (snapshot.meta.get("data") or {}).get("source")
    return source if isinstance(source, dict) else {}


def data_of(snapshot: Snapshot) -> str:
    """The name of the source of the pictures that the run learned from, or ""."""
    return _name(snapshot.meta.get("data") or {})


def restriction(snapshot: Snapshot) -> str:
    """What the terms of the sets forbid, or "": what a set carries, else what is known of one with its name."""
    data = snapshot.meta.get("data") or {}
    parts = [_restriction(each) for each in (data, *data.get("mixed", []))]
    return "; ".join(dict.fromkeys(filter(None, parts)))


def _restriction(data: dict[str, Any]) -> str:
    carried = str(data.get("terms") or "")
    if carried:
        return "" if carried.lower().startswith(FREE) else " ".join(carried.split())
    name = _name(data).lower()
    return next((text for key, text in RESTRICTED.items() if key in name), "")


def _name(data: dict[str, Any]) -> str:
    source = data.get("source")
    return Path(str(source.get("name", ""))).name if isinstance(source, dict) else ""


def require(snapshot: Snapshot, confirmed: bool) -> None:
    """Raise FaceganError where the set's terms are restricted and nobody has confirmed to know them."""
    text = restriction(snapshot)
    if text and not confirmed:
        raise FaceganError(
            f"{snapshot.path}: the generator learned from pictures under terms. {text}. An export holds none of "
            "them, but what it draws comes from them: --confirm-terms says that you know the terms and keep to them"
        )


def sentence(snapshot: Snapshot) -> str:
    """What a reader of an export has to know of its data."""
    text = restriction(snapshot)
    return (
        f"Learned from {text}." if text else "Ask whoever made it on what terms its training pictures were given."
    )
