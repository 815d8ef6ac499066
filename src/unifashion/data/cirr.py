"""CIRR: composed retrieval on everyday photos, in sets of six that look alike.

    cirr_dataset/
      cirr/captions/cap.rc2.{train,val,test1}.json
          [{"pairid": 12060, "reference": "dev-244-0-img0", "target_hard": "dev-1028-1-img1",
            "caption": "show three bottles of soft drink", "target_soft": {"dev-1028-1-img1": 1.0},
            "img_set": {"id": 36, "members": ["dev-430-3-img0", ...]}}, ...]
      cirr/image_splits/split.rc2.{train,val,test1}.json      {"dev-244-0-img0": "./dev/dev-244-0-img0.png", ...}
      train/  dev/  test1/                                    images; may also be below img_raw/ or beside captions/

The protocol scores ``target_hard`` alone, so ``target_soft`` is not read. test1 has no targets; a server scores it.
"""

from pathlib import Path
from typing import Any

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_json_list, read_json_object, text_of, texts_of
from unifashion.data.image_files import find_file, is_there
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.errors import UserError, nearest

SPLITS = ("train", "val", "test1")
ROOTS = ("cirr_dataset/cirr", "cirr", "cirr_dataset", ".")


def read_cirr(data_root: Path, split: str) -> ComposedSplit:
    """Read one split, in the order of the annotation files.

    Args:
        data_root: the folder that holds ``cirr_dataset`` (or ``cirr``), or that folder itself.
        split: train, val or test1.

    Raises:
        UserError: an unknown split, a malformed file, a query name given twice, a name that the split file lacks.
        NoSplit: the set or this split of it is not there.
    """
    if split not in SPLITS:
        raise UserError(f"unknown CIRR split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    root = find_root(data_root)
    path = root / "captions" / f"cap.rc2.{split}.json"
    if not path.is_file():
        raise NoSplit(f"{path} does not exist; {HELP}")
    files = _files(root / "image_splits" / f"split.rc2.{split}.json")
    queries, seen = [], set()
    for number, row in enumerate(read_json_list(path, dict), 1):
        where = f"{path}, row {number}"
        query = _query(row, where, has_target=split != "test1")
        if query.id in seen:
            raise UserError(f"{where}: pairid {query.id} occurs twice; remove one of its rows")
        seen.add(query.id)
        for name in (query.reference, *([query.target] if query.target else []), *query.members):
            if name not in files:
                raise UserError(f"{where}: image {name!r} is not in split.rc2.{split}.json; fetch both files again")
        queries.append(query)
    if not queries:
        raise UserError(f"{path} has no queries; fetch it again")
    base = _image_base(root, files)
    images = {name: find_file(base, file) for name, file in files.items()}
    return ComposedSplit(
        dataset="cirr",
        split=split,
        category="",
        queries=tuple(queries),
        gallery=tuple(files),
        images={name: image for name, image in images.items() if is_there(image)},
    )


def find_root(data_root: Path) -> Path:
    """Return the folder that holds CIRR's ``captions``; ``NoSet`` where there is none."""
    return find_folder(
        data_root, "CIRR", ROOTS, ("captions/cap.rc2.*.json",), "cirr_dataset/cirr/captions/cap.rc2.val.json"
    )


def _query(row: dict[str, Any], where: str, has_target: bool) -> ComposedQuery:
    group = row.get("img_set")
    if not isinstance(group, dict):
        raise UserError(f"{where}: 'img_set' must be an object with 'members', found {group!r}")
    members = texts_of(group, "members", f"{where}, img_set")
    reference = text_of(row, "reference", where)
    if reference not in members or len(set(members)) != len(members):
        raise UserError(f"{where}: 'members' must name the reference and every image once, found {', '.join(members)}")
    return ComposedQuery(
        reference=reference,
        target=text_of(row, "target_hard", where) if has_target else None,
        feedback=(text_of(row, "caption", where, blank=True),),  # one of test1 is empty
        id=text_of(row, "pairid", where),
        members=tuple(members),
    )


def _files(path: Path) -> dict[str, str]:
    files = read_json_object(path)
    for name, file in files.items():
        if not isinstance(file, str) or not Path(file).parts:
            raise UserError(f"{path}: {name!r} must be the path of its image, found {file!r}")
    if not files:
        raise UserError(f"{path} lists no images; fetch it again")
    return files


def _image_base(root: Path, files: dict[str, str]) -> Path:
    """Return the folder that the paths of the split file start from."""
    folder = Path(next(iter(files.values()))).parts[0]
    bases = (root.parent, root.parent / "img_raw", root / "img_raw", root)
    return next((base for base in bases if is_there(base / folder, Path.is_dir)), root.parent)
