"""Errors that a user can fix are one sentence; everything else is a bug and keeps its traceback.

Library code raises ``UserError`` for bad input. Entry points wrap their ``main`` in ``exit_with_one_sentence``,
which prints that sentence to stderr and exits with code 2.
"""

import functools
import importlib.util
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


def sentence(error: UserError) -> str:
    """Return the message without the traceback that torch prepends to errors of its loader processes."""
    last = str(error).rstrip().splitlines()[-1]
    return last.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")


def exit_with_one_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap an entry point: a ``UserError`` becomes ``error: ...`` and exit code 2, Ctrl-C exit code 130.

    A missing optional package that was not checked with ``require`` is reported in the same way.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            _leave(sentence(error))
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            if package not in EXTRAS:
                raise
            _leave(missing(package, "this command"))
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise SystemExit(130) from None

    return wrapped


def _leave(problem: str) -> NoReturn:
    sys.stderr.write(f"error: {problem}\n")
    raise SystemExit(2) from None
