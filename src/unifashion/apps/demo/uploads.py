"""Pictures from outside: small enough, of a plain format, decoded by Pillow and nothing else.

The format is read from the bytes, never from a name. Vector formats (SVG, EPS, PDF) are rejected because showing them can run
code. Whatever is decoded is only passed on as pixels.
"""

import base64
import binascii
import io
import secrets
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from unifashion.apps.demo.errors import NotFound, RequestError, TooLarge
from unifashion.apps.demo.settings import DemoSettings
from unifashion.data.images import ImageError, load_image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/bmp"
NAME = Path("upload")


class Uploads:
    """The visitors' pictures as JPEG, under ids that nobody can guess; beyond ``max_bytes`` the longest unused are dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, jpeg: bytes) -> str:
        """Keep a picture; return its id."""
        name = secrets.token_hex(16)
        with self._lock:
            self._kept[name] = jpeg
            self._num_bytes += len(jpeg)
            while self._num_bytes > self._max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._num_bytes -= len(dropped)
        return name

    def get(self, name: str) -> bytes:
        """Return a picture.

        Raises:
            NotFound: it was dropped.
        """
        with self._lock:
            if name not in self._kept:
                raise NotFound("Your photo is no longer kept; add it again.")
            self._kept.move_to_end(name)
            return self._kept[name]


def decode_base64(
    text: str, settings: DemoSettings, load: Callable[[bytes, Path], Image.Image] = load_image
) -> Image.Image:
    """Return the upright picture of a file from outside, as base64 or as a ``data:`` address; ``load_image`` makes it RGB.

    Raises:
        TooLarge: more bytes or pixels than allowed.
        RequestError: not base64, empty, damaged, or of a format that is not in ``FORMATS``.
    """
    too_large = TooLarge(f"The picture is larger than {settings.max_upload_bytes / 2**20:.0f} MiB; send a smaller one.")
    if (
        len(text) > settings.max_upload_bytes * 4 // 3 + 200
    ):  # four characters for three bytes, and "data:image/jpeg;base64,"
        raise too_large
    body = text.rpartition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("The picture is not valid base64; send the bytes of a file as standard base64.") from None
    if len(data) > settings.max_upload_bytes:
        raise too_large
    if not data:
        raise RequestError("The picture is empty; choose another file.")
    _check_pixels(data, settings.max_upload_pixels)
    try:
        return load(data, NAME)
    except ImageError as error:
        raise RequestError(f"The picture cannot be used: {error.reason}.") from None


def _check_pixels(data: bytes, limit: int) -> None:
    """Read format and size from the header, before anything is decoded: a few kilobytes can stand for gigabytes of pixels.

    Pillow's own limit is higher, and at first it only warns. By default it tries every decoder that it has,
    and hands EPS to Ghostscript: ``formats`` prevents that.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                num_pixels = image.width * image.height
    except Image.DecompressionBombError:
        num_pixels = limit + 1
    except Exception:  # a damaged header makes Pillow fail in many ways
        raise RequestError(f"The file is not a picture in a supported format ({', '.join(FORMATS)}).") from None
    if num_pixels > limit:
        raise TooLarge(f"The picture has more than {limit // 1_000_000} million pixels; send a smaller one.")


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Shrink a picture in place until no side is above ``side`` pixels, and return it."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def to_jpeg(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """Return a JPEG with no side above ``side`` pixels, without the file's EXIF data (location, camera)."""
    file = io.BytesIO()
    shrink(image.copy(), side).save(file, "JPEG", quality=quality)
    return file.getvalue()


def to_address(jpeg: bytes) -> str:
    """Return a ``data:`` address for a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
