"""Write the embedded try-on set: synthetic persons in synthetic garments, in the layout of VITON-HD with MGD's additions.

    dataset/catalogue/vitonhd/
      train/  test/     image/00000_00.jpg  cloth/  cloth-mask/  agnostic-v3.2/  agnostic-mask/00000_00_mask.png
                        image-densepose/  image-parse-v3/00000_00.png  openpose_json/00000_00_keypoints.json
                        gt_cloth_warped_mask/  im_sketch/00000_00.png
      test/im_sketch_unpaired/00000_00_00001_00.png
      train_pairs.txt  test_pairs.txt  test_pairs_paired.txt        "person.jpg cloth.jpg" per line
      captions.json     {"00000": ["red striped shirt", "long-sleeved red shirt", "hip-length shirt with a v-neck"]}
      manifest.json     sizes and seed; marks the set as synthetic

It is written when try-on first needs it, beside the rest of the embedded catalogue, which neither needs nor touches it.
"""

import json
import random
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from unifashion.apps.toy_catalogue.drawing import draw, draw_mask
from unifashion.apps.toy_catalogue.folder import draw_all, remove_abandoned, write_once
from unifashion.apps.toy_catalogue.garment import Garment, draw_garment
from unifashion.apps.toy_catalogue.person import Figure, Wearer
from unifashion.apps.toy_catalogue.words import LENGTH_WORDS
from unifashion.data.synthetic import read_manifest
from unifashion.errors import UserError
from unifashion.io import write_json

VERSION = 2
CATEGORIES = ("shirt", "top")


@dataclass(frozen=True)
class TryOnSizes:
    """How much is written; pictures are ``3/4 height`` wide."""

    train: int = 480
    test: int = 96
    height: int = 128
    seed: int = 0


def write_tryon(root: Path, sizes: TryOnSizes | None = None, progress: bool = True) -> Path:
    """Write the try-on set at ``root``, unless it already exists with the same sizes and seed.

    Raises:
        UserError: ``root`` holds anything other than a set that this function wrote; nothing in it is touched.
    """
    sizes = sizes or TryOnSizes()
    wanted = {"name": "catalogue/vitonhd", "synthetic": True, "version": VERSION, **asdict(sizes)}
    remove_abandoned(root)
    manifest = read_manifest(root)
    if manifest == wanted:
        return root
    if root.exists() and manifest.get("name") != wanted["name"] and (root.is_file() or any(root.iterdir())):
        raise UserError(f"{root} holds other things; name an empty folder")
    return write_once(root, wanted, partial(_write_all, sizes=sizes, progress=progress))


def chunks(garment: Garment) -> list[str]:
    """Return three noun chunks that describe a garment, as MGD's captions do."""
    cloth = (
        f"{garment.colour} and {garment.second_colour} {garment.pattern}" if garment.second_colour else garment.colour
    )
    length = LENGTH_WORDS[garment.category][garment.length]
    return [
        f"{cloth} {garment.category}",
        f"{garment.sleeve} {garment.colour} {garment.category}",
        f"{length} {garment.category} with a {garment.neckline}",
    ]


def _write_all(root: Path, sizes: TryOnSizes, progress: bool) -> None:
    captions: dict[str, list[str]] = {}
    work: list[tuple[Path, str, int, int, int]] = []
    first = 0
    for split, count in (("train", sizes.train), ("test", sizes.test)):
        folder = root / split
        for name in _FOLDERS + (("im_sketch_unpaired",) if split == "test" else ()):
            (folder / name).mkdir(parents=True)
        indices = list(range(first, first + count))
        others = indices[1:] + indices[:1]  # everyone wears the next person's garment
        for index in indices:
            captions[f"{index:05d}"] = chunks(_garment(index, sizes.seed))
        if split == "test":
            _write_pairs(root / "test_pairs.txt", indices, others)
            _write_pairs(root / "test_pairs_paired.txt", indices, indices)
        else:
            _write_pairs(root / "train_pairs.txt", indices, indices)
        pairs = zip(indices, others if split == "test" else indices, strict=True)
        work += [(folder, split, index, other, sizes.seed) for index, other in pairs]
        first += count
    write_json(root / "captions.json", captions)
    draw_all(partial(_write_one, height=sizes.height), work, "drawing persons", progress, chunksize=16)


_FOLDERS = (
    "image",
    "cloth",
    "cloth-mask",
    "agnostic-v3.2",
    "agnostic-mask",
    "image-densepose",
    "image-parse-v3",
    "openpose_json",
    "gt_cloth_warped_mask",
    "im_sketch",
)


def _write_pairs(path: Path, persons: list[int], cloths: list[int]) -> None:
    rows = (f"{a:05d}_00.jpg {b:05d}_00.jpg\n" for a, b in zip(persons, cloths, strict=True))
    path.write_text("".join(rows), encoding="utf-8")


def _garment(index: int, seed: int) -> Garment:
    rng = random.Random(f"{seed}/tryon/garment/{index}")
    return draw_garment(CATEGORIES[index % len(CATEGORIES)], rng)


def _flat(index: int, seed: int, side: int) -> tuple[Image.Image, Image.Image]:
    """Return product photo and mask of a garment; each call with the same index, seed and side gives the same pixels."""
    garment = _garment(index, seed)
    photo, mask = (make(garment, side, random.Random(f"{seed}/tryon/photo/{index}")) for make in (draw, draw_mask))
    return photo, mask


def _portrait(square: Image.Image, width: int, height: int) -> Image.Image:
    """Fit a square picture into the width; its first and last rows are repeated above and below."""
    square = square.resize((width, width), Image.Resampling.LANCZOS)
    picture = Image.new(square.mode, (width, height))
    top = (height - width) // 2
    for row, y, rows in ((0, 0, top), (width - 1, top + width, height - top - width)):
        picture.paste(square.crop((0, row, width, row + 1)).resize((width, rows)), (0, y))
    picture.paste(square, (0, top))
    return picture


def _write_one(work: tuple[Path, str, int, int, int], height: int) -> None:
    folder, split, index, other, seed = work
    name, width = f"{index:05d}_00", height * 3 // 4
    flat, mask = _flat(index, seed, height)
    figure = Figure(Wearer.draw(random.Random(f"{seed}/tryon/person/{index}")), width, height)
    photo = figure.photo(flat, mask)
    cloth, cloth_mask = _portrait(flat, width, height), _portrait(mask, width, height)

    def save(picture: Image.Image, path: str, big: bool = True) -> None:
        (figure.small(picture) if big else picture).save(folder / path, quality=95)

    save(photo, f"image/{name}.jpg")
    save(cloth, f"cloth/{name}.jpg", big=False)
    save(cloth_mask, f"cloth-mask/{name}.jpg", big=False)
    save(figure.agnostic(photo), f"agnostic-v3.2/{name}.jpg")
    save(figure.painted(), f"agnostic-mask/{name}_mask.png")
    save(figure.densepose(), f"image-densepose/{name}.jpg")
    save(figure.parse(mask), f"image-parse-v3/{name}.png")
    save(figure.wear(mask), f"gt_cloth_warped_mask/{name}.jpg")
    save(figure.sketch(flat, mask), f"im_sketch/{name}.png")
    if split == "test":
        save(figure.sketch(*_flat(other, seed, height)), f"im_sketch_unpaired/{name}_{other:05d}_00.png")
    pose = json.dumps(figure.keypoints())
    (folder / f"openpose_json/{name}_keypoints.json").write_text(pose, encoding="utf-8")
