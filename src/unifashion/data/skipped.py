"""Images that are skipped because they cannot be used: each is logged once with its reason; too many of them are an error."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unifashion.data.images import ImageError
from unifashion.errors import UserError
from unifashion.io import write_csv

log = logging.getLogger(__name__)

Row = TypeVar("Row")


class SkippedImages:
    """A list of (path, reason) without repetitions; every new entry is logged as a warning."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, path: Path, reason: str) -> None:
        """Add one image; a second call for the same image changes nothing."""
        if path not in self.reasons:
            self.reasons[path] = reason
            log.warning("%s left out: %s", path, reason)

    def summary(self) -> str:
        """Return one sentence: how many images were left out, and the first of them."""
        if not self.reasons:
            return "no image was left out"
        path, reason = next(iter(self.reasons.items()))
        return f"{len(self)} image{'s' if len(self) > 1 else ''} left out, the first is {path} ({reason})"

    def write(self, path: Path) -> None:
        """Write a CSV with the columns image and reason."""
        write_csv(path, ("image", "reason"), ({"image": image, "reason": why} for image, why in self.reasons.items()))


def first_readable(index: int, count: int, read: Callable[[int], Row]) -> tuple[int, Row, list[tuple[Path, str]]]:
    """Read training row ``index``, or instead of a damaged one the next of the ``count`` rows that can be read.

    Returns:
        the index of the row that was read, the row, and (path, reason) of the images that could not be used.

    Raises:
        UserError: none of the rows can be read.
    """
    broken: list[tuple[Path, str]] = []
    for step in range(count):
        chosen = (index + step) % count
        try:
            return chosen, read(chosen), broken
        except ImageError as error:
            broken.append((error.path, error.reason))
    path, reason = broken[0]
    raise UserError(
        f"none of the {count} training rows has a readable image, the first is {path} ({reason}); "
        "check the images below --data-root"
    )


def check_missing(
    used: int, listed: int, limit_percent: float, what: str = "queries", gallery: tuple[int, int] | None = None
) -> str:
    """Return "used N of M queries", with ", gallery G of H" where ``gallery=(G, H)`` is given, for the note of a score.

    Raises:
        UserError: more than ``limit_percent`` of the listed queries or gallery items have no image, or (at any limit) all.
    """
    parts = [(used, listed, what)] if gallery is None else [(used, listed, what), (*gallery, "gallery images")]
    for num_used, num_listed, name in parts:
        if num_listed == 0:
            raise UserError(f"no {name} are listed: the annotations of this split are empty")
        share = missing_percent(num_used, num_listed)
        sentence = f"images missing: {share:.3g} % of the {name} ({num_used} of {num_listed} can be used)"
        if share > limit_percent:
            raise UserError(
                f"{sentence}, limit {limit_percent:g} %: complete the images or allow more with --max-missing"
            )
        if num_used == 0:
            raise UserError(f"{sentence}: there is nothing to score; check the image folder")
    return f"used {used} of {listed} {what}" + ("" if gallery is None else f", gallery {gallery[0]} of {gallery[1]}")


def missing_percent(used: int, listed: int) -> float:
    """Return the percentage of the listed items that is not used."""
    return 100 * (listed - used) / listed
