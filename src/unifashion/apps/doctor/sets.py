"""Which data sets lie in a folder, and what each of them lacks.

A set is one row of ``SETS``: how to find it and what to look at. Its own reader does the reading, so the doctor and training
agree on what is there. Expected counts are those of the complete sets (dataset/README.md).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from unifashion.apps.doctor.findings import Count, SetReport
from unifashion.apps.doctor.leaks import SUSPICIOUS, word_overlap
from unifashion.apps.doctor.pictures import look_at_all, report_pictures
from unifashion.apps.doctor.tryon import look_at_tryon
from unifashion.data import circo, cirr, dresscode, fashion200k, fashiongen, fashioniq, own_catalogue, tryon
from unifashion.data.annotations import NoSplit, read_json_list
from unifashion.data.records import PairSplit
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError

Splits = dict[str, list[Path]]

FASHIONIQ_QUERIES = {"train": (5985, 5988, 6027), "val": (2017, 2038, 1961), "test": (2024, 2038, 2056)}
FASHIONIQ_IMAGES = {"train": (11452, 19036, 16121), "val": (3817, 6346, 5373)}
FASHIONGEN_PAIRS = {"train": 260_480, "val": 32_528}
CIRR_QUERIES = {"train": 28_225, "val": 4_181, "test1": 4_148}
CIRCO_QUERIES = {"val": 220, "test": 800}
CIRCO_IMAGES = 123_403
VITONHD_PAIRS = {"train": 11_647, "test": 2_032}
DRESSCODE_PAIRS = {"train": 48_392, "test": 5_400}


@dataclass(frozen=True)
class DataSet:
    """How a data set is found and looked at.

    find: returns its folder; raises ``NoSplit`` where it is not there.
    look: adds counts and findings to the report; returns the images of each split.
    """

    find: Callable[[Path], Path]
    look: Callable[[Path, SetReport], Splits]
    licence: str


def examine(path: Path, quick: bool = False, progress: bool = True) -> list[SetReport]:
    """Look at every data set in a folder: a data root, or the folder of one set.

    In a data root, sets are also found in folders with names of their own, such as catalogues.

    Args:
        path: the folder.
        quick: do not open the images, only see that they are there.
        progress: show a progress bar.

    Raises:
        UserError: no such folder, it cannot be read, or none of the known sets is in it.
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
    if not reports:
        raise UserError(f"{path} holds none of {', '.join(SETS)}; dataset/README.md shows how their folders look")
    return reports


def _sets_in(path: Path, quick: bool, progress: bool) -> list[SetReport]:
    reports = []
    for name, data_set in SETS.items():
        try:
            folder = data_set.find(path)
        except NoSplit:
            continue
        except UserError as error:
            report = SetReport(name, path.as_posix(), data_set.licence)
            report.problem(str(error))
        else:
            report = _examine_set(name, data_set, folder, quick, progress)
        reports.append(report)
    return reports


def _examine_set(name: str, data_set: DataSet, folder: Path, quick: bool, progress: bool) -> SetReport:
    report = SetReport(name, folder.as_posix(), data_set.licence)
    report.num_bytes = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    if is_synthetic(folder):
        report.licence = "that of this project"
        report.note("this is the embedded catalogue: drawn, not photographed; its scores are marked synthetic")
    splits = data_set.look(folder, report)
    if is_synthetic(folder):
        report.counts = [replace(count, expected=None) for count in report.counts]
        report.findings = [finding for finding in report.findings if "the complete set" not in finding.text]
    if not quick and any(splits.values()):
        paths = [path for split in splits.values() for path in split]
        report_pictures(report, splits, look_at_all(paths, os.cpu_count() or 1, progress))
    return report


def _pairs(
    report: SetReport, read: Callable[[str], PairSplit], expected: dict[str, int], complete: bool = True
) -> Splits:
    """Look at an image-text set, split by split."""
    splits: Splits = {}
    for split, count in expected.items():
        try:
            found = read(split)
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
            continue
        except UserError as error:
            report.problem(str(error))
            continue
        listed = len(found.pairs) + len(found.missing)
        products = len({pair.product for pair in found.pairs})
        report.counts.append(Count(f"{split} image-text pairs", listed, count or None))
        report.counts.append(Count(f"{split} products", products))
        _report_missing(report, split, list(found.missing), listed)
        empty = [str(pair.image) for pair in found.pairs if not pair.text.strip()]
        if empty:
            report.problem(f"{len(empty):,} texts of {split} are empty; write them or remove the rows", empty)
        if complete and count and listed != count:
            report.note(
                f"{split} has {listed:,} pairs, the complete set {count:,}: scores compare with no published ones"
            )
        splits[split] = [pair.image for pair in found.pairs]
    return splits


