"""Which data sets lie in a folder, and what each of them lacks.

A set's kind decides what is examined; its row in data/datasets.py says how it is found and read (as training reads it, so the
doctor and training agree on what is there) and how much the complete set holds. Some need more: an own catalogue,
whose folder may hold photos that are not listed, FashionIQ, whose
generated captions may give the answers away, and CIRCO, whose splits share one gallery. A folder that holds no set at all but
photos is examined as a catalogue without a table.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unifashion.apps.doctor.fashioniq import find_fashioniq, look_at_fashioniq
from unifashion.apps.doctor.findings import Count, SetReport, Splits, report_missing
from unifashion.apps.doctor.pictures import look_at_all, report_pictures
from unifashion.apps.doctor.tryon import look_at_tryon
from unifashion.data import circo
from unifashion.data.annotations import NoSplit
from unifashion.data.datasets import DATASETS, DatasetSpec, ReadOptions, names, spec_of
from unifashion.data.feedback import equal_texts
from unifashion.data.image_files import PassedOver, list_images
from unifashion.data.markup import without_markup
from unifashion.data.own_catalogue import has_table, read_own_catalogue, read_products
from unifashion.data.records import ComposedSplit, PairSplit, texts_of_products
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError

Look = Callable[[DatasetSpec, Path, SetReport], Splits]  # adds counts and findings; returns the images of each split


def examine(path: Path, quick: bool = False, progress: bool = True) -> list[SetReport]:
    """Look at every data set in a folder: a data root, or the folder of one set.

    In a data root, sets are also found in folders with names of their own, such as catalogues.

    Args:
        path: the folder.
        quick: only check that the images exist, without opening them.
        progress: show a progress bar.

    Raises:
        UserError: no such folder, it cannot be read, or neither one of the known sets nor a photo is in it.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; name a data root, such as dataset/, or the folder of one data set")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path} cannot be read; change its permissions")
    reports = _sets_in(path, quick, progress)
    if all(Path(report.folder) != path for report in reports):
        seen = [Path(report.folder) for report in reports]
        for folder in sorted(path.iterdir()):
            usable = folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
            if usable and not any(home.is_relative_to(folder) for home in seen):
                reports += _sets_in(folder, quick, progress)
    passed_over = PassedOver()
    if not reports and list_images(path, passed_over=passed_over):
        return [_examine_set(spec_of("catalogue", _examined()), path, quick, progress)]
    if not reports:
        known, others = ", ".join(names(_examined())), f" ({passed_over.summary()})" if passed_over.names else ""
        raise UserError(
            f"{path} holds none of {known}, nor photos{others}; dataset/README.md shows how their folders look"
        )
    return reports


def _examined() -> list[DatasetSpec]:
    """Return the sets with a folder of their own; the others are examined with the set that they are part of."""
    return [spec for spec in DATASETS if not spec.part_of]


def _sets_in(path: Path, quick: bool, progress: bool) -> list[SetReport]:
    reports = []
    for spec in _examined():
        find = find_fashioniq if spec.name == "fashioniq" else spec.find
        try:
            folder = find(path)
        except NoSplit:
            continue
        except UserError as error:
            report = SetReport(spec.name, path.as_posix(), spec.licence)
            report.problem(str(error))
        else:
            report = _examine_set(spec, folder, quick, progress)
        reports.append(report)
    return reports


def _examine_set(spec: DatasetSpec, folder: Path, quick: bool, progress: bool) -> SetReport:
    report = SetReport(spec.name, folder.as_posix(), spec.licence)
    report.num_bytes = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    if is_synthetic(folder):
        report.licence = "that of this project"
        report.note("this is the embedded catalogue: drawn, not photographed; its scores are marked synthetic")
        spec = replace(spec, counts={})  # those of the real set, whose layout it has
    if spec.kind == "try-on":
        splits = look_at_tryon(spec, folder, report, compare=not quick)
    else:
        splits = (LOOKS.get(spec.name) or LOOKS[spec.kind])(spec, folder, report)
    if not quick and any(splits.values()):
        paths = [path for split in splits.values() for path in split]
        report_pictures(report, splits, look_at_all(paths, os.cpu_count() or 1, progress))
    return report


