"""How the downloads of a data set become its folder; its row in data/datasets.py names the recipe and what it takes."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path

from unifashion.apps.prepare.archives import is_archive, measure, unpack_jobs
from unifashion.apps.prepare.catalogue import plan_catalogue
from unifashion.apps.prepare.downloads import fetch, is_address
from unifashion.apps.prepare.job_runner import (
    Done,
    Job,
    JobError,
    changed_at,
    describe_source,
    faults,
    preparing,
    read_manifest,
    run_jobs,
    write_manifest,
)
from unifashion.apps.prepare.plan import QUALITY, Options, Plan, Recipe
from unifashion.data.annotations import read_text
from unifashion.data.datasets import DATASETS, DatasetSpec, names, spec_of
from unifashion.data.fashiongen_hdf5 import read_fashiongen_hdf5
from unifashion.data.image_files import SUFFIXES, list_images
from unifashion.data.images import ImageError, load_image
from unifashion.data.records import ImageText
from unifashion.errors import UserError, nearest
from unifashion.io import files_below, write_jsonl


def prepared_sets() -> list[DatasetSpec]:
    """Return the data sets whose folder ``prepare`` fills; those of try-on are completed in place (``prepare tryon``)."""
    return [spec for spec in DATASETS if spec.prepare in RECIPES]


def prepare(
    name: str, sources: Sequence[Path], root: Path, options: Options | None = None, progress: bool = True
) -> tuple[Path, Done | None]:
    """Prepare one data set below a data root; files that exist and are not older than their source are not made again.

    Returns:
        the set's folder, and what was done; None where an earlier call finished with the same sources and settings.

    Raises:
        UserError: an unknown set, a source that does not exist or cannot be used, a full disk.
    """
    options = options or Options()
    spec = _spec(name)
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} does not exist; {name} is prepared from {spec.takes}")
    folder = root / spec.folder
    settings = {key: value for key, value in asdict(options).items() if key != "num_threads"}
    stamps = [describe_source(source) for source in sources]
    before = read_manifest(folder)
    if before is not None and not before["failed"] and (before["sources"], before["settings"]) == (stamps, settings):
        return folder, None
    plan = RECIPES[spec.prepare](spec, sources, options)
    num_threads = 1 if plan.in_order else options.num_threads
    with preparing(folder):
        _check_room(folder, plan.num_bytes)
        done = run_jobs(folder, plan.jobs, plan.total, f"preparing {name}", num_threads, progress)
        plan.finish(folder, done)
        write_manifest(folder, name, stamps, settings, done)
    return folder, done


def _check_room(folder: Path, num_bytes: int) -> None:
    """Raise ``UserError`` if the files of a plan do not fit; those that an earlier call made are there already."""
    if num_bytes:
        there, free = sum(path.stat().st_size for path in files_below(folder)), shutil.disk_usage(folder).free
        if num_bytes - there > free:
            raise UserError(
                f"{folder}: what the archives hold takes {(num_bytes - there) / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
                "free; make room, or name another --data-root"
            )


def check(name: str, root: Path) -> list[str]:
    """Return how the files of a prepared set differ from its manifest.

    Raises:
        UserError: an unknown set, or one that was not prepared.
    """
    folder = root / _spec(name).folder
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder} has no finished manifest; run unifashion prepare {name} first")
    return faults(folder, manifest)


def _spec(name: str) -> DatasetSpec:
    known = [*names(prepared_sets()), "tryon"]
    if name not in known[:-1]:
        raise UserError(f"unknown data set {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return spec_of(name, prepared_sets())


# FashionGen: HDF5 files -> photos and jsonl -------------------------------------------------------------------------------


def _plan_hdf5(spec: DatasetSpec, sources: Sequence[Path], options: Options) -> Plan:
    splits: dict[str, tuple[ImageText, ...]] = {}
    changed: dict[str, float] = {}
    for source in sources:
        split = "val" if "val" in source.name.lower() else "train"
        if split in splits:
            raise UserError(
                f"--source {source}: a second file of the {split} split; name one per split (*_validation.h5 is val)"
            )
        splits[split] = read_fashiongen_hdf5(source, split).pairs
        changed[split] = source.stat().st_mtime
    if not splits:
        raise UserError(f"--source: name {spec.takes}")

    def jobs() -> Iterator[Job]:
        for split, pairs in splits.items():
            for index, pair in enumerate(pairs):
                yield Job(_fashiongen_photo(split, index), partial(_save_photo, pair.image), changed[split])

    def finish(home: Path, done: Done) -> None:
        lost = {name for name, _ in done.failed}
        for split, pairs in splits.items():
            _write_fashiongen_rows(home, split, pairs, lost)

    return Plan(jobs(), sum(map(len, splits.values())), finish)


def _fashiongen_photo(split: str, index: int) -> str:
    return f"{'image' if split == 'train' else 'image_val'}/{index}.jpg"


def _save_photo(source: Path, path: Path) -> None:
    try:
        load_image(source).save(path, "JPEG", quality=QUALITY)
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
    write_jsonl(home / f"annotation_{split}.jsonl", rows)
    objects: Iterable[dict[str, object]] = (
        {"index": json.dumps(numbers), "description": text} for text, numbers in views.values()
    )
    write_jsonl(home / f"annotation_{split}_object.jsonl", objects)


# Archives and folders: every file goes where the set's reader looks -------------------------------------------------------


def _plan_archives(spec: DatasetSpec, sources: Sequence[Path], options: Options) -> Plan:
    wrong = [source for source in sources if not is_archive(source) and not source.is_dir()]
    if wrong or not sources:
        raise UserError(f"--source {wrong[0] if wrong else ''}: expected zip or tar archives, or folders")
    sizes = [measure(source) for source in sources if not source.is_dir()]
    total = sum(len(_files_of(source)) for source in sources if source.is_dir()) + sum(size.members for size in sizes)
    jobs = chain.from_iterable(_link_jobs(source) if source.is_dir() else unpack_jobs(source) for source in sources)
    moved = (replace(job, name=_moved(job.name, spec)) for job in jobs)
    return Plan(moved, total, in_order=True, num_bytes=sum(size.num_bytes for size in sizes))


def _moved(name: str, spec: DatasetSpec) -> str:
    """Return where a file of a download goes: as the row says, else unchanged, without the set's own folder at the top."""
    for pattern, target in spec.moves:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, target, name, count=1)
    first, _, rest = name.partition("/")
    return rest if rest and first.lower() == spec.folder.lower() else name


