"""Try-on pairs in the layout of DressCode, with the captions and sketches of its multimodal extension (MGD).

    dresscode/                              (or DressCode/)
      fine_captions.json  coarse_captions.json     {"052012": ["black dress", ...]}; the fine ones first            optional
      {dresses,lower_body,upper_body}/
        train_pairs.txt  test_pairs_paired.txt  test_pairs_unpaired.txt     a line: "052012_0.jpg 052033_1.jpg" (person, garment)
        images/052012_0.jpg  052012_1.jpg   the person; the garment
        label_maps/052012_4.png  keypoints/052012_2.json                    for ``unifashion prepare tryon``         optional
        agnostic/052012_0.jpg               the person without garment      (prepare tryon makes it)
        agnostic-mask/052012_0_mask.png     white = to be painted           (prepare tryon makes it)
        image-densepose/052012_0.jpg        the body's surface, in colours  (prepare tryon makes it from dense/052012_5.png)
        gt_cloth_warped_mask/052012_0.png   where the garment is on the person: for the attention loss  (prepare tryon makes it)
        cloth-mask/052012_1.png             where the garment is in its photo                                        optional
        cloth_sketch/052012_1.png           sketch of the garment's photo   (prepare tryon makes it)                 optional
        im_sketch/052012_1.png              sketch of the garment as it is worn                                      optional
        im_sketch_unpaired/052012_0_052033_1.png   the same for a person in another's garment                        optional

Person and garment of one product share a name, "052012"; the numbers are unique across the categories. What paired means and what
a list of pairs may look like is as in ``data/tryon.py``; the third column of the whole set's lists is the category.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from unifashion.data.annotations import HELP, NoSplit, find_folder
from unifashion.data.image_files import find_images
from unifashion.data.tryon import (
    MEND_LINE,
    SPLITS,
    MapFiles,
    MapTable,
    TryOnItem,
    TryOnSplit,
    find_maps,
    lacks,
    maps_of,
    nothing_usable,
    own_garments,
    read_chunks,
    read_pairs,
    refuse_doubles,
    tell_captions,
)
from unifashion.errors import UserError

ROOTS = ("dresscode", "DressCode")
ENDINGS = ("_0", "_1")  # of person and garment
CATEGORIES = ("dresses", "lower_body", "upper_body")
MAPS: MapTable = {
    "image": (("images",), "person", ("_0",)),
    "agnostic": (("agnostic", "agnostic-v3.2"), "person", ("_0",)),
    "agnostic_mask": (("agnostic-mask", "agnostic_mask"), "person", ("_0_mask", "_0")),
    "densepose": (("image-densepose", "image_densepose"), "person", ("_0",)),
    "warped_mask": (("gt_cloth_warped_mask",), "person", ("_0",)),
    "garment": (("images",), "garment", ("_1",)),
    "garment_mask": (("cloth-mask", "cloth_mask"), "garment", ("_1",)),
    "garment-sketch": (("cloth_sketch",), "garment", ("_1",)),
    "sketch": (("im_sketch",), "person", ("_1",)),
}


def find_root(data_root: Path) -> Path:
    """Return the folder of DressCode: ``data_root`` itself or one of its usual names below it; ``NoSet`` where there is none."""
    return find_folder(
        data_root,
        "DressCode",
        (".", *ROOTS),
        [f"{category}/images/" for category in CATEGORIES],
        f"{ROOTS[0]}/{CATEGORIES[0]}/images or another category's",
    )


def read_dresscode(root: Path, split: str, needs: Collection[str], pairs: str = "paired") -> TryOnSplit:
    """Read one split of all categories that are present.

    Args:
        root: data root or the set's own folder.
        split: train or test.
        needs: the maps that an item must have (names of ``MAPS``).
        pairs: "paired", "unpaired", or the path of another pairs file, in which person and garment are of one category.

    Raises:
        NoSplit: the set or the split is not there.
        UserError: a malformed pairs or caption file; in your own pairs file, names without a photo; no complete item.
    """
    root = find_root(root)
    if split not in SPLITS:
        raise NoSplit(f"DressCode has the splits {' and '.join(SPLITS)}, not {split}")
    captions = read_chunks(root / "coarse_captions.json") | read_chunks(root / "fine_captions.json")
    map_files = {name: find_maps(root / name, MAPS) for name in CATEGORIES}
    sketches = {name: find_images(root / name / "im_sketch_unpaired") for name in CATEGORIES}
    listed = _read_pairs(root, split, pairs, map_files)
    tell_captions(root, captions, [garment for _, _, garment in listed])
    items, missing = [], []
    for category, person, garment in listed:
        sketch = sketches[category].get(f"{person}_0_{garment}_1")
        maps = maps_of(person, garment, map_files[category], MAPS, sketch)
        item = TryOnItem(person, garment, maps, captions.get(garment, ()), category)
        lacking = lacks(item, needs)
        if lacking:
            missing.append(f"{category}/{lacking}")
        else:
            items.append(item)
    if not items:
        empty = {name: not any(files[name] for files in map_files.values()) for name in MAPS}
        raise UserError(nothing_usable(root, root, missing, empty, MAPS, needs))
    return TryOnSplit("dresscode", split, tuple(items), tuple(missing))


def _read_pairs(root: Path, split: str, pairs: str, map_files: dict[str, MapFiles]) -> list[tuple[str, str, str]]:
    """Return (category, person, garment)."""
    if pairs not in ("paired", "unpaired"):
        return list(_read_own_pairs(Path(pairs), root, map_files))
    if split == "train" and pairs == "unpaired":
        raise UserError("DressCode has unpaired lists for test only; name a pairs file of your own")
    name = "train_pairs.txt" if split == "train" else f"test_pairs_{pairs}.txt"
    paths = {category: root / category / name for category in CATEGORIES}
    if not any(path.is_file() for path in paths.values()):
        raise NoSplit(f"{root} has no {name} in {', '.join(CATEGORIES)}; {HELP}")
    rows = []
    for category, path in paths.items():
        if path.is_file():
            lines = list(read_pairs(path, *ENDINGS))
            listed = [(person, garment) for _, person, garment in lines]
            if pairs == "paired":
                listed = own_garments(listed)
            else:
                refuse_doubles(path, lines)
            rows += [(category, *row) for row in listed]
    return rows


def _read_own_pairs(path: Path, root: Path, map_files: dict[str, MapFiles]) -> Iterator[tuple[str, str, str]]:
    lines = list(read_pairs(path, *ENDINGS))
    refuse_doubles(path, lines)
    for number, person, garment in lines:
        category = next((name for name, maps in map_files.items() if person in maps["image"]), None)
        if category is None:
            raise UserError(f"{path}, line {number}: {person + '_0'!r} is in no folder 'images' of {root}; {MEND_LINE}")
        if garment not in map_files[category]["garment"]:
            folder = root / category / "images"
            raise UserError(f"{path}, line {number}: {garment + '_1'!r} is not in {folder}; {MEND_LINE}")
        yield category, person, garment
