"""Loaders side by side: shuffled batches of 128 from the same pictures, warm page cache, samples per second.

    python bench/loader.py                 all loaders, 64 and 128 px, uint8 and float32: some ten minutes
    python bench/loader.py --quick         64 px, fewer samples, within a minute
    python bench/loader.py --json          the same for machines

Each package runs in a process of its own, at every worker count that it may like; the table has its best. Peers are
optional: pip install webdataset mosaicml-streaming litdata megatron-energon simplejpeg. Missing ones are named.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from loader_peers import BATCH, LOADERS, Loader, as_jpeg, remove  # noqa: E402

FORMS = ("uint8", "float32")
# Batches of floats are several MB: without this, glibc maps and unmaps each, and page faults are all one measures.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
Rates = dict[str, dict[str, dict[str, float]]]  # loader, size, form: samples per second
QUICK = {
    "ours_jpeg",
    "ours_webp",
    "ours_webp_exact",
    "folder_pil",
    "streaming_jpeg",
    "litdata_jpeg",
    "energon_jpeg",
}  # left out of --quick


def draw_pictures(size: int, count: int) -> list[np.ndarray]:
    """Smooth colours with a little grain, (size, size, 3) uint8: JPEGs of them are as large as those of faces."""
    from PIL import Image

    rng, pictures = np.random.default_rng(size), []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(30, 225, (9, 9, 3), np.uint8)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 2, (size, size, 1))
        pictures.append((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))
    return pictures


def build(loader: Loader, data: Path, size: int, count: int) -> Path:
    """The folder that a loader reads, built once."""
    form = "stored" if loader.name in ("ours", "index_limit") else loader.name
    folder = data / str(size) / form
    done = folder.with_name(f"{form}.{count}.done")
    if not done.exists():
        remove(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pictures = draw_pictures(size, min(count, 1000))
        loader.build(folder, pictures, [as_jpeg(picture) for picture in pictures], count)
        done.touch()
    return folder


def to_float(batch: Any) -> Any:
    """float32 (B, 3, H, W) in [-1, 1], the same for all."""
    return batch.to(dtype=_torch().float32).div_(127.5).sub_(1)


def _torch() -> Any:
    import torch

    return torch


def delivered(batch: Any, form: str) -> Any:
    """A batch as it would be handed on: uint8, or floats in PyTorch's order of axes."""
    batch = _torch().as_tensor(batch)
    if batch.dtype == _torch().float32:
        return batch
    if form == "uint8":
        return batch
    return to_float(batch if batch.shape[1] == 3 else batch.permute(0, 3, 1, 2))


def measure(loader: Loader, folder: Path, size: int, workers: int, form: str, seconds: float) -> float:
    """Samples per second: the median of three windows, after a warm-up."""
    batches = iter(loader.open(folder, size, workers))
    for _ in range(8 + 4 * workers):
        batch = delivered(next(batches), form)
    if tuple(sorted(batch.shape)) != tuple(sorted((BATCH, 3, size, size))):
        raise SystemExit(f"{loader.name}: a batch of shape {tuple(batch.shape)}")
    rates = []
    for _ in range(3):
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds / 3 or count < 2 * BATCH:
            delivered(next(batches), form)
            count += BATCH
        rates.append(count / passed)
    return sorted(rates)[1]


def run_package(package: str, options: argparse.Namespace) -> NoReturn:
    """All rows of one package, one JSON line each. Ends hard: some loaders' threads would wait for ever."""
    for loader in chosen(options):
        for size in options.sizes if loader.package == package else ():
            folder = build(loader, options.data, size, options.count)
            files = sorted(folder.rglob("*.tar")) or [file for file in folder.rglob("*") if file.is_file()]
            for workers in loader.workers if not options.quick else loader.workers[:1]:
                _torch().set_num_threads(1 if workers else len(os.sched_getaffinity(0)))
                for form in FORMS[1:] if loader.floats else FORMS:
                    rate = measure(loader, folder, size, workers, form, options.seconds)
                    row = {
                        "loader": loader.name,
                        "size": size,
                        "workers": workers,
                        "form": form,
                        "rate": round(rate),
                        "bytes": round(sum(file.stat().st_size for file in files) / options.count),
                    }
                    print(json.dumps(row), flush=True)
    os._exit(0)


def chosen(options: argparse.Namespace) -> list[Loader]:
    """The rows asked for; without a wish all, or the quick ones."""
    left_out = QUICK if options.quick else set()
    names = options.only or [loader.name for loader in LOADERS if loader.name not in left_out]
    return [each for each in LOADERS if each.name in names]


