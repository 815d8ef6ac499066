"""Every training takes the steps that tests/golden/steps.json records: what shall change no training, changed none.

On the machine of the record, with its libraries, losses, metrics and weights are equal to the last bit. Elsewhere the first
losses are close; without MKL not even they, because torch then draws the negatives from another stream of random numbers.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from golden.steps import RECORD, RESUMED, TRAININGS, differences

SCRIPT = Path(__file__).resolve().parents[1] / "golden" / "steps.py"
FIRST, CLOSE = 3, 1e-3  # elsewhere: so many losses, so close; another hard negative may part the later ones


def first_losses(run: dict) -> list[float]:
    return [float.fromhex(loss) for loss in run["losses"][:FIRST]] or [float(run["metrics"]["loss"][0])]


@pytest.mark.parametrize("family", TRAININGS)
def test_trainings_take_the_recorded_steps_and_resumed_ones_those_of_one_never_stopped(family, tmp_path):
    command = [sys.executable, str(SCRIPT), family, "--output", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, record = json.loads((tmp_path / "found.json").read_text()), json.loads(RECORD.read_text())
    assert not differences(found["runs"][f"{family}{RESUMED}"], found["runs"][family])
    assert [*found["runs"]] == [name for name in record["runs"] if name.partition(",")[0] == family]
    for name, run in found["runs"].items():
        if found["machine"] == record["machine"]:
            assert not differences(run, record["runs"][name]), name
        elif found["machine"]["mkl"] == record["machine"]["mkl"]:
            assert first_losses(run) == pytest.approx(first_losses(record["runs"][name]), rel=CLOSE), name


def test_the_last_bit_of_a_loss_or_of_the_weights_makes_a_difference():
    run = json.loads(RECORD.read_text())["runs"]["pretrain"]
    *before, last = run["losses"]
    next_to_it = math.nextafter(float.fromhex(last), math.inf).hex()
    assert not differences(run, run)
    for change in (
        {"losses": [*before, next_to_it]},
        {"losses": before},
        {"metrics": {**run["metrics"], "more": ["1"]}},
        {"weights": f"0{run['weights'][1:]}"},
    ):
        assert len(differences({**run, **change}, run)) == 1
