"""A run that was stopped anywhere and resumed is the run that never stopped: the same metrics, the same weights, bit for bit."""

import csv
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import kill
from unifashion import io
from unifashion.errors import UserError
from unifashion.io import lock
from unifashion.training import checkpoint, trainer
from unifashion.training.resume import parse_settings
from unifashion.training.run_folder import RunFolder, open_run
from unifashion.training.trainer import Trainer

SOURCE = Path(__file__).resolve().parents[2] / "src"
METRICS = ("train_metrics.csv", "validation_metrics.csv")
AVERAGED = ("--ema-decay", "0.5")


@pytest.fixture(scope="module")
def blip_train():
    sys.path.insert(0, str(SOURCE))
    import blip_train

    return blip_train


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Twenty-four products, four of them for validation."""
    folder = tmp_path_factory.mktemp("shop")
    chance = random.Random(0)
    lines = ["image,text,split"]
    for number in range(24):
        colour = tuple(chance.randrange(256) for _ in range(3))
        Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
        lines.append(
            f"{number}.png,garment number {number} in {colour[0]} {colour[1]},{'val' if number > 19 else 'train'}"
        )
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def flags(shop):
    settings = {
        "data-root": shop,
        "dataset": "catalogue",
        "image-size": 32,
        "architecture": "tiny",
        "tokenizer": "train",
        "num-epochs": 3,
        "batch-size": 4,
        "learning-rate": 1e-3,
        "save-steps": 2,
    }
    return ["--augment", "--no-freeze-vision", *(str(w) for k, v in settings.items() for w in (f"--{k}", v))]


@pytest.fixture(scope="module")
def whole(blip_train, flags, tmp_path_factory):
    """The run that never stopped: three epochs of five steps."""
    run = tmp_path_factory.mktemp("whole") / "run"
    blip_train.main([*flags, "--output-dir", str(run)])
    return run


def in_a_process(work):
    """Run ``work`` in a process of its own; return how it ended (minus the number of the signal that killed it)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as leave:
            code = leave.code or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def after(count, function, then):
    """Call ``function`` until it was called ``count`` times, and ``then`` from there on."""
    calls = iter(range(10**6))
    return lambda *a, **k: (then if next(calls) >= count else function)(*a, **k)


def half_a_file(state, path):
    """What a kill inside ``torch.save`` leaves."""
    Path(path).write_bytes(b"half")
    die()


def assert_same_run(run, whole):
    for name in METRICS:
        ours, theirs = ([*csv.DictReader((folder / name).open(newline=""))] for folder in (run, whole))
        for row in [*ours, *theirs]:
            row.pop("seconds", None)
        assert ours == theirs and ours
    for name in ("best", "last"):
        ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (run, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    facts = [json.loads((folder / "run.json").read_text()) for folder in (run, whole)]
    assert facts[0]["state"] == facts[1]["state"] == "complete" and facts[0]["best"] == facts[1]["best"]


def half_a_row(run, name, rows):
    """What a kill inside the writing of a row of metrics leaves."""
    with (run.path / name).open("a") as file:
        file.write(",".join(map(str, rows[0].values()))[:9])
    die()


def update_and_die(*args, update_progress=checkpoint.update_progress):
    update_progress(*args)
    die()


KILLS = {
    "before the first checkpoint": (Trainer, "_train_batch", 1, die),
    "inside an epoch": (Trainer, "_train_batch", 8, die),
    "inside the writing of a checkpoint": (torch, "save", 3, half_a_file),
    "before a checkpoint gets its name": (io, "to_disk", 25, die),
    "after an epoch's checkpoint, before last is linked": (trainer, "link_model", 2, die),
    "after an epoch's checkpoint, before its validation": (Trainer, "_validate", 1, die),
    "while the rows of a validation are written": (RunFolder, "append", 3, half_a_row),
    "after the first validation, before run.json names the best": (RunFolder, "update", 0, die),
    "after the first validation, before best is linked": (trainer, "link_model", 3, die),
    "after a validation, before its checkpoint knows of it": (trainer, "update_progress", 1, die),
    "after a validation, when its checkpoint knows of it": (trainer, "update_progress", 1, update_and_die),
}


def killed(blip_train, flags, run, owner, name, doomed):
    """Start a run in a process of its own in which ``owner.name`` is ``doomed``, and see that it dies of it."""

    def start():
        setattr(owner, name, doomed)
        blip_train.main([*flags, "--output-dir", str(run)])

    assert in_a_process(start) == -signal.SIGKILL
    assert json.loads((run / "run.json").read_text())["state"] == "running"


@pytest.mark.parametrize("point", KILLS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(point, blip_train, flags, whole, tmp_path):
    owner, name, count, then = KILLS[point]
    killed(blip_train, flags, tmp_path / "run", owner, name, after(count, getattr(owner, name), then))
    blip_train.main([*flags, "--resume", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 8), (signal.SIGTERM, 10)])
def test_a_run_that_was_told_to_stop_goes_on_where_it_stood(number, step, blip_train, flags, whole, tmp_path):
    """Step 8 lies inside an epoch; step 10 is the last of one, whose validation the resumed run owes."""
    run = tmp_path / "run"

    def stopped():
        Trainer._train_batch = after(
            step - 1, Trainer._train_batch, lambda *a: [os.kill(os.getpid(), number), original(*a)][1]
        )
        blip_train.main([*flags, "--output-dir", str(run)])

    original = Trainer._train_batch
    assert in_a_process(stopped) == 130
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    assert checkpoint.find_checkpoint(run).name == f"step_{step:08d}"
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, whole)


