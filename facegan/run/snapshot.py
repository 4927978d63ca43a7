"""Snapshots: the generator to use, small and safe to pass on; one safetensors file and one JSON file."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from facegan import __version__, recipes
from facegan.errors import FaceganError
from facegan.files import sync, sync_folder
from facegan.networks import build_generator
from facegan.recipes import Recipe
from facegan.run.checkpoint import disk_full_explained, folder_name

WEIGHTS, META = "generator.safetensors", "snapshot.json"
FORMAT = "facegan-snapshot"


@dataclass(frozen=True)
class Snapshot:
    """A generator in eval mode and where it comes from."""

    generator: nn.Module  # z (B, latent_dim) -> images (B, C, H, W) in recipe.value_range
    recipe: Recipe
    nimg: int
    seed: int
    path: Path
    meta: dict[str, Any]


def write_snapshot(
    root: Path, nimg: int, generator: nn.Module, recipe: Recipe, seed: int, about: dict[str, Any]
) -> Path:
    """Write `root/nimg-.../` whole or not at all; one that is there already is left as it is."""
    final = root / folder_name(nimg)
    if (final / META).exists():
        return final
    part = final.with_name(f".{final.name}.part")
    with disk_full_explained(final):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
        weights = save(tensors)
        (part / WEIGHTS).write_bytes(weights)
        digest = hashlib.sha256(weights).hexdigest()
        identity = {"format": FORMAT, "version": 1, "nimg": nimg, "seed": seed, "sha256": digest}
        made_by = {"recipe": recipe.name, "values": recipes.to_values(recipe), "software": {"facegan": __version__}}
        (part / META).write_text(json.dumps(identity | made_by | about, indent=2, allow_nan=False) + "\n")
        for path in (part / WEIGHTS, part / META):
            sync(path)
        sync_folder(part)
        part.rename(final)
        sync_folder(root)
    return final


def load_snapshot(path: Path) -> Snapshot:
    """The snapshot at `path`, or the newest one where `path` is a run folder.

    Raises FaceganError where there is none, or where it is damaged or of another format.
    """
    folder = _find(Path(path))
    try:
        meta = json.loads((folder / META).read_text())
        if not isinstance(meta, dict) or (meta.get("format"), meta.get("version")) != (FORMAT, 1):
            raise FaceganError(f"{folder / META}: expected format {FORMAT} version 1")
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != meta["sha256"]:
            raise FaceganError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one in {META}")
        recipe = recipes.from_values(meta["recipe"], recipes.stored(meta["values"]))
        generator = build_generator(recipe)
        generator.load_state_dict(load(weights))
        nimg, seed = int(meta["nimg"]), int(meta["seed"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise FaceganError(f"snapshot {folder} is damaged or incomplete: {error!r}") from None
    generator = generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Snapshot(generator, recipe, nimg, seed, folder, meta)


def snapshot_folders(run_dir: Path) -> list[Path]:
    """Snapshots of a run, oldest first."""
    return sorted(p.parent for p in run_dir.glob(f"snapshots/nimg-*/{META}"))


def run_folder(path: Path) -> Path:
    """The run a snapshot folder belongs to; the folder itself where it is a run's, or lies alone."""
    return path.parent.parent if path.parent.name == "snapshots" else path


def _find(path: Path) -> Path:
    if (path / META).is_file():
        return path
    folders = snapshot_folders(path)
    if not folders:
        raise FaceganError(
            f"{path}: no snapshot here; expected a run folder of facegan train, or {WEIGHTS} and {META}. "
            "A run writes its first after --snapshot-kimg thousand images, and one at its end; "
            "a stopped run goes on with a smaller --snapshot-kimg."
        )
    return folders[-1]
