"""Pixels of try-on items: sizes, masks, and augmentation that keeps what lies on one another together."""

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.data.images import ImageError
from unifashion.data.tryon import read_vitonhd
from unifashion.tryon.maps import augment_maps, load_maps, to_map, to_share, to_unit

NAMES = ("image", "agnostic", "densepose", "keep", "garment", "sketch", "warped_mask")


def marked(height=60, width=44):
    """Maps that are black but for one white block, at the same place in all."""
    maps = {
        name: torch.zeros(1 if name in ("keep", "warped_mask") else 3, height, width, dtype=torch.uint8)
        for name in NAMES
    }
    for pixels in maps.values():
        pixels[:, 12:20, 8:14] = 255
    return maps


def centre(pixels):
    """Mean position of what is white."""
    where = (pixels.float().mean(0) > 127).nonzero().float()
    return where.mean(0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_maps_have_the_size_that_is_asked_for_and_masks_say_keep(tryon_root):
    item = read_vitonhd(tryon_root, "test", ("image",)).items[0]
    maps = load_maps(item, NAMES, 32, 24)
    assert {name: tuple(pixels.shape) for name, pixels in maps.items()} == {
        name: (1 if name in ("keep", "warped_mask") else 3, 32, 24) for name in NAMES
    }
    assert all(pixels.dtype == torch.uint8 for pixels in maps.values())
    assert maps["keep"][0, 0, 0] == 255  # the corner stays
    assert maps["keep"][0, 16, 12] == 0  # the chest is painted
    grey = (maps["agnostic"].float() - 128).abs().mean(0)
    assert grey[maps["keep"][0] == 0].mean() < 6 < grey[maps["keep"][0] == 255].mean()


def test_masks_are_cut_at_half_before_they_are_resized():
    ramp = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).convert("RGB")
    assert to_map(ramp, "warped_mask", 1, 4).tolist() == [[[0, 0, 255, 255]]]
    assert to_map(ramp, "keep", 1, 4).tolist() == [[[255, 255, 0, 0]]]
    assert to_map(ramp, "keep", 1, 2).tolist() == [[[223, 32]]] or to_map(ramp, "keep", 1, 2)[0, 0, 0] > 200


def test_values_are_scaled_to_what_the_networks_take():
    pixels = torch.tensor([0, 255], dtype=torch.uint8)
    assert to_unit(pixels).tolist() == [-1, 1]
    assert to_share(pixels).tolist() == [0, 1]


def test_a_mask_of_another_frame_is_refused_and_one_of_another_size_is_not(tryon_root, tmp_path):
    item = read_vitonhd(tryon_root, "test", ("image", "agnostic_mask")).items[0]
    for size, fits in (((24, 32), True), ((96, 128), True), ((64, 64), False), ((64, 48), False)):
        path = tmp_path / f"{size[0]}x{size[1]}.png"
        mask = Image.new("L", size)
        mask.paste(255, (size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4))
        mask.save(path)
        changed = type(item)(item.person, item.garment, {**item.maps, "agnostic_mask": path})
        if fits:
            assert load_maps(changed, ("image", "keep"), 32, 24)["keep"].shape == (1, 32, 24)
        else:
            with pytest.raises(ImageError, match="do not fit the person's photo of 48 x 64"):
                load_maps(changed, ("image", "keep"), 32, 24)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA"])
def test_garments_with_alpha_or_without_colour_are_photos_too(tryon_root, tmp_path, mode):
    item = read_vitonhd(tryon_root, "test", ("garment",)).items[0]
    picture = Image.new("RGBA", (12, 16), (255, 0, 0, 0)).convert(mode) if "A" in mode else Image.new(mode, (12, 16))
    path = tmp_path / f"{mode}.png"
    picture.save(path)
    garment = load_maps(type(item)(item.person, item.garment, {"garment": path}), ("garment",), 16, 12)["garment"]
    assert garment.shape == (3, 16, 12)
    if "A" in mode:
        assert (garment == 255).all()  # what is transparent is white


@pytest.mark.parametrize("move", [False, True])
def test_marks_stay_on_one_another(move):
    """On the person everything moves together; the garment photo only mirrors with it."""
    moved = 0
    for seed in range(40):
        maps = augment_maps(marked(), seeded(seed), flip=True, colour=False, move=move)
        places = {name: centre(pixels) for name, pixels in maps.items()}
        for name in ("agnostic", "densepose", "keep", "sketch", "warped_mask"):
            torch.testing.assert_close(places[name], places["image"])
        if not move:
            torch.testing.assert_close(places["garment"], places["image"])
        moved += not torch.equal(places["garment"], places["image"])
    assert (moved > 5) == move


def test_half_of_the_items_are_mirrored():
    flipped = sum(bool(augment_maps(marked(), seeded(seed), colour=False)["keep"][0, 15, -10]) for seed in range(200))
    assert 75 < flipped < 125


def test_colours_change_together_and_only_where_there_are_colours():
    torch.manual_seed(0)
    maps = {
        name: torch.randint(60, 190, (3, 8, 6), dtype=torch.uint8)
        for name in ("image", "garment", "agnostic", "densepose", "sketch")
    }
    same = torch.randint(60, 190, (3, 8, 6), dtype=torch.uint8)
    maps |= {"image": same, "garment": same.clone(), "agnostic": same.clone()}
    changed = 0
    for seed in range(40):
        found = augment_maps(maps, seeded(seed), flip=False, colour=True)
        assert torch.equal(found["image"], found["garment"])
        assert torch.equal(found["image"], found["agnostic"])
        assert torch.equal(found["densepose"], maps["densepose"])
        assert torch.equal(found["sketch"], maps["sketch"])
        changed += not torch.equal(found["image"], same)
        assert (found["image"].float() - same.float()).abs().max() < 0.3 * 190 + 0.1 * 255 + 30
    assert 20 <= changed <= 38  # three quarters


def test_the_same_seed_gives_the_same_pixels_and_another_does_not():
    draws = [augment_maps(marked(), seeded(seed), move=True) for seed in (3, 3, 4)]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in NAMES)
    assert any(not torch.equal(draws[0][name], draws[2][name]) for name in NAMES)


def test_without_augmentation_nothing_changes():
    maps = marked()
    found = augment_maps(maps, seeded(0), flip=False, colour=False, move=False)
    assert all(torch.equal(found[name], maps[name]) for name in NAMES)
