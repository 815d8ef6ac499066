"""What the doctor finds in a try-on set: its pairs, which maps of a person they have, and which of them training lacks."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from unifashion.apps.doctor.findings import Count, SetReport
from unifashion.data.annotations import NoSplit
from unifashion.data.tryon import PERSON_MAPS, PREPARED, SPLITS
from unifashion.data.tryon_sets import read_tryon
from unifashion.errors import UserError


def look_at_tryon(dataset: str, expected: Mapping[str, int], folder: Path, report: SetReport) -> dict[str, list[Path]]:
    """Add the counts and findings of one set to the report; return the images of each split.

    Args:
        dataset: a name of ``data.tryon_sets``.
        expected: pairs of each split of the complete set.
        folder: of the set.
        report: gets what is found.
    """
    splits: dict[str, list[Path]] = {}
    for split in SPLITS:
        try:
            found = read_tryon(dataset, folder, split, ("image",))
        except NoSplit as error:
            report.note(f"no {split} split ({error})")
            continue
        except UserError as error:
            report.problem(str(error))
            continue
        listed = len(found.items) + len(found.missing)
        report.counts.append(Count(f"{split} pairs", listed, expected[split]))
        maps = Counter(name for item in found.items for name in item.maps if name != "image")
        captioned = sum(bool(item.caption) for item in found.items)
        counts = {**{name.replace("_", " "): number for name, number in maps.items()}, "caption": captioned}
        report.counts += [Count(f"{split} pairs with {name}", number) for name, number in counts.items() if number]
        if found.missing:
            report.problem(
                f"{len(found.missing):,} of {listed:,} pairs of {split} lack the photo of the person; fetch them",
                found.missing,
            )
        lacking = {name: len(found.items) - maps[name] for name in PERSON_MAPS if name != "image"}
        if any(lacking.values()):
            which = ", ".join(f"{number:,} no {name.replace('_', ' ')}" for name, number in lacking.items() if number)
            made = [name.replace("_", " ") for name, number in lacking.items() if number and name in PREPARED]
            help = f", or let 'unifashion prepare tryon --source {folder}' make {', '.join(made)}" if made else ""
            report.problem(f"of {len(found.items):,} pairs of {split}, {which}; fetch them{help}")
        bare = len(found.items) - maps["garment"]
        if bare:
            report.note(
                f"{bare:,} pairs of {split} have no photo of the garment the person wears: unpaired try-on alone works"
            )
        splits[split] = sorted({path for item in found.items for path in item.maps.values()})
    return splits
