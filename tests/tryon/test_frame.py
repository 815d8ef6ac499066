"""Photos of any aspect ratio: nobody is squeezed, and what was drawn returns to its place."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from unifashion.data.images import ImageError
from unifashion.tryon.api import Person, TryOn
from unifashion.tryon.frame import Frame, fit
from unifashion.tryon.maps import read_maps
from unifashion.tryon.tiny import tiny_pipeline

SEEN = (24, 36)  # width, height of what the model sees
PHOTOS = [(48, 72), (60, 72), (200, 100), (40, 100), (72, 72), (300, 72)]
BODY = (10, 40, 160)


def scene(size, box=None):
    """A photo with a ball in it, the ball's mask, and the body below."""
    width, height = size
    photo = Image.fromarray(np.random.default_rng(0).integers(90, 160, (height, width, 3), dtype=np.uint8))
    x, y, radius = width * 0.4, height * 0.55, 0.2 * min(size)
    box = box or (x - radius, y - radius, x + radius, y + radius)
    mask, body = Image.new("L", size), Image.new("RGB", size)
    ImageDraw.Draw(photo).ellipse(box, fill="red")
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    ImageDraw.Draw(body).ellipse(box, fill=BODY)
    return photo, mask, body


def sides(mask):
    rows, columns = np.nonzero(np.asarray(mask) > 127)
    return np.ptp(columns) + 1, np.ptp(rows) + 1


@pytest.mark.parametrize("size", PHOTOS)
def test_a_ball_stays_round_and_whole_and_maps_stay_on_one_another(size):
    photo, mask, body = scene(size)
    maps, frame = read_maps({"image": photo, "keep": mask, "densepose": body}, 144, 96)
    painted = 255 - maps["keep"][0].numpy()
    width, height = sides(painted)
    assert width / height == pytest.approx(1, abs=0.12)
    red = (maps["image"][0].float() - maps["image"][1].float()).numpy()
    assert abs(sides(np.where(red > 90, 255, 0))[0] - width) <= 4
    assert abs(sides(maps["densepose"][2].numpy() * 1.5)[1] - height) <= 4
    assert frame.is_whole == (size == (48, 72))


def test_what_is_painted_is_never_cut_off():
    size = (60, 160)
    _, mask, _ = scene(size, (5, 5, 55, 155))
    frame = Frame.around(size, SEEN, mask)
    assert frame.box[0] < 0 and frame.box[2] > 1 and frame.box[1] == 0 and frame.box[3] == 1
    shown = frame.cut(mask, (240, 360), Image.Resampling.BILINEAR, fill=0)
    assert sides(shown)[0] / sides(shown)[1] == pytest.approx(50 / 150, rel=0.05)


@pytest.mark.parametrize("size", PHOTOS)
def test_pasting_what_was_cut_gives_the_photo_back(size):
    photo, mask, _ = scene(size)
    frame = Frame.around(size, SEEN, mask)
    left, top, right, bottom = frame.box
    window = round((right - left) * size[0]), round((bottom - top) * size[1])
    pasted = frame.paste(photo, frame.cut(photo, window, Image.Resampling.BICUBIC))
    assert pasted.size == size
    assert np.abs(np.asarray(pasted, float) - np.asarray(photo)).mean() < 12
    blue = np.asarray(frame.paste(photo, Image.new("RGB", SEEN, "blue")))
    assert (blue[np.asarray(mask) > 127] == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(20, 20), (40, 20), (12, 36)])
def test_garments_of_another_ratio_are_padded_with_their_edge(size):
    garment = Image.new("RGB", size, "white")
    ImageDraw.Draw(garment).rectangle((size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4), fill="navy")
    fitted = np.asarray(fit(garment, (240, 360), Image.Resampling.BICUBIC))
    assert fitted.shape == (360, 240, 3)
    width, height = sides(np.where(fitted[..., 0] < 128, 255, 0))
    assert width / height == pytest.approx((size[0] / 2 + 1) / (size[1] / 2 + 1), rel=0.1)
    assert (fitted[[0, 0, -1, -1], [0, -1, 0, -1]] > 250).all()


@pytest.fixture(scope="module")
def tryon():
    torch.manual_seed(0)
    return TryOn(tiny_pipeline(["red shirt"], image_size=(36, 24)))


@pytest.mark.parametrize("size", [(48, 72), (200, 100), (40, 100)])
def test_try_on_gives_the_photo_back_in_its_own_size(tryon, size):
    photo, mask, body = scene(size)
    person, garment = Person(photo, mask, body), Image.new("RGB", (30, 30), "green")
    result = tryon(person, garment, "red shirt", steps=1)
    assert result.size == size
    assert tryon(person, garment, "red shirt", steps=1, size="model").size == SEEN
    kept = np.asarray(mask) == 0
    repainted = np.asarray(tryon(person, garment, "red shirt", steps=1, repaint=True), int)
    assert np.abs(repainted - np.asarray(photo))[kept].mean() < 2
    assert np.abs(repainted - np.asarray(photo))[~kept].mean() > 20


def test_a_mask_beside_the_body_or_an_agnostic_picture_of_another_photo_is_an_error():
    photo, mask, body = scene((48, 72))
    _, elsewhere, _ = scene((48, 72), (30, 2, 46, 16))
    with pytest.raises(ImageError, match="agnostic_mask: what it paints lies beside the body of densepose"):
        read_maps({"image": photo, "keep": elsewhere, "densepose": body}, 36, 24)
    hidden = Image.composite(Image.new("RGB", photo.size, (128, 128, 128)), photo, mask)
    assert read_maps({"image": photo, "keep": mask, "agnostic": hidden}, 36, 24)[1].is_whole
    with pytest.raises(ImageError, match="agnostic: where nothing is painted it differs from image by"):
        read_maps({"image": photo, "keep": mask, "agnostic": Image.new("RGB", photo.size, "white")}, 36, 24)


def test_a_body_surface_may_hold_part_numbers_but_not_one_colour(tmp_path):
    photo, mask, _ = scene((48, 72))
    parts = np.where(np.asarray(mask) > 0, 2, 0).astype(np.uint8)
    across = np.linspace(0, 255, 48).astype(np.uint8)[None] * (parts > 0)
    iuv = np.stack([parts, across, 255 * (parts > 0) - across], axis=-1).astype(np.uint8)
    expected = read_maps({"image": photo, "keep": mask, "densepose": Image.fromarray(parts)}, 36, 24)[0]["densepose"]
    assert expected[2].max() > 100  # the blue of the first parts
    for form in (iuv, np.stack([parts] * 3, axis=-1), iuv[..., ::-1]):
        maps, _ = read_maps({"image": photo, "keep": mask, "densepose": Image.fromarray(form.copy())}, 36, 24)
        assert torch.equal(maps["densepose"], expected)
    with pytest.raises(ImageError, match="densepose: shows one colour"):
        read_maps({"image": photo, "keep": mask, "densepose": Image.new("RGB", photo.size, "white")}, 36, 24)
    blue = Image.merge("RGB", [mask.point(lambda value: 18 * (value > 0)), mask.point(lambda value: value // 2), mask])
    maps, _ = read_maps({"image": photo, "keep": mask, "densepose": blue}, 36, 24)
    assert maps["densepose"][2].max() > 200, "the colours of hands and legs have little red; they are no part numbers"
    black = read_maps({"image": photo, "keep": mask, "densepose": Image.new("RGB", photo.size)}, 36, 24)[0]
    assert not black["densepose"].any()
