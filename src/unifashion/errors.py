"""Errors that a user can fix are one sentence; everything else is a bug and keeps its traceback.

Library code raises ``UserError`` for bad input. Entry points wrap their ``main`` in ``exit_with_one_sentence``,
which prints that sentence to stderr and exits with code 2.
"""

import errno
import functools
import importlib.util
import io
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NoReturn

# Optional packages, and the extra of pyproject.toml that installs each.
EXTRAS = {
    "faiss": "search",
    **dict.fromkeys(("pymilvus", "milvus_lite", "grpc"), "milvus"),
    **dict.fromkeys(("gradio", "fastapi", "uvicorn", "starlette", "pydantic"), "demo"),
    "matplotlib": "report",
    **dict.fromkeys(("peft", "pycocoevalcap"), "captions"),
    **dict.fromkeys(("diffusers", "torchmetrics"), "tryon"),
    "h5py": "data",
    "bitsandbytes": "quantized",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


class UserError(ValueError):
    """Bad input from the user: the message names the file, row or flag, and the fix."""


def require(package: str, what: str) -> None:
    """Check that an optional package is installed, before importing it or starting long work that ends up needing it.

    Raises:
        UserError: it is not; names what needs it, and the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(missing(package, what))


def missing(package: str, what: str) -> str:
    """Return the message for an optional package that ``what`` needs and that is not installed."""
    return f"{what} needs the package {package}: pip install 'unifashion[{EXTRAS[package]}]'"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to ``name``, or an empty string."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_line(error: BaseException, length: int = 200) -> str:
    """Return what a library's error says, in one line: of a traceback within its message, the line that says what was raised."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    if "Traceback" in text:
        raised = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt|Exit): *(\S.*)", text, re.MULTILINE)
        text = raised[-1] if raised else text
    words = " ".join(text.split()) or type(error).__name__
    return words if len(words) <= length else words[: length - 3] + "..."


def sentence(error: UserError) -> str:
    """Return the whole message in one line, without the traceback that torch prepends to errors of its loader processes."""
    message = str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2]
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def exit_with_one_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap an entry point: a ``UserError`` becomes ``error: ...`` and exit code 2, Ctrl-C exit code 130.

    A missing optional package that was not checked with ``require``, and a file that the machine refuses to write or open (a full
    disk, missing rights), are reported in the same way. When the reader of the output has gone, as in ``... | head``, the program
    leaves silently. Characters that the terminal cannot show are escaped.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                main(argv)
            except SystemExit:
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # not at exit, where nothing could be said about a failure
        except UserError as error:
            _leave(sentence(error))
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in EXTRAS:
                raise
            _leave(missing(package, "this command"))
        except OSError as error:
            _leave_where_the_machine_refuses(error)
            raise
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise SystemExit(130) from None

    return wrapped


def _leave_where_the_machine_refuses(error: OSError) -> None:
    """Leave if the error says something about the machine, and not about the program."""
    file = error.filename2 or error.filename
    if isinstance(error, BrokenPipeError) and file is None and _reader_has_gone():
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at exit, and complains
        raise SystemExit(128 + 13) from None  # as if SIGPIPE had ended it
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        _leave(f"{file or 'the output'} cannot be written: the disk is full; make room and run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG) and file is not None:
        _leave(f"{file} cannot be used ({error.strerror}); change its rights, or name another file or folder")


def _reader_has_gone() -> bool:
    """Return whether the standard output is a pipe that nobody reads from any more."""
    try:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)  # what poll() then returns is an error or a hang-up
    except (OSError, ValueError):  # it is not a file
        return False
    return bool(output.poll(0))


def _leave(problem: str) -> NoReturn:
    sys.stderr.write(f"error: {problem}\n")
    raise SystemExit(2) from None
