"""dataset/README.md says what the code does: its sets, its counts, its commands."""

import re
from pathlib import Path

import pytest

from unifashion.apps.doctor import sets
from unifashion.apps.prepare import PLANS
from unifashion.cli import COMMANDS
from unifashion.config import COMPOSED_SETS, IMAGE_TEXT_SETS

README = (Path(__file__).resolve().parents[2] / "dataset" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*IMAGE_TEXT_SETS, *COMPOSED_SETS, *sets.SETS])
def test_every_data_set_has_a_row(name):
    assert f"(`{name}`" in README


def test_the_counts_are_those_the_doctor_expects():
    tables = [sets.FASHIONGEN_PAIRS, sets.CIRR_QUERIES, sets.CIRCO_QUERIES, sets.VITONHD_PAIRS, sets.DRESSCODE_PAIRS]
    counts = [count for table in tables for count in table.values()] + [sets.CIRCO_IMAGES]
    for table in (sets.FASHIONIQ_QUERIES, sets.FASHIONIQ_IMAGES):
        counts += [count for split in ("train", "val") for count in table[split]]
    absent = [count for count in counts if not re.search(rf"(?<![\d,]){count:,}(?!\d|,\d)", README)]
    assert not absent


def test_every_command_exists():
    commands = re.findall(r"unifashion ([a-z-]+)(?: ([a-z0-9]+))?", README)
    assert {command for command, _ in commands if command in COMMANDS} == {"prepare", "doctor", "check-submission"}
    prepared = {name for command, name in commands if command == "prepare" and name}
    assert prepared - {"tryon"} == set(PLANS) - {"tryon"}
