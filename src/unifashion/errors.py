"""What a user can mend is said in one sentence; everything else is a bug and keeps its traceback.

Library code raises ``UserError`` for bad input. Entry points wrap their ``main`` in ``exit_with_one_sentence``,
which prints that sentence to stderr and leaves with exit code 2.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input from the outside: names the file, row or flag, and the fix."""


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name closest to ``name``, or an empty string."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def sentence(error: UserError) -> str:
    """Return what the error says, without the traceback that torch puts before errors of its loader processes."""
    last = str(error).rstrip().splitlines()[-1]
    return last.removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")


def exit_with_one_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap an entry point: a ``UserError`` becomes ``error: ...`` and exit code 2, Ctrl-C exit code 130."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            sys.stderr.write(f"error: {sentence(error)}\n")
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
            raise SystemExit(130) from None

    return wrapped
