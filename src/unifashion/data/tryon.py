"""Try-on pairs in the layout of VITON-HD, with the captions and sketches of its multimodal extension (MGD).

    vitonhd/
      train_pairs.txt  test_pairs.txt       a line: "00891_00.jpg 01430_00.jpg" (person, garment)
      captions.json                         {"01430": ["striped t-shirt", "blue shirt", "cotton shirt"]}         optional
      {train,test}/
        image/00891_00.jpg                  the person
        cloth/01430_00.jpg                  the garment
        cloth-mask/01430_00.jpg             where the garment is in its photo                                      optional
        cloth_sketch/01430_00.png           sketch of the garment's photo; or cloth_sketch/results/{train,test}/   optional
        agnostic-v3.2/00891_00.jpg          the person without garment and arms       (StableVITON: agnostic)
        agnostic-mask/00891_00_mask.png     white = to be painted                     (StableVITON: agnostic_mask)
        image-densepose/00891_00.jpg        the body's surface
        gt_cloth_warped_mask/00891_00.jpg   where the garment is on the person: for the attention loss             optional
        im_sketch/00891_00.png              sketch of the garment as it is worn                                    optional
        im_sketch_unpaired/00891_00_01430_00.png   the same for a person in another's garment                      optional

Paired means that persons get the garment that they wear in their photo, each person once, whatever garments the list names. The
caller says which maps it needs; pairs that lack one are listed as missing.

Lists of pairs may have a tab or a comma between the names (names with spaces need one of them), paths or no suffix, a third
column with the number of a category, and comments: lines that start with "# ".
"""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_json_object, read_text
from unifashion.data.image_files import SUFFIXES, find_images
from unifashion.errors import UserError

log = logging.getLogger(__name__)

ROOTS = ("vitonhd", "VITON-HD", "zalando-hd-resized")
SPLITS = ("train", "test")
COMPLETE = "add the files (a paired person needs the garment photo of the same name), or name other pairs"
MEND_LINE = "correct or remove the line"
# Maps by name: the folders that may hold them, whether they belong to the person or the garment, and what may follow the name.
# Folders are those of a split; one with {split} in its name is beside them (UniFashion's released code).
MapTable = dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]]
MapFiles = dict[str, dict[str, Path]]  # of a map, the files by the name of the person or garment
MAPS: MapTable = {
    "image": (("image",), "person", ("",)),
    "agnostic": (("agnostic-v3.2", "agnostic"), "person", ("",)),
    "agnostic_mask": (("agnostic-mask", "agnostic_mask"), "person", ("_mask", "")),
    "densepose": (("image-densepose", "image_densepose"), "person", ("",)),
    "warped_mask": (("gt_cloth_warped_mask",), "person", ("",)),
    "garment": (("cloth",), "garment", ("",)),
    "garment_mask": (("cloth-mask", "cloth_mask"), "garment", ("",)),
    "garment-sketch": (("cloth_sketch", "cloth_sketch/results/{split}"), "garment", ("",)),
    "sketch": (("im_sketch",), "person", ("",)),
}
PERSON_MAPS = ("image", "agnostic", "agnostic_mask", "densepose")
# What ``unifashion prepare tryon`` can make:
PREPARED = ("agnostic", "agnostic_mask", "warped_mask", "garment-sketch", "sketch")


@dataclass(frozen=True, slots=True)
class TryOnItem:
    """A person and the garment to put on them: names without suffix, files by the names of ``MAPS``, noun chunks.

    ``category``: where the set has several, as DressCode has.
    """

    person: str
    garment: str
    maps: dict[str, Path]
    caption: tuple[str, ...] = ()
    category: str = ""

    @property
    def is_paired(self) -> bool:
        """Whether the person's photo shows this garment."""
        return self.person == self.garment

    @property
    def name(self) -> str:
        """Return the name of a result: the person's alone where paired, else person_garment."""
        return self.person if self.is_paired else f"{self.person}_{self.garment}"

    @property
    def text(self) -> str:
        """Return the caption as the text encoder reads it."""
        return ", ".join(self.caption)


@dataclass(frozen=True, slots=True)
class TryOnSplit:
    """The usable pairs of one split, and for every unusable one what it lacks: ``"00891_00: no densepose"``."""

    dataset: str
    split: str
    items: tuple[TryOnItem, ...]
    missing: tuple[str, ...] = field(default=())


def find_root(data_root: Path) -> Path:
    """Return the folder of VITON-HD: ``data_root`` itself or one of its usual names below it; ``NoSet`` where there is none."""
    return find_folder(
        data_root,
        "VITON-HD",
        (".", *ROOTS),
        [f"{split}/" for split in SPLITS],
        f"{ROOTS[0]}/train or {ROOTS[0]}/test",
    )


