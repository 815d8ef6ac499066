"""Files that exist whole or not at all. The only place that renames, locks or fsyncs files.

    atomic_write(path, text)                        a file, written next to its final path and renamed
    with replacing(path) as unfinished: ...         the same, for writers that want a path
    with replacing_folder(folder) as unfinished: ...     a folder; the old one stays until the new one is complete
    check_output(folder, "--output-dir")            before long work: could it be written?
    with lock(path, "... is at work"): ...          one process at a time; also lock_beside(file), lock_folder(folder)
    claim(record, settings, ...)                    was the work in this folder begun with the same settings?

``durable=True`` fsyncs the bytes before the rename and the folder after it: for what is reported as saved and must survive a
power cut. Without it, a crash of the machine (not of the program) may lose the newest state.

An unfinished file is called ``.NAME.PID`` and is in the same folder, because a rename is atomic only within one file system.
A disk that is full or cannot be written is one sentence (``UserError``) that names the file, whichever library was writing.
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
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unifashion.errors import UserError

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
AGAIN = "run the same command again"
REMEDY = "make it writable, or name another"


class DiskError(UserError):
    """``path`` cannot be written; ``number`` is the system's for the reason."""

    path: Path | str = ""
    number = 0
    reason = ""


# One file or folder ---------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, durable: bool = False, one_of_many: bool = False) -> Iterator[Path]:
    """Yield a path to write to; what was written replaces ``path`` when the block ends without an exception.

    Args:
        path: the file; its folder is made if needed.
        durable: see the module.
        one_of_many: of a folder with many files, which should not be listed for each of them: leftovers of killed processes
            remain, until ``remove_leftovers_below``.

    Raises:
        UserError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _disk_errors_of(path, unfinished, AGAIN):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not one_of_many:
                remove_leftovers(path)
            unfinished.unlink(missing_ok=True)  # of a killed process with the same number, see ``replacing_folder``
            yield unfinished
            if durable:
                to_disk(unfinished)
            unfinished.replace(path)
            if durable:
                to_disk(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Write text (UTF-8, line ends as given) or bytes; ``path`` keeps its old content until the new one is complete.

    Bytes of a file name that are not UTF-8 are written as escapes, which JSON reads back as they were.
    """
    with replacing(path, durable) as unfinished:
        unfinished.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def replacing_folder(folder: Path, durable: bool = False, again: str = AGAIN) -> Iterator[Path]:
    """Yield an empty folder to fill; it replaces ``folder`` when the block ends without an exception.

    A folder that is not empty cannot be replaced in one step: for a moment the old one is called ``.NAME.old``. A process that is
    killed in that moment leaves it there, and ``restore_folder`` (which this function calls first) puts it back.

    Raises:
        UserError: the folder cannot be written; ``again`` is what to do once there is room.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with _disk_errors_of(folder, unfinished, again):
            folder.parent.mkdir(parents=True, exist_ok=True)
            restore_folder(folder)
            # In a container a program that was killed often starts again under the same number, so its leftover seems alive.
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
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

    ``replacing`` and ``replacing_folder`` call it.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        _remove_leftover(leftover)


def remove_leftovers_below(folder: Path) -> None:
    """``remove_leftovers`` for every file that could be in a folder which only this program fills, and in its subfolders."""
    for leftover in folder.rglob(".*.*"):
        _remove_leftover(leftover)


def _remove_leftover(path: Path) -> None:
    owner = path.name.rpartition(".")[2]
    if owner.isdigit() and not _is_alive(int(owner)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
    with disk_errors(path, REMEDY), open_file(path, sys.maxsize) as file:
        content = file.read()
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


# Before the work ------------------------------------------------------------------------------------------------------


def check_output(path: Path, flag: str, is_file: bool = False) -> None:
    """Check that a folder, or a file, can be written later; nothing is made or changed.

    Raises:
        UserError: it cannot; the message starts with ``flag`` and the path.
    """
    kind, other = ("file", "folder") if is_file else ("folder", "file")
    with disk_errors(f"{flag} {path}", f"name another {kind}"):
        if os.path.lexists(path) and not (path.is_file() if is_file else path.is_dir()):
            found = f"a {other}" if path.is_dir() or path.is_file() else f"not a {kind}"
            raise UserError(f"{flag} {path} is {found}; name a {kind}")
        folder = path.parent if is_file else path
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise UserError(f"{flag} {path}: {folder} is not a folder; name another {kind}")
        # Named like what is written first, which has a suffix: a name may be too long only with it.
        missing = [os.fsencode(name) for name in path.parts[len(folder.parts) :]]
        probe = folder / f".{os.fsdecode(max(missing, key=len, default=b'unifashion'))}.{os.getpid()}"
        probe.mkdir()
        probe.rmdir()


# One writer, one run --------------------------------------------------------------------------------------------------


@contextmanager
def lock(path: Path, refusal: str) -> Iterator[bool]:
    """Lock ``path`` (a folder, or a file, created if needed) for this process; the lock ends with the process at the latest.

    Its forks, such as loader processes, which live on for some seconds when it is killed, do not hold it.

    On file systems without locks, such as some network disks, everybody is let in, and False is yielded.

    Raises:
        UserError: another process holds it; ``refusal`` is the message.
    """
    with disk_errors(path, REMEDY):
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    held = True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError as error:
            log.debug("%s cannot be locked (%s)", path, error)
            held = False
        if not _is_at(
            handle, path
        ):  # its owner, who ended a moment ago, has removed it: the next call would lock another
            raise UserError(refusal)
        _handles.add(handle)
        yield held
    finally:
        _handles.discard(handle)
        os.close(handle)


_handles: set[int] = set()


def _let_go() -> None:
    """Close, in a fork, the locks that belong to its parent."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


