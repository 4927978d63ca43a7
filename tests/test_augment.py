"""Augmentations at draws whose result is known."""

import pytest
import torch

from facegan.errors import UsageError
from facegan.train import augment

SHAPE = (4, 3, 10, 6)


def still(n: int = 4) -> torch.Tensor:
    """Uniform numbers that leave an image where it is."""
    u = torch.full((n, augment.GEOMETRIC_DRAWS), 0.5)
    u[:, 4] = 0.0
    return u


def test_flip_mirrors_the_columns_of_those_drawn() -> None:
    images = torch.randn(SHAPE)
    flipped = augment.flip(images, torch.tensor([[0.0], [0.49], [0.5], [0.99]]))
    assert torch.equal(flipped[:2], images[:2])
    assert torch.equal(flipped[2:], images[2:].flip(-1))


def test_flip_keeps_channels_last() -> None:
    images = torch.randn(8, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert augment.flip(images, torch.rand(8, 1)).is_contiguous(memory_format=torch.channels_last)


def test_middle_draws_leave_the_image_where_it_is() -> None:
    images = torch.randn(SHAPE)
    same = augment.geometric(images, still(), rotation=20.0, shear=0.2, zoom=0.2, flip=True)
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


def test_nothing_asked_for_is_nothing_done() -> None:
    images = torch.randn(SHAPE)
    assert augment.geometric(images, torch.rand(4, 5)) is images
    assert augment.diffaugment(images, torch.rand(4, 7), "") is images


def test_the_last_draw_of_the_geometric_ones_mirrors() -> None:
    images, u = torch.randn(SHAPE), still()
    u[:, 4] = 0.7
    assert torch.equal(augment.geometric(images, u, flip=True), images.flip(-1))


def test_a_quarter_turn_of_a_square_turns_it() -> None:
    images, u = torch.randn(2, 3, 7, 7), still(2)
    u[:, 0] = torch.tensor([0.0, 1.0])
    turned = augment.geometric(images, u, rotation=90.0)
    torch.testing.assert_close(turned[0], images[0].rot90(-1, (1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[1], images[1].rot90(1, (1, 2)), atol=1e-4, rtol=0)


def test_a_turn_of_a_rectangle_keeps_lengths() -> None:
    """A dot 3 px right of the centre goes 3 px up or down, not 3 px times the sides' ratio."""
    image = torch.zeros(1, 1, 21, 11)
    image[0, 0, 10, 8] = 1.0
    u = still(1)
    u[:, 0] = 1.0
    turned = augment.geometric(image, u, rotation=90.0)[0, 0]
    assert divmod(int(turned.argmax()), 11) in ((7, 5), (13, 5))
    assert turned.sum().item() == pytest.approx(1, abs=1e-3)


def test_zoom_enlarges_each_axis_by_its_own_draw() -> None:
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 16:25, 16:25] = 1.0
    u = still(1)
    u[0, 2] = 1.0  # rows by 1 + zoom
    larger = augment.geometric(image, u, zoom=0.5)[0, 0]
    assert larger[:, 20].sum().item() == pytest.approx(9 * 1.5, abs=0.6)
    assert larger[20, :].sum().item() == pytest.approx(9, abs=0.1)


def test_shear_moves_rows_in_proportion_to_their_distance_from_the_centre() -> None:
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, :, 10] = 1.0
    u = still(1)
    u[0, 1] = 1.0
    columns = augment.geometric(image, u, shear=0.5)[0, 0].argmax(dim=1)
    assert columns[10] == 10
    assert abs(int(columns[18]) - 10) == 4 and int(columns[18]) - 10 == 10 - int(columns[2])


def test_new_pixels_take_the_nearest_of_the_border() -> None:
    image, u = torch.ones(1, 1, 9, 9), still(1)
    u[0, 2:4] = 0.0  # smaller
    torch.testing.assert_close(augment.geometric(image, u, zoom=0.5), image)


def test_geometric_draws_stay_within_the_lfw_ranges() -> None:
    """The farthest draws move a corner no further than turn, slope and zoom allow."""
    image = torch.linspace(-1, 1, 47).expand(1, 1, 62, 47)
    for u in torch.rand(50, 1, 5):
        changed = augment.geometric(image, u, rotation=20, shear=0.2, zoom=0.2)
        assert changed.min() >= -1 and changed.max() <= 1


# DiffAugment

ALL = "color,translation,cutout"


def test_diffaugment_is_differentiable_and_keeps_the_shape() -> None:
    images = torch.randn(6, 3, 32, 32, requires_grad=True)
    changed = augment.diffaugment(images, torch.rand(6, augment.DIFFAUGMENT_DRAWS), ALL)
    changed.square().sum().backward()
    assert changed.shape == images.shape
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_middle_colour_draws_leave_the_image() -> None:
    images = torch.randn(SHAPE)
    torch.testing.assert_close(augment.diffaugment(images, torch.full((4, 7), 0.5), "color"), images)


def test_brightness_is_added_saturation_and_contrast_scale_about_their_means() -> None:
    images, u = torch.randn(SHAPE), torch.full((4, 7), 0.5)
    u[:, 0] = 0.75
    torch.testing.assert_close(augment.diffaugment(images, u, "color"), images + 0.25)
    u[:, 0], u[:, 1] = 0.5, 0.0
    torch.testing.assert_close(
        augment.diffaugment(images, u, "color"), images.mean(1, keepdim=True).expand_as(images)
    )
    u[:, 1], u[:, 2] = 0.5, 0.0
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(augment.diffaugment(images, u, "color"), (images - means) / 2 + means)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -4), (0.5, 0), (0.999, 4)])
def test_translation_shifts_by_up_to_an_eighth_with_zeros_coming_in(draw: float, shift: int) -> None:
    images, u = torch.rand(2, 3, 32, 32) + 1, torch.full((2, 7), 0.5)
    u[:, 3] = draw
    moved = augment.diffaugment(images, u, "translation")
    expected = torch.zeros_like(images)
    expected[:, :, max(shift, 0) : 32 + min(shift, 0)] = images[:, :, max(-shift, 0) : 32 + min(-shift, 0)]
    torch.testing.assert_close(moved, expected)


