"""What exactly a job ran: commit, host, versions, settings, and the sources themselves."""

import hashlib
import io
import os
import platform
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

from facegan.files import whole_file
from facegan.run import checkout
from jobs.slurm.request import SECRET

RECORDED = ("SLURM_", "FACEGAN_", "CUDA_", "NCCL_", "GLOO_", "OMP_", "TORCH_", "PYTORCH_", "MASTER_", "WANDB_")
VERSIONS = ("torch", "accelerate", "numpy", "webdataset", "wandb", "safetensors")


def describe() -> dict[str, Any]:
    """Commit, host, versions and settings; nothing whose name says that it is secret."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(RECORDED) and not SECRET.search(k)}
    return {
        "host": platform.node(),
        "directory": str(Path.cwd()),
        "git": checkout.describe(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in VERSIONS},
        "environment": dict(sorted(kept.items())),
    }


def snapshot_code(logs: Path) -> str:
    """Keep the packages' sources in `logs`, once for each state they are in; returns the archive's name."""
    root = checkout.ROOT
    files = [
        path
        for name in checkout.CODE
        for path in sorted((root / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name != "site.sh"
    ]
    contents = [(str(path.relative_to(root)), path.read_bytes()) for path in files]
    digest = hashlib.sha256()
    for name, content in contents:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    archive = logs / f"code-{digest.hexdigest()[:12]}.tar.gz"
    if not archive.exists():
        with whole_file(archive) as part, tarfile.open(part, "w:gz") as tar:
            for name, content in contents:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return archive.name


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
