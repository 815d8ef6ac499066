"""Pictures from outside: small enough, of a plain kind, decoded by Pillow and nothing else.

The kind is read from the bytes, never from a name. Vector formats (SVG, EPS, PDF) are refused because showing them can run
something. What was decoded is only ever passed on as pixels.
"""

import base64
import binascii
import io
import warnings
from pathlib import Path

from PIL import Image

from unifashion.apps.demo.errors import Refusal, TooLarge
from unifashion.apps.demo.settings import DemoSettings
from unifashion.data.images import ImageError, load_image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/bmp"
NAME = Path("upload")


def decode_upload(data: bytes, settings: DemoSettings) -> Image.Image:
    """Return the upright RGB picture of a file that somebody sent.

    Raises:
        TooLarge: more bytes or pixels than allowed.
        Refusal: empty, damaged, or of another kind than ``KINDS``.
    """
    if len(data) > settings.max_upload_bytes:
        raise TooLarge(f"The picture is larger than {settings.max_upload_bytes / 2**20:.0f} MiB; send a smaller one.")
    if not data:
        raise Refusal("The picture is empty; choose another file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=KINDS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise _too_many(settings) from None
    except Exception:  # a damaged header makes Pillow fail in many ways
        raise Refusal(f"The file is not a picture of a kind that is read here ({', '.join(KINDS)}).") from None
    if width * height > settings.max_upload_pixels:
        raise _too_many(settings)
    try:
        return load_image(data, NAME)
    except ImageError as error:
        raise Refusal(f"The picture cannot be used: {error.reason}.") from None


def decode_base64(text: str, settings: DemoSettings) -> Image.Image:
    """Return the picture of a base64 text or ``data:`` address; raises as ``decode_upload``."""
    if len(text) > settings.max_upload_bytes * 4 // 3 + 200:
        raise TooLarge(f"The picture is larger than {settings.max_upload_bytes / 2**20:.0f} MiB; send a smaller one.")
    _, _, body = text.rpartition(",") if text.startswith("data:") else ("", "", text)
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("The picture is not valid base64; send the bytes of a file as standard base64.") from None
    return decode_upload(data, settings)


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Return a picture with no side above ``side`` pixels."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def to_jpeg(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """Return a JPEG with no side above ``side`` pixels, without the file's notes (place, camera)."""
    file = io.BytesIO()
    shrink(image.copy(), side).save(file, "JPEG", quality=quality)
    return file.getvalue()


def to_address(jpeg: bytes) -> str:
    """Return a ``data:`` address for a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _too_many(settings: DemoSettings) -> TooLarge:
    limit = settings.max_upload_pixels // 1_000_000
    return TooLarge(f"The picture has more than {limit} million pixels; send a smaller one.")
