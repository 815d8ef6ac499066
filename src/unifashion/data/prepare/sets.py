"""What ``prepare`` does for each data set: a plan is its folder, the files to make, and the annotations that come last."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from PIL import Image

from unifashion.data import own_catalogue
from unifashion.data.annotations import read_text
from unifashion.data.fashiongen_hdf5 import read_fashiongen_hdf5
from unifashion.data.images import SUFFIXES, ImageError, load_image
from unifashion.data.prepare.archives import count_members, is_archive, unpack_jobs
from unifashion.data.prepare.downloads import fetch
from unifashion.data.prepare.work import Done, Job, JobError, faults, read_manifest, run_jobs, write_manifest
from unifashion.data.records import ImageText
from unifashion.errors import UserError, nearest

QUALITY = 95  # of the JPEGs that are written


@dataclass(frozen=True)
class Options:
    """max_side: longer photos are made smaller (own catalogue); 0 = as they are. num_threads: files at a time."""

    max_side: int = 0
    num_threads: int = 8


@dataclass
class Plan:
    """What is to be done for one set.

    jobs: files to make; made lazily.
    total: how many.
    finish: writes the annotations when the jobs are done.
    in_order: each job needs the one before it (archives).
    """

    jobs: Iterable[Job]
    total: int
    finish: Callable[[Path, Done], None] = field(default=lambda folder, done: None)
    in_order: bool = False


@dataclass(frozen=True)
class Recipe:
    """A data set: the folder it gets below the data root, and how its sources become a plan."""

    folder: str
    plan: Callable[[Sequence[Path], Path, Options], Plan]
    takes: str


def prepare(
    name: str, sources: Sequence[Path], root: Path, options: Options | None = None, progress: bool = True
) -> tuple[Path, Done | None]:
    """Prepare one data set below a data root; what is there is not made again.

    Returns:
        the set's folder, and what came of the jobs; None where a former call finished with the same sources and settings.

    Raises:
        UserError: an unknown set, a source that is not there or cannot be used, a disk that is full.
    """
    if name not in PLANS:
        raise UserError(f"unknown data set {name!r}{nearest(name, list(PLANS))}; known: {', '.join(PLANS)}")
    options = options or Options()
    recipe = PLANS[name]
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} does not exist; {name} is prepared from {recipe.takes}")
    folder = root / recipe.folder
    settings = {key: value for key, value in asdict(options).items() if key != "num_threads"}
    names = [source.as_posix() for source in sources]
    before = read_manifest(folder)
    if before is not None and not before["failed"] and (before["sources"], before["settings"]) == (names, settings):
        return folder, None
    plan = recipe.plan(sources, folder, options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); name another --data-root") from None
    num_threads = 1 if plan.in_order else options.num_threads
    done = run_jobs(folder, plan.jobs, plan.total, f"preparing {name}", num_threads, progress)
    plan.finish(folder, done)
    write_manifest(folder, name, names, settings, done)
    return folder, done


def check(name: str, root: Path) -> list[str]:
    """Return what of a prepared set is no longer as its manifest says.

    Raises:
        UserError: an unknown set, or one that was not prepared.
    """
    if name not in PLANS:
        raise UserError(f"unknown data set {name!r}{nearest(name, list(PLANS))}; known: {', '.join(PLANS)}")
    folder = root / PLANS[name].folder
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} has no finished manifest; run unifashion prepare {name} first")
    return faults(folder, manifest)


# FashionGen: HDF5 files -> photos and jsonl -------------------------------------------------------------------------------


def _plan_fashiongen(sources: Sequence[Path], folder: Path, options: Options) -> Plan:
    splits = {}
    for source in sources:
        split = "val" if "val" in source.name.lower() else "train"
        splits[split] = read_fashiongen_hdf5(source, split).pairs
    if not splits:
        raise UserError("--source: name the HDF5 files of FashionGen")

    def jobs() -> Iterator[Job]:
        for split, pairs in splits.items():
            for index, pair in enumerate(pairs):
                yield Job(_fashiongen_photo(split, index), partial(_save_photo, pair.image))

    def finish(home: Path, done: Done) -> None:
        lost = {name for name, _ in done.failed}
        for split, pairs in splits.items():
            _write_fashiongen_rows(home, split, pairs, lost)

    return Plan(jobs(), sum(map(len, splits.values())), finish)


def _fashiongen_photo(split: str, index: int) -> str:
    return f"{'image' if split == 'train' else 'image_val'}/{index}.jpg"


def _save_photo(source: Path, place: Path) -> None:
    try:
        load_image(source).save(place, "JPEG", quality=QUALITY)
    except ImageError as error:
        raise JobError(error.reason) from None


def _write_fashiongen_rows(home: Path, split: str, pairs: Sequence[ImageText], lost: set[str]) -> None:
    rows: list[dict[str, object]] = []
    views: dict[str, tuple[str, list[int]]] = {}
    for index, pair in enumerate(pairs):
        if _fashiongen_photo(split, index) in lost:
            continue
        rows.append(
            {"index": str(index), "description": pair.text, "productID": pair.product, "subcategory": pair.subcategory}
        )
        views.setdefault(pair.product, (pair.text, []))[1].append(index)
    _write_jsonl(home / f"annotation_{split}.jsonl", rows)
    objects: Iterable[dict[str, object]] = (
        {"index": json.dumps(numbers), "description": text} for text, numbers in views.values()
    )
    _write_jsonl(home / f"annotation_{split}_object.jsonl", objects)


# Archives: unpacked where the set's reader looks --------------------------------------------------------------------------


def _plan_archives(sources: Sequence[Path], folder: Path, options: Options) -> Plan:
    wrong = [source for source in sources if not is_archive(source)]
    if wrong or not sources:
        raise UserError(f"--source {wrong[0] if wrong else ''}: expected zip or tar archives")
    total = sum(count_members(source) for source in sources)
    jobs = chain.from_iterable(_without_top(unpack_jobs(source), folder.name) for source in sources)
    return Plan(jobs, total, in_order=True)


def _without_top(jobs: Iterator[Job], top: str) -> Iterator[Job]:
    """Leave away the set's own folder where an archive has it as its outermost one."""
    for job in jobs:
        first, _, rest = job.name.partition("/")
        yield Job(rest, job.make) if rest and first.lower() == top.lower() else job


