"""From a generator to pictures: latents, bytes, grids, interpolations, PNG and GIF files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from facegan.errors import UsageError
from facegan.files import whole_file
from facegan.randomness import normal

Picture = Image.Image
WHITE = 255


def latents(seed: int, n: int, latent_dim: int, first: int = 0) -> Tensor:
    """Latents of the samples `first` .. `first + n - 1` of `seed`: z (n, latent_dim), standard normal."""
    return normal(seed, "sample", first, n, (latent_dim,))


def to_uint8(images: Tensor, value_range: str) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] ("tanh") or [0, 1] ("sigmoid") as uint8, rounded, clamped."""
    scale, offset = (127.5, 127.5) if value_range == "tanh" else (255.0, 0.0)
    return (images.float() * scale + offset).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, value_range: str = "tanh", batch: int = 256) -> Tensor:
    """G(z) in eval mode, `batch` at a time: uint8 (n, C, H, W) on the CPU. The generator's mode is put back."""
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        parts = [to_uint8(generator(part.to(device)), value_range).cpu() for part in torch.split(z, batch)]
    finally:
        generator.train(was_training)
    return torch.cat(parts)


def interpolate(start: Tensor, end: Tensor, steps: int, kind: str = "slerp") -> Tensor:
    """Latents on the way from `start` to `end`, both (latent_dim,): z (steps, latent_dim), both ends included.

    "slerp" follows the great circle and keeps the norm that a Gaussian latent has (White 2016,
    arXiv:1609.04468); "linear" the chord. Raises UsageError for fewer than two steps or another kind.
    """
    if steps < 2 or kind not in ("slerp", "linear"):
        raise UsageError(f"interpolation of {steps} steps, {kind!r}: expected at least 2 steps, slerp or linear")
    t = torch.linspace(0, 1, steps)[:, None]
    cosine = torch.dot(start, end) / (start.norm() * end.norm())
    angle = torch.acos(cosine.clamp(-1, 1))
    if kind == "linear" or angle.sin() < 1e-4:  # (anti)parallel: no great circle to follow
        return (1 - t) * start + t * end
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


def interpolation_rows(seed: int, rows: int, steps: int, latent_dim: int, kind: str = "slerp") -> Tensor:
    """`rows` ways between pairs of random latents, one after another: z (rows * steps, latent_dim)."""
    ends = latents(seed, 2 * rows, latent_dim)
    return torch.cat([interpolate(ends[2 * r], ends[2 * r + 1], steps, kind) for r in range(rows)])


def grid(images: Tensor, columns: int = 0, gap: int = 2) -> Picture:
    """uint8 images (n, C, H, W), C 1 or 3, row by row in one picture; 0 columns makes it about square.

    White gaps of `gap` pixels lie between the images and where the last row ends early.
    """
    n, channels, height, width = images.shape
    columns = min(columns, n) or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), WHITE).byte()
    for k, image in enumerate(images.permute(0, 2, 3, 1)):
        top, left = k // columns * (height + gap), k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return to_picture(sheet.permute(2, 0, 1))


def to_picture(image: Tensor) -> Picture:
    """One uint8 image (C, H, W), C 1 or 3, as a grey or RGB picture."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def save_png(image: Picture, path: Path) -> Path:
    """Write a PNG, whole or not at all; return its path."""
    with whole_file(Path(path)) as part:
        image.save(part, format="PNG", optimize=True)
    return Path(path)


def save_pngs(images: Tensor, folder: Path, first: int = 0) -> list[Path]:
    """Write each of the uint8 images (n, C, H, W) as `000000.png`, `000001.png`, ... counted from `first`."""
    named = [(folder / f"{first + k:06d}.png", image) for k, image in enumerate(images)]
    return [save_png(to_picture(image), path) for path, image in named]


def save_gif(frames: Sequence[Picture], path: Path, seconds: float = 0.25, hold: float = 2.0) -> Path:
    """Write an endless GIF of `seconds` a frame, the last held for `hold`; whole or not at all."""
    if not frames:
        raise UsageError(f"{path}: a GIF needs at least one frame")
    palette = _shared_palette(frames)
    paletted = [frame.convert("RGB").quantize(palette=palette) for frame in frames]
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * hold)]
    options: dict[str, Any] = {"save_all": True, "append_images": paletted[1:], "duration": times, "loop": 0}
    with whole_file(Path(path)) as part:
        paletted[0].save(part, format="GIF", **options)
    return Path(path)


def _shared_palette(frames: Sequence[Picture]) -> Picture:
    """A picture of 256 colours that serve all frames, so that none flickers against the next."""
    strip = Image.new("RGB", (128 * len(frames), 128))
    for k, frame in enumerate(frames):
        strip.paste(frame.convert("RGB").resize((128, 128), Image.Resampling.NEAREST), (128 * k, 0))
    return strip.quantize(256)
