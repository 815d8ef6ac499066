import io
import json
import logging
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, Image

from unifashion.data.image_files import find_images
from unifashion.data.images import (
    MEAN,
    STD,
    ImageError,
    ImageTransform,
    load_image,
    normalise,
    square_pad,
    target_pad,
)
from unifashion.data.skipped import SkippedImages
from unifashion.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "../shared"
GOLDEN = Path(__file__).resolve().parents[1] / "golden/original/text_rules.json"
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png(width, height, bits, colour_type, rows=b"", **chunks):
    """A PNG written by hand: also such as Pillow will not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def palette(colours, transparency):
    image = Image.new("P", (len(colours), 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(range(len(colours)))
    return encoded(image, "PNG", transparency=transparency)


def two_frames(file_format, **options):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    return encoded(first, file_format, save_all=True, append_images=[second], duration=50, **options)


def pixels(image):
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def grey(*values):
    return [(value,) * 3 for value in values]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(encoded(Image.new("L", (2, 1), 77), "PNG"), grey(77, 77), id="grey"),
        pytest.param(png(3, 1, 16, 0, struct.pack(">B3H", 0, 0, 32768, 65535)), grey(0, 128, 255), id="16-bit grey"),
        pytest.param(
            png(2, 1, 16, 0, struct.pack(">B2H", 0, 500, 65535), tRNS=struct.pack(">H", 500)),
            grey(255, 255),
            id="16-bit grey with a transparent value",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 50, 100]], np.int32)), "TIFF"), grey(0, 50, 100), id="32-bit, dark"
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32)), "TIFF"),
            grey(0, 64, 127),
            id="32-bit",
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"), grey(0, 128, 255), id="float 0..1"
        ),
        pytest.param(
            encoded(Image.fromarray(np.array([[-1, np.nan, 255]], np.float32)), "TIFF"),
            grey(0, 0, 255),
            id="float 0..255 with holes",
        ),
        pytest.param(palette([RED, BLUE], transparency=0), [WHITE, BLUE], id="palette with a transparent colour"),
        pytest.param(palette([RED, BLUE], transparency=b"\x00\xff"), [WHITE, BLUE], id="palette with alphas"),
        pytest.param(
            encoded(Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 128)]), "PNG"),
            grey(127),
            id="grey with half alpha",
        ),
        pytest.param(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "PNG"), [WHITE], id="transparent red"),
        pytest.param(
            encoded(Image.new("RGB", (1, 1), RED), "PNG", transparency=RED), [WHITE], id="one transparent colour"
        ),
        pytest.param(encoded(Image.new("1", (1, 1), 1), "PNG"), [WHITE], id="one bit"),
    ],
)
def test_every_kind_of_image_becomes_rgb_with_alpha_over_white(tmp_path, content, expected):
    path = tmp_path / "image.any"
    path.write_bytes(content)
    image = load_image(path)
    assert image.mode == "RGB"
    assert pixels(image) == expected
    assert load_image(content).tobytes() == image.tobytes()


def test_a_cmyk_jpeg_keeps_its_colours():
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = load_image(cmyk).getpixel((8, 8))
    assert red > 240 and green < 15 and blue < 15


def half_red_half_blue():
    image = Image.new("RGB", (32, 16), RED)
    image.paste(BLUE, (16, 0, 32, 16))
    return image


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, "AB/CD"), (2, "BA/DC"), (3, "DC/BA"), (4, "CD/AB"), (5, "AC/BD"), (6, "CA/DB"), (7, "DB/CA"), (8, "BD/AC")],
)
def test_a_photo_is_turned_upright_as_its_exif_data_says(file_format, orientation, upright):
    stored = Image.new("RGB", (2, 2))
    stored.putdata([(65,) * 3, (66,) * 3, (67,) * 3, (68,) * 3])  # A B / C D
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    letters = [chr(value) for value, _, _ in pixels(load_image(encoded(stored, file_format, exif=exif, **options)))]
    assert "".join([*letters[:2], "/", *letters[2:]]) == upright


def test_a_jpeg_lying_on_its_side_stands_up():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = load_image(encoded(half_red_half_blue(), "JPEG", exif=exif, quality=95))
    assert upright.size == (16, 32)
    assert upright.getpixel((8, 4))[0] > 240 and upright.getpixel((8, 28))[2] > 240


def test_damaged_exif_data_does_not_cost_the_image(monkeypatch):
    content = encoded(half_red_half_blue(), "PNG")

    def fail(_):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert load_image(content).tobytes() == half_red_half_blue().tobytes()


@pytest.mark.parametrize("content", [two_frames("GIF"), two_frames("WEBP", lossless=True), two_frames("PNG")])
def test_of_an_animation_the_first_frame_is_read(content):
    assert set(pixels(load_image(content))) == {RED}


BROKEN = {
    "empty.jpg": (b"", "the file is empty"),
    "words.jpg": (b"<html>404 not found</html>", "not an image; PNG, JPEG, WEBP, AVIF, TIFF, BMP, GIF can be read"),
    "half.jpg": (encoded(noise(64, 64), "JPEG")[:2000], "damaged image"),
    "half.png": (encoded(noise(64, 64), "PNG")[:2000], "damaged image"),
    "half.gif": (encoded(noise(64, 64), "GIF")[:1500], "damaged image"),
    "bomb.png": (png(16_000, 16_000, 8, 2), "decompression bomb"),
    "small_bomb.png": (png(12_000, 8_000, 8, 2), "decompression bomb"),
    "strip.png": (png(1, 100_000, 8, 2), "a side of 100000 pixels is too long"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_an_error_that_names_the_file_and_the_reason(tmp_path, name):
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert isinstance(caught.value, UserError)
    assert caught.value.path == path and reason in caught.value.reason
    assert str(caught.value) == f"{path}: {caught.value.reason}" and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_errors_with_a_reason(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        load_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)


def test_bytes_are_named_as_the_caller_says():
    with pytest.raises(ImageError, match=r"<bytes>: the file is empty"):
        load_image(b"")
    with pytest.raises(ImageError, match=r"row 7 of x\.h5: the file is empty"):
        load_image(b"", name=Path("row 7 of x.h5"))


def test_whatever_a_decoder_raises_becomes_an_image_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("decoder\nbroke")

    content = encoded(noise(4, 4), "BMP")
    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", fail)
    with pytest.raises(ImageError, match=r"damaged image \(decoder broke\)"):
        load_image(content)


def test_the_guard_against_bombs_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(ImageError):
        load_image(BROKEN["bomb.png"][0])
    load_image(encoded(noise(4, 4), "PNG"))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_corrupted_bytes_never_raise_anything_but_an_image_error():
    rng = np.random.default_rng(0)
    formats = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {"compression": "tiff_deflate"})]
    read, refused = 0, 0
    for number in range(600):
        file_format, options = formats[number % len(formats)]
        content = bytearray(encoded(noise(12, 9, seed=number % 7), file_format, **options))
        for position in rng.integers(0, len(content), 4):
            content[position] = rng.integers(256)
        try:
            assert load_image(bytes(content)).mode == "RGB"
            read += 1
        except ImageError as error:
            assert error.reason
            refused += 1
    assert read > 50 and refused > 50


def test_an_image_error_crosses_process_borders():
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "no such file")))
    assert (error.path, error.reason, str(error)) == (Path("a.jpg"), "no such file", "a.jpg: no such file")


@pytest.mark.parametrize(
    ("pad", "size", "left_top"),
    [
        (target_pad, (200, 300), (20, 0)),  # 300 / 1.25 = 240 wide
        (target_pad, (300, 200), (0, 20)),
        (target_pad, (200, 253), (1, 0)),  # 253 / 1.25 = 202.4: 1.2 on each side
        (target_pad, (1, 100), (39, 0)),
        (square_pad, (200, 300), (50, 0)),
        (square_pad, (8, 5), (0, 1)),
    ],
)
def test_padding_puts_black_on_both_sides_of_the_short_axis(pad, size, left_top):
    image, (left, top) = Image.new("RGB", size, WHITE), left_top
    padded = pad(image)
    assert padded.size == (size[0] + 2 * left, size[1] + 2 * top)
    inner = (left, top, left + size[0], top + size[1])
    assert padded.crop(inner).tobytes() == image.tobytes()
    padded.paste(BLACK, inner)
    assert padded.getbbox() is None


@pytest.mark.parametrize("size", [(100, 100), (249, 200), (200, 249), (250, 200)])
def test_target_pad_leaves_images_below_and_at_its_ratio(size):
    image = noise(*size)
    assert target_pad(image) is image


def test_target_pad_takes_another_ratio():
    assert target_pad(noise(100, 300), ratio=1.5).size == (200, 300)


def test_pads_are_those_of_the_original():
    cases = json.loads(GOLDEN.read_text())["pads"]
    assert len(cases) > 10
    for case in cases:
        image = noise(case["w"], case["h"])
        padded = target_pad(image, case["ratio"]) if case["kind"] == "target" else square_pad(image)
        left, top, right, bottom = case["padding"] or (0, 0, 0, 0)
        assert padded.size == (case["w"] + left + right, case["h"] + top + bottom), case
        assert padded.crop((left, top, left + case["w"], top + case["h"])).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [
        ((100, 37), (86, 32), (27, 0)),  # int(32 * 100 / 37) = 86, (86 - 32) / 2 = 27
        ((101, 37), (87, 32), (28, 0)),  # 27.5 is rounded to the even number, 28
        ((99, 37), (85, 32), (26, 0)),  # and 26.5 to 26
        ((37, 100), (32, 86), (0, 27)),
        ((64, 64), (32, 32), (0, 0)),
        ((5, 9), (32, 57), (0, 12)),
    ],
)
def test_resizing_and_cropping_round_as_torchvision_does(size, resized, corner):
    image, (left, top) = noise(*size), corner
    expected = image.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    tensor = ImageTransform(32, pad="none")(image)
    assert tensor.dtype == torch.uint8 and tensor.shape == (3, 32, 32) and tensor.is_contiguous()
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), np.asarray(expected))


@pytest.mark.parametrize(("pad", "white_columns"), [("target", 20), ("square", 16), ("none", 32)])
def test_the_pad_decides_how_wide_a_narrow_image_becomes(pad, white_columns):
    tensor = ImageTransform(32, pad=pad)(Image.new("RGB", (100, 200), WHITE))  # padded to 160, 200 or not at all
    assert (tensor[:, 16] > 127).all(dim=0).sum() == white_columns
    assert tensor[:, :, 16].min() == 255 and tensor[:, :, 0].max() == (255 if pad == "none" else 0)


@pytest.mark.parametrize("pad", ["target", "square", "none"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (1, 700)])
def test_an_image_one_pixel_wide_gives_a_full_tensor(pad, size):
    image = Image.new("RGB", size, RED)
    tensor = ImageTransform(16, pad=pad)(image)
    assert tensor.shape == (3, 16, 16)
    assert tensor[:, 8, 8].tolist()[1:] == [0, 0]
    if pad == "none":
        assert (tensor == torch.tensor(RED).view(3, 1, 1)).all()


def test_of_a_long_strip_only_the_middle_is_enlarged(monkeypatch):
    resize, sizes = Image.Image.resize, []
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *args: sizes.append(size) or resize(image, size, *args)
    )
    strip = Image.new("RGB", (16_000, 2), BLUE)
    strip.paste(RED, (7_900, 0, 8_100, 2))
    tensor = ImageTransform(224, pad="none")(strip)
    assert sizes == [(16 * 224, 224)]
    assert (tensor == torch.tensor(RED).view(3, 1, 1)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"size": 8, "ratio": 0.5}, "ratio at least 1"),
        ({"size": 8, "pad": "squar"}, r"unknown pad 'squar' \(did you mean 'square'\?\)"),
    ],
)
def test_impossible_transforms_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        ImageTransform(**values)


def test_normalising_by_hand():
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    batch[1] = 255
    result = normalise(batch)
    assert result.dtype == torch.float32 and result.shape == batch.shape
    for channel in range(3):
        torch.testing.assert_close(result[0, channel, 0, 0].item(), -MEAN[channel] / STD[channel], rtol=1e-6, atol=0)
        torch.testing.assert_close(
            result[1, channel, 3, 3].item(), (1 - MEAN[channel]) / STD[channel], rtol=1e-6, atol=0
        )
    assert normalise(batch, mean=(0.5,) * 3, std=(0.5,) * 3).unique().tolist() == [-1, 1]
    assert normalise(batch.to("meta")).device.type == "meta"


def test_images_are_found_by_name_and_png_comes_first(tmp_path):
    names = ["a.jpg", "a.png", "B.JPG", "c.webp", "c.jpeg", "d.1.jpg", "notes.txt", "e.gif", "noextension"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/f.jpg").touch()
    found = {stem: path.name for stem, path in find_images(tmp_path).items()}
    assert found == {"a": "a.png", "B": "B.JPG", "c": "c.jpeg", "d.1": "d.1.jpg", "e": "e.gif"}
    assert find_images(tmp_path / "absent") == {}


def test_a_quarantine_names_each_image_once_and_writes_the_reasons(tmp_path, caplog):
    quarantine = SkippedImages()
    assert len(quarantine) == 0 and quarantine.summary() == "no image was left out"
    with caplog.at_level(logging.WARNING):
        quarantine.add(Path("a,b.jpg"), "no such file")
        quarantine.add(Path("a,b.jpg"), "no such file")
        assert quarantine.summary() == "1 image left out, the first is a,b.jpg (no such file)"
        quarantine.add(Path("c.jpg"), 'damaged image ("eof")')
    assert [record.getMessage() for record in caplog.records] == [
        "a,b.jpg left out: no such file",
        'c.jpg left out: damaged image ("eof")',
    ]
    assert quarantine.summary() == "2 images left out, the first is a,b.jpg (no such file)"
    quarantine.write(tmp_path / "quarantine.csv")
    lines = (tmp_path / "quarantine.csv").read_text().splitlines()
    assert lines == ["image,reason", '"a,b.jpg",no such file', 'c.jpg,"damaged image (""eof"")"']


def test_real_photos_decode_to_something_that_is_not_flat():
    photos = sorted(find_images(SHARED / "data/real_photos/fashionGen/image_val").values())[:20]
    if not photos:
        pytest.skip("the real photos (../shared/data) are not on this machine")
    for photo in photos:
        assert ImageTransform(64)(load_image(photo)).float().std() > 5, photo
