"""What the doctor finds in a try-on set: its pairs, which maps of a person they have, which of them training lacks, and which do
not fit the photo.

Maps are compared with the photo, and label maps with the pose, as try-on itself and ``prepare tryon`` do it, in the first of the
pairs and others at equal distances: faults of this kind are usually those of whole sets.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from unifashion.apps.doctor.findings import Count, SetReport, Splits
from unifashion.apps.doctor.pictures import look_at
from unifashion.data.annotations import NoSplit
from unifashion.data.datasets import DatasetSpec
from unifashion.data.images import ImageError, load_image
from unifashion.data.tryon import PERSON_MAPS, PREPARED, TryOnItem
from unifashion.errors import UserError
from unifashion.tryon.body import Body
from unifashion.tryon.maps import FILE, ON_PERSON, files_of, read_maps

NUM_COMPARED = 16  # pairs of a split
HEIGHT, WIDTH = 512, 384  # of the maps when they are compared


def look_at_tryon(spec: DatasetSpec, folder: Path, report: SetReport, compare: bool = True) -> Splits:
    """Add counts and findings of one set to the report; return the images of each split.

    Args:
        spec: row of the set.
        folder: of the set.
        report: gets counts and findings.
        compare: open the maps of some pairs, to compare them with the photo.
    """
    assert spec.tryon is not None, "of this kind"
    splits: Splits = {}
    for split in spec.splits.values():
        try:
            read = spec.tryon(folder, split, ("image",), "paired")
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
            continue
        except UserError as error:
            report.problem(str(error))
            continue
        num_pairs, num_listed = len(read.items), len(read.items) + len(read.missing)
        report.counts.append(Count(f"{split} pairs", num_listed, spec.counts.get(f"{split} pairs")))
        maps = Counter(name for item in read.items for name in item.maps if name != "image")
        captioned = sum(bool(item.caption) for item in read.items)
        counts = {**{name.replace("_", " "): count for name, count in maps.items()}, "caption": captioned}
        report.counts += [Count(f"{split} pairs with {name}", count) for name, count in counts.items() if count]
        if read.missing:
            report.problem(
                f"{len(read.missing):,} of {num_listed:,} pairs of {split} lack the photo of the person; fetch them",
                read.missing,
            )
        lacking = {name: num_pairs - maps[name] for name in PERSON_MAPS if name != "image"}
        if any(lacking.values()):
            which = ", ".join(f"{count:,} no {name.replace('_', ' ')}" for name, count in lacking.items() if count)
            made = [name.replace("_", " ") for name, count in lacking.items() if count and name in PREPARED]
            help = f", or let 'unifashion prepare tryon --source {folder}' make {', '.join(made)}" if made else ""
            report.problem(f"of {num_pairs:,} pairs of {split}, {which}; fetch them{help}")
        bare = num_pairs - maps["garment"]
        if bare:
            report.note(
                f"{bare:,} pairs of {split} have no photo of the garment the person wears: only unpaired try-on works"
            )
        if compare:
            _compare_maps(split, read.items, report)
        splits[split] = sorted({path for item in read.items for path in item.maps.values()})
    return splits


def _compare_maps(split: str, items: Sequence[TryOnItem], report: SetReport) -> None:
    chosen = items[:: -(-len(items) // NUM_COMPARED)]
    report.counts.append(Count(f"{split} pairs that were compared with their photo", len(chosen)))
    for item in chosen:
        for fault in (*_faults_of_maps(item), *_faults_of_body(item)):
            report.problem(fault)


def _faults_of_maps(item: TryOnItem) -> Iterator[str]:
    """Yield what is wrong with the maps of a pair; each map is compared without those that are wrong already."""
    files = files_of(item, [name for name in ON_PERSON if FILE.get(name, name) in item.maps])
    while "image" in files:
        try:
            read_maps(files, HEIGHT, WIDTH)
        except ImageError as error:
            if not look_at(error.path).fault:  # damaged files are a finding of their own
                yield str(error)
            files = {name: path for name, path in files.items() if path != error.path}
        else:
            return


def _faults_of_body(item: TryOnItem) -> Iterator[str]:
    """Yield what is wrong with label map and pose."""
    body = Body.of(item.person, item.maps["image"])
    if not body.labels.is_file():
        return
    try:
        labels = body.read_labels(load_image(body.photo).size)
        if body.pose.is_file():
            body.read_pose(labels)
    except ImageError as error:
        if error.path != body.photo:
            yield str(error)
    except UserError as error:
        yield str(error)