def test_cutout_clears_a_square_of_half_the_side() -> None:
    images, u = torch.ones(1, 3, 32, 32), torch.full((1, 7), 0.5)
    kept = augment.diffaugment(images, u, "cutout")
    assert (kept == 0).sum() == 3 * 16 * 16
    assert (kept[:, :, 8:24, 8:24] == 0).all()


def test_cutout_at_the_border_clears_what_lies_inside() -> None:
    images, u = torch.ones(1, 3, 32, 32), torch.zeros(1, 7)
    assert (augment.diffaugment(images, u, "cutout") == 0).sum() == 3 * 8 * 8


def test_each_sample_has_its_own_draws() -> None:
    images = torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1)
    u = torch.rand(2, 7)
    both = augment.diffaugment(images, u, ALL)
    for index in range(2):
        alone = augment.diffaugment(images[index : index + 1], u[index : index + 1], ALL)
        torch.testing.assert_close(both[index : index + 1], alone)
    assert not torch.allclose(both[0], both[1])


def test_by_chance_each_part_of_each_image_is_taken_where_its_own_draw_is_below() -> None:
    images, u = torch.rand(64, 3, 32, 32), torch.rand(64, augment.DIFFAUGMENT_DRAWS + augment.CHANCE_DRAWS)
    assert torch.equal(augment.diffaugment(images, u, ALL, 0.0), images)
    assert torch.equal(augment.diffaugment(images, u, ALL, torch.tensor(1.0)), augment.diffaugment(images, u, ALL))
    some = augment.diffaugment(images, u, ALL, 0.3)
    seen = set()
    for image, draws, changed in zip(images, u, some, strict=True):
        chances = draws[augment.DIFFAUGMENT_DRAWS :]
        taken = [name for name, draw in zip(ALL.split(","), chances, strict=True) if draw < 0.3]
        alone = augment.diffaugment(image[None], draws[None], ",".join(taken))
        torch.testing.assert_close(changed[None], alone)
        seen.add(len(taken))
    assert seen >= {0, 1, 2}


@pytest.mark.parametrize(
    ("chance", "sign", "expected"),
    [(0.5, 0.9, 0.6), (0.5, 0.2, 0.4), (0.5, 0.6, 0.5), (0.95, 1.0, 1.0), (0.05, -1.0, 0.0)],
)
def test_the_chance_goes_up_where_the_discriminator_is_too_sure_and_stays_a_probability(
    chance: float, sign: float, expected: float
) -> None:
    after = augment.adapted(torch.tensor(chance), torch.tensor(sign), 0.6, 0.1)
    assert float(after) == pytest.approx(expected)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'colour' does not exist.*color,translation,cutout"):
        augment.diffaugment(torch.ones(SHAPE), torch.rand(4, 7), "colour")


def test_instance_noise_adds_its_deviation() -> None:
    images, normals = torch.randn(SHAPE), torch.randn(SHAPE)
    torch.testing.assert_close(augment.instance_noise(images, normals, 0.25), images + normals / 4)


def test_sharpening_adds_each_pixels_difference_from_the_mean_around_it() -> None:
    images = torch.randn(SHAPE)
    seen = augment.sharpen(images, 2.0)
    windows = torch.nn.functional.pad(images, (1, 1, 1, 1), "replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    torch.testing.assert_close(seen, images + 2 * (images - windows.mean(dim=(4, 5))))
    assert augment.sharpen(images, 0.0) is images


def test_sharpening_leaves_flat_light_and_multiplies_the_finest_stripes() -> None:
    flat = torch.tensor([0.5, -0.25, 1.0])[:, None, None].expand(SHAPE)
    torch.testing.assert_close(augment.sharpen(flat, 1.5), flat)
    stripes = torch.tensor([0.1, -0.1]).repeat(3).expand(SHAPE)
    torch.testing.assert_close(augment.sharpen(stripes, 1.5)[..., 1:-1], 3 * stripes[..., 1:-1])


def test_sharpening_does_not_round_below_float32_under_autocast() -> None:
    images = torch.randn(SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        seen = augment.sharpen(images, 1.0)
    assert torch.equal(seen, augment.sharpen(images, 1.0))
