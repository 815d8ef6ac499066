"""Training of try-on on the toy set: it stops, goes on as if it had never stopped, and tells what is wrong; and inference."""

import csv
import dataclasses
import errno
import importlib.util
import json
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from unifashion.errors import UserError
from unifashion.flags import parse, read_yaml, resolve
from unifashion.io import files_below
from unifashion.training.checkpoint import find_checkpoint, read_state
from unifashion.training.tasks.tryon import TryOnTask
from unifashion.training.train_tryon import outcome, read_split, train
from unifashion.training.trainer import Trainer
from unifashion.tryon.dataset import RowSampler, TryOnRows, map_names
from unifashion.tryon.denoiser import Denoised
from unifashion.tryon.loading import load_pipeline
from unifashion.tryon.losses import draw
from unifashion.tryon.pipeline import default_scheduler
from unifashion.tryon.settings import (
    TryOnDataSettings,
    TryOnInferenceSettings,
    TryOnModelSettings,
    TryOnTrainingSettings,
)

ROOT = Path(__file__).resolve().parents[2]
GROUPS = (TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings)
MODEL = TryOnModelSettings(architecture="tiny", trainable="all")


def settings(root, out, **changes):
    data = TryOnDataSettings(data_root=str(root), height=24, width=18)
    training = TryOnTrainingSettings(
        output_dir=str(out),
        max_steps=4,
        batch_size=2,
        learning_rate=1e-3,
        ema_decay=0.5,
        colour=False,
        cache_latents=True,
        save_steps=2,
        validate_steps=0,
        num_validation_images=1,
        validation_inference_steps=2,
        log_steps=1,
        precision="fp32",
    )
    names = {field.name for field in dataclasses.fields(data)}
    data = dataclasses.replace(data, **{k: v for k, v in changes.items() if k in names})
    return data, MODEL, dataclasses.replace(training, **{k: v for k, v in changes.items() if k not in names})


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def state_of(run):
    """The newest checkpoint: what the optimiser moves, its progress, and the model that is kept."""
    checkpoint = find_checkpoint(run)
    state, progress = read_state(checkpoint)
    return state, progress, load_pipeline(checkpoint / "model").denoiser


@pytest.fixture(scope="module")
def run(tryon_root, tmp_path_factory):
    """A finished run of four steps."""
    return train(*settings(tryon_root, tmp_path_factory.mktemp("runs") / "whole"))


def test_a_run_folder_tells_everything(run):
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["steps"], facts["rows"], facts["synthetic"]) == ("complete", 4, 6, True)
    assert facts["data"]["used"] == "used 6 of 6 pairs"
    assert [int(row["step"]) for row in rows_of(run / "train_metrics.csv")] == [1, 2, 3, 4]
    score = rows_of(run / "validation_metrics.csv")[0]
    assert 0 < float(score["ssim_agnostic"]) < 1
    assert (run / "validation" / "step-4.png").is_file()
    resolve(GROUPS, read_yaml(run / "config.yaml"))


def test_a_finished_run_says_its_ssim_beside_that_of_the_hidden_garment(run):
    last = rows_of(run / "validation_metrics.csv")[-1]
    said = outcome(run)
    assert f"{float(last['ssim']):.4f} (the person with the garment hidden: {float(last['ssim_agnostic']):.4f})" in said
    picture = Path(said.rsplit("see ", 1)[1])
    assert picture.is_file()


def test_what_is_kept_is_the_moving_average(run, tryon_root, tmp_path):
    """With a decay of 0.5: after step n the average is d * average + (1 - d) * weights, d = min(0.5, n / (9 + n))."""
    state, progress, denoiser = state_of(run)
    kept = {f"model.{name}": tensor for name, tensor in denoiser.state_dict().items()}
    trained = state["average"]["trained"]
    assert state["average"]["num_steps"] == progress["step"] == 4
    assert trained.keys() <= kept.keys() and any(not torch.equal(kept[name], trained[name]) for name in trained)
    before = {step: train(*settings(tryon_root, tmp_path / str(step), max_steps=step)) for step in (3,)}[3]
    average = {f"model.{name}": tensor for name, tensor in state_of(before)[2].state_dict().items()}
    decay = min(0.5, 4 / 13)
    for name, tensor in trained.items():
        torch.testing.assert_close(kept[name], decay * average[name] + (1 - decay) * tensor)


