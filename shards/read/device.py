"""A whole split kept on the device as one tensor: a batch is one index_select, nothing crosses the bus."""

from itertools import pairwise

import numpy as np
import torch

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.mapping import Bytes
from shards.read.images import Images

BLOCK = 4096  # images copied at a time
AHEAD = 2  # shards that a stage has to have room for: the one that is copied, the next


class DeviceImages(Images):
    """The images of a split as one uint8 tensor (N, H, W, C) on `device`, behind the same interface and order.

    Raises ShardError where the device has no room for it.
    """

    def __init__(self, images: Images, device: torch.device | str) -> None:
        self.images, self.split, self.shards, self.files = images, images.split, images.shards, images.files
        self.height, self.width, self.channels = images.height, images.width, images.channels
        self.firsts, self.version = images.firsts, images.version
        self.device = torch.device(device)
        shape = (len(images), self.height, self.width, self.channels)
        _check_room(int(np.prod(shape, dtype=np.int64)), self.device)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=self.device)
        for number, (first, end) in enumerate(pairwise(images.firsts)):
            images.expect(*np.split(np.arange(number, min(number + AHEAD, len(images.firsts) - 1)), [1]))
            for start in range(first, end, BLOCK):
                stop = min(start + BLOCK, end)
                self.pixels[start:stop] = torch.from_numpy(images.gather(np.arange(start, stop)))

    @property
    def in_streams(self) -> bool:
        """See `Images.in_streams`: nothing is mapped any more."""
        return self.files.partial

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`: nothing is read any more."""

    def batch_at(self, places: Ints) -> torch.Tensor:
        """The images at these places on the device: (n, C, H, W) uint8 with channels_last strides."""
        chosen = torch.from_numpy(places)
        if self.device.type == "cuda":  # from pageable memory the copy would wait for all that is queued
            chosen = chosen.pin_memory().to(self.device, non_blocking=True)
        return self.pixels.index_select(0, chosen).permute(0, 3, 1, 2)

    def gather_at(self, places: Ints) -> Bytes:
        """The images at these places in host memory: (n, H, W, C) uint8."""
        pixels: Bytes = self.batch_at(places).permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        return self.images.keys(indices)


def _check_room(needed: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise ShardError(
            f"the split takes {needed / 1e9:.1f} GB, {device} has {free / 1e9:.1f} GB free: "
            "leave out --cache device (the memory-mapped shards need no room there), or take smaller images"
        )
