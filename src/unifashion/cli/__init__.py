"""The ``unifashion`` command: one sub-command is one name in ``COMMANDS`` and one module of this package.

    unifashion --help
    unifashion convert blip2_cir_rerank.pt runs/published

Without the package installed: ``PYTHONPATH=src python -m unifashion.cli``. A module has ``Settings`` (see ``unifashion.flags``)
and ``run(settings)``, which returns nothing or an exit code; ``--help`` begins with its docstring. Slow imports are
inside ``run``, so that help and wrong command lines are answered at once.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from unifashion.errors import UserError, exit_with_one_sentence, nearest
from unifashion.flags import parse

COMMANDS = "prepare report doctor check-submission score-images index search demo caption design convert".split()


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command."""
    name, *words = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
        raise SystemExit(0)
    if name not in COMMANDS:
        problem = f"unknown command {name!r}{nearest(name, COMMANDS)}" if name else "name a command"
        raise UserError(f"{problem}; see unifashion --help")
    module = load(name)  # of this command alone
    (settings,) = parse([module.Settings], words, str(module.__doc__), f"unifashion {name}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if code := module.run(settings):
        sys.exit(code)


def load(name: str) -> ModuleType:
    """Import the module of a sub-command."""
    return importlib.import_module(f"unifashion.cli.{name.replace('-', '_')}")


def overview() -> str:
    """Return the text of ``unifashion --help``: every command with the first line of its docstring."""
    lines = (f"    {name:18}{str(load(name).__doc__).splitlines()[0]}" for name in COMMANDS)
    head = "UniFashion on the command line. Every command has a --help of its own."
    return "\n".join(["usage: unifashion COMMAND ...", "", head, "", *lines, ""])
