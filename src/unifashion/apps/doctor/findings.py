"""The doctor's report on one data set, as a record, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Level = Literal["problem", "note"]
Splits = dict[str, list[Path]]  # the images of each split
NUM_EXAMPLES = 3


@dataclass(frozen=True)
class Count:
    """How many of something were found, and how many the complete set has (None = unknown)."""

    what: str
    found: int
    expected: int | None = None

    @property
    def words(self) -> str:
        """Return "5,985" or "5,000 of 5,985"."""
        if self.expected in (None, self.found):
            return f"{self.found:,}"
        return f"{self.found:,} (the complete set has {self.expected:,})"


@dataclass(frozen=True)
class Finding:
    """One sentence, with the fix where something is wrong; ``items`` are all files or names that it is about."""

    level: Level
    text: str
    items: tuple[str, ...] = ()


@dataclass
class SetReport:
    """One data set: where, how much, what is wrong."""

    name: str
    folder: str
    licence: str
    counts: list[Count] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    num_bytes: int = 0

    @property
    def num_problems(self) -> int:
        """Return how many findings are problems."""
        return sum(finding.level == "problem" for finding in self.findings)

    def problem(self, text: str, items: Sequence[str] = ()) -> None:
        """Add a problem."""
        self._add(Finding("problem", text, tuple(items)))

    def note(self, text: str, items: Sequence[str] = ()) -> None:
        """Add something that is worth knowing but not a problem."""
        self._add(Finding("note", text, tuple(items)))

    def _add(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.append(finding)


def report_missing(report: SetReport, split: str, missing: Sequence[str], num_listed: int) -> None:
    """Add a problem where images of a split are listed but missing."""
    if missing:
        share = 100 * len(missing) / max(num_listed, 1)
        report.problem(
            f"{len(missing):,} of {num_listed:,} images of {split} are listed but missing ({share:.1f} %); fetch them",
            missing,
        )


def format_reports(reports: Sequence[SetReport]) -> str:
    """Return the reports as text for a terminal, with a verdict at the end."""
    blocks = [_block(report) for report in reports]
    num_problems = sum(report.num_problems for report in reports)
    sets = f"{len(reports)} data set{'s' if len(reports) > 1 else ''}"
    problems = f"{num_problems} problem{'s' if num_problems != 1 else ''}" if num_problems else "no problems"
    return "\n\n".join([*blocks, f"{sets}, {problems}"])


def _block(report: SetReport) -> str:
    lines = [f"{report.name}   {report.folder}   {report.num_bytes / 2**20:,.1f} MiB"]
    width = max((len(count.what) for count in report.counts), default=0)
    lines += [f"  {count.what:<{width}}  {count.words}" for count in report.counts]
    for finding in sorted(report.findings, key=lambda finding: finding.level == "note"):
        lines.append(f"  {'PROBLEM' if finding.level == 'problem' else 'note   '}  {finding.text}")
        lines += [f"             {item}" for item in finding.items[:NUM_EXAMPLES]]
        if len(finding.items) > NUM_EXAMPLES:
            lines.append(f"             and {len(finding.items) - NUM_EXAMPLES:,} more (--json lists them all)")
    lines.append(f"  licence  {report.licence}")
    return "\n".join(lines)


def as_json(reports: Sequence[SetReport]) -> dict[str, Any]:
    """Return the reports as a JSON object: {"problems": 2, "sets": [{"name": ..., "counts": [...], "findings": [...]}]}."""
    return {
        "problems": sum(report.num_problems for report in reports),
        "sets": [
            {
                "name": report.name,
                "folder": report.folder,
                "bytes": report.num_bytes,
                "licence": report.licence,
                "counts": [{"what": c.what, "found": c.found, "expected": c.expected} for c in report.counts],
                "findings": [{"level": f.level, "text": f.text, "items": list(f.items)} for f in report.findings],
            }
            for report in reports
        ],
    }
