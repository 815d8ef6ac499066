"""``unifashion report``: one page about one or several runs.

unifashion report runs/quickstart/pretrain runs/quickstart/cir_ft -o report.html

The page needs no other file and no network. Its figures also lie beside it as PNG.
"""

import argparse
import sys
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folder, or a folder with a scores.json")
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, default=Path("report.html"), help="HTML file to write [%(default)s]"
    )
    parser.add_argument("--figures", metavar="DIR", type=Path, help="folder for the figures as PNG [FILE_figures]")


def run(flags: argparse.Namespace) -> None:
    """Write the report and say where it is."""
    from unifashion.apps.report import write_report

    page, figures = write_report(flags.runs, flags.out, flags.figures)
    size = page.stat().st_size / 2**20
    sys.stdout.write(
        f"{page} ({size:.1f} MiB), and {len(figures)} figures in {figures[0].parent if figures else '-'}\n"
    )
