"""CIRCO: composed retrieval with several right answers per query, in COCO 2017's 123,403 unlabeled photos. Evaluation only.

    circo/
      annotations/{val,test}.json
          [{"id": 0, "reference_img_id": 271520, "target_img_id": 355099, "gt_img_ids": [355099, 528417, 534704],
            "relative_caption": "shows two people and has a more colorful background",
            "shared_concept": "a girl with a traditional Chinese umbrella", "semantic_aspects": ["cardinality", ...]}, ...]
      COCO2017_unlabeled/annotations/image_info_unlabeled2017.json   {"images": [{"id": 271520, "file_name": "000000271520.jpg"}]}
      COCO2017_unlabeled/unlabeled2017/000000271520.jpg

Images are named by their COCO number, as text. The test split has no targets; a server scores it.
"""

from pathlib import Path
from typing import Any

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_json_list, read_json_object, text_of, texts_of
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.errors import UserError, nearest

SPLITS = ("val", "test")
ROOTS = ("circo", "CIRCO", ".")
COCO = "COCO2017_unlabeled"
IMAGE_INFO = f"{COCO}/annotations/image_info_unlabeled2017.json"


def read_circo(data_root: Path, split: str, needs_images: bool = True) -> ComposedSplit:
    """Read one split; the gallery is every image that COCO lists, in its order.

    Args:
        data_root: the folder that holds ``circo``, or that folder itself.
        split: val or test.
        needs_images: whether COCO's list of images must be there. Without it the gallery is empty, which is enough to check
            the form of a submission.

    Raises:
        UserError: an unknown split, a malformed file, a query id given twice, an image that COCO does not list.
        NoSplit: the set or this split of it is not there.
    """
    if split not in SPLITS:
        raise UserError(f"unknown CIRCO split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    root = find_root(data_root)
    path = root / "annotations" / f"{split}.json"
    if not path.is_file():
        raise NoSplit(f"{path} does not exist; {HELP}")
    info = root / IMAGE_INFO
    files = _files(info) if needs_images or info.is_file() else {}
    queries, seen = [], set()
    for number, row in enumerate(read_json_list(path, dict), 1):
        where = f"{path}, row {number}"
        query = _query(row, where, has_target=split != "test")
        if query.id in seen:
            raise UserError(f"{where}: id {query.id} occurs twice; remove one of its rows")
        seen.add(query.id)
        for name in (query.reference, *query.targets):
            if files and name not in files:
                raise UserError(f"{where}: image {name} is not in {IMAGE_INFO}; fetch COCO's file of 2017 again")
        queries.append(query)
    if not queries:
        raise UserError(f"{path} has no queries; fetch it again")
    folder = root / COCO / "unlabeled2017"
    on_disk = {image.name for image in folder.iterdir()} if folder.is_dir() else set()
    return ComposedSplit(
        dataset="circo",
        split=split,
        category="",
        queries=tuple(queries),
        gallery=tuple(files),
        images={name: folder / file for name, file in files.items() if file in on_disk},
    )


def find_root(data_root: Path) -> Path:
    """Return the folder that holds CIRCO's ``annotations``; ``NoSet`` where there is none."""
    return find_folder(
        data_root, "CIRCO", ROOTS, [f"annotations/{split}.json" for split in SPLITS], "circo/annotations/val.json"
    )


def _query(row: dict[str, Any], where: str, has_target: bool) -> ComposedQuery:
    target = text_of(row, "target_img_id", where) if has_target else None
    targets = _numbers(row, "gt_img_ids", where) if has_target else ()
    if targets and target != targets[0]:
        raise UserError(f"{where}: 'target_img_id' {target} must be the first of 'gt_img_ids', found {targets[0]}")
    return ComposedQuery(
        reference=text_of(row, "reference_img_id", where),
        target=target,
        feedback=(text_of(row, "relative_caption", where, blank=True),),
        id=text_of(row, "id", where),
        targets=targets,
        concept=text_of(row, "shared_concept", where, default=""),
        aspects=tuple(texts_of(row, "semantic_aspects", where)) if "semantic_aspects" in row else (),
    )


def _numbers(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = row.get(key)
    if not isinstance(value, list) or not value or not all(type(number) in (int, str) for number in value):
        raise UserError(f"{where}: {key!r} must be a list of image numbers, found {value!r}")
    return tuple(dict.fromkeys(map(str, value)))


def _files(path: Path) -> dict[str, str]:
    """Return the file name of every image by its number."""
    rows = read_json_object(path).get("images")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected an object with the list 'images'")
    located = ((f"{path}, image {number}", row) for number, row in enumerate(rows, 1))
    return {text_of(row, "id", where): text_of(row, "file_name", where) for where, row in located}
