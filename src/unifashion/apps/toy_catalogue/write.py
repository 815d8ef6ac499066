"""Write the embedded catalogue to disk in the layouts of FashionGen, FashionIQ (with captions) and a catalogue of one's own.

    dataset/catalogue/
      fashionGen/           products with one to three views; texts state every attribute, some of the training texts only a few
      fashionIQ_dataset/    composed queries: families of garments that differ in a few attributes; captions_llava from attributes
      catalogue.csv         the same photos as a catalogue of one's own (image, text, id, category, price, split)
      fashion200K/  hdf5/  cirr_dataset/  circo/      the same photos in other layouts (layouts.py)
      attributes.jsonl      {"image": "fashionGen/image/0.jpg", "category": "dress", "colour": ...} for every photo
      manifest.json         sizes and seed: identifies the folder as this catalogue, and as synthetic

Every photo has its own seed, so the bytes do not depend on the number of processes. An interrupted call leaves no
partial catalogue, and several processes may write at the same time (folder.py).
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

from unifashion.apps.toy_catalogue import layouts
from unifashion.apps.toy_catalogue.drawing import draw
from unifashion.apps.toy_catalogue.folder import draw_all, put_json, put_jsonl, remove_abandoned, write_once
from unifashion.apps.toy_catalogue.garment import CATEGORIES, Garment, change, draw_garment
from unifashion.apps.toy_catalogue.layouts import FASHIONIQ_NAMES
from unifashion.apps.toy_catalogue.words import caption, describe, feedback, phrase
from unifashion.data.own_catalogue import TABLE
from unifashion.data.synthetic import MANIFEST, read_manifest
from unifashion.data.tryon import ROOTS
from unifashion.errors import UserError, require
from unifashion.io import write_csv

VERSION = 4
PHRASES = 0.5  # share of the further views of a training product that come with a few words instead of its description
TRYON = ROOTS[0]  # the try-on set, which tryon.py writes when it is needed; it is drawn again when the rest changes
PARTS = ("fashionGen", "fashionIQ_dataset", TABLE, "attributes.jsonl", *layouts.PARTS, MANIFEST)


@dataclass(frozen=True)
class Sizes:
    """How much is written, per category; a product has one to three views, a family four garments."""

    train_products: int = 450
    val_products: int = 130
    train_families: int = 110
    val_families: int = 70
    val_distractors: int = 70
    train_queries: int = 900
    val_queries: int = 250
    side: int = 96
    seed: int = 0


@dataclass(frozen=True)
class _Photo:
    """One photo to draw: where, what, and the seed of its jitter."""

    path: str
    garment: Garment
    seed: str


def write_catalogue(root: Path, sizes: Sizes | None = None, progress: bool = True) -> Path:
    """Write the catalogue at ``root``, unless it already exists with the same sizes and seed.

    A catalogue of other sizes is replaced.

    Raises:
        UserError: ``root`` holds anything other than a catalogue that this function wrote; nothing in it is touched.
    """
    sizes = sizes or Sizes()
    wanted = {"name": "catalogue", "synthetic": True, "version": VERSION, **asdict(sizes)}
    remove_abandoned(root)
    if read_manifest(root) == wanted:
        return root
    _refuse_foreign_files(root)
    require("h5py", "drawing the embedded catalogue")  # its last file, written after a minute of drawing, is HDF5
    return write_once(root, wanted, partial(_write_all, sizes=sizes, progress=progress))


def _write_all(root: Path, sizes: Sizes, progress: bool) -> None:
    photos = [*_write_fashiongen(root, sizes), *_write_fashioniq(root, sizes)]
    _draw_all(root, photos, sizes.side, progress)
    put_jsonl(root / "attributes.jsonl", ({"image": photo.path, **asdict(photo.garment)} for photo in photos))
    layouts.write_layouts(root, {photo.path: photo.garment for photo in photos})


def _refuse_foreign_files(root: Path) -> None:
    """Raise unless ``root`` is absent, an empty folder, or a catalogue without foreign files."""
    if not root.exists():
        return
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else ["a file"]
    ours = PARTS if read_manifest(root).get("synthetic") is True else ()
    foreign = [
        name
        for name in names
        if name not in ours and not (name == TRYON and read_manifest(root / TRYON).get("synthetic"))
    ]
    if foreign:
        raise UserError(f"{root} holds other things ({', '.join(foreign[:3])}); name an empty folder")


def _write_fashiongen(root: Path, sizes: Sizes) -> Iterator[_Photo]:
    """Write FashionGen's annotations and the table of ``catalogue.csv``; yield the photos they name."""
    folder = root / "fashionGen"
    table: list[dict[str, object]] = []
    first_view = product = 0
    for split, images, count in (("train", "image", sizes.train_products), ("val", "image_val", sizes.val_products)):
        rows, objects, firsts = [], [], []
        seen: set[Garment] = set()
        for index in range(count * len(CATEGORIES)):
            rng = random.Random(f"{sizes.seed}/{split}/{index}")
            garment = draw_garment(CATEGORIES[index % len(CATEGORIES)], rng)
            while split == "val" and garment in seen:  # of two equal garments, a text could mean either
                garment = draw_garment(garment.category, rng)
            seen.add(garment)
            text, price = describe(garment, rng), rng.randrange(1500, 15000, 50) / 100
            metadata = {"productID": product, "subcategory": garment.category, "category": garment.category}
            views = list(range(first_view, first_view + rng.choice((1, 2, 2, 3))))
            for view in views:
                path = f"fashionGen/{images}/{view}.jpg"
                typed = phrase(garment, rng) if split == "train" and view != views[0] and rng.random() < PHRASES else ""
                rows.append({"index": str(view), "description": typed or text, **metadata})
                table.append(
                    {
                        "image": path,
                        "text": text,
                        "id": product,
                        "category": garment.category,
                        "price": f"{price:.2f}",
                        "split": split,
                    }
                )
                yield _Photo(path, garment, f"{sizes.seed}/view/{view}")
            objects.append({"index": json.dumps(views), "description": text, **metadata})
            firsts.append({"index": str(views[0]), "description": text})
            first_view, product = first_view + len(views), product + 1
        put_jsonl(folder / f"annotation_{split}.jsonl", rows)
        put_jsonl(folder / f"annotation_{split}_object.jsonl", objects)
    random.Random(f"{sizes.seed}/blocks").shuffle(firsts)
    put_jsonl(folder / "val100_object.jsonl", firsts)
    write_csv(root / TABLE, list(table[0]), table)