@pytest.fixture(scope="module")
def averaged(blip_train, flags, tmp_path_factory):
    """The same run with a moving average, and every checkpoint of it."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    blip_train.main([*flags, *AVERAGED, "--keep-last", "99", "--save-steps", "1", "--output-dir", str(run)])
    return run


def test_what_is_kept_is_the_average_of_the_weights_that_an_ordinary_run_takes(averaged, whole):
    average = None
    for step in range(1, 16):
        folder = averaged / "checkpoints" / f"step_{step:08d}"
        state, _ = checkpoint.read_state(folder)
        trained = {name.removeprefix("model."): tensor for name, tensor in state["average"]["trained"].items()}
        decay = min(0.5, step / (9 + step))
        average = {
            name: tensor if average is None else decay * average[name] + (1 - decay) * tensor
            for name, tensor in trained.items()
        }
        kept = load_file(folder / "model" / "model.safetensors")
        for name, tensor in average.items():
            torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=1e-6)
        average = {name: kept[name] for name in average}
    expected = load_file(whole / "last" / "model.safetensors")
    assert len(trained) > 50 and all(torch.equal(tensor, expected[name]) for name, tensor in trained.items())
    assert any(not torch.allclose(kept[name], expected[name], rtol=1e-3) for name in trained)
    assert (averaged / "last" / "model.safetensors").samefile(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("point", ["inside an epoch", "after an epoch's checkpoint, before its validation"])
def test_a_killed_run_with_an_average_goes_on_with_both(point, blip_train, flags, averaged, tmp_path):
    owner, name, count, then = KILLS[point]
    run, flags = tmp_path / "run", [*flags, *AVERAGED]
    killed(blip_train, flags, run, owner, name, after(count, getattr(owner, name), then))
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, averaged)
    (ours, _), (theirs, _) = (checkpoint.read_state(checkpoint.find_checkpoint(folder)) for folder in (run, averaged))
    ours, theirs = ours["average"], theirs["average"]
    assert ours["num_steps"] == theirs["num_steps"] == 15
    assert all(torch.equal(ours["trained"][name], tensor) for name, tensor in theirs["trained"].items())


def to_version_0_1(folder):
    """Rewrite a checkpoint as version 0.1 wrote it: progress inside state.pt, batches of the epoch called turn."""
    state, progress = checkpoint.read_state(folder)
    batch, count, _ = (progress.pop(name) for name in ("batch", "count", "validated_step"))
    assert count == batch
    torch.save({**state, "progress": {**progress, "turn": batch}}, folder / "state.pt")
    (folder / "progress.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.pt"] = io.file_stamp(folder / "state.pt")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def save_before_the_end_of_the_epoch(self, stop, after_step=Trainer._after_step):
    """What version 0.1 left that was stopped in the last batch of an epoch: neither logged nor validated nor counted."""
    if self.progress.step == 10:
        self._save()
        die()
    after_step(self, stop)


@pytest.mark.parametrize(("name", "doomed", "step"), [
    ("_train_batch", after(8, Trainer._train_batch, die), 8),
    ("_train_batch", after(10, Trainer._train_batch, die), 10),
    ("_after_step", save_before_the_end_of_the_epoch, 10),
], ids=["inside an epoch", "at its end", "stopped in its last batch"])  # fmt: skip
def test_a_run_of_version_0_1_goes_on(name, doomed, step, blip_train, flags, whole, tmp_path):
    run = tmp_path / "run"
    killed(blip_train, flags, run, Trainer, name, doomed)
    newest = checkpoint.find_checkpoint(run)
    assert newest.name == f"step_{step:08d}"
    to_version_0_1(newest)
    assert checkpoint.find_checkpoint(run) == newest
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, whole)


def test_loader_processes_change_nothing(blip_train, flags, whole, tmp_path):
    blip_train.main([*flags, "--num-workers", "2", "--output-dir", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", whole)


def test_a_full_disk_is_one_sentence_and_the_run_can_go_on(blip_train, flags, whole, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", after(3, torch.save, full))
        with pytest.raises(SystemExit) as left:
            blip_train.main([*flags, "--output-dir", str(run)])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert " cannot be written: the disk is full; make room and continue with " in error
    assert error.endswith(f"--resume {run}\n")
    assert not [*(run / "checkpoints").glob(".*")]
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, whole)


def test_a_broken_checkpoint_is_skipped_for_the_one_before_it(blip_train, flags, whole, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    newest, former = sorted((run / "checkpoints").iterdir(), reverse=True)
    (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-1])
    assert checkpoint.find_checkpoint(run) == former
    assert f"{newest} is broken (state.pt differs from what was written)" in caplog.text
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, whole)


def test_only_so_many_checkpoints_are_kept_and_links_cost_no_space(whole):
    names = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert names == ["step_00000014", "step_00000015"]
    last = whole / "last" / "model.safetensors"
    assert last.samefile(whole / "checkpoints" / names[-1] / "model" / "model.safetensors")


def test_what_would_change_a_step_is_refused_and_what_would_not_is_taken(blip_train, flags, whole, shop):
    groups = (
        blip_train.DataSettings,
        blip_train.ModelSettings,
        blip_train.TrainingSettings,
        blip_train.EvaluationSettings,
    )
    settings = parse_settings(groups, ["--resume", str(whole), "--num-workers", "3", "--keep-last", "1"], "")
    assert settings[2].num_epochs == 3 and settings[0].num_workers == 3 and settings[2].output_dir == str(whole)
    with pytest.raises(UserError, match="it was started with --batch-size 4, now it is 8"):
        parse_settings(groups, ["--resume", str(whole), "--batch-size", "8"], "")
    with pytest.raises(UserError, match=r"not a run folder: it has no readable run\.json"):
        parse_settings(groups, ["--resume", str(shop)], "")


def test_training_data_that_changed_is_refused(blip_train, flags, whole, shop, tmp_path, capsys):
    other = tmp_path / "shop"
    shutil.copytree(shop, other)
    Image.new("RGB", (50, 50)).save(other / "3.png")
    with pytest.raises(SystemExit):
        blip_train.main(["--resume", str(whole), "--data-root", str(other)])
    assert "the training data has changed since the run was started" in capsys.readouterr().err


# As versions wrote it that kept no hash, with one value of another type.
EARLIER = {"step": 15, "epoch": 0, "batch": 5, "count": 5, "sums": {}, "seconds": 1.0, "best": None, "lengths": {}}
WRONG = [("batch", {}), ("epoch", -1), ("sums", []), ("lengths", {"x": "1"}), ("best", "x"), ("seconds", None)]
HASHLESS = [json.dumps({**EARLIER, name: value}).encode() for name, value in WRONG]
DAMAGE = {
    "progress.json": [b"", b"{}", b"[]", b'{"step": 15}', b'{"step": "15"}', None, *HASHLESS],
    "manifest.json": [
        b"",
        b"[]",
        b'{"files": 3}',
        b'{"files": {}}',
        b'{"files": {"../../run.json": [1, "x"], "state.pt": 1}}',
    ],
    "state.pt": [b"", b"half", None],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_checkpoint_with_a_damaged_file_is_skipped_for_the_one_before_it(name, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    newest, former = sorted((run / "checkpoints").iterdir(), reverse=True)
    assert checkpoint.find_checkpoint(run) == newest
    changed = (newest / name).read_bytes().replace(b"1", b"2", 1)
    for content in (*DAMAGE[name], changed):
        (newest / name).unlink(missing_ok=True)
        if content is not None:
            (newest / name).write_bytes(content)
        assert checkpoint.find_checkpoint(run) == former, content
    shutil.rmtree(former / "model")
    with pytest.raises(
        UserError, match="all of its checkpoints are broken; restore one, or start a new run with --init-from"
    ):
        checkpoint.find_checkpoint(run)


def test_rows_of_the_metrics_that_are_lost_are_said_and_never_filled_up(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    opened, path = RunFolder.reopen(run), run / METRICS[0]
    size = path.stat().st_size
    with pytest.raises(UserError, match=f"has {size} bytes, but had {size + 1} when the checkpoint was written"):
        opened.cut(METRICS[0], size + 1)
    assert path.stat().st_size == size
    opened.cut(METRICS[0], size - 1)
    assert path.stat().st_size == size - 1
    path.unlink()
    opened.cut(METRICS[0], size)
    assert not path.exists()


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("run.json", b"", "its run.json is damaged; restore it, or start a new run with --init-from"),
    ("run.json", b"[]", "its run.json is damaged; restore it, or start a new run with --init-from"),
    ("run.json", b'{"seconds": "long"}', "its run.json is damaged; restore it, or start a new run with --init-from"),
    ("run.json", b'{"state": "starting"}', "it ended before it had begun; start it again with the command that made it"),
    ("config.yaml", b"seed: 0\n", "its config.yaml is not what the run was started with; restore it"),
])  # fmt: skip
def test_a_run_whose_records_are_damaged_says_which_and_the_way_out(
    name, content, sentence, blip_train, whole, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / name).write_bytes(content)
    groups = (blip_train.DataSettings, blip_train.ModelSettings, blip_train.TrainingSettings)
    with pytest.raises(UserError) as refused:
        parse_settings((*groups, blip_train.EvaluationSettings), ["--resume", str(run)], "")
    assert sentence in str(refused.value) and str(run) in str(refused.value)


def test_a_run_has_one_process_that_writes(blip_train, flags, whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = kill.contents(run)
    settings = dataclasses.replace(blip_train.TrainingSettings(), output_dir=str(run), overwrite=True)
    with lock(run / ".lock", ""):
        for words in (["--resume", str(run)], [*flags, "--output-dir", str(run), "--overwrite"]):
            assert kill.in_a_process(lambda words=words: blip_train.main(words)) == 2
        with pytest.raises(UserError, match="another process is training there"), open_run(settings):
            pass
        assert {**before, ".lock": b""} == kill.contents(run)
    with open_run(settings):
        assert {path.name for path in run.iterdir()} == {".lock", "run.json"}


def test_a_fork_does_not_hold_the_lock_of_a_trainer_that_was_killed(tmp_path):
    forked, ended = os.pipe(), os.pipe()
    with lock(tmp_path / ".lock", ""):
        child = os.fork()
        if child == 0:
            os.write(forked[1], b"x")
            os.read(ended[0], 1)
            os._exit(0)
        os.read(forked[0], 1)
    with lock(tmp_path / ".lock", "the fork holds it"):
        os.write(ended[1], b"x")
    os.waitpid(child, 0)
    for handle in (*forked, *ended):
        os.close(handle)


def test_a_signal_to_all_processes_of_a_run_saves_like_one_to_the_trainer_alone(blip_train, flags, whole, tmp_path):
    run = tmp_path / "run"

    def stopped():
        os.setpgid(0, 0)
        Trainer._train_batch = after(
            7, Trainer._train_batch, lambda *a: [os.killpg(0, signal.SIGTERM), original(*a)][1]
        )
        blip_train.main([*flags, "--num-workers", "2", "--output-dir", str(run)])

    original = Trainer._train_batch
    assert in_a_process(stopped) == 130
    assert checkpoint.find_checkpoint(run).name == "step_00000008"
    blip_train.main([*flags, "--resume", str(run)])
    assert_same_run(run, whole)
