"""The ``unifashion`` command: one sub-command is one row of ``COMMANDS`` and one module of this package.

    unifashion --help
    unifashion convert blip2_cir_rerank.pt runs/published

Without the package installed: ``PYTHONPATH=src python -m unifashion.cli``. A module has ``add_flags(parser)`` and ``run(flags)``;
``run`` returns nothing, or an exit code. Only the module of the sub-command in use is imported.
"""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from unifashion.errors import UserError, exit_with_one_sentence, nearest

COMMANDS = {
    "prepare": "turn original downloads into what training reads",
    "report": "make one page about one or several runs: scores, curves, answers, groups",
    "doctor": "say what data lies in a folder, what it lacks, and what is wrong with it",
    "check-submission": "check a file for the server of CIRR or CIRCO before it is uploaded",
    "score-images": "measure a folder of try-on results: SSIM, LPIPS, FID, KID, CLIP-S",
    "index": "make an index of a catalogue, to search it",
    "search": "find items of an index by words, by images, or by both",
    "demo": "search an index in the browser, with a JSON API beside it",
    "caption": "describe images in words",
    "convert": "turn checkpoints of others into a UniFashion model, or back",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = _Parser(prog="unifashion", description="UniFashion on the command line.", allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        sub = commands.add_parser(name, help=purpose, description=f"{purpose}.", allow_abbrev=False)
        if name == chosen:
            module = importlib.import_module(f"unifashion.cli.{name.replace('-', '_')}")
            module.add_flags(sub)
            sub.set_defaults(run=module.run, parser=sub)
    flags, rest = parser.parse_known_args(words)
    if rest:
        known = [option for action in flags.parser._actions for option in action.option_strings]
        raise UserError(f"unknown argument {rest[0]}{nearest(rest[0], known)}; see {flags.parser.prog} --help")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    code = flags.run(flags)
    if code:
        sys.exit(code)