def _report_missing(report: SetReport, split: str, missing: list[str], listed: int) -> None:
    if missing:
        words = f"{len(missing):,} of {listed:,} images of {split} are listed and not there"
        report.problem(f"{words} ({100 * len(missing) / max(listed, 1):.1f} %); fetch them", missing)


def _look_at_fashiongen(folder: Path, report: SetReport) -> Splits:
    return _pairs(report, lambda split: fashiongen.read_fashiongen(folder, split), FASHIONGEN_PAIRS)


def _look_at_fashion200k(folder: Path, report: SetReport) -> Splits:
    return _pairs(report, lambda split: fashion200k.read_fashion200k(folder, split), {"train": 0, "test": 0})


def _look_at_catalogue(folder: Path, report: SetReport) -> Splits:
    return _pairs(report, lambda split: own_catalogue.read_own_catalogue(folder, split), {"train": 0, "val": 0})


def _look_at_fashioniq(folder: Path, report: SetReport) -> Splits:
    splits: Splits = {}
    absent: list[str] = []
    for split in fashioniq.SPLITS:
        images: dict[str, Path] = {}
        for number, category in enumerate(fashioniq.CATEGORIES):
            if not (folder / "captions" / f"cap.{category}.{split}.json").is_file():
                absent.append(f"captions/cap.{category}.{split}.json")
                continue
            try:
                found = fashioniq.read_fashioniq(folder, category, split, allow_leaky=True)
            except UserError as error:
                report.problem(str(error))
                continue
            gallery = FASHIONIQ_IMAGES.get(split)
            report.counts.append(
                Count(f"{split} {category} queries", len(found.queries), FASHIONIQ_QUERIES[split][number])
            )
            report.counts.append(
                Count(f"{split} {category} gallery images", len(found.gallery), gallery[number] if gallery else None)
            )
            missing = [name for name in found.gallery if name not in found.images]
            if split == "test" and missing:
                num = f"{len(missing):,} of {len(found.gallery):,}"
                report.note(
                    f"{num} images of test {category} are not there; that split has no targets and is not scored"
                )
                continue
            _report_missing(report, f"{split} {category}", missing, len(found.gallery))
            lost = len(found.queries) - len(found.answerable())
            if lost:
                report.note(f"{lost:,} of {len(found.queries):,} queries of {split} {category} cannot be used for that")
            images |= found.images
        if images:
            splits[split] = sorted(images.values())
    if absent:
        report.note(
            f"{len(absent)} of {len(fashioniq.SPLITS) * len(fashioniq.CATEGORIES)} query files are not there", absent
        )
    _look_at_captions(folder, report)
    return splits


def _look_at_captions(folder: Path, report: SetReport) -> None:
    """Look for generated captions that know the answers, wherever they lie in the folder."""
    for path in sorted(folder.rglob("next_llava.*.caption.json")):
        _, split, category, *_ = path.name.split(".")
        if split == "train" or category not in fashioniq.CATEGORIES:
            continue
        try:
            rows = read_json_list(path, dict)
            captions = {str(row["image"]): str(row["caption"]).strip() for row in reversed(rows)}
            guided = [str(row["image"]) for row in rows if row.get("text_guidance")]
        except (UserError, KeyError) as error:
            report.problem(f"{path}: not a caption file ({error})")
            continue
        report.counts.append(Count(f"{split} {category} generated captions", len(captions)))
        if guided:
            report.problem(
                f"{path.name}: {len(guided):,} captions were written with the query's own sentences (text_guidance): "
                "they give the answers away, do not score with them",
                guided,
            )
        _look_at_words(report, folder, split, category, captions, path.name)


