"""The journal of a captioning run: every answer is kept as it arrives, so that a killed run can continue.

    OUT/.journal/fashioniq.val/
      facts.json     settings of the run: data set, split, model, prompts ...; a run with others may not continue it
      0.jsonl        {"key": "dress/B008BHCT58", "text": "The dress is ...", "finished": true, "attributes": ""}   one per process
      lock           held while a run writes

Lines are flushed at once and forced to disk every few; a line that a crash cut in half is dropped and its photo done again.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from unifashion.errors import UserError
from unifashion.io import claim, cut_torn_line, lock, read_json, to_disk, write_json

log = logging.getLogger(__name__)

RECORD = "facts.json"
SYNC_ROWS, SYNC_SECONDS = 64, 5.0  # what a power cut costs at most; an answer is worth seconds of a GPU


@dataclass(frozen=True, slots=True)
class Entry:
    """The model's answer for one photo: its words, whether it finished, and the attributes of a chain of thought."""

    key: str
    text: str
    finished: bool
    attributes: str = ""


class Journal:
    """The writing end of one process; a context manager that leaves everything on disk."""

    def __init__(self, folder: Path, process: int = 0) -> None:
        # One file per process: no process waits for another, and a later run may use a different number of them.
        self.path = folder / f"{process}.jsonl"
        self._unsynced, self._synced_at = 0, time.monotonic()

    def __enter__(self) -> "Journal":
        cut_torn_line(self.path)
        self._file: IO[bytes] = self.path.open("ab")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._sync()
        finally:
            self._file.close()

    def add(self, entry: Entry) -> None:
        """Append one answer."""
        self._file.write((json.dumps(asdict(entry), ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        self._file.flush()  # enough if this process is killed; only a crash of the machine needs the sync below
        self._unsynced += 1
        if self._unsynced >= SYNC_ROWS or time.monotonic() - self._synced_at > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        to_disk(self.path)
        self._unsynced, self._synced_at = 0, time.monotonic()


@contextmanager
def opened(
    folder: Path, settings: Mapping[str, Any], outputs: list[Path], overwrite: bool
) -> Iterator[dict[str, Entry]]:
    """Hold the journal in ``folder`` for a run with these ``settings`` and yield what is done already, by key.

    Raises:
        UserError: another run is writing; the journal belongs to other settings; there is none, but ``outputs`` of another
            program. With ``overwrite`` the last two are replaced instead.
    """
    if not overwrite:
        _refuse_others(folder, settings, outputs)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock", f"another run is writing captions into {folder.parents[1]}; wait for it or stop it"):
        if read_json(folder / RECORD) != settings:
            for old in folder.glob("*.jsonl"):
                old.unlink()
            write_json(folder / RECORD, settings, durable=True)
        yield read_entries(folder)


def _refuse_others(folder: Path, settings: Mapping[str, Any], outputs: list[Path]) -> None:
    """Raise where captions of another run, or of another program, would be lost."""
    remedy = "choose another --output-dir, or replace what is there with --overwrite"
    has_answers = bool(read_entries(folder))  # a journal without answers loses nothing, whatever its settings were
    if has_answers:
        is_ours = claim(folder / RECORD, settings, f"--output-dir {folder.parents[1]}", remedy)
    else:
        is_ours = read_json(folder / RECORD) == settings
    at_stake = [*([folder] if has_answers else []), *(path for path in outputs if path.exists())]
    if at_stake and not is_ours:
        raise UserError(f"{at_stake[0]} already exists, and is not from this program; {remedy}")


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the answers of all processes by key; a damaged line is left out."""
    entries: dict[str, Entry] = {}
    damaged = 0
    for path in sorted(folder.glob("*.jsonl")):
        # Split at \n alone: splitlines() would also split at the \u2028 that a caption may hold.
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            entry = _entry(line)
            if entry is None:
                damaged += 1
            else:
                entries[entry.key] = entry
    if damaged:
        log.warning("%s: %d damaged lines; their photos are captioned again", folder, damaged)
    return entries


def _entry(line: bytes) -> Entry | None:
    try:
        entry = Entry(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = entry.key, entry.text, entry.attributes
    return entry if all(isinstance(text, str) for text in texts) and isinstance(entry.finished, bool) else None
