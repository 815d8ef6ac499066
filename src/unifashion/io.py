"""Files that exist whole or not at all. The only place that renames, locks or fsyncs files.

    atomic_write(path, text)                        a file, written next to its final path and renamed
    with replacing(path) as unfinished: ...         the same, for writers that want a path
    with replacing_folder(folder) as unfinished: ...     a folder; the old one stays until the new one is complete
    with lock(path, "... is at work"): ...          one process at a time
    claim(record, settings, ...)                    was the work in this folder begun with the same settings?

``durable=True`` fsyncs the bytes before the rename and the folder after it: for what is reported as saved and must survive a
power cut. Without it, a crash of the machine (not of the program) may lose the newest state.

An unfinished file is called ``.NAME.PID`` and is in the same folder, because a rename is atomic only within one file system.
"""

import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unifashion.errors import UserError

log = logging.getLogger(__name__)


# One file or folder ---------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a path to write to; what was written replaces ``path`` when the block ends without an exception."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        if durable:
            to_disk(unfinished)
        unfinished.replace(path)
        if durable:
            to_disk(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def move_file(source: Path, path: Path) -> None:
    """Fsync a complete file and rename it to ``path``, replacing what was there."""
    to_disk(source)
    source.replace(path)
    to_disk(path.parent)


def atomic_write(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Write text (UTF-8, line ends as given) or bytes; ``path`` keeps its old content until the new one is complete.

    Bytes of a file name that are not UTF-8 are written as escapes, which JSON reads back as they were.
    """
    with replacing(path, durable) as unfinished:
        unfinished.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def replacing_folder(folder: Path, durable: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces ``folder`` when the block ends without an exception.

    A folder that is not empty cannot be replaced in one step: for a moment the old one is called ``.NAME.old``. A process that is
    killed in that moment leaves it there, and ``restore_folder`` (which this function calls first) puts it back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(folder)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    # In a container a program that was killed often starts again under the same number, so its leftover seems alive.
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        if durable:
            for path in (*files_below(unfinished), unfinished):
                to_disk(path)
        move_folder(unfinished, folder)
        if durable:
            to_disk(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def move_folder(unfinished: Path, folder: Path) -> None:
    """Replace ``folder`` by a complete one; the old one is removed once the new one is in place."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    unfinished.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Clean up after a process that was killed while replacing ``folder``, and restore the old state if needed."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    remove_leftovers(folder)


def remove_leftovers(path: Path) -> None:
    """Remove the unfinished copies of the file or folder ``path`` that killed processes have left.

    ``replacing`` does not call this, as it would list a whole folder for each of its files. Call it for large files.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = leftover.name.rpartition(".")[2]
        if owner.isdigit() and not _is_alive(int(owner)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    # Another user's process is alive; a number too large for a PID is not ours and is left alone.
    with suppress(PermissionError, OverflowError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Contents -------------------------------------------------------------------------------------------------------------


def open_file(path: Path, max_bytes: int = 2**31) -> BinaryIO:
    """Open a file to read. Never waits: what is not a file (a pipe, a device, a folder) is refused before it is opened.

    Raises:
        FileNotFoundError: there is none, or no file can have such a name.
        OSError: it cannot be opened, is not a file, or has more than ``max_bytes``; ``strerror`` says why.
    """
    try:
        _check_file(path.stat(), path, max_bytes)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # NUL, or half of a character
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    file = os.fdopen(handle, "rb")
    try:
        _check_file(os.fstat(handle), path, max_bytes)  # again: it may have been replaced between the two calls
    except OSError:
        file.close()
        raise
    return file


def _check_file(status: os.stat_result, path: Path, max_bytes: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise OSError(
            errno.EINVAL, f"it is a {kinds.get(stat.S_IFMT(status.st_mode), 'device')}, not a file", str(path)
        )
    if status.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, {max_bytes:,} is the limit", str(path))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None if it cannot be read or is not JSON."""
    try:
        with open_file(path) as file:
            return json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write JSON, one entry per line."""
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n", durable)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a header row."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(path, table.getvalue())


def cut_torn_line(path: Path) -> None:
    """Cut off an incomplete last line, left by a process that was killed while appending."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def file_hash(path: Path, max_bytes: int = sys.maxsize) -> str:
    """Return a 128-bit hash of a file's content, as hexadecimal digits; errors as ``open_file``."""
    digest = hashlib.blake2b(digest_size=16)
    with open_file(path, max_bytes) as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def file_stamp(path: Path) -> list[int | str]:
    """Return size and hash of a file, as manifests keep them."""
    return [path.stat().st_size, file_hash(path)]


# One writer, one run --------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: Path, refusal: str) -> Iterator[None]:
    """Lock ``path`` (a folder, or a file, created if needed) for this process; the lock ends with the process at the latest.

    On file systems without locks, such as some network disks, everybody is let in.

    Raises:
        UserError: another process holds it; ``refusal`` is the message.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError as error:
            log.debug("%s cannot be locked (%s)", path, error)
        yield
    finally:
        os.close(handle)


def claim(record: Path, settings: Mapping[str, Any], subject: str, remedy: str) -> bool:
    """Check that the work next to ``record`` was begun with these settings, so that it may be continued.

    Args:
        record: JSON file with the settings of the work that was begun here.
        settings: of this call; JSON values.
        subject: how the message begins: flag and path.
        remedy: how it ends: what to do instead.

    Returns:
        True if the record holds the same settings; False if there is none or it cannot be read.

    Raises:
        UserError: it holds others; names the first setting that differs.
    """
    previous = read_json(record)
    if not isinstance(previous, dict):
        return False
    now = json.loads(json.dumps(settings))
    for name in (*now, *(name for name in previous if name not in now)):
        if previous.get(name) != now.get(name):
            raise UserError(
                f"{subject}: it was made with {name} {previous.get(name)!r}, now it is {now.get(name)!r}; {remedy}"
            )
    return True


@contextmanager
def disk_errors(path: Path | str, remedy: str = "name another folder") -> Iterator[None]:
    """Turn a full or read-only disk into a one-sentence error.

    Raises:
        UserError: for every ``OSError`` inside the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{path} cannot be written: the disk is full; make room and run the same command again"
            ) from None
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy}") from None
