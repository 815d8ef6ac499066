"""One trainer for every task: step, log, validate, save, stop.

The loop is plain: a batch goes through the task, its losses are weighted and added up, accelerate does the rest. Optimiser
and schedule are the paper's: AdamW with decay on every parameter, OneCycleLR (peak ``learning_rate``, start at a hundredth of
it, rising for ``warmup_epochs``) stepped once per optimiser step. As in the original, OneCycleLR also cycles AdamW's first
momentum between 0.95 and 0.85, so ``betas[0]`` only matters before the first step.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from unifashion.config import TrainingSettings
from unifashion.data.augment import augment
from unifashion.data.batches import Batch, Collate, EpochSampler, TrainingSet
from unifashion.data.images import normalise
from unifashion.data.quarantine import Quarantine
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.models.unifashion import UniFashion
from unifashion.training.distributed import mean_over_ranks
from unifashion.training.run_folder import RunFolder, now
from unifashion.training.tasks import Task

log = logging.getLogger(__name__)

Evaluate = Callable[[UniFashion], tuple[list[Score], float]]


class Trainer:
    """Trains one task on one training set and keeps the run folder."""

    def __init__(
        self,
        task: Task,
        rows: TrainingSet,
        settings: TrainingSettings,
        accelerator: Accelerator,
        run: RunFolder | None,
        evaluate: Evaluate | None,
        augment_images: bool = False,
        num_workers: int = 0,
    ) -> None:
        """Prepare model, optimiser, schedule and loader.

        Args:
            task: the model with its losses.
            rows: training rows.
            settings: optimiser, schedule, length.
            accelerator: from ``make_accelerator``.
            run: where metrics and checkpoints go; None on all but the main process.
            evaluate: returns scores and the one number that picks the best checkpoint; None = no validation.
            augment_images: mirror, shift and light.
            num_workers: image-loading processes.
        """
        self.settings, self.run, self.evaluate, self.accelerator = settings, run, evaluate, accelerator
        self.augment_images, self.model, self.rows = augment_images, task.model, rows
        self.sampler = EpochSampler(len(rows), settings.seed)
        loader = DataLoader(
            rows,
            batch_size=settings.batch_size,
            sampler=self.sampler,
            collate_fn=Collate(task.model.tokenize),
            num_workers=num_workers,
            drop_last=True,
            pin_memory=accelerator.device.type == "cuda",
        )
        trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
        )
        self.task, self.optimizer, self.loader = accelerator.prepare(task, optimizer, loader)
        self.steps_per_epoch = max(len(self.loader) // settings.accumulation_steps, 1)
        self.total_steps = settings.max_steps or settings.num_epochs * self.steps_per_epoch
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer.optimizer,
            max_lr=settings.learning_rate,
            total_steps=max(self.total_steps, 2),
            pct_start=min(settings.warmup_epochs / max(settings.num_epochs, 1), 0.9),
            div_factor=100.0,
        )
        self.step, self.epoch = 0, 0
        self.best: float | None = None
        self.quarantine = Quarantine()

    def fit(self) -> None:
        """Train to the end; Ctrl-C saves ``last`` before it leaves.

        Raises:
            UserError: a loss that is not finite; nothing of that step reaches the weights.
        """
        try:
            while self.step < self.total_steps:
                self._train_epoch()
                self.epoch += 1
                self._save("last")
                due = self.settings.eval_every and self.epoch % self.settings.eval_every == 0
                if due or (self.settings.eval_every and self.step >= self.total_steps):
                    self._validate()
        except KeyboardInterrupt:
            self._save("last")
            self._finish("interrupted")
            raise
        except UserError:
            self._finish("failed")
            raise
        self._finish("complete")

    def _train_epoch(self) -> None:
        self.task.train()
        self.sampler.epoch = self.epoch
        started, sums, count = time.perf_counter(), defaultdict[str, float](float), 0
        bar = tqdm(
            self.loader,
            desc=f"epoch {self.epoch + 1}",
            total=len(self.loader),
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
        )
        for batch in bar:
            losses = self._train_batch(batch)
            count += 1
            for name, value in losses.items():
                sums[name] += value
            bar.set_postfix({name: f"{total / count:.3f}" for name, total in sums.items()}, refresh=False)
            if self.step >= self.total_steps:
                break
        means = {name: total / count for name, total in sums.items()}
        rate = self.schedule.get_last_lr()[0]
        self.accelerator.log({**means, "learning_rate": rate}, step=self.step)
        if self.run is not None:
            seconds = round(time.perf_counter() - started, 2)
            row = {"epoch": self.epoch + 1, "step": self.step, **means, "learning_rate": rate, "seconds": seconds}
            self.run.append("train_metrics.csv", [row])

    def _train_batch(self, batch: Batch) -> dict[str, float]:
        """Run one batch; returns its losses, averaged over the processes."""
        self._report(batch.pop("broken"))
        rows = batch.pop("rows")
        self.model.clamp_temperature()
        with self.accelerator.accumulate(self.task):
            losses: dict[str, Tensor] = self.task(self._pixels(batch))
            loss = sum((self._weight(name) * value for name, value in losses.items()), torch.zeros(()))
            names = [*losses, "loss"]
            values = mean_over_ranks(torch.stack([*losses.values(), loss.to(losses["itc"])])).tolist()
            shown = dict(zip(names, values, strict=True))
            if not all(value == value and abs(value) != float("inf") for value in values):
                words = ", ".join(f"{name} {value:g}" for name, value in shown.items())
                raise UserError(
                    f"the loss is not finite in epoch {self.epoch + 1}, step {self.step + 1} ({words}); the batch holds "
                    f"training rows {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''}; "
                    "nothing of it reached the weights; lower --learning-rate or look at these rows"
                )
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                self.accelerator.clip_grad_norm_(self.task.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.step += 1
                if self.step < self.total_steps:
                    self.schedule.step()
        return shown

    def _pixels(self, batch: Batch) -> Batch:
        """Augment and normalise the images of a batch, on the device."""
        seed = hash((self.settings.seed, self.step, self.accelerator.process_index))
        generator = torch.Generator().manual_seed(seed & 0x7FFFFFFF)
        for name in ("image", "reference", "target"):
            if name in batch:
                pixels = augment(batch[name], generator) if self.augment_images else batch[name]
                batch[name] = normalise(pixels)
        return batch

    def _weight(self, loss: str) -> float:
        return float(getattr(self.settings, f"{loss}_weight"))

    def _report(self, broken: list[tuple[Path, str]]) -> None:
        for path, reason in broken:
            self.quarantine.add(path, reason)

    def _validate(self) -> None:
        """Score the model on the main process, log it, keep it if it is the best so far."""
        if self.evaluate is None:
            return
        self.accelerator.wait_for_everyone()
        if self.run is not None:
            scores, value = self.evaluate(self.model.eval())
            rows = [{"epoch": self.epoch, "step": self.step, **score.row()} for score in scores]
            self.run.append("validation_metrics.csv", rows)
            self.accelerator.log({"validation": value}, step=self.step)
            if self.best is None or value > self.best:
                self.best = value
                self._save("best")
                self.run.update(best={"epoch": self.epoch, "step": self.step, "value": value})
        self.accelerator.wait_for_everyone()

    def _save(self, name: str) -> None:
        if self.run is not None:
            self.model.save_pretrained(self.run.path / name)

    def _finish(self, state: str) -> None:
        if self.run is None:
            return
        if len(self.quarantine):
            self.quarantine.write(self.run.path / "quarantine.csv")
        self.run.update(
            state=state, ended=now(), epochs=self.epoch, steps=self.step, broken_images=len(self.quarantine)
        )


def make_accelerator(settings: TrainingSettings, task: type[Task]) -> Accelerator:
    """Return the accelerator that owns devices, precision, processes and trackers.

    Raises:
        UserError: bf16 on a GPU that has none.
    """
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if settings.precision == "bf16" and not (bf16 or not torch.cuda.is_available()):
        raise UserError("this GPU has no bf16; use --precision fp32")
    mixed = "bf16" if settings.precision == "bf16" or (settings.precision == "auto" and bf16) else "no"
    return Accelerator(
        mixed_precision=mixed,
        gradient_accumulation_steps=settings.accumulation_steps,
        log_with=None if settings.tracker == "none" else settings.tracker,
        project_dir=settings.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not task.uses_all_parameters)],
    )
