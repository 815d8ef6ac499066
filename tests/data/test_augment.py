import pytest
import torch

from unifashion.data.augment import augment


@pytest.fixture
def photos():
    return torch.randint(0, 200, (16, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_shape_stays_and_pixels_become_floats_in_their_range():
    bright = torch.full((32, 3, 8, 8), 255, dtype=torch.uint8)
    changed = augment(bright, seeded(0))
    assert changed.shape == bright.shape and changed.dtype == torch.float32
    assert changed.max() == 255  # lighter images are clipped
    assert changed.amin(dim=(1, 2, 3)).unique().numel() > 1
    assert changed.min() >= 255 * 0.9
    assert (augment(torch.zeros_like(bright), seeded(0)) == 0).all()


def test_the_generator_alone_decides(photos):
    first = augment(photos, seeded(0))
    torch.manual_seed(99)
    assert torch.equal(augment(photos, seeded(0)), first)
    assert not torch.equal(augment(photos, seeded(1)), first)


def test_the_input_is_left_alone(photos):
    before = photos.clone()
    augment(photos, seeded(0))
    assert torch.equal(photos, before)


def test_every_image_has_a_draw_of_its_own(photos):
    same = photos[:1].expand(16, -1, -1, -1)
    changed = augment(same, seeded(0))
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 16


def test_without_shift_and_zoom_an_image_is_only_mirrored_and_lit(photos):
    mirrored = []
    for image, changed in zip(photos.float(), augment(photos, seeded(0), shift=0.0, zoom=0.0), strict=True):
        light = changed.sum() / image.sum()
        assert 0.9 <= light <= 1.1
        straight, flipped = ((changed / light - x).abs().max() < 0.05 for x in (image, image.flip(-1)))
        assert straight != flipped
        mirrored.append(bool(flipped))
    assert 0 < sum(mirrored) < len(mirrored)


def test_light_changes_all_channels_alike():
    colours = torch.tensor([40, 80, 160], dtype=torch.uint8).view(1, 3, 1, 1).expand(8, 3, 10, 10)
    changed = augment(colours, seeded(3))
    torch.testing.assert_close(changed[:, 1], changed[:, 0] * 2)
    torch.testing.assert_close(changed[:, 2], changed[:, 0] * 4)


def test_a_dot_moves_no_further_than_the_shift():
    photo = torch.zeros(200, 1, 41, 41, dtype=torch.uint8)
    photo[:, :, 19:22, 19:22] = 200
    changed = augment(photo, seeded(0), shift=0.1, zoom=0.0)
    place = torch.arange(41.0)
    mass = changed.sum(dim=(1, 2, 3))
    across = (changed.sum(dim=(1, 2)) * place).sum(1) / mass - 20
    down = (changed.sum(dim=(1, 3)) * place).sum(1) / mass - 20
    for moved in (across, down):
        assert moved.abs().max() <= 4.1 + 1e-3  # a tenth of 41 pixels
        assert moved.min() < -3 and moved.max() > 3


def test_zoom_enlarges_and_reduces_by_at_most_its_share():
    photo = torch.zeros(200, 1, 60, 60, dtype=torch.uint8)
    photo[:, :, 15:45, 15:45] = 200
    changed = augment(photo, seeded(0), shift=0.0, zoom=0.2)
    sides = (changed > changed.amax(dim=(1, 2, 3), keepdim=True) / 2).sum(dim=(1, 2, 3)).sqrt()
    assert sides.max() <= 30 / 0.8 + 1 and sides.min() >= 30 / 1.2 - 1
    assert sides.max() > 34 and sides.min() < 27
