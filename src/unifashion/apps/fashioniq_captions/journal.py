"""The journal of a captioning run: every answer is kept as it arrives, so a run that was killed goes on where it stood.

    OUT/.journal/fashioniq.val/
      facts.json     what the run is: data set, split, model, prompts ...; another run may not continue it
      0.jsonl        {"key": "dress/B008BHCT58", "text": "The dress is ...", "finished": true, "attributes": ""}   one a process
      lock           held while a run writes

Lines are flushed at once and forced to disk every few; a line that a crash cut in half is dropped and its photo done again.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from unifashion.errors import UserError

log = logging.getLogger(__name__)

SYNC_ROWS, SYNC_SECONDS = 64, 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """The model's answer for one photo: its words, whether it came to an end, and the attributes of a chain of thought."""

    key: str
    text: str
    finished: bool
    attributes: str = ""


class Journal:
    """The writing end of one process; a context manager that leaves everything on disk."""

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.path = folder / f"{process}.jsonl"
        self._unsynced, self._synced_at = 0, time.monotonic()

    def __enter__(self) -> "Journal":
        self._file: IO[bytes] = self.path.open("ab+")
        self._cut_torn_line()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._sync()
        finally:
            self._file.close()

    def add(self, entry: Entry) -> None:
        """Append one answer."""
        self._file.write((json.dumps(asdict(entry), ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        self._file.flush()
        self._unsynced += 1
        if self._unsynced >= SYNC_ROWS or time.monotonic() - self._synced_at > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced, self._synced_at = 0, time.monotonic()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)


@contextmanager
def opened(folder: Path, facts: Mapping[str, Any], outputs: list[Path], overwrite: bool) -> Iterator[dict[str, Entry]]:
    """Hold the journal in ``folder`` for a run with these ``facts`` and yield what is done already, by key.

    Raises:
        UserError: another run is writing; the journal is of a run with other facts; there is none, but ``outputs`` of another
            run. With ``overwrite`` the last two are replaced instead.
    """
    _refuse_others(folder, facts, outputs, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing captions into {folder.parents[1]}; wait for it or stop it"
            ) from None
        except OSError as error:  # some network disks have no locks
            log.debug("%s cannot be locked (%s); start no second run there", folder, error)
        if _read_facts(folder / "facts.json") != facts:
            _start_anew(folder, facts)
        yield read_entries(folder)


def _refuse_others(folder: Path, facts: Mapping[str, Any], outputs: list[Path], overwrite: bool) -> None:
    """Raise where captions of another run, or of another program, would be lost. A journal without answers loses nothing."""
    before = _read_facts(folder / "facts.json")
    if overwrite or before == facts:
        return
    if before is not None and read_entries(folder):
        other = next(name for name in [*facts, *before] if facts.get(name) != before.get(name))
        raise UserError(
            f"{folder.parents[1]} holds captions of another run: its {other} is {before.get(other)!r}, now it is "
            f"{facts.get(other)!r}; choose another --output-dir, or replace them with --overwrite"
        )
    strangers = [output for output in outputs if output.exists()]
    if strangers:
        raise UserError(
            f"{strangers[0]} is there already and not from this program; choose another --output-dir, or replace it "
            "with --overwrite"
        )


def _start_anew(folder: Path, facts: Mapping[str, Any]) -> None:
    for old in folder.glob("*.jsonl"):
        old.unlink()
    unfinished = folder / ".facts.json"
    unfinished.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / "facts.json")


def _read_facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        facts = {}
    return facts if isinstance(facts, dict) else {}


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the answers of all processes by key; a line that is no answer is left out."""
    entries: dict[str, Entry] = {}
    damaged = 0
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                damaged += 1
                continue
            entries[entry.key] = entry
    if damaged:
        log.warning("%s: %d damaged lines; their photos are captioned again", folder, damaged)
    return entries
