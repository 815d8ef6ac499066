"""Make one page about one or more runs: scores, curves, answers, groups.

    unifashion report runs/quickstart/pretrain runs/quickstart/cir_ft -o report.html

The page needs no other file and no network. Its figures also lie beside it as PNG. It shows pictures of the runs and of the data
folder, and no others: the answers of somebody else's run may name any file.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from unifashion.data.settings import default_root
from unifashion.flags import argument, setting


@dataclass(frozen=True)
class Settings:
    """Report: about which runs, written where."""

    run: tuple[Path, ...] = argument("run folder, or a folder with a scores.json")
    out: Path = setting(Path("report.html"), "HTML file to write", short="-o")
    figures: Path | None = setting(None, "folder for the figures as PNG [FILE_figures]")
    data_root: tuple[Path, ...] = setting(
        (), "whose pictures may be shown [$UNIFASHION_DATA, else dataset/]", repeat=True
    )


def run(settings: Settings) -> None:
    """Write the report and say where it is."""
    from unifashion.apps.report import write_report
    from unifashion.io import check_output

    check_output(settings.out, "--out", is_file=True)
    if settings.figures is not None:
        check_output(settings.figures, "--figures")
    data_roots = settings.data_root or [default_root()]
    page, figures = write_report(settings.run, settings.out, settings.figures, data_roots)
    size, folder = page.stat().st_size / 2**20, figures[0].parent if figures else "-"
    sys.stdout.write(f"{page} ({size:.1f} MiB), and {len(figures)} figures in {folder}\n")