@pytest.mark.parametrize(("cache", "stop"), [(True, "signal"), (False, "signal"), (True, "kill")])
def test_a_resumed_run_equals_one_never_stopped(run, tryon_root, tmp_path, cache, stop, monkeypatch):
    changes = {"cache_latents": cache, "colour": not cache, "move": not cache}
    whole = run if cache else train(*settings(tryon_root, tmp_path / "whole", **changes))
    data, model, training = settings(tryon_root, tmp_path / "parts", **changes)

    def stopped_batch(self, batch, interrupt, train_batch=Trainer._train_batch):
        losses = train_batch(self, batch, interrupt)
        if self.progress.step == 4 and stop == "kill":
            raise MemoryError
        if self.progress.step == 2 and stop == "signal":
            signal.raise_signal(signal.SIGTERM)  # the step after this one ends as it would have, and is the last
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", stopped_batch)
        with pytest.raises(MemoryError if stop == "kill" else KeyboardInterrupt):
            train(data, model, training)
    parts = tmp_path / "parts"
    description = json.loads((parts / "run.json").read_text())
    assert description["state"] == {"kill": "running", "signal": "interrupted"}[stop]
    assert state_of(parts)[1]["step"] == {"kill": 2, "signal": 3}[stop]
    train(data, model, dataclasses.replace(training, resume=str(parts)))
    (first, _, kept), (second, _, kept_too) = state_of(whole), state_of(parts)
    trained = first["average"]["trained"]
    assert all(torch.equal(tensor, second["average"]["trained"][name]) for name, tensor in trained.items())
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), kept_too.parameters(), strict=True))
    files = [
        {path.relative_to(r / "last"): path.read_bytes() for path in files_below(r / "last")} for r in (whole, parts)
    ]
    assert len(files[0]) > 8 and files[0] == files[1]
    columns = ("step", "noise", "learning_rate")
    logs = [[[row[name] for name in columns] for row in rows_of(r / "train_metrics.csv")] for r in (whole, parts)]
    assert logs[0] == logs[1]
    ssim = [[float(row["ssim"]) for row in rows_of(r / "validation_metrics.csv")] for r in (whole, parts)]
    assert ssim[0] == pytest.approx(ssim[1], rel=1e-5) and len(ssim[0]) == 1
    assert json.loads((parts / "run.json").read_text())["state"] == "complete"


def test_as_many_checkpoints_stay_as_were_asked_for(tryon_root, tmp_path):
    run = train(*settings(tryon_root, tmp_path / "run", save_steps=1, keep_last=3))
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [f"step_{n:08d}" for n in (2, 3, 4)]


def test_the_second_stage_starts_from_the_first_and_has_its_own_loss(run, tryon_root, tmp_path):
    data, model, training = settings(tryon_root, tmp_path / "atv", atv_weight=0.001, max_steps=1)
    second = train(data, dataclasses.replace(model, init_from=str(run), trainable="paper"), training)
    row = rows_of(second / "train_metrics.csv")[0]
    assert float(row["atv"]) > 0
    assert float(row["loss"]) == pytest.approx(float(row["noise"]) + 0.001 * float(row["atv"]), rel=1e-5)
    before, after = (load_pipeline(r).denoiser.state_dict() for r in (run, second))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"garment_encoder", "warp_blocks", "unconditional"} or changed == {
        "garment_encoder",
        "warp_blocks",
    }


def batches(sampler):
    return [row for batch in sampler for row in batch]


