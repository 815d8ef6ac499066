"""Try-on pairs in the layout of VITON-HD, with the captions and sketches of its multimodal extension (MGD).

    vitonhd/
      train_pairs.txt  test_pairs.txt       a line: "00891_00.jpg 01430_00.jpg" (person, garment)
      captions.json                         {"01430": ["striped t-shirt", "blue shirt", "cotton shirt"]}         optional
      {train,test}/
        image/00891_00.jpg                  the person
        cloth/01430_00.jpg                  the garment
        cloth-mask/01430_00.jpg             where the garment is in its photo                                      optional
        agnostic-v3.2/00891_00.jpg          the person without garment and arms       (StableVITON: agnostic)
        agnostic-mask/00891_00_mask.png     white = to be painted                     (StableVITON: agnostic_mask)
        image-densepose/00891_00.jpg        the body's surface
        gt_cloth_warped_mask/00891_00.jpg   where the garment is on the person: for the attention loss             optional
        im_sketch/00891_00.png              sketch of the garment as it is worn                                    optional
        im_sketch_unpaired/00891_00_01430_00.png   the same for a person in another's garment                      optional

Paired means that persons get the garment that they wear in their photo. The caller says which maps it needs; pairs that lack one
are listed as missing.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unifashion.data.annotations import HELP, NoSplit, find_folder, read_json_object, read_text
from unifashion.data.image_files import find_images
from unifashion.errors import UserError

ROOTS = ("vitonhd", "VITON-HD", "zalando-hd-resized")
SPLITS = ("train", "test")
# Maps by name: the folders that may hold them, whether they belong to the person or the garment, and what may follow the name.
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
    "sketch": (("im_sketch",), "person", ("",)),
}
PERSON_MAPS = ("image", "agnostic", "agnostic_mask", "densepose")
PREPARED = ("agnostic", "agnostic_mask", "warped_mask", "sketch")  # what ``unifashion prepare tryon`` can make


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
    items, missing = [], []
    for person, garment in _read_pairs(root, split, pairs, map_files):
        maps = maps_of(person, garment, map_files, MAPS, unpaired_sketches.get(f"{person}_{garment}"))
        item = TryOnItem(person, garment, maps, captions.get(garment.partition("_")[0], ()))
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


def _find(folder: Path, subfolders: Sequence[str], owner: str, endings: Sequence[str]) -> dict[str, Path]:
    for subfolder in subfolders:
        map_files: dict[str, Path] = {}
        for stem, path in find_images(folder / subfolder).items():
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
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        names = [Path(word).stem for word in line.split()]
        if not names:
            continue
        if len(names) != 2:
            raise UserError(f"{path}, line {number}: expected 'PERSON.jpg GARMENT.jpg', found {line.strip()[:60]!r}")
        person, garment = names[0], names[0] if pairs == "paired" else names[1]
        rows.append((person, garment))
        if pairs in ("paired", "unpaired"):
            continue  # the set's own lists may name more than is on this machine: such pairs count as missing
        for name, kind in ((person, "image"), (garment, "garment")):
            if name not in map_files[kind]:
                folder = MAPS[kind][0][0]
                raise UserError(f"{path}, line {number}: {name!r} is not in {root / split / folder}")
    refuse_doubles(path, rows)
    return rows


def refuse_doubles(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Raise ``UserError`` if a pair occurs twice: the second result would replace the first."""
    counts = Counter(rows)
    if len(counts) < len(rows):
        (person, garment), _ = counts.most_common(1)[0]
        raise UserError(f"{path}: the pair {person} {garment} occurs twice; each pair gives one result")


def read_chunks(path: Path) -> dict[str, tuple[str, ...]]:
    """Read MGD's captions: noun chunks by garment; empty if there is no such file."""
    if not path.is_file():
        return {}
    captions = {}
    for name, parts in read_json_object(path).items():
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UserError(f"{path}: {name!r} must be a list of texts")
        captions[name] = tuple(parts)
    return captions


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
        folders = ", ".join(f"{' or '.join(table[name][0])} ({name})" for name in names)
        made = [name for name in names if name in PREPARED]
        help = f"'unifashion prepare tryon --source {root}' makes {', '.join(made)}" if made else HELP
        return f"{folder}: no usable pair, because there are no images in {folders}; {help}"
    if missing:
        return f"{folder}: none of {len(missing)} pairs is complete ({'; '.join(missing[:3])})"
    return f"{folder}: there are no pairs; {HELP}"
