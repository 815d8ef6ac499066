"""The embedded catalogue again, in the layouts of Fashion200K, FashionGen's HDF5, CIRR and CIRCO.

    fashion200K/                the products of fashionGen/ labelled with a few words
    hdf5/fashionGen/*.h5        the first products of each split of fashionGen/, as FashionGen is distributed
    cirr_dataset/cirr/          the queries of fashionIQ_dataset/, each with the five photos most like its target as a set
                                train; val = val dresses and shirts; test1 = val tops, targets hidden
    circo/                      val photos as one gallery; a query's right answers are all photos that the feedback allows
                                val and test = every other query, the latter's targets hidden

Photos are hard links to the existing ones: they take no space.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unifashion.apps.toy_catalogue.folder import put_json
from unifashion.apps.toy_catalogue.garment import Garment
from unifashion.data import circo, fashion200k
from unifashion.data.fashiongen import HDF5_FILES
from unifashion.data.images import load_image

PARTS = (fashion200k.FOLDER, "hdf5", "cirr_dataset", circo.ROOTS[0])
FASHIONIQ_NAMES = {"dress": "dress", "shirt": "shirt", "top": "toptee"}
HDF5_ROWS = 150
CIRCO_QUERIES = 60  # per category
MAX_ANSWERS = 20

Garments = dict[str, Garment]


def write_layouts(root: Path, garments: Garments) -> None:
    """Write the other layouts below a catalogue that is otherwise complete.

    Args:
        root: the catalogue.
        garments: what every photo shows, by its path below ``root``.
    """
    for split in HDF5_FILES:
        rows = _read_jsonl(root / "fashionGen" / f"annotation_{split}.jsonl")
        folder = root / "fashionGen" / ("image" if split == "train" else "image_val")
        _write_fashion200k(root, split, rows, folder, garments)
        _write_hdf5(root / "hdf5" / "fashionGen" / HDF5_FILES[split], rows[:HDF5_ROWS], folder)
    _write_cirr(root, garments)
    _write_circo(root, garments)


def _link(source: Path, path: Path) -> None:
    """Make ``path`` the same file, or a copy where the disk has no hard links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _write_fashion200k(
    root: Path, split: str, rows: Sequence[dict[str, Any]], folder: Path, garments: Garments
) -> None:
    home = root / fashion200k.FOLDER
    labels: dict[str, list[str]] = {}
    views: dict[int, int] = {}
    for row in rows:
        product = row["productID"]
        view = views[product] = views.get(product, -1) + 1
        source = folder / f"{row['index']}.jpg"
        garment = garments[source.relative_to(root).as_posix()]
        name = f"women/{garment.category}/{garment.sleeve}_{garment.category}/{product}/{product}_{view}.jpeg"
        _link(source, home / name)
        words = " ".join(word for word in (garment.second_colour, garment.pattern, garment.colour) if word)
        labels.setdefault(garment.category, []).append(f"{name}\t0.9\t{words} {garment.category}\n")
    (home / "labels").mkdir(parents=True, exist_ok=True)
    for category, lines in labels.items():
        name = f"{category}_{'train' if split == 'train' else 'test'}_detect_all.txt"
        (home / "labels" / name).write_text("".join(lines), encoding="utf-8")


