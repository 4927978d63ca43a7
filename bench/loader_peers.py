"""The loaders that are compared: how each is given the same pictures, and asked for the same shuffled batches.

Each gives uint8 batches (B, H, W, 3), or with channels_last strides (B, 3, H, W), for ever. Packages are imported
inside, so that a missing one costs only its own rows.
"""

import io
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
SHARD = 1000
Pictures = list[np.ndarray]  # (H, W, 3) uint8


@dataclass(frozen=True)
class Loader:
    """A row of the table: `open(folder, size, workers)` iterates over batches; `build` writes what it reads.

    floats: its batches are floats already, as its users write it; then it has no uint8 form.
    """

    name: str
    package: str
    build: Callable[[Path, Pictures, list[bytes], int], None]
    open: Callable[[Path, int, int], Iterable[Any]]
    workers: tuple[int, ...] = (0, 1, 2)
    floats: bool = False


def endless(loader: Iterable[Any], pick: Callable[[Any], Any] = lambda batch: batch) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        for batch in loader:
            yield pick(batch)


def torch_loader(dataset: Any, workers: int, **options: Any) -> Any:
    """A DataLoader whose workers, if any, live on from epoch to epoch."""
    from torch.utils.data import DataLoader

    return DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0, **options)


def build_ours(
    members: str, quality: int | None = None, annotations: Path | None = None
) -> Callable[[Path, Pictures, list[bytes], int], None]:
    """The pictures as `facegan preprocess --members` makes a set of them."""

    def build(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
        from facegan.cores import usual_threads
        from shards.make.writer import Options, preprocess

        folder.mkdir(parents=True)
        source = folder / "source.zip"
        ppms = [b"P6 %d %d 255\n" % picture.shape[1::-1] + picture.tobytes() for picture in pictures]
        with zipfile.ZipFile(source, "w") as archive:
            for i in range(count):
                archive.writestr(f"{i:08d}.ppm", ppms[i % len(ppms)])
        form = {"crop": "none", "shard_size": SHARD, "members": members, "quality": quality}
        form["annotations"] = annotations
        preprocess(Options(source, folder, (pictures[0].shape[:2],), workers=usual_threads(), **form))
        source.unlink()

    return build


def open_ours(folder: Path, size: int, workers: int) -> Any:
    import shards

    return shards.Stream(shards.open_set(folder).split("train"), BATCH, seed=0)


def open_limit(folder: Path, size: int, workers: int) -> Iterator[Any]:
    """A bare fancy index over the same bytes, all shards in one file; the indices are drawn beforehand."""
    from shards.format.mapping import map_file
    from shards.read.opening import find_set

    folder, index = find_set(folder)
    records = [path.read_bytes()[: -2 * 512] for path in sorted(folder.glob("*.tar"))]
    whole = folder / "whole.bin"
    if not whole.exists():
        whole.write_bytes(b"".join(records))
    view = index.geometry.view(map_file(whole))
    view = view.reshape(len(view), size, size * 3) if view.flags.c_contiguous else _flat_rows(view)
    draws = np.random.default_rng(0).integers(0, len(view), (4096, BATCH))
    return (view[draw].reshape(BATCH, size, size, 3) for draw in endless(draws))


def _flat_rows(view: np.ndarray) -> np.ndarray:
    count, height, width, channels = view.shape
    strides = (*view.strides[:2], 1)
    return np.lib.stride_tricks.as_strided(view, (count, height, width * channels), strides, writeable=False)


def build_tars(folder: Path, samples: list[bytes], extension: str, count: int) -> None:
    import webdataset

    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, count, SHARD)):
        with webdataset.TarWriter(str(folder / f"train-{number:05d}.tar"), mtime=0) as writer:
            for i in range(first, min(first + SHARD, count)):
                writer.write({"__key__": f"{i:08d}", extension: samples[i % len(samples)]})


