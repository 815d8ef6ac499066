"""Draws the small data sets that steps.py trains on: coloured squares with words, in the layouts that dataset/README.md shows.

    fashionGen/           40 training products with one to three views, 12 for validation
    fashionIQ_dataset/    three categories with 20 training queries each, and captions
    vitonhd/              12 training and 2 test pairs with every map

The pixels are a rule of the file's name and nothing else: no code of the package, and no lossy format, takes part.
"""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "blue", "green", "black", "white", "pink", "yellow", "brown")
PATTERNS = ("plain", "striped", "dotted", "floral")
EXTRAS = (
    "with a round neck",
    "with short sleeves",
    "made of soft cotton",
    "with two pockets at the front",
    "for summer",
)
CATEGORIES = ("dress", "shirt", "toptee")
PHOTO, PERSON = (40, 48), (48, 64)


def draw_sets(root: Path) -> None:
    """Write all three sets below ``root``."""
    _draw_fashiongen(root / "fashionGen")
    _draw_fashioniq(root / "fashionIQ_dataset")
    for split, count in (("train", 12), ("test", 2)):
        _draw_vitonhd(root / "vitonhd", split, count)


def _words(seed: str) -> str:
    chance = random.Random(seed)
    extras = chance.sample(EXTRAS, chance.randint(0, 3))
    return " ".join(("a", chance.choice(COLOURS), chance.choice(PATTERNS), chance.choice(CATEGORIES), *extras))


def _picture(seed: str, size: tuple[int, int]) -> Image.Image:
    cells = Image.frombytes(
        "RGB", (size[0] // 8, size[1] // 8), random.Random(seed).randbytes(size[0] * size[1] // 64 * 3)
    )
    return cells.resize(size, Image.Resampling.NEAREST)


def _save(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(path.name, size).save(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def _write_json(path: Path, content: object) -> None:
    _write(path, json.dumps(content))


def _draw_fashiongen(root: Path) -> None:
    number = 0
    for split, folder, products in (("train", "image", 40), ("val", "image_val", 12)):
        rows = []
        for product in range(products):
            for _ in range(1 + product % 3):
                row = {"index": str(number), "description": _words(f"{split} {product}"), "productID": product}
                rows.append({**row, "subcategory": CATEGORIES[product % 3].upper()})
                _save(root / folder / f"{number}.png", PHOTO)
                number += 1
        _write(root / f"annotation_{split}.jsonl", "\n".join(map(json.dumps, rows)))


def _draw_fashioniq(root: Path) -> None:
    for split, photos, queries in (("train", 16, 20), ("val", 6, 4)):
        for category in CATEGORIES:
            names = [f"{category}{split}{number}" for number in range(photos)]
            chance = random.Random(f"{category} {split}")
            pairs = [chance.sample(names, 2) for _ in range(queries)]
            sentences = [[f"is {chance.choice(COLOURS)}", f"comes {chance.choice(EXTRAS)}"] for _ in pairs]
            asked = [{"candidate": a, "target": b, "captions": c} for (a, b), c in zip(pairs, sentences, strict=True)]
            captions = [{"image": name, "caption": _words(name), "text_guidance": ""} for name in names]
            _write_json(root / "captions" / f"cap.{category}.{split}.json", asked)
            _write_json(root / "image_splits" / f"split.{category}.{split}.json", names)
            _write_json(root / "captions_llava" / f"next_llava.{split}.{category}.caption.json", captions)
            for name in names:
                _save(root / "images" / f"{name}.png", PHOTO)


def _draw_vitonhd(root: Path, split: str, count: int) -> None:
    names = [f"{number:05}_00" for number in range(count)]
    for number, name in enumerate(names):
        folder = root / split
        for kind in ("image", "cloth", "image-densepose"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            _picture(f"{split} {kind} {name}", PERSON).save(folder / kind / f"{name}.png")
        worn = (8 + number % 3, 16, 36, 44 + number % 5)
        agnostic = _picture(f"{split} image {name}", PERSON)
        ImageDraw.Draw(agnostic).rectangle(worn, fill="grey")
        mask = Image.new("L", PERSON)
        ImageDraw.Draw(mask).rectangle(worn, fill=255)
        for kind, picture, ending in (
            ("agnostic-v3.2", agnostic, ""),
            ("agnostic-mask", mask, "_mask"),
            ("gt_cloth_warped_mask", mask, ""),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / kind / f"{name}{ending}.png")
    _write(root / f"{split}_pairs.txt", "\n".join(f"{name}.png {name}.png" for name in names))
    if split == "train":
        chunks = {name.partition("_")[0]: [_words(name), random.Random(name).choice(COLOURS)] for name in names}
        _write_json(root / "captions.json", chunks)