def read_vitonhd(root: Path, split: str, needs: Collection[str], pairs: str = "paired") -> TryOnSplit:
    """Read one split.

    Args:
        root: data root or the set's own folder.
        split: train or test.
        needs: the maps that an item must have (names of ``MAPS``).
        pairs: "paired", "unpaired" (the garments of SPLIT_pairs.txt), or the path of another pairs file.

    Raises:
        NoSplit: the set or the split is not there.
        UserError: a malformed pairs or caption file; names in it without a photo; no item has all that is needed.
    """
    root = find_root(root)
    folder = root / split
    if not folder.is_dir():
        raise NoSplit(f"{root} has no {split} split; it has {', '.join(s for s in SPLITS if (root / s).is_dir())}")
    map_files = find_maps(folder, MAPS)
    unpaired_sketches = find_images(folder / "im_sketch_unpaired")
    captions = read_chunks(root / "captions.json")
    listed = _read_pairs(root, split, pairs, map_files)
    tell_captions(root, captions, [garment for _, garment in listed])
    items, missing = [], []
    for person, garment in listed:
        maps = maps_of(person, garment, map_files, MAPS, unpaired_sketches.get(f"{person}_{garment}"))
        item = TryOnItem(person, garment, maps, captions.get(caption_key(captions, garment), ()))
        lacking = lacks(item, needs)
        if lacking:
            missing.append(lacking)
        else:
            items.append(item)
    if not items:
        raise UserError(
            nothing_usable(root, folder, missing, {name: not map_files[name] for name in MAPS}, MAPS, needs)
        )
    return TryOnSplit("vitonhd", split, tuple(items), tuple(missing))


def find_maps(folder: Path, table: MapTable) -> MapFiles:
    """Return the files of every map of a table."""
    return {name: _find(folder, *row) for name, row in table.items()}


def map_folder(folder: Path, subfolder: str) -> Path:
    """Return where a folder of a ``MapTable`` is, for a split (or a category) in ``folder``."""
    return (folder.parent if "{split}" in subfolder else folder) / subfolder.format(split=folder.name)


def _find(folder: Path, subfolders: Sequence[str], owner: str, endings: Sequence[str]) -> dict[str, Path]:
    for subfolder in subfolders:
        map_files: dict[str, Path] = {}
        for stem, path in find_images(map_folder(folder, subfolder)).items():
            ending = next((ending for ending in endings if stem.endswith(ending)), None)
            if ending is not None:
                map_files[stem.removesuffix(ending)] = path
        if map_files:
            return map_files
    return {}


def maps_of(
    person: str, garment: str, map_files: MapFiles, table: MapTable, unpaired_sketch: Path | None = None
) -> dict[str, Path]:
    """Return the files of one pair. Sketch and warped mask show the garment of the photo; a pair with another one has neither."""
    maps = {
        name: files[owner]
        for name, files in map_files.items()
        for owner in [garment if table[name][1] == "garment" else person]
        if owner in files
    }
    if person != garment:
        maps.pop("warped_mask", None)
        maps.pop("sketch", None)
        if unpaired_sketch is not None:
            maps["sketch"] = unpaired_sketch
    return maps


def lacks(item: TryOnItem, needs: Collection[str]) -> str:
    """Say which maps an item lacks; empty where it has all."""
    lacking = [name for name in MAPS if name in needs and name not in item.maps]
    return f"{item.name}: no {', no '.join(lacking)}" if lacking else ""


def _read_pairs(root: Path, split: str, pairs: str, map_files: MapFiles) -> list[tuple[str, str]]:
    """Return (person, garment) names; every one has a photo."""
    path = root / f"{split}_pairs.txt" if pairs in ("paired", "unpaired") else Path(pairs)
    if pairs == "paired" and not path.is_file():
        return [(name, name) for name in map_files["image"] if name in map_files["garment"]]
    lines = list(read_pairs(path))
    if pairs == "paired":
        return own_garments((person, garment) for _, person, garment in lines)
    if pairs != "unpaired":  # the set's own lists may name more than is on this machine: such pairs count as missing
        for number, person, garment in lines:
            for name, kind in ((person, "image"), (garment, "garment")):
                if name not in map_files[kind]:
                    folder = root / split / MAPS[kind][0][0]
                    raise UserError(f"{path}, line {number}: {name!r} is not in {folder}; {MEND_LINE}")
    refuse_doubles(path, lines)
    return [(person, garment) for _, person, garment in lines]