def _write_hdf5(path: Path, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    import h5py  # here, because an existing catalogue is used without it

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = []
    for row in rows:
        pixels.append(np.asarray(load_image(folder / f"{row['index']}.jpg")))
    texts = {"input_description": "description", "input_subcategory": "subcategory", "input_category": "category"}
    with h5py.File(path, "w") as file:
        file.create_dataset("input_image", data=np.stack(pixels), compression="gzip", chunks=(1, *pixels[0].shape))
        for name, key in texts.items():
            file[name] = np.array([[row[key].encode("iso-8859-1")] for row in rows])
        file["input_productID"] = np.array([[row["productID"]] for row in rows])
        file["index"] = np.array([[int(row["index"])] for row in rows])


def _write_cirr(root: Path, garments: Garments) -> None:
    home = root / "cirr_dataset"
    plan = {
        "train": [(name, "train") for name in FASHIONIQ_NAMES.values()],
        "val": [("dress", "val"), ("shirt", "val")],
        "test1": [("toptee", "val")],
    }
    pair = 0
    for split, sources in plan.items():
        folder = {"val": "dev"}.get(split, split)
        captions, files = [], {}
        for category, source in sources:
            names = _gallery(root, category, source)
            shown = {name: garments[_photo(name)] for name in names}
            for query in _queries(root, category, source):
                members = [query["candidate"], *_most_alike(query["target"], shown, {query["candidate"]})]
                row = {
                    "pairid": pair,
                    "reference": query["candidate"],
                    "caption": " and ".join(query["captions"]),
                    "img_set": {"id": pair, "members": members},
                }
                if split != "test1":
                    row |= {"target_hard": query["target"], "target_soft": {query["target"]: 1.0}}
                captions.append(row)
                pair += 1
            for name in names:
                _link(root / _photo(name), home / folder / f"{name}.jpg")
                files[name] = f"./{folder}/{name}.jpg"
        put_json(home / "cirr" / "captions" / f"cap.rc2.{split}.json", captions)
        put_json(home / "cirr" / "image_splits" / f"split.rc2.{split}.json", files)


def _most_alike(target: str, shown: Garments, left_out: set[str], count: int = 5) -> list[str]:
    """Return the target and the photos that differ from it in the fewest attributes, sorted by name."""
    others = [name for name in shown if name not in left_out]
    nearest = sorted(others, key=lambda name: (len(shown[target].differences(shown[name])), name != target, name))
    return sorted(nearest[:count])


def _write_circo(root: Path, garments: Garments) -> None:
    home = root / circo.ROOTS[0]
    names = [name for category in FASHIONIQ_NAMES.values() for name in _gallery(root, category, "val")]
    id_of = {name: 1000 + index for index, name in enumerate(names)}
    images = []
    for name in names:
        file = f"{id_of[name]:012d}.jpg"
        _link(root / _photo(name), home / "COCO2017_unlabeled" / "unlabeled2017" / file)
        images.append({"id": id_of[name], "file_name": file})
    put_json(home / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json", {"images": images})
    rows: dict[str, list[dict[str, Any]]] = {"val": [], "test": []}
    for category in FASHIONIQ_NAMES.values():
        gallery = {name: garments[_photo(name)] for name in names if name.startswith(category)}
        for index, query in enumerate(_queries(root, category, "val")[:CIRCO_QUERIES]):
            split = "test" if index % 2 else "val"
            reference, target = gallery[query["candidate"]], gallery[query["target"]]
            row: dict[str, Any] = {
                "reference_img_id": id_of[query["candidate"]],
                "relative_caption": " and ".join(query["captions"]),
                "shared_concept": f"a {target.category}",
                "id": len(rows[split]),
            }
            if split == "val":
                answers = _answers(reference, target, gallery, query["target"])
                row["target_img_id"] = id_of[query["target"]]
                row["gt_img_ids"] = [id_of[name] for name in answers]
                row["semantic_aspects"] = [name.replace("_", " ") for name in reference.differences(target)]
            rows[split].append(row)
    for split, content in rows.items():
        put_json(home / "annotations" / f"{split}.json", content)


def _answers(reference: Garment, target: Garment, gallery: Garments, name: str) -> list[str]:
    """Return every photo that has what the feedback asks for, the target first, then those most like the reference."""
    asked = reference.differences(target)
    right = [
        other
        for other, garment in gallery.items()
        if other != name and all(getattr(garment, attribute) == getattr(target, attribute) for attribute in asked)
    ]
    right.sort(key=lambda other: (len(target.differences(gallery[other])), other))
    return [name, *right[: MAX_ANSWERS - 1]]


def _photo(name: str) -> str:
    return f"fashionIQ_dataset/images/{name}.jpg"


def _gallery(root: Path, category: str, split: str) -> list[str]:
    path = root / "fashionIQ_dataset" / "image_splits" / f"split.{category}.{split}.json"
    names: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return names


def _queries(root: Path, category: str, split: str) -> list[dict[str, Any]]:
    path = root / "fashionIQ_dataset" / "captions" / f"cap.{category}.{split}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
