"""One mask in the forms in which other programs write masks, and what is no mask."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unifashion.data.images import ImageError, load_image
from unifashion.tryon.masks import read_mask

SIZE = (96, 128)


def drawn():
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse((25, 30, 70, 100), fill=255)
    return mask


MASK = drawn()
WHITE = np.asarray(MASK) > 127
CLEAR = Image.new("L", SIZE)


def photo():
    across = np.linspace(0, 255, SIZE[0])[None, :, None] * np.ones((SIZE[1], 1, 3))
    return Image.fromarray((across * [1.0, 0.6, 0.3]).astype(np.uint8))


def palette(*colours):
    picture = Image.fromarray(WHITE.astype(np.uint8)).convert("P")
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def strokes(colour):
    layer = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    layer.paste((*colour, 255), mask=MASK)
    return layer


def hole():
    picture = photo().convert("RGBA")
    picture.putalpha(MASK.point(lambda value: 255 - value))
    return picture


FORMS = {
    "grey": MASK,
    "one bit": MASK.convert("1"),
    "0 and 1": Image.fromarray(WHITE.astype(np.uint8)),
    "0 and 2": Image.fromarray(WHITE.astype(np.uint8) * 2),
    "16 bit": Image.fromarray(WHITE.astype(np.uint16) * 65535),
    "0 and 1 in 16 bit": Image.fromarray(WHITE.astype(np.uint16)),
    "32 bit": Image.fromarray(WHITE.astype(np.int32) * 255),
    "floats to 1": Image.fromarray(WHITE.astype(np.float32)),
    "floats to 255": Image.fromarray(WHITE.astype(np.float32) * 255),
    "RGB": MASK.convert("RGB"),
    "CMYK": MASK.convert("CMYK"),
    "palette of black and white": palette((0, 0, 0), (255, 255, 255)),
    "palette with a class": palette((0, 0, 0), (128, 0, 0)),
    "red on black": Image.merge("RGB", [MASK, CLEAR, CLEAR]),
    "white strokes on a layer": strokes((255, 255, 255)),
    "black strokes on a layer": strokes((0, 0, 0)),
    "red strokes on a layer": strokes((255, 0, 0)),
    "grey strokes on a layer": strokes((255, 255, 255)).convert("LA"),
    "opaque": Image.merge("RGBA", [MASK] * 3 + [Image.new("L", SIZE, 255)]),
    "a photo with a hole": hole(),
}
NO_MASKS = {
    "a photo": (photo(), "a picture in colours, not a mask"),
    "a ramp": (Image.linear_gradient("L").resize(SIZE), "neither black nor white"),
    "black": (CLEAR, "all black: nothing would be painted"),
    "white": (Image.new("L", SIZE, 255), "all white: all of the photo would be painted"),
    "transparent": (Image.new("RGBA", SIZE, (0, 0, 0, 0)), "all of it is transparent"),
    "inverted": (MASK.point(lambda value: 255 - value), "seems inverted"),
    "black with a hole": (Image.merge("LA", [CLEAR, MASK.point(lambda value: 255 - value)]), "can mean either"),
    "labels in colours": (palette((0, 0, 0), (128, 0, 0)).convert("RGB").rotate(3, fillcolor=(0, 90, 200)), "colours"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_file", [False, True])
def test_every_form_of_a_mask_is_the_same_mask(tmp_path, form, as_file):
    source = FORMS[form]
    if as_file:
        source = tmp_path / ("m.tif" if FORMS[form].mode in ("F", "I", "CMYK") else "m.png")
        FORMS[form].save(source)
    read = read_mask(source)
    assert read.mode == "L" and set(np.unique(np.asarray(read))) == {0, 255}
    assert (np.asarray(read) > 127).tolist() == WHITE.tolist()


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_soft_edges_and_jpeg_move_the_edge_by_a_pixel_at_most(tmp_path, quality):
    MASK.save(tmp_path / "m.jpg", quality=quality)
    soft = MASK.resize((24, 32), Image.Resampling.LANCZOS).resize(SIZE, Image.Resampling.BICUBIC)
    for source in (tmp_path / "m.jpg", soft):
        assert (np.asarray(read_mask(source)) > 127)[WHITE].mean() > 0.97
        assert (np.asarray(read_mask(source)) > 127)[~WHITE].mean() < 0.03


@pytest.mark.parametrize("what", NO_MASKS)
def test_what_is_no_mask_says_why(tmp_path, what):
    picture, sentence = NO_MASKS[what]
    picture.save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=sentence) as error:
        read_mask(tmp_path / "m.png")
    assert str(tmp_path / "m.png") in str(error.value)


def test_a_mask_that_only_says_where_a_garment_is_may_be_empty():
    assert read_mask(CLEAR, is_optional=True).getbbox() is None


def test_photos_and_maps_of_embedded_and_real_persons_are_no_masks(tryon_root, shared):
    homes = tryon_root / "vitonhd/test", shared / "data/vitonhd/test"
    names = ("image", "agnostic-v3.2", "image-densepose", "image-parse-v3", "openpose_img")
    paths = [path for home in homes for name in names for path in sorted((home / name).glob("*"))]
    assert len(paths) > 40
    for path in paths:
        with pytest.raises(ImageError):
            read_mask(path)
        if path.parent.name in ("image", "agnostic-v3.2"):
            with pytest.raises(ImageError):
                read_mask(load_image(path).convert("L"))
