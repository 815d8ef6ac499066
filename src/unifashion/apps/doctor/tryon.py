"""What the doctor finds in a try-on set: its pairs, which maps of a person they have, and which of them training lacks."""

from collections import Counter
from pathlib import Path

from unifashion.apps.doctor.findings import Count, SetReport, Splits
from unifashion.data.annotations import NoSplit
from unifashion.data.datasets import DatasetSpec
from unifashion.data.tryon import PERSON_MAPS, PREPARED
from unifashion.errors import UserError


def look_at_tryon(spec: DatasetSpec, folder: Path, report: SetReport) -> Splits:
    """Add counts and findings of one set to the report; return the images of each split."""
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
        splits[split] = sorted({path for item in read.items for path in item.maps.values()})
    return splits