def run_all(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of all packages, and why some are missing."""
    rows, missing = [], {}
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"] + ["--data", str(options.data)]
    for package in dict.fromkeys(loader.package for loader in chosen(options)):
        command = [sys.executable, "-W", "ignore", __file__, *arguments, "--package", package]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ALLOCATOR})
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        rows += [json.loads(line) for line in lines]
        if done.returncode:
            missing[package] = (done.stderr.strip().splitlines() or ["?"])[-1]
    return rows, missing


def best(rows: list[dict[str, Any]]) -> Rates:
    """Each loader at its best worker count."""
    rates: Rates = {}
    for row in rows:
        forms = rates.setdefault(row["loader"], {}).setdefault(str(row["size"]), {})
        forms[row["form"]] = max(forms.get(row["form"], 0), row["rate"])
    return rates


def targets(rows: list[dict[str, Any]], rates: Rates) -> dict[str, float]:
    """The ratios that were promised, as far as their loaders were run."""
    ratios: dict[str, float] = {}
    pil = [
        row["rate"]
        for row in rows
        if row["loader"] == "webdataset_pil" and row["size"] == 64 and not row["workers"]
    ]
    for size in rates.get("ours", {}):
        for form in FORMS:
            mine = rates["ours"][size][form]
            others = [sizes[size] for name, sizes in rates.items() if not name.startswith(("ours", "index"))]
            peers = [forms[form] for forms in others if form in forms]
            if peers:
                ratios[f"{size} px {form}: ours / fastest of these peers"] = mine / max(peers)
        if "index_limit" in rates:
            ratios[f"{size} px uint8: ours / bare index"] = (
                rates["ours"][size]["uint8"] / rates["index_limit"][size]["uint8"]
            )
        if "ours_jpeg" in rates and "webdataset_rgb8" in rates:
            mine, theirs = rates["ours_jpeg"][size]["uint8"], rates["webdataset_rgb8"][size]["uint8"]
            ratios[f"{size} px uint8: ours_jpeg / webdataset_rgb8"] = mine / theirs
    if pil and "64" in rates.get("ours", {}):
        ratios["64 px: ours uint8 / webdataset_pil without workers"] = rates["ours"]["64"]["uint8"] / min(pil)
    return ratios


def on_disk(rows: list[dict[str, Any]]) -> list[str]:
    """Bytes that a sample takes on disk, by size and loader."""
    sizes: dict[int, dict[str, int]] = {}
    for row in rows:
        sizes.setdefault(row["size"], {})[row["loader"]] = row["bytes"]
    cells = {size: ", ".join(f"{name} {count:,}" for name, count in sizes[size].items()) for size in sizes}
    return [f"- {size} px, bytes a sample on disk: {text}" for size, text in cells.items()]


def machine() -> str:
    """Processor, cores, Python and PyTorch, in words."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Python {platform.python_version()}, torch {_torch().__version__}"


def table(rates: Rates, ratios: dict[str, float], missing: dict[str, str], disk: list[str]) -> str:
    """For docs/benchmarks.md."""
    columns = [(size, form) for size in next(iter(rates.values()), {}) for form in FORMS]
    lines = ["| samples/s | " + " | ".join(f"{size} px {form}" for size, form in columns) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name, sizes in rates.items():
        lines.append(
            f"| {name} | "
            + " | ".join(f"{sizes[size][form]:,.0f}" if form in sizes[size] else "-" for size, form in columns)
            + " |"
        )
    lines += ["", *(f"- {label}: {ratio:.2f}" for label, ratio in ratios.items()), *disk]
    lines += [f"- missing: {package} ({reason})" for package, reason in missing.items()]
    return "\n".join([machine(), "", *lines])


def main() -> None:
    """Parse the options; run one package, or all of them in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 px, 4,000 samples, no workers, within a minute")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--data", type=Path, help="keep the sets here between runs")
    parser.add_argument("--sizes", type=int, nargs="+", help="default 64 128")
    parser.add_argument("--only", nargs="+", help="only these loaders")
    parser.add_argument("--package", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sizes = options.sizes or ([64] if options.quick else [64, 128])
    options.count, options.seconds = (4_000, 0.3) if options.quick else (16_000, 1.5)
    if options.package:
        run_package(options.package, options)
    with tempfile.TemporaryDirectory(prefix="facegan-bench-") as scratch:
        options.data = options.data or Path(scratch)
        rows, missing = run_all(options)
    rates = best(rows)
    ratios = targets(rows, rates)
    if options.json:
        result = {"machine": machine(), "samples_per_s": rates, "ratios": ratios, "rows": rows, "missing": missing}
        print(json.dumps(result))
    else:
        print(table(rates, ratios, missing, on_disk(rows)))


if __name__ == "__main__":
    main()