def read_pairs(path: Path, person_ending: str = "", garment_ending: str = "") -> Iterator[tuple[int, str, str]]:
    """Yield the number of each line of a list of pairs, and its names of person and garment, without suffix and ending.

    Raises:
        UserError: a line that does not name a person and a garment; a file that cannot be read.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip() or line.startswith("# "):
            continue
        separator = next((mark for mark in "\t," if mark in line.strip()), None)
        names = [_stem(word) for word in line.strip().split(separator)]
        is_pair = len(names) == 2 or (len(names) == 3 and names[2].isdecimal())
        if not is_pair or not (names[0].endswith(person_ending) and names[1].endswith(garment_ending)):
            raise UserError(
                f"{path}, line {number}: expected 'PERSON{person_ending}.jpg GARMENT{garment_ending}.jpg', found "
                f"{line.strip()[:60]!r}; {MEND_LINE} (a tab goes between names with spaces)"
            )
        yield number, names[0].removesuffix(person_ending), names[1].removesuffix(garment_ending)


def _stem(word: str) -> str:
    """Return the name of a photo: without folders, also those of Windows, and without the suffix of an image."""
    name = word.strip().replace("\\", "/").rpartition("/")[2]
    return name[: -len(Path(name).suffix)] if name.lower().endswith(SUFFIXES) else name


def own_garments(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return each person of a list once, with the garment of the photo."""
    return [(person, person) for person in dict.fromkeys(person for person, _ in pairs)]


def refuse_doubles(path: Path, lines: Iterable[tuple[int, str, str]]) -> None:
    """Raise ``UserError`` if a pair occurs twice: the second result would replace the first."""
    first: dict[tuple[str, str], int] = {}
    for number, person, garment in lines:
        other = first.setdefault((person, garment), number)
        if other != number:
            raise UserError(
                f"{path}, line {number}: the pair {person} {garment} occurs twice, the first time in line {other}; each pair "
                "gives one result, remove one of the lines"
            )


def caption_key(captions: Mapping[str, tuple[str, ...]], garment: str) -> str:
    """Return the name that a garment may have in the captions: its own or, for VITON-HD's numbers, 01430 for 01430_00."""
    short = re.fullmatch(r"(\d+)_\d+", garment)
    return short[1] if short and garment not in captions else garment


def tell_captions(root: Path, captions: Mapping[str, tuple[str, ...]], garments: Iterable[str]) -> None:
    """Say how many of the garments have no caption, where some have, and how many captions belong to none of them."""
    keys = {garment: caption_key(captions, garment) for garment in garments}
    lacking = [garment for garment, key in keys.items() if key not in captions]
    if captions and lacking:
        unused = sorted(captions.keys() - {*keys.values()})
        log.warning(
            "%s: %d of %d garments have no caption, such as %s; captions that belong to none of them: %d%s",
            root, len(lacking), len(keys), lacking[0], len(unused), f", such as {unused[0]}" if unused else "",
        )  # fmt: skip


def read_chunks(path: Path) -> dict[str, tuple[str, ...]]:
    """Read MGD's captions: noun chunks by garment, named with or without suffix; empty if there is no such file."""
    if not path.is_file():
        return {}
    captions = {}
    for name, parts in read_json_object(path).items():
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UserError(f"{path}: {name!r} must be a list of texts")
        captions[name] = tuple(parts)
    exact_last = sorted(captions, key=lambda name: name == _stem(name))
    return {_stem(name): captions[name] for name in exact_last}


def nothing_usable(
    root: Path, folder: Path, missing: Sequence[str], empty: Mapping[str, bool], table: MapTable, needs: Collection[str]
) -> str:
    """Say why a split has no usable pair, and what may help.

    Args:
        root: of the set.
        folder: of the split.
        missing: what each pair lacks.
        empty: by map, whether there is no file of it at all.
        table: where the maps are.
        needs: the maps that an item must have.
    """
    names = [name for name in MAPS if name in needs and empty[name]]
    if names:
        folders = ", ".join(f"{' or '.join(table[name][0])} ({name})" for name in names).format(split=folder.name)
        made = [name for name in names if name in PREPARED]
        help = f"'unifashion prepare tryon --source {root}' makes {', '.join(made)}" if made else HELP
        return f"{folder}: no usable pair, because there are no images in {folders}; {help}"
    if missing:
        return f"{folder}: none of {len(missing)} pairs is complete ({'; '.join(missing[:3])}); {COMPLETE}"
    return f"{folder}: there are no pairs; {HELP}"
