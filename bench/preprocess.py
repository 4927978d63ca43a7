"""Preprocess side by side: this project, the plain Pillow loop, img2dataset, and decode and resize alone.

    python bench/preprocess.py --quick
    python bench/preprocess.py --pictures img_align_celeba/ --count 6000 --img2dataset ~/peers/bin/python --json
    python bench/preprocess.py --memory

Everybody turns the same 178x218 JPEGs into 64 and 128 px images. Imports and the start of processes are not
counted; all else is, up to the last byte written. Contestants take turns; the table has medians over the rounds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (64, 128)
BOX = (14, 34, 164, 184)  # the centre 150 of 178x218: left, top, right, bottom
BATCH = 32
IMG2DATASET = """
import sys, time
from img2dataset import download
if __name__ == "__main__":
    urls, out, processes = sys.argv[1:4]
    start = time.perf_counter()
    for size in (64, 128):
        download(url_list=urls, image_size=size, resize_mode="center_crop", output_folder=f"{out}/{size}",
                 processes_count=int(processes), thread_count=16, output_format="webdataset", encode_quality=95,
                 number_sample_per_shard=1000, enable_wandb=False, compute_hash=None)
    print("seconds", time.perf_counter() - start)
"""


def pillow_loop(files: list[Path], out: Path, filter_name: str) -> None:
    """What everybody writes: open, crop, resize, JPEG, TarWriter."""
    import io

    import webdataset
    from PIL import Image

    writers = [webdataset.TarWriter(f"{out}-{size}.tar") for size in SIZES]
    for file in files:
        crop = Image.open(file).convert("RGB").crop(BOX)
        for size, writer in zip(SIZES, writers, strict=True):
            buffer = io.BytesIO()
            crop.resize((size, size), Image.Resampling[filter_name]).save(buffer, "JPEG", quality=95)
            writer.write({"__key__": file.stem, "jpg": buffer.getvalue()})
    for writer in writers:
        writer.close()


def decode_and_resize(files: list[Path], out: Path) -> None:
    """The limit: read, decode, crop, resize, and nothing else."""
    import numpy as np
    import simplejpeg
    import torch

    left, top, right, bottom = BOX
    for start in range(0, len(files), BATCH):
        pictures = [simplejpeg.decode_jpeg(file.read_bytes()) for file in files[start : start + BATCH]]
        batch = torch.from_numpy(np.stack([picture[top:bottom, left:right] for picture in pictures]))
        for size in SIZES:
            planes = batch.permute(0, 3, 1, 2)
            torch.nn.functional.interpolate(planes, size=(size, size), mode="bicubic", antialias=True)


LOOPS: dict[str, Callable[[list[Path], Path], None]] = {
    "pillow_lanczos": lambda files, out: pillow_loop(files, out, "LANCZOS"),
    "pillow_bicubic": lambda files, out: pillow_loop(files, out, "BICUBIC"),
    "limit": decode_and_resize,
}


def loop_process(name: str, files: list[Path], out: Path, ready: Any) -> None:
    """One process of a loop: import, wait for the others, work."""
    import torch

    torch.set_num_threads(1)
    import webdataset  # noqa: F401

    LOOPS[name](files[:BATCH], out)
    ready.wait()
    LOOPS[name](files, out)


def time_loop(name: str, files: list[Path], out: Path, processes: int) -> float:
    """Seconds of a loop over `files`, shared between processes."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes + 1)
    arguments = [(name, files[i::processes], out / f"{name}-{i}", ready) for i in range(processes)]
    started = [context.Process(target=loop_process, args=each) for each in arguments]
    for process in started:
        process.start()
    ready.wait()
    start = time.perf_counter()
    for process in started:
        process.join()
    return time.perf_counter() - start