def test_accumulated_batches_are_as_one_large_one(tryon_root, tmp_path):
    """Four rows in one step or in two halves: the same rows in the same order (their noise differs, so only these)."""
    data, _, training = settings(tryon_root, tmp_path / "x")
    split, _ = read_split(data, "train", map_names("garment"))
    rows = TryOnRows(split.items, map_names("garment"), (24, 18), training)
    large = [rows.item_index(row) for row in batches(RowSampler(4, 3))]
    small = [rows.item_index(row) for row in batches(RowSampler(2, 3, accumulation_steps=2))]
    ranks = [batches(RowSampler(2, 3, rank=rank, world=2)) for rank in (0, 1)]
    assert large == small
    assert sorted(ranks[0] + ranks[1]) == list(range(12))
    assert sorted(large[:6]) == list(range(6)), "an epoch shows every item once"
    resumed = RowSampler(2, 6)
    resumed.start = 4
    assert batches(resumed) == batches(RowSampler(2, 6))[8:]


def test_noise_and_drops_are_drawn_row_by_row():
    batch = {name: torch.zeros(400, 8, 2, 1) for name in ("image", "agnostic", "densepose", "control")}
    vae = type("Vae", (), {"config": type("C", (), {"scaling_factor": 0.5})})
    drawn = draw(batch, vae, 0.2, [torch.Generator().manual_seed(row) for row in range(len(batch["image"]))])
    assert 50 < int(drawn["drop"].sum()) < 110
    assert drawn["t"].min() < 30
    assert drawn["t"].max() > 970
    assert abs(float(drawn["noise"].std()) - 1) < 0.1
    assert abs(float(drawn["image"].std()) - 0.5) < 0.1  # log variance 0, scaled


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_of_a_perfect_prediction_is_zero_and_its_opposite_is_not(pipe, kind):
    """Noise where the schedule says noise, v where it says v."""
    torch.manual_seed(0)
    drawn = {name: torch.randn(2, 4, 4, 3) for name in ("image", "agnostic", "densepose", "control", "noise")}
    drawn |= {"t": torch.tensor([10, 800]), "drop": torch.tensor([False, False])}

    class Oracle(torch.nn.Module):
        sign = 1

        def context(self, text, rows, drop, text_encoder):
            return text

        def forward(self, x13, t, context, hint, attention_centre):
            return Denoised(self.sign * (drawn["noise"] if kind == "epsilon" else v))

    other = pipe.scheduler if kind == "v_prediction" else default_scheduler()
    parts = {"denoiser": Oracle(), "scheduler": other, "vae": pipe.vae, "text_encoder": None}
    task = TryOnTask(SimpleNamespace(**parts), TryOnTrainingSettings(), None, encoded=True)
    assert task.schedule.config.prediction_type == kind
    share = task.schedule.alphas_cumprod[drawn["t"]].view(2, 1, 1, 1)
    v = share.sqrt() * drawn["noise"] - (1 - share).sqrt() * drawn["image"]
    batch = {"text": torch.zeros(2, 3, 32), "keep": torch.ones(2, 1, 12, 9), "drawn": drawn}
    assert float(task(batch)["noise"]) < 1e-10
    task.model.sign = -1
    assert float(task(batch)["noise"]) > 1


