"""From a file to pixels: decode, pad, resize, crop, normalise.

The rules are those of CLIP4Cir and BLIP-2 (TargetPad, bicubic with antialiasing, centre crop, CLIP's mean and deviation),
rounded as torchvision rounds, so that a published checkpoint sees the pixels it was trained on.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from unifashion.data.hdf5_images import read_image, split_member
from unifashion.data.image_files import FORMATS, HEIC, HEIC_SUFFIXES
from unifashion.errors import UserError, nearest
from unifashion.io import open_file

log = logging.getLogger(__name__)

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_SIDE = 16_384  # pixels; padded towards a square, a longer side takes more than 800 MB
MAX_BYTES = 2**30  # of a file; some decoders read it whole
MAX_STRIP = 16  # without padding, what is used of the long side: at most this many times the short side
RANGES = (1.0, 255.0, 65535.0, 2.0**32 - 1)  # white in grey pictures of more than 8 bits
TURNS: dict[object, Image.Transpose] = {  # EXIF orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Pad = Literal["target", "square", "none"]
Result = TypeVar("Result")


class ImageError(UserError):
    """An image that cannot be used: ``path`` and ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        return ImageError, (self.path, self.reason)  # pickled by loader processes; by default it would lack an argument


def load_image(source: Path | bytes, name: Path | None = None) -> Image.Image:
    """Decode a file (or its bytes) to upright RGB: EXIF rotation applied, alpha over white, first frame, 16 bit scaled.

    Args:
        source: the file, an image inside an HDF5 file (data/hdf5_images.py), or what a file holds.
        name: what an error calls the image; by default the file.

    Raises:
        ImageError: missing, not a file, empty, truncated, of none of ``FORMATS``, longer than ``MAX_SIDE`` pixels, or of more
            pixels than Pillow's decompression-bomb limit.
    """
    path = name or (source if isinstance(source, Path) else Path("<bytes>"))
    inside = split_member(source) if isinstance(source, Path) else None
    return _read(source, path, _decoded_rgb) if inside is None else _load_member(path, inside)


def load_stored(source: Path | bytes, name: Path | None = None) -> Image.Image:
    """Decode a file like ``load_image``, but keep its numbers: label maps and masks mean something else as RGB."""
    return _read(source, name or (source if isinstance(source, Path) else Path("<bytes>")), _decoded)


def read_info(path: Path) -> dict[Any, Any]:
    """Return what an image file says about itself (Pillow's ``info``) without decoding it; errors as ``load_image``."""
    return _read(path, path, lambda image: dict(image.info))


