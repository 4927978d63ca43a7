"""Megatron Energon's side of the loader benchmark: its sample and its cooker must live in a module of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from megatron.energon import (
    Cooker,
    DefaultTaskEncoder,
    Sample,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_savable_loader,
    get_train_dataset,
    stateless,
)


@edataclass
class Picture(Sample):
    """One picture, (H, W, 3) uint8."""

    x: torch.Tensor


@stateless
def cook_raw(sample: dict[str, Any]) -> Picture:
    """Raw bytes of a square picture."""
    side = round((len(sample["bin"]) / 3) ** 0.5)
    pixels = np.frombuffer(sample["bin"], np.uint8).reshape(side, side, 3).copy()
    return Picture(**basic_sample_keys(sample), x=torch.from_numpy(pixels))


@stateless
def cook_jpeg(sample: dict[str, Any]) -> Picture:
    """A JPEG, decoded the fastest way there is."""
    return Picture(**basic_sample_keys(sample), x=torch.from_numpy(simplejpeg.decode_jpeg(sample["jpg"])))


class RawEncoder(DefaultTaskEncoder):  # type: ignore[type-arg]
    """Cooks raw samples."""

    cookers = [Cooker(cook_raw)]  # noqa: RUF012
    decoder = None


class JpegEncoder(DefaultTaskEncoder):  # type: ignore[type-arg]
    """Cooks JPEG samples."""

    cookers = [Cooker(cook_jpeg)]  # noqa: RUF012
    decoder = None


def loader(kind: str, folder: Path, size: int, workers: int, batch_size: int) -> Any:
    """Energon's own loader with its usual shuffle buffer."""
    config = WorkerConfig(rank=0, world_size=1, num_workers=workers)
    dataset = get_train_dataset(
        str(folder),
        worker_config=config,
        batch_size=batch_size,
        shuffle_buffer_size=1000,
        max_samples_per_sequence=100,
        task_encoder=RawEncoder() if kind == "raw" else JpegEncoder(),
    )
    return get_savable_loader(dataset)
