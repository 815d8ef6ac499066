"""Say what data lies in a folder, what it lacks, and what is wrong with it.

    unifashion doctor dataset                     every data set below the data root
    unifashion doctor my_shop --quick             a catalogue of your own, without opening its images
    unifashion doctor dataset --json report.json

Exit code 0: nothing wrong; 1: problems, each with its fix; 2: the command was wrong.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from unifashion.flags import argument, setting
from unifashion.io import check_output, write_json


@dataclass(frozen=True)
class Settings:
    """Examination: of what, and how thorough."""

    path: Path = argument("data root, or the folder of one data set")
    quick: bool = setting(False, "only check that images exist, without opening them")
    json: Path | None = setting(None, "also write all problems, in full, to this file")


def run(settings: Settings) -> int:
    """Print what is there and what is wrong; return 1 where something is."""
    from unifashion.apps.doctor import as_json, examine, format_reports

    if settings.json is not None:
        check_output(settings.json, "--json", is_file=True)
    reports = examine(settings.path, settings.quick)
    sys.stdout.write(format_reports(reports) + "\n")
    record = as_json(reports)
    if settings.json is not None:
        write_json(settings.json, record)
    return 1 if record["problems"] else 0
