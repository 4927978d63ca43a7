"""The sliced Wasserstein distance against an independent reading of the protocol, and its behaviour."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facegan.errors import FaceganError
from facegan.metrics import swd
from facegan.metrics.ranks import Ranks
from facegan.metrics.swd import descriptors, laplacian, level_heights, sliced_wasserstein


@pytest.fixture(autouse=True)
def few_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published protocol, with an eighth of its directions: enough for every behaviour here."""
    assert (swd.PATCH, swd.PATCHES_PER_IMAGE, swd.REPEATS, swd.DIRECTIONS_PER_REPEAT) == (7, 128, 4, 128)
    monkeypatch.setattr(swd, "DIRECTIONS_PER_REPEAT", 16)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth random pictures with edges: (96, 3, 64, 64) uint8."""
    noise = torch.rand(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, size=64, mode="bicubic", antialias=True).clamp(0, 1)
    smooth[:, :, 20:40, 20:40] = (smooth[:, :, 20:40, 20:40] > 0.5).float()
    return (255 * smooth).to(torch.uint8)


def blurred(images: Tensor, passes: int) -> Tensor:
    values = images.float()
    for _ in range(passes):
        values = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return values.round().to(torch.uint8)


def noisy(images: Tensor, std: float) -> Tensor:
    noise = std * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def test_two_samples_of_one_distribution_are_close_and_unlike_ones_far(pictures: Tensor) -> None:
    floor = sliced_wasserstein(pictures[::2], pictures[1::2])["mean"]
    assert 0 < floor < sliced_wasserstein(pictures[::2], blurred(pictures[1::2], 2))["mean"] / 3


def test_equal_patches_are_at_distance_zero(pictures: Tensor) -> None:
    patches = descriptors(pictures[:8], 0, 0, "real")
    assert swd._mean_distance(patches, patches.copy(), 0, Ranks()) == 0


def test_it_grows_with_blur_and_with_noise(pictures: Tensor) -> None:
    reals, others = pictures[::2], pictures[1::2]
    for worsen in (
        [blurred(others, k) for k in (0, 1, 2, 4)],
        [noisy(others, std) for std in (0.0, 10.0, 25.0, 60.0)],
    ):
        finest = [sliced_wasserstein(reals, fakes)["64"] for fakes in worsen]
        assert finest == sorted(finest)


def test_noise_of_single_pixels_shows_at_the_fine_level_and_not_at_the_coarse(pictures: Tensor) -> None:
    found = sliced_wasserstein(pictures[::2], noisy(pictures[1::2], 25.0))
    assert found["64"] > 3 * found["16"]


def test_the_mean_is_of_the_levels_and_the_seed_decides_everything(pictures: Tensor) -> None:
    found = sliced_wasserstein(pictures[:48], pictures[48:])
    assert list(found) == ["64", "32", "16", "mean"]
    assert found["mean"] == pytest.approx((found["64"] + found["32"] + found["16"]) / 3)
    assert sliced_wasserstein(pictures[:48], pictures[48:]) == found
    assert sliced_wasserstein(pictures[:48], pictures[48:], seed=1) != found


def test_one_dimensional_distance_of_two_shifted_sets_is_the_shift() -> None:
    """Points on one axis, shifted by c: each direction d sees |c d_1|; the mean over directions is known."""
    points = np.zeros((1000, 147), np.float32)
    points[:, 0] = np.linspace(0, 1, 1000)
    shifted = points.copy()
    shifted[:, 0] += 0.25
    directions = torch.nn.functional.normalize(swd.normal(3, "swd-directions", 0, 64, (147,)))
    expected = 0.25 * directions[:, 0].abs().mean().item()
    assert swd._mean_distance(points, shifted, 3, Ranks()) == pytest.approx(expected, rel=1e-4)


def test_the_pyramid_is_the_published_one() -> None:
    """cv2.pyrDown and pyrUp written out as full 5x5 convolutions with mirrored borders."""
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = (torch.outer(row, row) / 256).expand(3, 1, 5, 5)

    def blur(values: Tensor) -> Tensor:
        return F.conv2d(F.pad(values, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)

    small = blur(image)[:, :, ::2, ::2]
    spread = torch.zeros_like(image)
    spread[:, :, ::2, ::2] = small
    torch.testing.assert_close(laplacian(image, 0), image - 4 * blur(spread))
    torch.testing.assert_close(laplacian(image, 1), small)


def test_an_odd_sided_pyramid_adds_up_to_the_image_again() -> None:
    image = torch.rand(1, 3, 62, 47, generator=torch.Generator().manual_seed(0))
    assert level_heights(62, 47) == [62, 31]
    coarse = laplacian(image, 1)
    assert coarse.shape == (1, 3, 31, 24)
    torch.testing.assert_close(laplacian(image, 0) + swd._up(coarse, image.shape), image)


def test_descriptors_are_7x7_patches_normalised_per_channel(pictures: Tensor) -> None:
    patches = descriptors(pictures[:5], 0, 0, "real").reshape(5 * 128, 3, 49)
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches.mean(axis=(0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(patches.std(axis=(0, 2)), 1, atol=1e-5)


def test_patches_come_from_everywhere_in_the_image() -> None:
    """An image whose pixels are their own positions: the corners reached are the first and the last."""
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    cut = swd._cut(ramp.repeat(200, 1, 1, 1), "use", 0, 0)
    assert cut.min() == 0
    assert cut.max() == 63
    assert np.all(np.diff(cut.reshape(-1, 7, 7), axis=2) == 1)


def test_an_images_patches_do_not_depend_on_the_images_before_it(pictures: Tensor) -> None:
    band = pictures[:4].float()
    np.testing.assert_array_equal(swd._cut(band, "use", 0, 0)[2 * 128 :], swd._cut(band[2:], "use", 0, 2))


def test_constant_images_give_a_number(pictures: Tensor) -> None:
    found = sliced_wasserstein(pictures[:8], torch.full_like(pictures[:8], 7))
    assert all(np.isfinite(value) for value in found.values())


def test_sets_that_cannot_be_compared_are_refused(pictures: Tensor) -> None:
    with pytest.raises(FaceganError, match="two equal sets"):
        sliced_wasserstein(pictures[:4], pictures[:5])
    with pytest.raises(FaceganError, match="two equal sets"):
        sliced_wasserstein(pictures[:4].float(), pictures[:4].float())
    with pytest.raises(FaceganError, match="below 16"):
        sliced_wasserstein(pictures[:4, :, :15], pictures[:4, :, :15])
