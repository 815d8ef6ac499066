"""Images that could not be used: named once, with the reason, counted, never swallowed."""

import csv
import logging
from pathlib import Path

log = logging.getLogger(__name__)


class Quarantine:
    """A list of (path, reason) without repetitions; every new entry is logged as a warning."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, path: Path, reason: str) -> None:
        """Name one image; a second call for the same image changes nothing."""
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
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "reason"])
            writer.writerows(self.reasons.items())
