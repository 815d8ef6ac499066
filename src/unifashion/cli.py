"""The ``unifashion`` command.

    unifashion convert blip2_cir_rerank.pt runs/published       an original checkpoint becomes a model folder
    unifashion convert Salesforce/blip2-itm-vit-g models/blip2  so does a Hugging Face BLIP-2
    unifashion convert runs/cir/best mine.pt --to lavis         and back, for the code of LAVIS, SPRC and UniFashion

Without the package installed: ``PYTHONPATH=src python -m unifashion.cli``. A new sub-command is one row of ``COMMANDS``.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from unifashion.errors import UserError, exit_with_one_sentence, nearest


@dataclass(frozen=True)
class Command:
    """One sub-command: a line of help, its flags, and what it does with them."""

    purpose: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _convert_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="IN",
        help="a .pt/.pth of UniFashion, SPRC or LAVIS, a Hugging Face BLIP-2 (folder or hub id), or a UniFashion model",
    )
    parser.add_argument("out", metavar="OUT", help="model folder to write; with --to lavis a .pt file")
    parser.add_argument(
        "--to", choices=("unifashion", "lavis"), default="unifashion", help="form to write [%(default)s]"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="tokenizer of the checkpoint, folder or hub id [its own, else bert-base-uncased]; [DEC] is added where it lacks; "
        "if NAME has the weights of a BERT, they fill in text parts that the checkpoint lacks",
    )
    parser.add_argument(
        "--vision-tower",
        metavar="NAME",
        help="image tower for a checkpoint without one, such as blip2_pretrained.pth: LAVIS' eva_vit_g.pth or "
        "clip_vit_L.pth, or any checkpoint that has it [one of these files, if it lies beside IN]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def _convert(flags: argparse.Namespace) -> None:
    from unifashion.convert import convert

    out = convert(flags.source, flags.out, flags.to, flags.tokenizer, flags.vision_tower, flags.overwrite)
    sys.stdout.write(f"written to {out}\n")


COMMANDS = {
    "convert": Command("turn checkpoints of others into a UniFashion model, or back", _convert_flags, _convert),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Run one sub-command."""
    parser = _Parser(prog="unifashion", description="UniFashion on the command line.", allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.purpose, description=f"{command.purpose}.", allow_abbrev=False)
        command.add_flags(sub)
        sub.set_defaults(run=command.run, parser=sub)
    flags, rest = parser.parse_known_args(argv)
    if rest:
        known = [option for action in flags.parser._actions for option in action.option_strings]
        raise UserError(f"unknown argument {rest[0]}{nearest(rest[0], known)}; see {flags.parser.prog} --help")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags.run(flags)


if __name__ == "__main__":
    main()