os.register_at_fork(after_in_child=_let_go)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def lock_beside(path: Path, refusal: str) -> Iterator[None]:
    """``lock`` for a file that is replaced while it is locked: locks a hidden file beside it, which is removed at the end.

    Raises:
        UserError: another process holds it; ``refusal`` is the message. The folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.lock")
    with disk_errors(path, REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
    with lock(beside, refusal):
        try:
            yield
        finally:
            with suppress(OSError):
                beside.unlink()


@contextmanager
def lock_folder(folder: Path, refusal: str) -> Iterator[None]:
    """``lock`` for a folder, which is made if needed, and then removed again if nothing was put into it.

    Raises:
        UserError: another process holds it; ``refusal`` is the message. The folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with disk_errors(folder, REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder, refusal):
            yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


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


# A full disk ----------------------------------------------------------------------------------------------------------


@contextmanager
def disk_errors(
    path: Path | str, remedy: str = "name another folder", unfinished: Path | None = None, again: str = AGAIN
) -> Iterator[None]:
    """Turn a full or read-only disk into a one-sentence error, where files are not written by ``replacing``.

    Args:
        path: what the sentence names, also for files below ``unfinished``.
        remedy: how it ends where the disk is not full.
        unfinished: a folder that is filled and then becomes ``path``.
        again: what to do once there is room, also for what ``replacing`` writes in the block.

    Raises:
        UserError: for every ``OSError`` inside the block.
    """
    try:
        yield
    except DiskError as error:
        is_below = unfinished in Path(error.path).parents
        if not is_below and again == AGAIN:
            raise
        raise _cannot_write(path if is_below else error.path, error.number, error.reason, again, remedy) from None
    except OSError as error:
        raise _cannot_write(path, error.errno or 0, error.strerror or str(error), again, remedy) from None


@contextmanager
def _disk_errors_of(path: Path, unfinished: Path, again: str) -> Iterator[None]:
    """``disk_errors`` for one file or folder: what else fails in the block, such as reading another file, passes through."""
    try:
        yield
    except DiskError as error:
        if unfinished not in Path(error.path).parents:
            raise
        raise _cannot_write(path, error.number, error.reason, again) from None
    except UserError:
        raise
    except Exception as error:
        number = _errno(error)
        if number is None and isinstance(error, OSError | RuntimeError) and _is_full(unfinished):
            number = errno.ENOSPC  # torch.save and numpy.save say only that less was written than they had
        if number is None or (number not in FULL and not _is_about(error, number, path, unfinished)):
            raise
        raise _cannot_write(path, number, os.strerror(number), again) from None


def _cannot_write(path: Path | str, number: int, reason: str, again: str, remedy: str = REMEDY) -> DiskError:
    full = f": the disk is full; make room and {again}"
    error = DiskError(f"{path} cannot be written{full if number in FULL else f' ({reason}); {remedy}'}")
    error.path, error.number, error.reason = path, number, reason
    return error


def _errno(error: Exception) -> int | None:
    """Return the system's number of an error, which libraries written in Rust and C++ put into their sentences."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if said := re.search(r"\(os error (\d+)\)", str(error)):
        return int(said[1])
    return next((number for number in FULL if os.strerror(number) in str(error)), None)


def _is_full(unfinished: Path) -> bool:
    """Return whether nothing more can be written where an unfinished file or folder is, which is then removed."""
    probe = unfinished / "probe" if unfinished.is_dir() else unfinished
    try:
        with probe.open("ab") as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return error.errno in FULL
    return False


def _is_about(error: Exception, number: int, path: Path, unfinished: Path) -> bool:
    """Return whether an error names what is being written, or a folder above it, or names nothing and is one of writing."""
    named = [getattr(error, name, None) for name in ("filename", "filename2")]
    paths = [Path(os.fsdecode(name)) for name in named if isinstance(name, str | bytes | os.PathLike)]
    if not paths:
        return number in (errno.EROFS, errno.EFBIG)
    return any(name in (path, *path.parents) or unfinished in (name, *name.parents) for name in paths)