def time_ours(files: list[Path], out: Path, processes: int) -> float:
    """Seconds of preprocess, from the listing to the index."""
    from shards.make.pool import start_server
    from shards.make.writer import Options, preprocess

    warm = start_server().Process(target=len, args=((),))
    warm.start()  # served when the fork server has imported everything
    warm.join()
    start = time.perf_counter()
    sizes = tuple((size, size) for size in SIZES)
    shard_size = min(1000, len(files) // (2 * processes))
    preprocess(Options(files[0].parent, out / "ours", sizes, "150", workers=processes, shard_size=shard_size))
    return time.perf_counter() - start


def time_img2dataset(python: str, files: list[Path], out: Path, processes: int) -> float:
    """Seconds of img2dataset: a pass for each size, as it makes one at a time, and of its own centre crop."""
    urls, script = out / "urls.txt", out / "img2dataset_run.py"
    urls.write_text("".join(f"file://{file.resolve()}\n" for file in files))
    script.write_text(IMG2DATASET)
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONWARNINGS": "ignore"}
    line = [python, script, urls, out / "img2dataset", str(processes)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.rpartition("seconds")[2])


def has_img2dataset(python: str) -> bool:
    """Whether that interpreter has img2dataset."""
    return subprocess.run([python, "-c", "import img2dataset"], capture_output=True).returncode == 0


def compare(files: list[Path], rounds: int, processes: tuple[int, ...], img2dataset: str) -> dict[str, Any]:
    """Pictures a second of every contestant, medians over the rounds, and ours over each."""
    most = max(processes)
    runs: dict[str, Callable[[Path], float]] = {}
    for count in processes:
        for name in LOOPS:
            runs[f"{name}_{count}"] = lambda out, name=name, count=count: time_loop(name, files, out, count)
        runs[f"ours_{count}"] = lambda out, count=count: time_ours(files, out, count)
    missing = [] if has_img2dataset(img2dataset) else ["img2dataset"]
    if not missing:
        runs[f"img2dataset_{most}"] = lambda out: time_img2dataset(img2dataset, files, out, most)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            with tempfile.TemporaryDirectory() as out:
                rates[name].append(len(files) / run(Path(out)))
    over = {
        name: statistics.median(
            a / b for a, b in zip(rates[f"ours_{name.rpartition('_')[2]}"], values, strict=True)
        )
        for name, values in rates.items()
    }
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"images_per_s": medians, "ours_over": over, "missing": missing}


def memory(files: list[Path], counts: tuple[int, int], processes: int) -> dict[str, float]:
    """Peak resident MiB of the whole command, all processes added up, for zips of both numbers of pictures."""
    return {str(count): _peak(files, count, processes) for count in counts}


def _peak(files: list[Path], count: int, processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(f"{folder}/faces.zip", "w") as archive:
            for i in range(count):
                archive.writestr(f"img_align_celeba/{i:07d}.jpg", files[i % len(files)].read_bytes())
        line = [sys.executable, "-m", "jobs", "preprocess", f"{folder}/faces.zip", f"{folder}/out"]
        process = subprocess.Popen([*line, "--workers", str(processes)], stderr=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.05)
        return round(peak, 1)


def _resident(root: int) -> float:
    """MiB that a process and all below it hold, pages they share counted once for each (an upper bound)."""
    parents: dict[int, int] = {}
    sizes: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        parents[int(folder.name)] = int(fields["PPid"])
        sizes[int(folder.name)] = int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(sizes[pid] for pid in family if pid in sizes)


def machine() -> str:
    """The machine in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}, {platform.system()}"
    )


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"{result['pictures']} pictures; {result['machine']}", ""]
    if "images_per_s" in result:
        lines += ["| contestant, processes | images/s | ours over it |", "|---|---:|---:|"]
        rates, over = result["images_per_s"], result["ours_over"]
        lines += [f"| {name.replace('_', ' ')} | {rates[name]:,.0f} | {over[name]:.2f} |" for name in rates]
        lines += [f"\nNot installed: {', '.join(result['missing'])}"] * bool(result["missing"])
    if "peak_mib" in result:
        lines += ["\n| pictures | peak MiB, all processes |", "|---:|---:|"]
        lines += [f"| {int(count):,} | {peak:,.0f} |" for count, peak in result["peak_mib"].items()]
    return "\n".join(lines)


def pictures(folder: Path | None, count: int, scratch: Path) -> list[Path]:
    """The JPEGs to work on, copied into a folder of their own: those given, or synthetic faces."""
    if folder is None:
        from jobs.synthetic.celeba import write_celeba

        folder = write_celeba(scratch / "drawn", min(count, 500))
    originals = sorted(folder.rglob("*.jpg"))
    chosen = scratch / "chosen"
    chosen.mkdir()
    for i in range(count):
        shutil.copyfile(originals[i % len(originals)], chosen / f"{i:06d}.jpg")
    return sorted(chosen.iterdir())


def main() -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of 178x218 JPEGs (default: synthetic faces)")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--img2dataset", default=sys.executable, help="a Python that has img2dataset")
    parser.add_argument("--quick", action="store_true", help="within a minute: fewer pictures, one round")
    parser.add_argument("--memory", action="store_true", help="peak memory at 1x and 50x instead")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    count, rounds = (600, 1) if options.quick else (options.count, options.rounds)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        files = pictures(options.pictures, count, Path(scratch))
        result: dict[str, Any] = {"machine": machine(), "pictures": count}
        if options.memory:
            result["peak_mib"] = memory(files, (2000, 100_000), cores)
        else:
            processes = (cores,) if options.quick or cores == 1 else (1, cores)
            result |= compare(files, rounds, processes, options.img2dataset)
    print(json.dumps(result, indent=1) if options.json else table(result))


if __name__ == "__main__":
    main()
