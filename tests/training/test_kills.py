"""A training that is killed anywhere goes on as if nothing had happened: with --resume or, where it had not begun, once more.

A sample of the points is tried here; all of them with ``pytest -m slow tests/training/test_kills.py``.
"""

import csv
import importlib.util
import io
import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch

import kill
from golden.small_sets import draw_sets
from small_disk import filled

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--image-size 32 --batch-size 16 --num-epochs 2 --max-steps 4 --warmup-epochs 1 --save-steps 3 --keep-last 1 --eval-every 1 "
    "--num-queries 8 --num-draws 1 --num-negatives 4"
)
SMALL_TRYON = (
    "--dataset vitonhd --height 24 --width 18 --batch-size 4 --warmup-steps 2 --decay-steps 3 --log-steps 1 --save-steps 2 "
    "--validate-steps 2 --num-validation-images 1 --validation-inference-steps 1 --ema-decay 0.5 --max-steps 3 --keep-last 1"
)
KINDS = {
    "phase 1": f"--config {ROOT}/configs/quickstart/pretrain.yaml {SMALL} --ema-decay 0.5",
    "phase 2": f"--config {ROOT}/configs/quickstart/cir_ft.yaml {SMALL} --init-from START",
    "try-on": f"--config {ROOT}/configs/quickstart/tryon.yaml {SMALL_TRYON}",
}
POINTS = 2  # of each kind, in the sample
# What a clock, a commit or a library puts into JSON, or follows from it.
VARYING = {"git", "started", "ended", "seconds", "lengths", "hash", "_name_or_path"}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Return a function that trains a kind in a run folder, as a command line would; flags are added, or taken with --resume."""
    place = tmp_path_factory.mktemp("place")
    draw_sets(place / "data")
    sys.path.insert(0, str(ROOT / "src"))
    import blip_train

    spec = importlib.util.spec_from_file_location("train_tryon", ROOT / "src" / "UNIStableVITON" / "train.py")
    tryon_train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tryon_train)
    data = ["--data-root", str(place / "data")]

    def command(kind, run, *more, resume=False):
        main = tryon_train.main if kind == "try-on" else blip_train.main
        flags = KINDS[kind].replace("START", str(place / "start")).split()
        words = ["--resume", str(run)] if resume else [*flags, "--output-dir", str(run)]

        def action():
            sys.stdout = sys.stderr = (place / "log").open("w")  # flushed and closed by the end of the fork
            main([*words, *data, *more])

        return action

    command.log = place / "log"
    assert kill.in_a_process(command("phase 1", place / "start", "--max-steps", "1", "--eval-every", "0")) == 0
    return command


def plain(value):
    """Return a state without tensors, which Python can compare."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items() if name not in VARYING}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def facts(run):
    """Return everything in a run folder, without what a clock or a library puts into it."""
    found = {}
    for name, content in kill.contents(run).items():
        last = name.rpartition("/")[2]
        if last == "tokenizer_config.json":
            continue  # transformers adds how it was read, when it was read
        if last == "manifest.json":  # the hashes of the files, which are compared themselves
            found[name] = [*json.loads(content)["files"]]
        elif last.endswith(".json"):
            found[name] = plain(json.loads(content))
        elif last.endswith(".csv"):
            found[name] = [plain(row) for row in csv.DictReader(io.StringIO(content.decode()))]
        elif last == "state.pt":
            found[name] = plain(torch.load(io.BytesIO(content), weights_only=True))
        else:
            found[name] = content
    return found


def go_on(train, kind, run, *more):
    """Do what a user does after a kill; return what was said where it had not begun."""
    said = ""
    if (run / "run.json").is_file():
        if kill.in_a_process(train(kind, run, resume=True)) == 0:
            return said
        said = train.log.read_text()
        assert said.endswith("it ended before it had begun; start it again with the command that made it\n")
    assert kill.in_a_process(train(kind, run, *more)) == 0, train.log.read_text()
    return said


def differences(run, whole):
    found = facts(run)
    return sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))


def try_points(train, kind, run, chosen):
    whole, wrong = facts(run), {}
    for point in chosen:
        shutil.rmtree(run)
        kill.killed_at(train(kind, run), run, point)
        go_on(train, kind, run)
        if different := differences(run, whole):
            wrong[str(point)] = different
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(kind, train, tmp_path):
    run = tmp_path / "run"
    every = kill.points(kill.operations(train(kind, run), run))
    assert len(every) > 150
    try_points(train, kind, run, random.Random(kind).sample(every, POINTS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_anywhere_goes_on_as_if_nothing_had_happened(kind, train, tmp_path):
    run = tmp_path / "run"
    try_points(train, kind, run, kill.points(kill.operations(train(kind, run), run)))


@pytest.fixture(scope="module")
def replaced(train, tmp_path_factory):
    """A finished run; and the points until the one that replaces it has begun."""
    run = tmp_path_factory.mktemp("replaced") / "run"
    assert (
        kill.in_a_process(train("phase 2", run, "--overwrite")) == 0
    )  # its config.yaml says so, like that of the next
    shutil.copytree(run, run.with_name("before"))
    names = kill.operations(train("phase 2", run, "--overwrite"), run)
    until = next(number for number, name in enumerate(names) if name.startswith("append train"))
    return run, [point for point in kill.points(names) if point.number < until]


def replace_and_kill(train, run, chosen):
    whole = facts(run)
    for point in chosen:
        shutil.rmtree(run)
        shutil.copytree(run.with_name("before"), run)
        kill.killed_at(train("phase 2", run, "--overwrite"), run, point)
        status = kill.in_a_process(train("phase 2", run, resume=True))
        # --resume takes the old run, complete as it was, or the new one; or says that there is neither yet.
        assert (status, differences(run, whole)) == (0, []) or train.log.read_text().startswith("error: "), point
        assert kill.in_a_process(train("phase 2", run, "--overwrite")) == 0, (point, train.log.read_text())
        assert not differences(run, whole), point


def test_a_kill_while_an_old_run_is_replaced_leaves_the_old_one_or_none(train, replaced):
    run, every = replaced
    replace_and_kill(train, run, [random.Random(0).choice(every)])


@pytest.mark.slow
def test_a_kill_anywhere_while_an_old_run_is_replaced_leaves_the_old_one_or_none(train, replaced):
    replace_and_kill(train, *replaced)


def fill_up(train, run, disk, levels):
    """Train on a disk with so little room, make room, and go on."""
    assert kill.in_a_process(train("phase 2", run)) == 0
    whole = facts(run)
    ends = set()
    for leave in levels:
        shutil.rmtree(run)
        with filled(disk, leave):
            status = kill.in_a_process(train("phase 2", run))
        said = train.log.read_text().splitlines()
        if status == 2:
            assert said[-1].startswith("error: ") and "Traceback" not in said, said
            ends.add(said[-1].partition(" cannot be written")[0])
        else:
            assert status == 0, said
        assert not [path for path in run.rglob(".*") if path.name != ".lock"], leave
        go_on(train, "phase 2", run) if status else None
        assert not differences(run, whole), leave
    return ends


def test_a_run_that_fills_the_disk_says_so_and_goes_on_when_there_is_room(train, small_disk):
    disk = small_disk(64)
    assert len(fill_up(train, disk / "run", disk, (8, 28_000))) == 2


@pytest.mark.slow
def test_a_run_that_fills_the_disk_anywhere_says_so_and_goes_on_when_there_is_room(train, small_disk):
    disk = small_disk(64)
    assert len(fill_up(train, disk / "run", disk, (*range(0, 60, 4), *range(1000, 40_000, 1500)))) > 3