def build_jpeg_tars(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
    build_tars(folder, jpegs, "jpg", count)


def build_raw_tars(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
    build_tars(folder, [picture.tobytes() for picture in pictures], "bin", count)


def to_tensor(picture: Any) -> Any:
    """A decoded picture as float32 (3, H, W) in [-1, 1], sample by sample, as torchvision's transforms do."""
    import torch

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pixels.to(torch.float32).div(127.5).sub(1)


def open_webdataset(decode: str) -> Callable[[Path, int, int], Iterator[Any]]:
    def open_it(folder: Path, size: int, workers: int) -> Iterator[Any]:
        import webdataset

        paths = [str(path) for path in sorted(folder.glob("*.tar"))]
        samples = webdataset.WebDataset(paths, shardshuffle=len(paths)).shuffle(1000)
        if decode == "raw":
            shape = (size, size, 3)
            samples = samples.to_tuple("bin").map_tuple(lambda data: np.frombuffer(data, np.uint8).reshape(shape))
        else:
            samples = samples.decode(decode).to_tuple("jpg").map_tuple(to_tensor if decode == "pil" else np.asarray)
        batches = samples.batched(BATCH, partial=False)
        return endless(torch_loader(batches, workers, batch_size=None), lambda batch: batch[0])

    return open_it


def build_folder(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:08d}.jpg").write_bytes(jpegs[i % len(jpegs)])


def open_folder(folder: Path, size: int, workers: int) -> Iterator[Any]:
    from PIL import Image

    class Folder:
        def __init__(self) -> None:
            self.paths = sorted(folder.glob("*.jpg"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> Any:
            return to_tensor(Image.open(self.paths[i]).convert("RGB"))

    return endless(torch_loader(Folder(), workers, batch_size=BATCH, shuffle=True, drop_last=True))


def sample_of(kind: str, value: Any) -> np.ndarray:
    """A raw array as it is, or a JPEG decoded the fastest way there is."""
    import simplejpeg

    return value if kind == "raw" else simplejpeg.decode_jpeg(value)


def build_streaming(kind: str) -> Callable[[Path, Pictures, list[bytes], int], None]:
    def build(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
        from streaming import MDSWriter

        height, width = pictures[0].shape[:2]
        column = f"ndarray:uint8:{height},{width},3" if kind == "raw" else "bytes"  # its "jpeg" encodes again
        samples = pictures if kind == "raw" else jpegs
        with MDSWriter(out=str(folder), columns={"x": column}, size_limit=1 << 24) as writer:
            for i in range(count):
                writer.write({"x": samples[i % len(samples)]})

    return build


def open_streaming(kind: str) -> Callable[[Path, int, int], Iterator[Any]]:
    def open_it(folder: Path, size: int, workers: int) -> Iterator[Any]:
        import streaming
        import streaming.base.util

        streaming.base.util.clean_stale_shared_memory()

        class Dataset(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                return sample_of(kind, super().__getitem__(at)["x"])

        dataset = Dataset(local=str(folder), shuffle=True, batch_size=BATCH)
        return endless(torch_loader(dataset, workers, batch_size=BATCH, drop_last=True))

    return open_it


def first_column(sample: Any) -> dict[str, Any]:
    """For litdata's workers, which pickle it."""
    return {"x": sample}


def build_litdata(kind: str) -> Callable[[Path, Pictures, list[bytes], int], None]:
    def build(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
        import litdata

        samples = pictures if kind == "raw" else jpegs
        inputs = [samples[i % len(samples)] for i in range(count)]
        litdata.optimize(first_column, inputs, str(folder), chunk_size=SHARD, num_workers=1, verbose=False)

    return build


def open_litdata(kind: str) -> Callable[[Path, int, int], Iterator[Any]]:
    def open_it(folder: Path, size: int, workers: int) -> Iterator[Any]:
        import litdata

        class Dataset(litdata.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                return sample_of(kind, super().__getitem__(at)["x"])

        dataset = Dataset(str(folder), shuffle=True, drop_last=True)
        return endless(litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True))

    return open_it


def build_energon(kind: str) -> Callable[[Path, Pictures, list[bytes], int], None]:
    def build(folder: Path, pictures: Pictures, jpegs: list[bytes], count: int) -> None:
        (build_raw_tars if kind == "raw" else build_jpeg_tars)(folder, pictures, jpegs, count)
        command = Path(sys.executable).parent / "energon"
        options = [
            "--non-interactive",
            "--split-ratio",
            "1,0,0",
            "--sample-type",
            "CrudeWebdataset",
            "--no-progress",
        ]
        subprocess.run(
            [command, "prepare", *options, "--num-workers", "1", folder], check=True, capture_output=True
        )

    return build


def open_energon(kind: str) -> Callable[[Path, int, int], Iterator[Any]]:
    def open_it(folder: Path, size: int, workers: int) -> Iterator[Any]:
        logging.disable(logging.WARNING)
        import bench_energon

        return endless(bench_energon.loader(kind, folder, size, workers, BATCH), lambda batch: batch.x)

    return open_it


LOADERS = [
    Loader("index_limit", "shards", build_ours("png"), open_limit, (0,)),
    Loader("ours", "shards", build_ours("png"), open_ours, (0,)),
    Loader("ours_jpeg", "shards", build_ours("jpeg", 95), open_ours, (0,)),
    Loader("ours_webp", "shards", build_ours("webp", 95), open_ours, (0,)),
    Loader("ours_webp_exact", "shards", build_ours("webp", 100), open_ours, (0,)),
    Loader("folder_pil", "PIL", build_folder, open_folder, floats=True),
    Loader("webdataset_pil", "webdataset", build_jpeg_tars, open_webdataset("pil"), floats=True),
    Loader("webdataset_rgb8", "webdataset", build_jpeg_tars, open_webdataset("rgb8")),
    Loader("webdataset_raw", "webdataset", build_raw_tars, open_webdataset("raw")),
    Loader("streaming_jpeg", "streaming", build_streaming("jpeg"), open_streaming("jpeg")),
    Loader("streaming_raw", "streaming", build_streaming("raw"), open_streaming("raw")),
    Loader("litdata_jpeg", "litdata", build_litdata("jpeg"), open_litdata("jpeg")),
    Loader("litdata_raw", "litdata", build_litdata("raw"), open_litdata("raw")),
    Loader("energon_jpeg", "megatron.energon", build_energon("jpeg"), open_energon("jpeg")),
    Loader("energon_raw", "megatron.energon", build_energon("raw"), open_energon("raw")),
]


def remove(folder: Path) -> None:
    """A half-built set is built again."""
    shutil.rmtree(folder, ignore_errors=True)


def as_jpeg(picture: np.ndarray) -> bytes:
    """Quality 95, no chroma subsampling."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()
