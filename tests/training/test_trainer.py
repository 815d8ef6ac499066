import csv
import dataclasses
import json
import os
import signal

import pytest
import torch
from PIL import Image

from unifashion.config import TrainingSettings
from unifashion.data.batches import PairRows, Photos
from unifashion.data.images import ImageTransform
from unifashion.data.records import ImageText
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.training.run_folder import RunFolder
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.train import make_trainer as trainer_of
from unifashion.training.trainer import make_accelerator

SETTINGS = dataclasses.replace(TrainingSettings(), num_epochs=2, batch_size=4, learning_rate=1e-3)


def score(value: float) -> tuple[list[Score], float]:
    row = Score("set", "set/protocol", "val", "", "R@1", value, 1, 1, 0.0, (), "model")
    return [row], value


@pytest.fixture
def make_trainer(make_model, tmp_path):
    def make(values=(1.0, 2.0), broken=(), **changes):
        pairs = []
        for index in range(9):
            path = tmp_path / f"{index}.png"
            Image.new("RGB", (40, 40), (20 * index, 90, 200 - 20 * index)).save(path)
            if index in broken:
                path.write_bytes(b"not an image")
            pairs.append(ImageText(path, f"a dress number {index}", str(index)))
        settings = dataclasses.replace(SETTINGS, output_dir=str(tmp_path / "run"), **changes)
        rows = PairRows(pairs, Photos(ImageTransform(32)))
        run = RunFolder(tmp_path / "run")
        run.describe((settings,))
        results = iter(values)
        task = CrossModalTask(make_model(), settings)
        accelerator = make_accelerator(settings)
        return trainer_of(task, rows, settings, accelerator, run, lambda model, losses: score(next(results)))

    return make


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_epoch_is_one_row_and_the_best_checkpoint_stays(make_trainer, tmp_path):
    trainer = make_trainer(values=(2.0, 1.0))
    trainer.fit()
    run = tmp_path / "run"
    rows = read(run / "train_metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("2", "4")]
    total = float(rows[0]["itc"]) + float(rows[0]["itm"]) + float(rows[0]["lm"])
    assert float(rows[0]["loss"]) == pytest.approx(total, rel=1e-5)
    assert [row["value"] for row in read(run / "validation_metrics.csv")] == ["2.0", "1.0"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["best"] == {"epoch": 1, "step": 2, "value": 2.0} and facts["state"] == "complete"
    best, last = (UniFashion.from_pretrained(run / name) for name in ("best", "last"))
    assert not torch.equal(best.query_tokens, last.query_tokens)
    assert torch.equal(last.query_tokens, trainer.model.query_tokens)


def test_with_a_moving_average_the_average_is_what_is_validated_and_kept(make_trainer, tmp_path):
    seen = []
    trainer = make_trainer(values=(2.0, 1.0), ema_decay=0.5)
    evaluate = trainer.evaluate
    trainer.evaluate = lambda task: seen.append(task.model.query_tokens.detach().clone()) or evaluate(task)
    trainer.fit()
    best, last = (UniFashion.from_pretrained(tmp_path / "run" / name).query_tokens for name in ("best", "last"))
    assert torch.equal(seen[0], best) and torch.equal(seen[1], last) and not torch.equal(best, last)
    assert not torch.allclose(trainer.model.query_tokens, last, rtol=1e-3)


def test_the_schedule_is_that_of_the_paper(make_trainer):
    trainer = make_trainer(num_epochs=4, warmup_epochs=1.5)
    rates = []
    for _ in range(trainer.total_steps):
        rates.append(trainer.schedule.get_last_lr()[0])
        trainer.optimizer.optimizer.step()
        trainer.schedule.step() if len(rates) < trainer.total_steps else None
    assert rates[0] == pytest.approx(1e-3 / 100)
    peak = 1.5 / 4 * trainer.total_steps - 1
    assert rates.index(max(rates)) == round(peak)
    assert rates[-1] < rates[0]


def test_accumulated_batches_make_one_step_and_no_step_is_lost(make_trainer):
    trainer = make_trainer(values=(1.0,) * 4, accumulation_steps=2, num_epochs=2)
    trainer.fit()
    assert trainer.sampler.steps_per_epoch == 1 and trainer.progress.step == 2


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_rows(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    before = trainer.model.query_tokens.detach().clone()
    forward = CrossModalTask.forward
    monkeypatch.setattr(
        CrossModalTask, "forward", lambda self, batch: {**forward(self, batch), "lm": torch.tensor(torch.nan)}
    )
    with pytest.raises(UserError, match=r"not finite in epoch 1, step 1 \(.*lm nan.*training rows \d+, \d+"):
        trainer.fit()
    assert torch.equal(before, trainer.model.query_tokens)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_broken_images_are_replaced_counted_and_named(make_trainer, tmp_path):
    make_trainer(broken=(3,), num_epochs=3, values=(1.0,) * 3).fit()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["broken_images"] == 1
    (row,) = read(tmp_path / "run" / "quarantine.csv")
    assert row["image"].endswith("3.png") and row["reason"]


def test_a_signal_lets_the_step_finish_saves_and_says_so(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    forward = CrossModalTask.forward

    def forward_and_signal(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(CrossModalTask, "forward", forward_and_signal)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.progress.step == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"
    assert torch.equal(UniFashion.from_pretrained(tmp_path / "run").query_tokens, trainer.model.query_tokens)


def test_a_run_folder_is_never_written_over_by_accident(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="files that are not a run"):
        RunFolder(tmp_path / "other", overwrite=True)
    RunFolder(tmp_path / "run").describe((SETTINGS,))
    with pytest.raises(UserError, match="add --overwrite"):
        RunFolder(tmp_path / "run")
    assert [path.name for path in RunFolder(tmp_path / "run", overwrite=True).path.iterdir()] == ["run.json"]
