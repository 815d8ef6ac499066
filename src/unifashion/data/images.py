"""From a file to pixels: decode anything Pillow reads, pad, resize, crop, normalise.

The rules are those of CLIP4Cir and BLIP-2 (TargetPad, bicubic with antialiasing, centre crop, CLIP's mean and deviation),
rounded as torchvision rounds, so that a published checkpoint sees the pixels it was trained on.
"""

import io
import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from unifashion.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Pad = Literal["target", "square", "none"]


class ImageError(UserError):
    """An image that cannot be used: ``path`` and ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        return ImageError, (self.path, self.reason)  # crosses the border of loader processes


def load_image(source: Path | bytes, name: Path | None = None) -> Image.Image:
    """Decode a file (or its bytes) to upright RGB: EXIF rotation applied, alpha over white, first frame, 16 bit scaled.

    Raises:
        ImageError: missing, empty, truncated, not an image, or larger than Pillow's decompression-bomb limit.
    """
    path = name or (source if isinstance(source, Path) else Path("<bytes>"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.seek(0)
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ImageError(path, "no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            path, f"more than {Image.MAX_IMAGE_PIXELS} pixels, which is refused as a decompression bomb"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(path, "not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        # Damaged files make Pillow's decoders fail in all of these ways.
        raise ImageError(path, f"damaged image ({' '.join(str(error).split()) or type(error).__name__})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scale_to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (0..65535) to 8 bit; other integer and float greys by their own maximum if it is beyond 255."""
    values = np.asarray(image).astype(np.float64)
    highest = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
    scaled = (values.clip(0, highest) / highest * 255).round().astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def target_pad(image: Image.Image, ratio: float = 1.25) -> Image.Image:
    """Pad the short axis with black until the sides' ratio is at most ``ratio``; a squarer image is returned as it is."""
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    scaled = max(width, height) / ratio
    return _pad(image, max(int((scaled - width) / 2), 0), max(int((scaled - height) / 2), 0))


def square_pad(image: Image.Image) -> Image.Image:
    """Pad the short axis with black until the image is square (to within a pixel)."""
    longest = max(image.size)
    return _pad(image, (longest - image.width) // 2, (longest - image.height) // 2)


def _pad(image: Image.Image, left: int, top: int) -> Image.Image:
    if not (left or top):
        return image
    padded = Image.new("RGB", (image.width + 2 * left, image.height + 2 * top))
    padded.paste(image, (left, top))
    return padded


class ImageTransform:
    """Pad, resize the shorter side to ``size`` (bicubic), crop the centre: RGB image -> uint8 (3, size, size)."""

    def __init__(self, size: int, pad: Pad = "target", ratio: float = 1.25) -> None:
        if size < 1 or ratio < 1:
            raise UserError(f"image size must be at least 1 pixel and pad ratio at least 1, got {size} and {ratio}")
        self.size, self.pad, self.ratio = size, pad, ratio

    def __call__(self, image: Image.Image) -> Tensor:
        """Return uint8 pixels (3, size, size)."""
        if self.pad == "target":
            image = target_pad(image, self.ratio)
        elif self.pad == "square":
            image = square_pad(image)
        width, height = image.size
        short, long = min(width, height), max(width, height)
        other = int(self.size * long / short)
        new_size = (self.size, other) if width <= height else (other, self.size)
        image = image.resize(new_size, Image.Resampling.BICUBIC)
        left = round((image.width - self.size) / 2.0)
        top = round((image.height - self.size) / 2.0)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()


def normalise(pixels_B3SS: Tensor) -> Tensor:
    """Return float32 pixels, standardised per channel, of pixels in 0..255, on their device."""
    mean = torch.tensor(MEAN, device=pixels_B3SS.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=pixels_B3SS.device).view(3, 1, 1) * 255
    return (pixels_B3SS.float() - mean) / std


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by name without suffix; where a name has several, .png is taken first.

    The folder is listed once. A folder that does not exist has no images.
    """
    if not folder.is_dir():
        return {}
    found: dict[str, Path] = {}
    order = {suffix: rank for rank, suffix in enumerate(SUFFIXES)}
    for path in sorted(folder.iterdir()):
        rank = order.get(path.suffix.lower(), math.inf)
        best = found.get(path.stem)
        if rank != math.inf and (best is None or rank < order[best.suffix.lower()]):
            found[path.stem] = path
    return found