# FashionIQ: photos by their shop number -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"\b(B[0-9A-Z]{9})\b")


def _plan_fashioniq(sources: Sequence[Path], folder: Path, options: Options) -> Plan:
    """Take folders and archives of photos, and lists "number address" of photos on the web."""
    jobs: list[Iterator[Job]] = []
    total = 0
    for source in sources:
        if is_archive(source):
            raise UserError(f"--source {source}: unpack it first, and name the folder of photos")
        if source.is_dir():
            photos = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
            if not photos:
                raise UserError(f"--source {source}: no photos ({', '.join(SUFFIXES)}) are in it")
            jobs.append(Job(f"images/{path.stem}{path.suffix.lower()}", partial(_copy, path)) for path in photos)
            total += len(photos)
        else:
            addresses = _read_addresses(source)
            jobs.append(Job(f"images/{number}.jpg", partial(_fetch_photo, url)) for number, url in addresses.items())
            total += len(addresses)
    return Plan(chain.from_iterable(jobs), total)


def _read_addresses(path: Path) -> dict[str, str]:
    addresses: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found, address = _NUMBER.search(line), line.split()[-1]
        if found is None or not address.startswith("http"):
            raise UserError(f"{path}, row {number}: expected a shop number and a web address, found {line[:60]!r}")
        addresses[found[1]] = address
    return addresses


def _fetch_photo(url: str, place: Path) -> None:
    fetch(url, place)
    try:
        image = load_image(place)
    except ImageError as error:
        raise JobError(f"what the server sent is no image ({error.reason})") from None
    if image.format != "JPEG" and place.read_bytes()[:2] != b"\xff\xd8":
        image.save(place, "JPEG", quality=QUALITY)


def _copy(source: Path, place: Path) -> None:
    try:
        load_image(source)
        place.write_bytes(source.read_bytes())
    except ImageError as error:
        raise JobError(error.reason) from None


# An own catalogue: a table with paths or addresses -> photos and catalogue.csv --------------------------------------------


def _plan_catalogue(sources: Sequence[Path], folder: Path, options: Options) -> Plan:
    if len(sources) != 1 or sources[0].suffix.lower() not in (".csv", ".tsv"):
        raise UserError(
            "--source: name one table (.csv or .tsv) with the columns image (a path or an address) and text"
        )
    table = sources[0]
    rows = _read_table(table)
    names = [_photo_name(number, row["image"]) for number, row in enumerate(rows)]

    def finish(home: Path, done: Done) -> None:
        lost = {name for name, _ in done.failed}
        kept = [{**row, "image": name} for row, name in zip(rows, names, strict=True) if name not in lost]
        if not kept:
            raise UserError(f"{table}: none of its {len(rows)} photos could be had, the first: {done.failed[0][1]}")
        unfinished = home / f".{own_catalogue.TABLE}"
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(kept)
        unfinished.replace(home / own_catalogue.TABLE)

    jobs = (
        Job(name, partial(_take_photo, row["image"], table.parent, options.max_side))
        for row, name in zip(rows, names, strict=True)
    )
    return Plan(jobs, len(rows), finish)


def _read_table(table: Path) -> list[dict[str, str]]:
    lines = read_text(table).splitlines()
    delimiter = "\t" if "\t" in lines[0] else (";" if lines[0].count(";") > lines[0].count(",") else ",")
    reader = csv.DictReader(lines, delimiter=delimiter)
    columns, rows = reader.fieldnames or [], list(reader)
    for needed in ("image", "text"):
        if not rows or needed not in columns:
            raise UserError(f"{table} has no column {needed!r}, or no rows; the first line names the columns")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not row["image"].strip():
            raise UserError(
                f"{table}, line {number}: expected {len(columns)} values, one of them an image; mend the line"
            )
    return rows


def _photo_name(number: int, source: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source.split("?")[0]).stem)[:60] or "photo"
    return f"photos/{number:06d}_{stem}.jpg"


def _take_photo(source: str, home: Path, max_side: int, place: Path) -> None:
    """Copy or download one photo as an upright RGB JPEG, not longer than asked."""
    if source.lower().startswith(("http://", "https://")):
        fetch(source, place)
        path = place
    else:
        path = home / source
    try:
        image = load_image(path)
    except ImageError as error:
        raise JobError(error.reason) from None
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(place, "JPEG", quality=QUALITY)


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    unfinished.replace(path)


PLANS: dict[str, Recipe] = {
    "fashiongen": Recipe("fashionGen", _plan_fashiongen, "its HDF5 files"),
    "fashion200k": Recipe("fashion200K", _plan_archives, "its archives"),
    "fashioniq": Recipe("fashionIQ_dataset", _plan_fashioniq, "a folder of photos, or lists of numbers and addresses"),
    "cirr": Recipe("cirr_dataset", _plan_archives, "archives of its annotations and photos"),
    "circo": Recipe("circo", _plan_archives, "archives of its annotations and of COCO's photos"),
    "catalogue": Recipe("my_catalogue", _plan_catalogue, "one table of your products"),
}