def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(tryon_root, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.nn.functional.mse_loss", lambda a, b: (a * float("nan")).sum())
    with pytest.raises(UserError, match=r"the loss is not finite in step 1 .* it did not change the weights"):
        train(*settings(tryon_root, tmp_path / "nan"))
    assert json.loads((tmp_path / "nan" / "run.json").read_text())["state"] == "failed"


BAD = {
    "a start is needed at full size": ({"architecture": "sd1"}, {}, "--init-from is needed"),
    "nothing at the start's place": (
        {"init_from": str(ROOT / "configs")},
        {},
        "configs is a folder without unet, but a Stable Diffusion 1.x",
    ),
    "more rows in a step than there are": ({}, {"batch_size": 7}, "a step takes 7 pairs but there are 6"),
    "a size that does not fit": ({}, {"height": 25}, "must be multiples of 3, got 25 and 18"),
    "a tracker that is not installed": (
        {},
        {"tracker": "wandb"},
        r"--tracker wandb needs the package wandb: pip install 'unifashion\[wandb\]'",
    ),
    "a run that is not there": ({}, {"resume": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("what", BAD)
def test_settings_that_cannot_work_are_one_sentence_and_leave_no_run(tryon_root, tmp_path, what, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("unifashion.training.tracking.get_available_trackers", list)
    of_model, others, sentence = BAD[what]
    data, model, training = settings(tryon_root, tmp_path / "bad", **others)
    with pytest.raises(UserError, match=sentence):
        train(data, dataclasses.replace(model, **of_model), training)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(("values", "sentence"), [
    ({"cache_latents": True}, "add --no-colour --no-move"),
    ({"unconditional_drop": 1.5}, "at most 1"),
    ({"ema_decay": 1.0}, "must be below 1"),
    ({"log_steps": 0}, "log_steps: must be at least 1, got 0"),
])  # fmt: skip
def test_settings_are_checked(values, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve((TryOnTrainingSettings,), values)


def test_the_experiment_files_are_the_papers_and_a_toys():
    paper = resolve(GROUPS, read_yaml(ROOT / "configs/tryon.yaml"))
    assert (paper[0].height, paper[0].width, paper[0].control) == (512, 384, "garment-sketch")
    assert (paper[2].learning_rate, paper[2].batch_size, paper[2].max_steps) == (1e-4, 32, 360_000)
    assert (paper[2].unconditional_drop, paper[1].trainable, paper[2].flip, paper[2].colour, paper[2].move) == (
        0.2,
        "paper",
        True,
        True,
        False,
    )
    toy = resolve(GROUPS, read_yaml(ROOT / "configs/quickstart/tryon.yaml"))
    assert (toy[0].dataset, toy[1].architecture, toy[1].trainable) == ("catalogue", "tiny", "all")


# Inference ------------------------------------------------------------------------------------------------------------


def entry(name):
    """The entry point's module; its ``main`` takes what a user types."""
    spec = importlib.util.spec_from_file_location(f"tryon_{name}", ROOT / f"src/UNIStableVITON/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def infer(run, root, out, *flags):
    entry("inference").main(
        [
            "--data-root",
            str(root),
            "--model-path",
            str(run),
            "--output-dir",
            str(out),
            "--num-inference-steps",
            "2",
            *flags,
        ]
    )
    return {path.name: path.read_bytes() for path in Path(out).glob("0*.png")}


def test_inference_goes_on_where_it_stopped_and_batches_do_not_matter(run, tryon_root, tmp_path, capsys):
    first = infer(run, tryon_root, tmp_path / "a", "--pairs", "unpaired", "--limit", "2", "--batch-size", "1")
    assert len(first) == 2
    kept = (tmp_path / "a" / sorted(first)[0]).stat().st_mtime_ns
    more = infer(run, tryon_root, tmp_path / "a", "--pairs", "unpaired", "--batch-size", "3")
    assert len(more) == 4
    assert (tmp_path / "a" / sorted(first)[0]).stat().st_mtime_ns == kept
    assert "the results are in" in capsys.readouterr().out
    facts = json.loads((tmp_path / "a" / "inference.json").read_text())
    assert facts["marks"] == ["synthetic"]
    assert facts["used"] == "used 4 of 4 pairs"
    assert (tmp_path / "a" / "examples.png").is_file()


def test_marks_say_what_was_done(run, tryon_root, tmp_path):
    infer(
        run, tryon_root, tmp_path / "a", "--start", "ground-truth", "--repaint", "--limit", "1", "--scheduler", "ddim"
    )
    assert json.loads((tmp_path / "a" / "inference.json").read_text())["marks"] == [
        "synthetic",
        "repaint",
        "ground-truth-start",
    ]


def test_results_of_other_settings_are_not_mixed(run, tryon_root, tmp_path, capsys):
    infer(run, tryon_root, tmp_path / "a", "--limit", "1")
    with pytest.raises(SystemExit) as left:
        infer(run, tryon_root, tmp_path / "a", "--limit", "1", "--guidance-scale", "2")
    assert left.value.code == 2
    assert "holds results made with another guidance_scale" in capsys.readouterr().err
    infer(run, tryon_root, tmp_path / "a", "--limit", "1", "--guidance-scale", "2", "--overwrite")


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--pairs", "none.txt"], "none.txt does not exist"),
    (["--model-path", "/nowhere/at/all"], "no model at"),
    (["--retriever", "x"], "trained without a retrieval model"),
    (["--schedular", "ddim"], "did you mean '--scheduler'?"),
    (["--height", "50"], "height and width must be multiples of 3, got 50 and 18"),
    (["--num-inference-steps", "0"], "--num-inference-steps: must be at least 1"),
    (["--num-inference-steps", "1001"], "must be at most 1000"),
])  # fmt: skip
def test_mistakes_on_the_command_line_are_one_sentence(run, tryon_root, tmp_path, capsys, flags, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as left:
        infer(run, tryon_root, tmp_path / "a", *flags)
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert not (tmp_path / "a").exists()


def test_a_folder_without_a_model_is_one_sentence(tryon_root, tmp_path):
    with pytest.raises(UserError, match="no try-on model in"):
        load_pipeline(tryon_root)


def test_a_cut_checkpoint_is_passed_over_and_the_one_before_it_is_taken(run, tryon_root, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    file = tmp_path / "cut" / "checkpoints" / "step_00000004" / "state.pt"
    file.write_bytes(file.read_bytes()[:100])
    assert state_of(tmp_path / "cut")[1]["step"] == 2
    again = train(*settings(tryon_root, tmp_path / "cut", resume=str(tmp_path / "cut")))
    first, second = (state_of(folder)[0]["average"]["trained"] for folder in (run, again))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_run_of_version_0_1_is_refused_with_what_to_do(run, tryon_root, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "resume.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"version 0\.1 kept this run in resume\.pt.*--init-from"):
        train(*settings(tryon_root, tmp_path / "x", resume=str(tmp_path / "old")))


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--learning-rate", "0.5"], "it was started with --learning-rate 0.001, now it is 0.5"),
    (["--data-root", "{other}"], "the training data has changed since the run was started"),
    (["--resume", "{other}"], "not a run folder"),
])  # fmt: skip
def test_a_run_does_not_go_on_as_another(run, tryon_root, tmp_path, capsys, flags, sentence):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    file = tmp_path / "vitonhd" / "captions.json"
    file.write_text(file.read_text().replace("shirt", "blouse"))
    state = run / "checkpoints" / "step_00000004" / "state.pt"
    before = state.read_bytes()
    with pytest.raises(SystemExit) as left:
        entry("train").main(["--resume", str(run), *(flag.format(other=tmp_path) for flag in flags)])
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.count("\n") == 1 and sentence in error
    assert state.read_bytes() == before


def test_the_report_of_a_run_has_its_number_its_set_and_its_pictures(run, tmp_path):
    write_report = pytest.importorskip("unifashion.apps.report").write_report
    shutil.copytree(run, tmp_path / "other")
    page, _ = write_report([run, tmp_path / "other"], tmp_path / "report.html")
    words = page.read_text()
    ssim = json.loads((run / "run.json").read_text())["validation"]["ssim"]
    assert f"SSIM of 1 pairs in training</td><td>{ssim:.3f}" in re.sub(r"<td[^>]*>", "<td>", words)
    assert "Drawn in validation" in words and "not validated" not in words


def test_what_a_cut_write_left_is_put_in_order(run, tryon_root, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "last").rename(tmp_path / "run" / ".last.old")  # between the two moves of a replacement
    (tmp_path / "run" / ".last.999999999").mkdir()
    train(*settings(tryon_root, tmp_path / "run", resume=str(tmp_path / "run")))
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [".lock"]
    load_pipeline(tmp_path / "run")


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(tryon_root, tmp_path, monkeypatch):
    def save(state, path, save=torch.save):
        if "step_00000004" in str(path):
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match=r"step_00000004 cannot be written: the disk is full; .* --resume"):
        train(*settings(tryon_root, tmp_path / "run"))
    assert state_of(tmp_path / "run")[1]["step"] == 2
    assert [path.name for path in (tmp_path / "run").rglob(".*")] == [".lock"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_a_damaged_test_pair_is_left_out_of_the_validation_and_too_many_are_found_before_training(
    tryon_root, tmp_path, caplog
):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    mask = min((tmp_path / "vitonhd" / "test" / "agnostic-mask").iterdir())
    Image.radial_gradient("L").resize((50, 50)).point(lambda value: 255 * (value < 90)).save(mask)
    with pytest.raises(UserError, match=r"25 % of the test pairs \(3 of 4 can be used\), limit 1 %"):
        train(*settings(tmp_path, tmp_path / "run", num_validation_images=4))
    assert "50 x 50 pixels do not fit the person's photo of 48 x 64" in caplog.text
    assert not (tmp_path / "run").exists()
    run = train(*settings(tmp_path, tmp_path / "run", num_validation_images=4, max_missing=25.0))
    assert rows_of(run / "validation_metrics.csv")[-1]["pairs"] == "3"


@pytest.mark.parametrize(("cache", "workers"), [(True, 0), (False, 2)])
def test_a_damaged_training_pair_is_replaced_by_the_next_and_reported_and_the_run_resumes_exactly(
    tryon_root, tmp_path, cache, workers
):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    photo = tmp_path / "vitonhd" / "train" / "image" / "00002_00.jpg"
    photo.write_bytes(photo.read_bytes()[:300])
    chosen = settings(tmp_path, tmp_path / "run", cache_latents=cache, num_workers=workers, keep_last=2)
    run = train(*chosen)
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["steps"], facts["broken_images"]) == ("complete", 4, 1)
    (left_out,) = rows_of(run / "quarantine.csv")
    assert left_out["image"] == str(photo) and "damaged image" in left_out["reason"]
    whole = state_of(run)[0]["average"]["trained"]
    shutil.rmtree(run / "checkpoints" / "step_00000004")
    train(*chosen[:2], dataclasses.replace(chosen[2], resume=str(run)))
    resumed = state_of(run)[0]["average"]["trained"]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_damaged_item_changes_no_other_row(tryon_root, tmp_path):
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    names = map_names("garment")
    data, _, training = settings(tmp_path, tmp_path / "run")
    split, _ = read_split(data, "train", names)
    rows = TryOnRows(split.items, names, (24, 18), training)
    whole = [rows[row] for row in range(12)]
    split.items[2].maps["densepose"].write_bytes(b"")
    shown = [rows[row] for row in range(12)]
    for before, after in zip(whole, shown, strict=True):
        assert after["index"] == (3 if before["index"] == 2 else before["index"])
        assert [reason for _, reason in after["broken"]] == ["the file is empty"] * (before["index"] == 2)
        if before["index"] != 2:
            assert all(torch.equal(pixels, after["maps"][name]) for name, pixels in before["maps"].items())
    for item in split.items:
        item.maps["densepose"].write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of the 6 training rows has a readable image, the first is .*\.jpg \(the file"
    ):
        rows[0]


def test_settings_of_inference_have_flags(capsys):
    (found,) = parse((TryOnInferenceSettings,), ["--pairs", "unpaired", "--start", "agnostic"], "")
    assert (found.pairs, found.start, found.guidance_scale, found.num_inference_steps) == (
        "unpaired",
        "agnostic",
        1.0,
        50,
    )
