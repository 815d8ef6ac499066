"""What the doctor finds in FashionIQ: queries and galleries of each category, and captions that give the answers away."""

from pathlib import Path

from unifashion.apps.doctor.findings import Count, SetReport, Splits, report_missing
from unifashion.apps.doctor.leaks import SUSPICIOUS, word_overlap
from unifashion.data.annotations import NoSet, read_json_list, text_of, texts_of
from unifashion.data.datasets import DatasetSpec
from unifashion.data.fashioniq import CATEGORIES, FOLDER, SPLITS, read_fashioniq
from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError

PATTERNS = (
    *(f"{kind}.{category}.*" for kind in ("captions/cap", "image_splits/split") for category in CATEGORIES),
    "next_llava.*",
    "*/next_llava.*",
)


def find_fashioniq(path: Path) -> Path:
    """Return the folder of FashionIQ; unlike training, also one with an incomplete set, or with only generated captions.

    Raises:
        NoSet: there is nothing of it.
    """
    for folder in (path / FOLDER, path):
        if any(any(folder.glob(pattern)) for pattern in PATTERNS):
            return folder
    raise NoSet(f"no FashionIQ in {path}")


def look_at_fashioniq(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Add counts and findings to the report; return the images of each split.

    Each category is read by itself, so that a missing one hides nothing of the others.
    """
    splits: Splits = {}
    absent: list[str] = []
    for split in SPLITS:
        images: dict[str, Path] = {}
        for category in CATEGORIES:
            if not (folder / "captions" / f"cap.{category}.{split}.json").is_file():
                absent.append(f"captions/cap.{category}.{split}.json")
                continue
            try:
                record = read_fashioniq(folder, category, split, allow_leaky=True)
            except UserError as error:
                report.problem(str(error))
                continue
            images |= _look_at_category(spec, record, report)
        if images:
            splits[split] = sorted(images.values())
    if absent:
        report.note(f"{len(absent)} of {len(SPLITS) * len(CATEGORIES)} query files are missing", absent)
    _look_at_captions(folder, report)
    return splits


def _look_at_category(spec: DatasetSpec, record: ComposedSplit, report: SetReport) -> dict[str, Path]:
    """Count one category of one split; return the images that are to be opened."""
    label, num_listed = f"{record.split} {record.category}", len(record.gallery)
    for what, count in ((f"{label} queries", len(record.queries)), (f"{label} gallery images", num_listed)):
        report.counts.append(Count(what, count, spec.counts.get(what)))
    missing = [name for name in record.gallery if name not in record.images]
    if record.split == "test" and missing:
        report.note(
            f"{len(missing):,} of {num_listed:,} images of {label} are missing; that split has no targets and is not scored"
        )
        return {}
    report_missing(report, label, missing, num_listed)
    num_lost = len(record.queries) - len(record.answerable())
    if num_lost:
        report.note(f"{num_lost:,} of {len(record.queries):,} queries of {label} cannot be used for that reason")
    return record.images


def _look_at_captions(folder: Path, report: SetReport) -> None:
    """Look for generated captions that give the answers away, anywhere in the folder."""
    for path in sorted(folder.rglob("next_llava.*.caption.json")):
        _, split, category, *_ = path.name.split(".")
        if split == "train" or category not in CATEGORIES:
            continue
        try:
            rows = [(f"{path}, row {number}", row) for number, row in enumerate(read_json_list(path, dict), 1)]
            captions = {
                text_of(row, "image", where): text_of(row, "caption", where, blank=True).strip()
                for where, row in reversed(rows)
            }
            guided = [text_of(row, "image", where) for where, row in rows if row.get("text_guidance")]
        except UserError as error:
            report.problem(f"not a caption file: {error}")
            continue
        report.counts.append(Count(f"{split} {category} generated captions", len(captions)))
        if guided:
            report.problem(
                f"{path.name}: {len(guided):,} captions were written with the query's own sentences (text_guidance): "
                "they give the answers away, do not score with them",
                guided,
            )
        if split != "test":  # its queries have no targets to look for
            _look_at_words(report, folder, f"cap.{category}.{split}.json", captions, path.name)


def _look_at_words(
    report: SetReport, folder: Path, queries_file: str, captions: dict[str, str], caption_file: str
) -> None:
    """Report how far the words of the queries alone get; the queries may also lie beside the folder."""
    homes = (folder / "captions", folder.parent / "captions")
    path = next((home / queries_file for home in homes if home.is_dir()), None)
    if path is None:
        return
    try:
        queries = [row for row in read_json_list(path, dict) if row.get("target")]
        feedback = [" ".join(texts_of(row, "captions", str(path))) for row in queries]
        overlap = word_overlap(feedback, [text_of(row, "target", str(path)) for row in queries], captions)
    except UserError:  # it is a finding of its category already
        return
    if overlap is None:
        return
    words = (
        f"{caption_file}: words alone (TF-IDF from feedback to captions, no image) reach R@10 {overlap.recall_at_10:.1f} and "
        f"R@50 {overlap.recall_at_50:.1f} (N {overlap.num_queries:,}, gallery {overlap.gallery:,}) and pinpoint "
        f"{overlap.pinpointed:.0f} % of the targets"
    )
    if overlap.is_suspicious:
        report.problem(
            f"{words}, which is suspicious from {SUSPICIOUS:.0f} % on: the captions seem to know the queries"
        )
    else:
        report.note(f"{words}, which is not suspicious (below {SUSPICIOUS:.0f} %)")