def _look_at_words(
    report: SetReport, folder: Path, split: str, category: str, captions: dict[str, str], name: str
) -> None:
    queries_file = next((home / f"cap.{category}.{split}.json" for home in _caption_homes(folder)), None)
    if queries_file is None or split == "test":
        return
    queries = [row for row in read_json_list(queries_file, dict) if row.get("target")]
    feedback = [" ".join(map(str, row.get("captions", []))) for row in queries]
    overlap = word_overlap(feedback, [str(row["target"]) for row in queries], captions)
    if overlap is None:
        return
    words = (
        f"{name}: words alone (TF-IDF from feedback to captions, no image) reach R@10 {overlap.recall_at_10:.1f} and "
        f"R@50 {overlap.recall_at_50:.1f} (N {overlap.num_queries:,}, gallery {overlap.gallery:,}) and pinpoint "
        f"{overlap.pinpointed:.0f} % of the targets"
    )
    if overlap.is_suspicious:
        report.problem(f"{words}, suspicious from {SUSPICIOUS:.0f} % on: the captions know the queries")
    else:
        report.note(f"{words}, not suspicious (that starts at {SUSPICIOUS:.0f} %)")


def _caption_homes(folder: Path) -> list[Path]:
    homes = (folder / "captions", folder.parent / "captions")
    return [home for home in homes if home.is_dir()]


def _find_fashioniq(path: Path) -> Path:
    """Return the folder of FashionIQ, or one that holds nothing of it but generated captions."""
    patterns = [
        f"{kind}.{category}.*" for kind in ("captions/cap", "image_splits/split") for category in fashioniq.CATEGORIES
    ]
    for folder in (path / fashioniq.FOLDER, path):
        if any(any(folder.glob(pattern)) for pattern in (*patterns, "next_llava.*", "*/next_llava.*")):
            return folder
    raise NoSplit(f"no FashionIQ in {path}")


def _look_at_cirr(folder: Path, report: SetReport) -> Splits:
    splits: Splits = {}
    for split in cirr.SPLITS:
        try:
            found = cirr.read_cirr(folder, split)
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
            continue
        except UserError as error:
            report.problem(str(error))
            continue
        report.counts.append(Count(f"{split} queries", len(found.queries), CIRR_QUERIES[split]))
        report.counts.append(Count(f"{split} images", len(found.gallery)))
        _report_missing(report, split, [name for name in found.gallery if name not in found.images], len(found.gallery))
        splits[split] = list(found.images.values())
    return splits


def _look_at_circo(folder: Path, report: SetReport) -> Splits:
    images: dict[str, Path] = {}
    for split in circo.SPLITS:
        try:
            found = circo.read_circo(folder, split, needs_images=False)
        except UserError as error:
            report.problem(str(error))
            continue
        report.counts.append(Count(f"{split} queries", len(found.queries), CIRCO_QUERIES[split]))
        if not found.gallery:
            report.problem(
                f"{circo.IMAGE_INFO} and COCO's photos are not there: submissions can be checked, nothing can be scored"
            )
            continue
        if not images:
            report.counts.append(Count("images", len(found.gallery), CIRCO_IMAGES))
            missing = [name for name in found.gallery if name not in found.images]
            _report_missing(report, "COCO 2017 unlabeled", missing, len(found.gallery))
        images = found.images
    return {"images": list(images.values())}


def _find_catalogue(path: Path) -> Path:
    if (path / own_catalogue.TABLE).is_file():
        return path
    raise NoSplit(f"no {own_catalogue.TABLE} in {path}")


SETS: dict[str, DataSet] = {
    "fashiongen": DataSet(
        fashiongen.find_root,
        _look_at_fashiongen,
        "research only, on request from its authors; images may not be passed on",
    ),
    "fashion200k": DataSet(fashion200k.find_root, _look_at_fashion200k, "research only; photos belong to the shops"),
    "fashioniq": DataSet(
        _find_fashioniq,
        _look_at_fashioniq,
        "annotations CDLA; photos belong to the shops and may not be passed on",
    ),
    "cirr": DataSet(cirr.find_root, _look_at_cirr, "annotations MIT; photos from NLVR2, which has its own terms"),
    "circo": DataSet(
        circo.find_root, _look_at_circo, "annotations CC BY-NC 4.0; photos from COCO, under Flickr's terms"
    ),
    "vitonhd": DataSet(
        tryon.find_root, partial(look_at_tryon, "vitonhd", VITONHD_PAIRS), "CC BY-NC 4.0, research only"
    ),
    "dresscode": DataSet(
        dresscode.find_root,
        partial(look_at_tryon, "dresscode", DRESSCODE_PAIRS),
        "academic use only, on request from its authors; images may not be passed on",
    ),
    "catalogue": DataSet(_find_catalogue, _look_at_catalogue, "yours"),
}
