"""Write the embedded try-on set: synthetic persons in synthetic garments, in the layout of VITON-HD with MGD's additions.

    dataset/catalogue/vitonhd/
      train/  test/     image/00000_00.jpg  cloth/  cloth-mask/  agnostic-v3.2/  agnostic-mask/00000_00_mask.png
                        image-densepose/  image-parse-v3/00000_00.png  openpose_json/00000_00_keypoints.json
                        gt_cloth_warped_mask/  im_sketch/00000_00.png
      test/im_sketch_unpaired/00000_00_00001_00.png
      train_pairs.txt  test_pairs.txt  test_pairs_paired.txt        "person.jpg cloth.jpg" a line
      captions.json     {"00000": ["red striped shirt", "long-sleeved red shirt", "hip-length shirt with a v-neck"]}
      manifest.json     sizes and seed; marks the set as synthetic

It is written when try-on first asks for it, beside the rest of the embedded catalogue, which neither needs nor touches it.
"""

import json
import os
import random
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from unifashion.apps.toy_catalogue.drawing import draw, draw_mask
from unifashion.apps.toy_catalogue.garment import Garment, draw_garment
from unifashion.apps.toy_catalogue.person import Figure, Person
from unifashion.apps.toy_catalogue.words import LENGTH_WORDS
from unifashion.data.synthetic import MANIFEST, read_manifest
from unifashion.errors import UserError

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
    """Write the try-on set at ``root``, unless it stands there already with the same sizes and seed.

    It is drawn in a hidden folder beside its place and moved there whole.

    Raises:
        UserError: ``root`` holds anything but a set that this function wrote; nothing of it is touched.
    """
    sizes = sizes or TryOnSizes()
    wanted = {"name": "catalogue/vitonhd", "synthetic": True, "version": VERSION, **asdict(sizes)}
    found = read_manifest(root)
    if found == wanted:
        return root
    if root.exists() and found.get("name") != wanted["name"] and (root.is_file() or any(root.iterdir())):
        raise UserError(f"{root} holds other things; name an empty folder")
    place = root.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as workshop:
        new = Path(workshop) / "new"
        _write_all(new, sizes, progress)
        (new / MANIFEST).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        try:
            if read_manifest(root) != wanted:
                with suppress(FileNotFoundError):
                    place.replace(Path(workshop) / "old")
                new.replace(place)
        except OSError:
            if read_manifest(root) != wanted:  # else another process was faster
                raise
    return root


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
        numbers = list(range(first, first + count))
        others = numbers[1:] + numbers[:1]  # everybody wears the next one's garment
        for number in numbers:
            captions[f"{number:05d}"] = chunks(_garment(number, sizes.seed))
        if split == "test":
            _write_pairs(root / "test_pairs.txt", numbers, others)
            _write_pairs(root / "test_pairs_paired.txt", numbers, numbers)
        else:
            _write_pairs(root / "train_pairs.txt", numbers, numbers)
        pairs = zip(numbers, others if split == "test" else numbers, strict=True)
        work += [(folder, split, number, other, sizes.seed) for number, other in pairs]
        first += count
    (root / "captions.json").write_text(json.dumps(captions, indent=1) + "\n", encoding="utf-8")
    bar = tqdm(total=len(work), desc="drawing persons", disable=not progress, dynamic_ncols=True)
    heights = [sizes.height] * len(work)
    with bar, ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(_write_one, work, heights, chunksize=16):
            bar.update()


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


def _garment(number: int, seed: int) -> Garment:
    rng = random.Random(f"{seed}/tryon/garment/{number}")
    return draw_garment(CATEGORIES[number % len(CATEGORIES)], rng)


def _flat(number: int, seed: int, side: int) -> tuple[Image.Image, Image.Image]:
    """Return product photo and mask of a garment; each call with the same numbers gives the same pixels."""
    garment = _garment(number, seed)
    photo, mask = (make(garment, side, random.Random(f"{seed}/tryon/photo/{number}")) for make in (draw, draw_mask))
    return photo, mask


def _portrait(square: Image.Image, width: int, height: int) -> Image.Image:
    """Fit a square picture into the width; its first and last rows go on above and below."""
    square = square.resize((width, width), Image.Resampling.LANCZOS)
    picture = Image.new(square.mode, (width, height))
    top = (height - width) // 2
    for row, place, rows in ((0, 0, top), (width - 1, top + width, height - top - width)):
        picture.paste(square.crop((0, row, width, row + 1)).resize((width, rows)), (0, place))
    picture.paste(square, (0, top))
    return picture


def _write_one(work: tuple[Path, str, int, int, int], height: int) -> None:
    folder, split, number, other, seed = work
    name, width = f"{number:05d}_00", height * 3 // 4
    flat, mask = _flat(number, seed, height)
    figure = Figure(Person.draw(random.Random(f"{seed}/tryon/person/{number}")), width, height)
    photo = figure.photo(flat, mask)
    cloth, cloth_mask = _portrait(flat, width, height), _portrait(mask, width, height)

    def save(picture: Image.Image, place: str, big: bool = True) -> None:
        (figure.small(picture) if big else picture).save(folder / place, quality=95)

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
