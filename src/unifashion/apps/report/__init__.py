"""One page about one or more runs: ``write_report(runs, out)`` makes a self-contained HTML file and its figures as PNG."""

from unifashion.apps.report.page import write_report

__all__ = ["write_report"]