def _write_fashioniq(root: Path, sizes: Sizes) -> Iterator[_Photo]:
    """Write FashionIQ's annotations and captions; yield the photos they name."""
    folder = root / "fashionIQ_dataset"
    for category, name in FASHIONIQ_NAMES.items():
        for split, families, distractors, num_queries in (
            ("train", sizes.train_families, 0, sizes.train_queries),
            ("val", sizes.val_families, sizes.val_distractors, sizes.val_queries),
        ):
            rng = random.Random(f"{sizes.seed}/{name}/{split}")
            garments, pairs = _families(category, families, distractors, rng)
            names = [f"{name}_{split}_{index:04d}" for index in range(len(garments))]
            queries = [
                {
                    "target": names[target],
                    "candidate": names[reference],
                    "captions": list(feedback(garments[reference], garments[target], rng)),
                }
                for reference, target in pairs[:num_queries]
            ]
            captions = [
                {"image": image, "caption": f"\n{caption(garment)}", "text_guidance": ""}
                for image, garment in zip(names, garments, strict=True)
            ]
            put_json(folder / "captions" / f"cap.{name}.{split}.json", queries)
            put_json(folder / "image_splits" / f"split.{name}.{split}.json", names)
            put_json(folder / "captions_llava" / f"next_llava.{split}.{name}.caption.json", captions)
            for image, garment in zip(names, garments, strict=True):
                yield _Photo(f"fashionIQ_dataset/images/{image}.jpg", garment, f"{sizes.seed}/photo/{image}")


def _families(
    category: str, num_families: int, num_distractors: int, rng: random.Random
) -> tuple[list[Garment], list[tuple[int, int]]]:
    """Return distinct garments and (reference, target) pairs within families, all in random order."""
    garments: list[Garment] = []
    pairs: list[tuple[int, int]] = []
    seen: set[Garment] = set()

    def add(make: Callable[[], Garment]) -> int:
        garment = make()
        while garment in seen:
            garment = make()
        seen.add(garment)
        garments.append(garment)
        return len(garments) - 1

    for _ in range(num_families):
        base = add(partial(draw_garment, category, rng))
        family = [base, *(add(partial(change, garments[base], rng)) for _ in range(3))]
        pairs += [(a, b) for a, b in permutations(family, 2) if len(garments[a].differences(garments[b])) <= 3]
    for _ in range(num_distractors):
        add(partial(draw_garment, category, rng))
    order = list(range(len(garments)))
    rng.shuffle(order)
    position = {old: new for new, old in enumerate(order)}
    rng.shuffle(pairs)
    return [garments[old] for old in order], [(position[a], position[b]) for a, b in pairs]


def _draw_all(root: Path, photos: list[_Photo], side: int, progress: bool) -> None:
    for folder in {(root / photo.path).parent for photo in photos}:
        folder.mkdir(parents=True, exist_ok=True)
    draw_all(_draw_one, [(root, photo, side) for photo in photos], "drawing the catalogue", progress, chunksize=64)


def _draw_one(work: tuple[Path, _Photo, int]) -> None:
    root, photo, side = work
    image = draw(photo.garment, side, random.Random(photo.seed))
    image.save(root / photo.path, quality=90)
