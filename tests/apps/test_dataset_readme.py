"""The tables of dataset/README.md say what the rows of data/datasets.py say; its commands exist."""

import re
from pathlib import Path

import pytest

from unifashion.apps.prepare import prepared_sets
from unifashion.cli import COMMANDS
from unifashion.data.datasets import DATASETS

README = (Path(__file__).resolve().parents[2] / "dataset" / "README.md").read_text(encoding="utf-8")
SPECS = pytest.mark.parametrize("spec", DATASETS, ids=lambda spec: f"{spec.name}, {spec.kind}")


def table(first_column):
    """Return the rows of the table whose first column is called so: cells by the row's first cell, without its code."""
    lines = iter(README.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    next(lines)
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows[cells[0].partition(" (`")[0]] = cells
    return rows


SOURCES, COUNTS = table("set (`--dataset`)"), table("set")


@SPECS
def test_every_data_set_is_listed_with_its_source_its_licence_and_its_folder(spec):
    name, _, source, licence, folder = SOURCES[spec.title]
    assert f"(`{spec.name}`" in name
    assert (source, licence) == (spec.source, spec.licence)
    assert f"`{spec.folder}/`" in folder


def test_no_row_of_the_readme_is_about_a_data_set_that_is_not_known():
    titles = {spec.title for spec in DATASETS}
    extensions = {title for title in SOURCES if title.startswith("MGD: ")}
    assert set(SOURCES) - extensions == titles == set(COUNTS)


@SPECS
def test_the_counts_are_those_that_the_doctor_expects(spec):
    counts = COUNTS[spec.title][2]
    absent = [what for what, count in spec.counts.items() if not re.search(rf"(?<![\d,]){count:,}(?!\d|,\d)", counts)]
    assert [what for what in absent if not (spec.name == "fashioniq" and what.startswith("test "))] == []


@SPECS
def test_the_command_that_prepares_it_is_named_where_there_is_one(spec):
    prepare = COUNTS[spec.title][1]
    command = {"": "", "tryon": "unifashion prepare tryon"}.get(spec.prepare, f"unifashion prepare {spec.name}")
    assert command in prepare and (command or not prepare.startswith("`"))


def test_every_command_exists():
    commands = re.findall(r"unifashion ([a-z-]+)(?: ([a-z0-9]+))?", README)
    assert {command for command, _ in commands if command in COMMANDS} == {"prepare", "doctor", "check-submission"}
    prepared = {name for command, name in commands if command == "prepare" and name}
    assert prepared == {spec.name for spec in prepared_sets()} | {"tryon"}