def _files_of(source: Path) -> list[Path]:
    files = (path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(source).parts))


def _link_jobs(source: Path) -> Iterator[Job]:
    for path in _files_of(source):
        yield Job(path.relative_to(source).as_posix(), partial(_link, path), path.stat().st_mtime)


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, which takes no space; copy it if the disk is another one."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


# FashionIQ: annotations, and photos by their shop number ------------------------------------------------------------------

_NUMBER = re.compile(r"[0-9A-Z]{10}")
_ANNOTATIONS = {"captions": "cap.*.json", "image_splits": "split.*.json", "captions_llava": "next_llava.*.json"}


def _plan_fashioniq(spec: DatasetSpec, sources: Sequence[Path], options: Options) -> Plan:
    """Take folders of annotations and photos, and lists "number address" of photos on the web; a photo counts once."""
    jobs: dict[str, Job] = {}
    for source in sources:
        if is_archive(source):
            raise UserError(f"--source {source}: unpack it first, and name the folder of photos")
        for job in _from_folder(source) if source.is_dir() else _from_list(source):
            key = job.name if job.name.endswith(".json") else job.name.rpartition(".")[0]
            jobs.setdefault(key, job)
    if not jobs:
        raise UserError("--source: name folders of photos and annotations, or lists of shop numbers and addresses")
    return Plan(list(jobs.values()), len(jobs))


def _from_folder(source: Path) -> list[Job]:
    jobs = [
        Job(f"images/{path.stem}{path.suffix.lower()}", partial(_copy_photo, path), changed_at(path))
        for path in list_images(source)
    ]
    for home, pattern in _ANNOTATIONS.items():
        for path in sorted(source.rglob(pattern)):
            jobs.append(Job(f"{home}/{path.name}", partial(_copy_text, path), path.stat().st_mtime))
    if not jobs:
        raise UserError(f"--source {source}: no photos ({', '.join(SUFFIXES)}) and no annotations are in it")
    return jobs


def _from_list(path: Path) -> list[Job]:
    jobs = []
    for row, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        number, address = words[0].strip(",;"), words[-1]
        if not _NUMBER.fullmatch(number) or not is_address(address):
            raise UserError(f"{path}, row {row}: expected a shop number and a web address, found {line[:60]!r}")
        jobs.append(Job(f"images/{number}.jpg", partial(_fetch_photo, address)))
    return jobs


def _fetch_photo(url: str, path: Path) -> None:
    fetch(url, path)
    try:
        image = load_image(path)
    except ImageError as error:
        raise JobError(f"the server sent no image ({error.reason})") from None
    if image.format != "JPEG" and path.read_bytes()[:2] != b"\xff\xd8":
        image.save(path, "JPEG", quality=QUALITY)


def _copy_text(source: Path, path: Path) -> None:
    path.write_text(read_text(source), encoding="utf-8")


def _copy_photo(source: Path, path: Path) -> None:
    try:
        load_image(source)
        path.write_bytes(source.read_bytes())
    except ImageError as error:
        raise JobError(error.reason) from None


RECIPES: dict[str, Recipe] = {  # by what a row of data/datasets.py names as ``prepare``
    "archives": _plan_archives,
    "fashioniq": _plan_fashioniq,
    "hdf5": _plan_hdf5,
    "table": plan_catalogue,
}