def _look_at_pairs(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Look at an image-text set, split by split."""
    assert spec.pairs is not None, "of this kind"
    splits: Splits = {}
    for split in spec.splits.values():
        try:
            read = spec.pairs(folder, split, ReadOptions())
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
            continue
        except UserError as error:
            report.problem(str(error))
            continue
        num_listed = len(read.pairs) + len(read.missing)
        complete = spec.counts.get(f"{split} image-text pairs")
        report.counts.append(Count(f"{split} image-text pairs", num_listed, complete))
        report.counts.append(Count(f"{split} products", len({pair.product for pair in read.pairs})))
        report_missing(report, split, read.missing, num_listed)
        _look_at_texts(read, report)
        if complete and num_listed != complete:
            report.note(
                f"{split} has {num_listed:,} pairs, the complete set {complete:,}: scores are not comparable with published ones"
            )
        splits[split] = [pair.image for pair in read.pairs]
    return splits


def _look_at_texts(read: PairSplit, report: SetReport) -> None:
    """Report texts that are empty, hold markup, or are those of several products."""
    split, text_of = read.split, texts_of_products(read.pairs)
    empty = [str(pair.image) for pair in read.pairs if not pair.text.strip()]
    if empty:
        report.problem(f"{len(empty):,} texts of {split} are empty; write them or remove the rows", empty)
    if read.cleaned:
        report.note(
            f"{len(read.cleaned):,} texts of {split} have markup, which is removed when they are read", read.cleaned
        )
    marked = [str(pair.image) for pair in read.pairs if without_markup(pair.text) != pair.text]
    if marked:
        report.note(
            f"{len(marked):,} texts of {split} have markup, which is kept: published models have seen these texts so",
            marked,
        )
    groups = equal_texts(text_of)
    if groups:
        report.note(
            f"{sum(map(len, groups)):,} of {len(text_of):,} products of {split} share their text with others, which count as "
            f"wrong answers in {read.dataset}/full; {read.dataset}/full-by-text takes them as one product",
            [", ".join(group) for group in groups],
        )


def _look_at_catalogue(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Look at a catalogue of one's own, and at the files in its folder that are not part of it."""
    passed_over = PassedOver()
    try:
        rows = read_products(folder, passed_over)
    except UserError as error:
        report.problem(str(error))
        return {}
    if passed_over.names:
        report.note(passed_over.summary(), [name for names in passed_over.names.values() for name in names])
    bare = [] if has_table(folder) else [str(row.image) for row in rows if not row.text]
    if bare:
        report.problem(
            f"{len(bare):,} of {len(rows):,} photos have no text: search needs none, but for training write 1.txt beside 1.jpg, "
            "or a catalogue.csv",
            bare,
        )
        return {"photos": [row.image for row in rows]}
    quiet = replace(spec, pairs=lambda root, split, _: read_own_catalogue(root, split, PassedOver()))
    return _look_at_pairs(quiet, folder, report)


def _look_at_composed(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Look at a composed-retrieval set, split by split, each with a gallery of its own."""
    splits: Splits = {}
    for split, records in _composed_splits(spec, folder, report).items():
        for record in records:
            label = f"{split} {record.category}".strip()
            for what, count in ((f"{label} queries", len(record.queries)), (f"{label} images", len(record.gallery))):
                report.counts.append(Count(what, count, spec.counts.get(what)))
            report_missing(
                report, label, [name for name in record.gallery if name not in record.images], len(record.gallery)
            )
            splits.setdefault(split, []).extend(record.images.values())
    return splits


def _look_at_circo(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Look at CIRCO: both splits search the same photos, which are counted once."""
    gallery: ComposedSplit | None = None
    for split, (record,) in _composed_splits(spec, folder, report).items():
        what = f"{split} queries"
        report.counts.append(Count(what, len(record.queries), spec.counts.get(what)))
        gallery = gallery or record
    if gallery is None:
        return {}
    if not gallery.gallery:
        report.problem(
            f"{circo.IMAGE_INFO} and COCO's photos are missing: submissions can be checked, but nothing can be scored"
        )
        return {}
    report.counts.append(Count("images", len(gallery.gallery), spec.counts.get("images")))
    missing = [name for name in gallery.gallery if name not in gallery.images]
    report_missing(report, "COCO 2017 unlabeled", missing, len(gallery.gallery))
    return {"images": list(gallery.images.values())}


def _composed_splits(spec: DatasetSpec, folder: Path, report: SetReport) -> dict[str, list[ComposedSplit]]:
    """Return the splits that can be read, by the set's own names for them; the others become findings."""
    assert spec.composed is not None, "of this kind"
    splits = {}
    for split in spec.splits.values():
        try:
            splits[split] = list(spec.composed(folder, split, ReadOptions(needs_images=False)))
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
        except UserError as error:
            report.problem(str(error))
    return splits


LOOKS: dict[str, Look] = {  # by kind, or by name where a set needs more
    "image-text": _look_at_pairs,
    "composed": _look_at_composed,
    "fashioniq": look_at_fashioniq,
    "circo": _look_at_circo,
    "catalogue": _look_at_catalogue,
}
