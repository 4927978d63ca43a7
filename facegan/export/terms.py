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


def samples_of(snapshot: Snapshot) -> int:
    """How many pictures the sources of the run's sets have, as their indexes say it; 0 where one does not."""
    counts = [int(_source(each).get("samples") or 0) for each in _sets(snapshot)]
    return sum(counts) if all(counts) else 0


def data_of(snapshot: Snapshot) -> str:
    """The names of the sources of the pictures that the run learned from, or ""."""
    return " and ".join(dict.fromkeys(filter(None, map(_name, _sets(snapshot)))))


def restriction(snapshot: Snapshot) -> str:
    """What the terms of the sets forbid, or "": what a set carries, else what is known of one with its name."""
    parts = [_restriction(each) for each in _sets(snapshot)]
    return "; ".join(dict.fromkeys(filter(None, parts)))


def _restriction(data: dict[str, Any]) -> str:
    carried = str(data.get("terms") or "")
    if carried:
        return "" if carried.lower().startswith(FREE) else " ".join(carried.split())
    name = _name(data).lower()
    return next((text for key, text in RESTRICTED.items() if key in name), "")


def _sets(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What the run said of its set, and of those mixed in."""
    data = snapshot.meta.get("data") or {}
    return [data, *data.get("mixed", [])]


def _source(data: dict[str, Any]) -> dict[str, Any]:
    source = data.get("source")
    return source if isinstance(source, dict) else {}


def _name(data: dict[str, Any]) -> str:
    return Path(str(_source(data).get("name", ""))).name


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
    stated = [" ".join(str(each.get("terms") or "").split()) for each in _sets(snapshot)]
    if text:
        return f"Learned from {text}."
    if all(stated):
        return f"The terms of its training pictures: {'; '.join(dict.fromkeys(stated))}."
    return "Ask whoever made it on what terms its training pictures were given."
