"""Kills a program before any of its file operations, and in the middle of what it writes.

    names = operations(action, folder)             what ``action()`` does to files below ``folder``, one text each
    whole = contents(folder)
    for point in points(names):
        ...                                        put the folder back into the state from before the action
        killed_at(action, folder, point)           runs it in a process that dies there
        action()                                   the same again, as a user would call it
        assert contents(folder) == whole

The action runs in a fork of this process, so what is slow to import should be imported before. Counted are the operations that
Python audits (open for writing, rename, link, remove, mkdir, rmdir, truncate, copy, SQLite), ``os.fsync``, and the writers of
``NATIVE``, which open their files themselves. A ``torn`` point kills inside the next write to the disk, in whichever language it
is made: the kernel does it (RLIMIT_FSIZE), so neither a buffer nor a ``finally`` is in its way.
"""

import itertools
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Action = Callable[[], object]
EVENTS = {  # of Python's audit table: which arguments are paths, and at which place the descriptor of their folder is
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "shutil.copyfile": ((1, None),),
    "sqlite3.connect": ((0, None),),
}
NATIVE = {  # functions that open a file out of Python's sight, and which argument its path is
    ("torch", "save"): 1,
    ("safetensors.torch", "serialize_file"): 1,
    ("faiss", "write_index"): 1,
    ("os", "fsync"): 0,
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
WRITERS = ("write", "append", "save", "serialize_file", "write_index", "sqlite3.connect")
ANOTHER = 99  # exit status
TORN = (0, 20, 3000)  # bytes; a file that is shorter is whole, and the kill comes before the next operation


@dataclass(frozen=True)
class Point:
    """Before operation ``number`` (from 0), or, with ``torn``, when it has written so many bytes."""

    number: int
    operation: str
    torn: int | None = None

    def __str__(self) -> str:
        place = "before" if self.torn is None else f"{self.torn} bytes into"
        return f"{self.number}, {place} {self.operation}"


def operations(action: Action, folder: Path) -> list[str]:
    """Run an action in a process of its own, to its end; return what it did to the files below ``folder``."""
    with tempfile.NamedTemporaryFile() as names:

        def watched() -> None:
            with Path(names.name).open("w", encoding="utf-8") as file:
                _watch(folder, lambda number, name, path: print(name, file=file, flush=True))
                action()

        status = in_a_process(watched)
        assert status == 0, f"the action itself left with {status}"
        return Path(names.name).read_text(encoding="utf-8").splitlines()


def points(names: Sequence[str]) -> list[Point]:
    """Return every point at which a run with these operations can be killed."""
    before = [Point(number, name) for number, name in enumerate(names)]
    torn = [
        Point(number, name, size)
        for number, name in enumerate(names)
        if name.partition(" ")[0] in WRITERS
        for size in TORN
    ]
    return before + torn


def killed_at(action: Action, folder: Path, point: Point) -> None:
    """Run an action in a process that is killed at ``point``, which must be one of its operations."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def at(number: int, name: str, path: Path) -> None:
        if number < point.number:
            return
        if number == point.number and name != point.operation:
            os._exit(ANOTHER)
        if number > point.number or point.torn is None:
            die()
        _limit_files((path.stat().st_size if name.startswith("append") and path.is_file() else 0) + point.torn)

    def doomed() -> None:
        _watch(folder, at)
        action()

    status = in_a_process(doomed)
    assert status != ANOTHER, f"{point}: there is another operation in this place now"
    # 0: an operation after which so much is not written any more, such as opening a database to read it.
    assert status in ({-signal.SIGKILL, -signal.SIGXFSZ} | ({0} if point.torn is not None else set())), (
        f"{point}: left with {status}"
    )


def in_a_process(action: Action) -> int:
    """Run an action in a fork; return its exit status, or minus the number of the signal that killed it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return all files below a folder, by their names in it, and the empty folders (None)."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = path.read_bytes()
        elif not any(path.iterdir()):
            found[name] = None
    return found


# What the doomed process does -----------------------------------------------------------------------------------------


def _watch(folder: Path, report: Callable[[int, str, Path], None]) -> None:
    """Call ``report`` with number, name and path before each file operation of this process below ``folder``."""
    folder, process, numbers = folder.absolute(), os.getpid(), itertools.count()

    def seen(kind: str, *paths: Path) -> None:
        inside = [path for path in paths if path == folder or folder in path.parents]
        if inside and os.getpid() == process:
            named = ", ".join(_without_numbers(path.relative_to(folder).as_posix()) for path in inside)
            report(next(numbers), f"{kind.removeprefix('os.')} {named}", inside[0])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes | os.PathLike) and flags & WRITES:
                seen("write" if flags & os.O_TRUNC else "append", *_paths(path))
        elif event in EVENTS:
            seen(event, *(p for at, fd in EVENTS[event] for p in _paths(args[at], args[fd] if fd is not None else -1)))

    for (module, name), place in NATIVE.items():
        if module in sys.modules:
            _announce(sys.modules[module], name, place, seen)
    sys.addaudithook(hook)


def _announce(module: Any, name: str, place: int, seen: Callable[..., None]) -> None:
    function = getattr(module, name)

    def announced(*args: Any, **more: Any) -> Any:
        seen(name, *_paths(args[place]))
        return function(*args, **more)

    setattr(module, name, announced)


def _paths(path: Any, folder: int = -1) -> Iterator[Path]:
    """Yield the absolute path of a path or descriptor; nothing for what is no file (a stream, a database in memory)."""
    if isinstance(path, int):
        path = Path(f"/proc/self/fd/{path}").readlink()
    if isinstance(path, str | bytes | os.PathLike) and os.fspath(path) not in ("", ":memory:"):
        start = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
        yield Path(os.path.normpath(start / os.fsdecode(path)))


def _without_numbers(name: str) -> str:
    """Return a name without the process numbers of unfinished files, so that two runs name them alike."""
    return re.sub(rf"\.{os.getpid()}\b", ".PID", name)


def _limit_files(size: int) -> None:
    """Let the kernel kill this process when it writes beyond ``size`` bytes of any file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
