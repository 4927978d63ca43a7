"""Inception features from a local TorchScript file, for FID, KID and IS comparable with published ones.

The file is NVIDIA's `inception-2015-12-05.pt` (StyleGAN2-ADA, StyleGAN3): uint8 images of any size in, resized
inside as the original does. It is never fetched. TorchScript runs code, so a file is loaded only after its
SHA-256 was confirmed once; confirmed hashes are kept in `trusted.json` of the user's configuration folder.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegan.errors import FaceganError
from facegan.files import home, write_json
from facegan.metrics.features import Extractor

VARIABLE = "FACEGAN_INCEPTION"
FEATURES = 2048  # followed by the class probabilities without the output bias


def find(path: str) -> Path | None:
    """The file meant by an option's value or, where that is empty, by $FACEGAN_INCEPTION; None for neither."""
    chosen = path or os.environ.get(VARIABLE, "")
    if chosen and not Path(chosen).is_file():
        raise FaceganError(
            f"{chosen}: no such file; expected NVIDIA's inception-2015-12-05.pt, from --inception or ${VARIABLE}"
        )
    return Path(chosen) if chosen else None


def load(path: Path, confirm: Callable[[str], bool], device: torch.device | None = None) -> Extractor:
    """The extractor in `path`: images (B, 1 or 3, H, W) uint8 -> features and probabilities (B, 2048 + 1008).

    `confirm` is asked with the file's SHA-256 unless that was confirmed before; raises FaceganError where it
    says no, or where the file is no such network.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest not in _trusted():
        if not confirm(digest):
            raise FaceganError(
                f"{path} was not loaded: TorchScript runs code, and nobody confirmed this file. Where its SHA-256 "
                f"is the one you expect, say so once: --trust-inception {digest}"
            )
        write_json(_trust_file(), sorted({*_trusted(), digest}))
    return Extractor("inception", digest, _runner(_open(path), device or torch.device("cpu")))


def _open(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; the published network has no other form
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise FaceganError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from None


def _runner(network: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    network = network.to(device)

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1).to(device)
        features = network(images, return_features=True)
        probabilities = network(images, no_output_bias=True)
        return torch.cat([features, probabilities], dim=1).float().cpu()

    return extract


def _trust_file() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or home() / ".config"
    return Path(folder) / "facegan" / "trusted.json"


def _trusted() -> set[str]:
    try:
        return set(json.loads(_trust_file().read_text()))
    except (OSError, ValueError, TypeError):
        return set()
