"""Pictures on disk -> tar shards -> an endless, ordered stream of uint8 batches. Knows no GAN.

    images = shards.open_set("data/celeba/64").split("train")
    stream = shards.Stream(images, batch_size=128, seed=0)
    batch = next(stream)  # (128, 3, 64, 64) uint8, channels_last

Names are imported when first used, so that `import shards` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.errors import ShardError
    from shards.format.index import ShardIndex, load_index
    from shards.read.device import DeviceImages
    from shards.read.images import Images
    from shards.read.opening import open_set
    from shards.read.sets import ShardSet
    from shards.read.stream import Stream
    from shards.read.verify import Damage, verify_set

__all__ = [
    "Damage",
    "DeviceImages",
    "Images",
    "ShardError",
    "ShardIndex",
    "ShardSet",
    "Stream",
    "load_index",
    "open_set",
    "verify_set",
]

_HOMES = {
    "Damage": "read.verify",
    "DeviceImages": "read.device",
    "Images": "read.images",
    "ShardError": "errors",
    "ShardIndex": "format.index",
    "ShardSet": "read.sets",
    "Stream": "read.stream",
    "load_index": "format.index",
    "open_set": "read.opening",
    "verify_set": "read.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shards' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shards.{_HOMES[name]}"), name)
