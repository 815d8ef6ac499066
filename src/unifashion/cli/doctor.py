"""``unifashion doctor``: what data lies in a folder, what it lacks, and what is wrong with it.

unifashion doctor dataset                     every data set below the data root
unifashion doctor my_shop --quick             a catalogue of your own, without opening its images
unifashion doctor dataset --json report.json

Exit code 0: nothing wrong; 1: problems, each with its fix; 2: the command was wrong.
"""

import argparse
import json
import sys
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("path", metavar="PATH", type=Path, help="data root, or the folder of one data set")
    parser.add_argument("--quick", action="store_true", help="only see that images are there, do not open them")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="also write everything that was found, in full, to this file"
    )


def run(flags: argparse.Namespace) -> int:
    """Print what was found; return 1 where something is wrong."""
    from unifashion.apps.doctor import as_json, examine, format_reports
    from unifashion.errors import UserError

    reports = examine(flags.path, flags.quick)
    sys.stdout.write(format_reports(reports) + "\n")
    found = as_json(reports)
    if flags.json is not None:
        try:
            flags.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {flags.json}: cannot be written ({error.strerror}); name another file") from None
    return 1 if found["problems"] else 0