def _read(source: Path | bytes, path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """Open an image and return what ``use`` makes of it. The only place that gives bytes from outside to Pillow."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_file(source, MAX_BYTES)
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})") from None
    with file, _named_faults(path), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not file.read(1):
            raise ImageError(path, "the file is empty")
        file.seek(0)
        with Image.open(file, formats=_formats()) as image:
            _check_sides(image, path)
            return use(image)


@contextmanager
def _named_faults(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises into an ``ImageError``."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            path, f"more than {Image.MAX_IMAGE_PIXELS} pixels, which is rejected as a decompression bomb"
        ) from None
    except UnidentifiedImageError:
        hint = f"; {HEIC}" if path.suffix.lower() in HEIC_SUFFIXES else ""
        raise ImageError(path, f"not an image; {', '.join(FORMATS)} can be read{hint}") from None
    except MemoryError:
        raise ImageError(path, "there is not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise ImageError(path, f"damaged image ({' '.join(str(error).split()) or type(error).__name__})") from None


@cache
def _formats() -> tuple[str, ...]:
    """Return those of ``FORMATS`` that the installed Pillow has (AVIF since 11.3)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _load_member(path: Path, inside: tuple[Path, int]) -> Image.Image:
    try:
        return Image.fromarray(read_image(*inside))
    except UserError as error:
        raise ImageError(path, str(error)) from None


def _check_sides(image: Image.Image, path: Path) -> None:
    if max(image.size) > MAX_SIDE:
        raise ImageError(path, f"a side of {max(image.size)} pixels is too long; {MAX_SIDE} is the limit")
    if min(image.size) < 1:
        raise ImageError(path, "it has no pixels")


def open_image(source: str | Path | Image.Image) -> Image.Image:
    """Return an upright RGB image of a file or of a Pillow image, which is treated like a file's and left as it is.

    Raises:
        ImageError: as ``load_image``.
    """
    if not isinstance(source, Image.Image):
        return load_image(Path(source))
    name = image_name(source)
    with _named_faults(name):
        _check_sides(source, name)
        return _decoded_rgb(source)


def open_stored(source: str | Path | Image.Image) -> tuple[Image.Image, Path]:
    """Return the upright image of a file or of a Pillow image with its own numbers (``load_stored``), and its name for errors.

    Raises:
        ImageError: as ``load_image``.
    """
    name = image_name(source)
    if not isinstance(source, Image.Image):
        return load_stored(name), name
    with _named_faults(name):
        _check_sides(source, name)
        return _decoded(source), name


def image_name(source: str | Path | Image.Image) -> Path:
    """Return what an error calls an image."""
    if not isinstance(source, Image.Image):
        return Path(source)
    return Path(getattr(source, "filename", "") or f"<{source.mode} image>")


def _decoded(image: Image.Image) -> Image.Image:
    image.load()
    return _upright(image).copy()


def _decoded_rgb(image: Image.Image) -> Image.Image:
    image.load()
    rgb = _to_rgb(_upright(image))
    rgb.info = {}  # the rotation is done: whoever opens the result again must not find it there
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image according to its EXIF data. (``ImageOps.exif_transpose`` also rewrites that data, which may fail.)"""
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # only the metadata is damaged, the pixels are intact
        log.debug("damaged EXIF data is ignored, the image is taken as upright", exc_info=True)
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scale_to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits: 16 bit by 65535, the rest by the first of ``RANGES`` that holds its brightest pixel.

    The range of 1 is for floats alone. A transparent grey value becomes white.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    ranges = RANGES[2:3] if image.mode.startswith("I;16") else RANGES[image.mode == "I" :]
    highest = next((limit for limit in ranges if values.max() <= limit), values.max())
    scaled = (values.clip(0, highest) / highest * 255).round().astype(np.uint8)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled).convert("RGB")


def target_pad(image: Image.Image, ratio: float = 1.25) -> Image.Image:
    """Pad an RGB image with black, on both sides of its short axis, until long / short is about ``ratio`` (CLIP4Cir).

    An image that is squarer than ``ratio`` is returned as it is.
    """
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    scaled = max(width, height) / ratio
    return _pad(image, max(int((scaled - width) / 2), 0), max(int((scaled - height) / 2), 0))


def square_pad(image: Image.Image) -> Image.Image:
    """Pad an RGB image with black, on both sides of its short axis, until it is square (to within a pixel)."""
    longest = max(image.size)
    return _pad(image, (longest - image.width) // 2, (longest - image.height) // 2)


def _pad(image: Image.Image, left: int, top: int) -> Image.Image:
    if not (left or top):
        return image
    padded = Image.new("RGB", (image.width + 2 * left, image.height + 2 * top))
    padded.paste(image, (left, top))
    return padded


class ImageTransform:
    """Pad, resize the shorter side to ``size`` (bicubic, antialiased), crop the centre: RGB image -> uint8 (3, size, size).

    Args:
        size: side of the result, pixels.
        pad: "target" (to ``ratio``), "square" or "none".
        ratio: highest ratio of the sides that "target" leaves alone.

    Raises:
        UserError: a size or ratio below 1, an unknown pad.
    """

    def __init__(self, size: int, pad: Pad = "target", ratio: float = 1.25) -> None:
        if size < 1 or ratio < 1:
            raise UserError(f"image size must be at least 1 pixel and pad ratio at least 1, got {size} and {ratio}")
        if pad not in get_args(Pad):
            raise UserError(f"unknown pad {pad!r}{nearest(pad, get_args(Pad))}; known: {', '.join(get_args(Pad))}")
        self.size, self.pad, self.ratio = size, pad, ratio

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 pixels (3, size, size)."""
        if self.pad == "target":
            image = target_pad(image, self.ratio)
        elif self.pad == "square":
            image = square_pad(image)
        image = _shorten(image)
        width, height = image.size
        other = int(self.size * max(width, height) / min(width, height))
        new_size = (self.size, other) if width <= height else (other, self.size)
        image = _crop(image.resize(new_size, Image.Resampling.BICUBIC), self.size, self.size)
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


class DrawingTransform:
    """Fit a photo into a frame and fill the rest with white, as product photos are: RGB image -> uint8 (3, height, width)."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 pixels (3, height, width)."""
        factor = min(self.width / image.width, self.height / image.height)
        size = max(round(image.width * factor), 1), max(round(image.height * factor), 1)
        frame = Image.new("RGB", (self.width, self.height), "white")
        place = (self.width - size[0]) // 2, (self.height - size[1]) // 2
        frame.paste(image.resize(size, Image.Resampling.LANCZOS), place)
        return torch.from_numpy(np.asarray(frame).copy()).permute(2, 0, 1).contiguous()


def _shorten(image: Image.Image) -> Image.Image:
    """Cut the ends of a strip, which the centre crop drops anyway: enlarged as a whole it might not fit into memory."""
    limit = MAX_STRIP * min(image.size)
    return _crop(image, min(image.width, limit), min(image.height, limit)) if max(image.size) > limit else image


def _crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def normalise(pixels_B3SS: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Return float32 pixels (B, 3, S, S), standardised per channel, of uint8 or float ones in 0..255, on their device.

    Args:
        pixels_B3SS: images as ``ImageTransform`` makes them, stacked.
        mean: of each channel, for pixels in 0..1; by default CLIP's.
        std: likewise.
    """
    mean_C11, std_C11 = (torch.tensor(x, device=pixels_B3SS.device).view(-1, 1, 1) * 255 for x in (mean, std))
    return (pixels_B3SS.float() - mean_C11) / std_C11
