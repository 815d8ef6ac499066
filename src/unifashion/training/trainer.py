"""One trainer for every task: step, log, validate, save, stop, and go on as if it had never stopped.

The loop is plain: a batch goes through the task, its losses are weighted and added up, accelerate does the rest. Optimiser
and schedule are the paper's: AdamW with decay on every parameter, and a learning rate that moves with every optimiser step
(schedule.py).

Everything that a step depends on is in the checkpoint or follows from (seed, epoch, step, rank): the order of the rows
(data/sampler.py), the rows themselves (data/batches.py), and all chance in the step (randomness.py). So a run that was stopped
anywhere and resumed takes the very steps of one that never stopped.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, send_to_device
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader
from tqdm import tqdm

from unifashion.config import TrainingSettings
from unifashion.data.augment import augment
from unifashion.data.batches import Batch, Collate, TrainingSet
from unifashion.data.images import normalise
from unifashion.data.sampler import EpochSampler
from unifashion.data.skipped import SkippedImages
from unifashion.distributed import mean_over_ranks, share_buffers
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.models.unifashion import UniFashionModel
from unifashion.seeding import only_deterministic, seed_everything, seed_for
from unifashion.training.checkpoint import find_checkpoint, link_model, read_state, write_checkpoint
from unifashion.training.compilation import compile_blocks
from unifashion.training.grad_cache import GradCache
from unifashion.training.interrupt import Interrupt
from unifashion.training.run_folder import RunFolder, now
from unifashion.training.schedule import make_schedule
from unifashion.training.sharding import Sharding, as_saved, as_trained, check_sharding
from unifashion.training.tasks import Task
from unifashion.training.tracking import to_track

log = logging.getLogger(__name__)

Evaluate = Callable[[UniFashionModel], tuple[list[Score], float]]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
KEPT = replace(WHOLE, strict=False)  # a frozen language model is not kept; what never had a gradient has no momenta
METRICS = ("train_metrics.csv", "validation_metrics.csv")


@dataclass
class Progress:
    """Where a run stands; kept in every checkpoint."""

    step: int = 0  # optimiser steps
    epoch: int = 0  # whole epochs
    turn: int = 0  # batches of the current epoch
    sums: dict[str, float] = field(default_factory=dict)  # of the losses of the current epoch
    seconds: float = 0.0  # of the current epoch
    best: float | None = None
    best_step: int = 0
    lengths: dict[str, int] = field(default_factory=dict)  # bytes of the metrics files
    broken: dict[str, str] = field(default_factory=dict)  # images that could not be used


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
        self.sampler = EpochSampler(
            *rows.rows.mixture(),
            settings.seed,
            settings.batch_size,
            settings.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
            rows.text_lengths() if settings.length_buckets else None,
            settings.length_buckets,
        )
        self.loader = DataLoader(
            rows,
            batch_sampler=self.sampler,
            collate_fn=Collate(task.model.tokenize, task.model.tokenize_answers),
            num_workers=num_workers,
            pin_memory=accelerator.device.type == "cuda",
            multiprocessing_context="fork" if num_workers else None,
        )
        is_sharded = accelerator.distributed_type == DistributedType.FSDP
        self.sharding = Sharding(task) if is_sharded else None
        trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        if settings.compile:
            compile_blocks(task.model)
        self.cache: GradCache | None = None
        if settings.grad_cache_chunk:
            self.cache = GradCache(task, settings.grad_cache_chunk, accelerator, self._weight, is_sharded)
        self.task, self.optimizer = accelerator.prepare(task, optimizer)
        self.total_steps = settings.max_steps or settings.num_epochs * self.sampler.steps_per_epoch
        self.schedule = make_schedule(self.optimizer.optimizer, settings, self.total_steps)
        self.progress = Progress()

    # Going on ---------------------------------------------------------------------------------------------------------

    def resume(self, path: Path) -> None:
        """Take up the newest whole checkpoint of a run; without one the run starts again from its beginning.

        Raises:
            UserError: the checkpoint was made by another number of processes.
        """
        checkpoint = find_checkpoint(path)
        if checkpoint is None:
            log.warning("%s has no checkpoint yet: the run starts again from its beginning", path)
        else:
            self._load(checkpoint)
            log.info("going on from %s", checkpoint)
        if self.run is not None:
            for name in METRICS:
                self.run.cut(name, self.progress.lengths.get(name, 0))

    def _load(self, checkpoint: Path) -> None:
        state = read_state(checkpoint)
        if state["world_size"] != self.accelerator.num_processes:
            raise UserError(
                f"{checkpoint} was written by {state['world_size']} processes, now there are "
                f"{self.accelerator.num_processes}; start as many, or a new run with --init-from {checkpoint}/model"
            )
        weights = as_trained(self.model.read_weights(checkpoint / "model"), self.model)
        named: dict[str, Any] = {f"model.{name}": tensor for name, tensor in weights.items()}
        set_model_state_dict(self.task, named, options=KEPT)
        set_optimizer_state_dict(self.task, self.optimizer.optimizer, state["optimizer"], options=KEPT)
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        if self.run is not None and self.progress.best_step == self.progress.step and self.progress.best is not None:
            link_model(checkpoint, self.run.path / "best")

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end. Ctrl-C and SIGTERM finish the step, save, and leave.

        Raises:
            UserError: a loss that is not finite (nothing of that step reaches the weights); a full disk.
            KeyboardInterrupt: after a signal, when everything is saved.
        """
        try:
            with Interrupt() as interrupt:
                while self.progress.step < self.total_steps:
                    self._train_epoch(interrupt)
            self._finish("complete")
        except KeyboardInterrupt:
            self._finish("interrupted")
            raise
        except UserError:
            self._finish("failed")
            raise

    def _train_epoch(self, interrupt: Interrupt) -> None:
        self.task.train()
        at = self.progress
        self.sampler.epoch, self.sampler.start = at.epoch, at.turn
        started = time.perf_counter() - at.seconds
        bar = tqdm(
            self.loader,
            desc=f"epoch {at.epoch + 1}",
            initial=at.turn,
            total=self.sampler.turns,
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
        )
        for batch in bar:
            losses, stop = self._train_batch(batch, interrupt)
            at.turn += 1
            at.seconds = time.perf_counter() - started
            for name, value in losses.items():
                at.sums[name] = at.sums.get(name, 0.0) + value
            bar.set_postfix({name: f"{total / at.turn:.3f}" for name, total in at.sums.items()}, refresh=False)
            if not self.accelerator.sync_gradients:
                continue
            if stop:
                bar.close()
                self._save()
                raise KeyboardInterrupt
            if at.step >= self.total_steps:
                break
            if self.settings.save_steps and at.step % self.settings.save_steps == 0 and at.turn < self.sampler.turns:
                self._save()
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Log the epoch, validate if it is time, save."""
        at = self.progress
        means = {name: total / at.turn for name, total in at.sums.items()}
        rate = self.schedule.get_last_lr()[0]
        self.accelerator.log({**means, "learning_rate": rate}, step=at.step)
        if self.run is not None:
            row = {
                "epoch": at.epoch + 1,
                "step": at.step,
                **means,
                "learning_rate": rate,
                "seconds": round(at.seconds, 2),
            }
            self.run.append(METRICS[0], [row])
        at.epoch, at.turn, at.sums, at.seconds = at.epoch + 1, 0, {}, 0.0
        every, over = self.settings.eval_every, at.step >= self.total_steps
        is_best = self._validate() if every and (over or at.epoch % every == 0) else False
        self._save(("last", "best") if is_best else ("last",))

    def _train_batch(self, batch: Batch, interrupt: Interrupt) -> tuple[dict[str, float], bool]:
        """Run one batch; returns its losses, averaged over the processes, and whether any process was told to stop."""
        self.progress.broken |= {str(path): reason for path, reason in batch.pop("broken")}
        rows = batch.pop("rows")
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        self.model.clamp_temperature()
        with self.accelerator.accumulate(self.task):
            pixels = self._pixels(batch)
            seed_everything(*self._key())
            losses: dict[str, Tensor] = (
                self.cache.backward(pixels, self._key()) if self.cache is not None else self.task(pixels)
            )
            loss = torch.stack([self._weight(name) * value.float() for name, value in losses.items()]).sum()
            signal = torch.tensor(float(bool(interrupt.signal)), device=loss.device)
            *values, stop = mean_over_ranks(torch.stack([*(v.float() for v in losses.values()), loss, signal])).tolist()
            shown = dict(zip([*losses, "loss"], values, strict=True))
            if not all(value == value and abs(value) != float("inf") for value in values):
                words = ", ".join(f"{name} {value:g}" for name, value in shown.items())
                raise UserError(
                    f"the loss is not finite in epoch {self.progress.epoch + 1}, step {self.progress.step + 1} ({words}); the "
                    f"batch holds training rows {', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''}; "
                    "nothing of it reached the weights; lower --learning-rate or look at these rows"
                )
            if self.cache is None:
                self.accelerator.backward(loss)
            elif self.accelerator.sync_gradients:
                self.cache.share_gradients()
            if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                self.accelerator.clip_grad_norm_(self.task.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.progress.step += 1
                if self.progress.step < self.total_steps:
                    self.schedule.step()
        return shown, stop > 0

    def _key(self) -> tuple[int, int, int, int]:
        """Return what all chance in a batch depends on."""
        return self.settings.seed, self.progress.epoch, self.progress.turn, self.accelerator.process_index

    def _pixels(self, batch: Batch) -> Batch:
        """Augment and normalise the images of a batch, on the device; what comes from a feature cache stays as it is."""
        generator = torch.Generator().manual_seed(seed_for("augment", *self._key()))
        for name in ("image", "reference", "target"):
            if name in batch and batch[name].dtype == torch.uint8:
                pixels = augment(batch[name], generator) if self.augment_images else batch[name]
                batch[name] = normalise(pixels)
        return batch

    def _weight(self, loss: str) -> float:
        return float(getattr(self.settings, f"{loss}_weight"))

    # What is kept -----------------------------------------------------------------------------------------------------

    def _validate(self) -> bool:
        """Score the model, on all processes together, and log it; returns whether it is the best so far."""
        if self.evaluate is None:
            return False
        at = self.progress
        share_buffers(self.model)
        model = self.model
        if self.sharding is not None:
            model = self.sharding.whole_model(self.task, self.accelerator.device)
        scores, value = self.evaluate(model.eval())
        self.accelerator.log({"validation": value}, step=at.step)
        is_best = at.best is None or value > at.best
        if is_best:
            at.best, at.best_step = value, at.step
        if self.run is not None:
            self.run.append(METRICS[1], [{"epoch": at.epoch, "step": at.step, **score.row()} for score in scores])
            if is_best:
                self.run.update(best={"epoch": at.epoch, "step": at.step, "value": value})
        self.accelerator.wait_for_everyone()
        return is_best

    def _save(self, names: tuple[str, ...] = ("last",)) -> None:
        """Write a checkpoint, and let ``names`` be links to its model. Every process must call this."""
        weights: dict[str, Any] = get_model_state_dict(self.task, options=WHOLE)
        optimizer = get_optimizer_state_dict(self.task, self.optimizer.optimizer, options=WHOLE)
        if self.run is None:
            return
        path, at = self.run.path, self.progress
        at.lengths = {name: (path / name).stat().st_size for name in METRICS if (path / name).exists()}
        state = {
            "world_size": self.accelerator.num_processes,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "progress": asdict(at),
        }
        own = as_saved({name.removeprefix("model."): tensor for name, tensor in weights.items()})
        checkpoint = write_checkpoint(
            path,
            at.step,
            lambda folder: self.model.write(folder, own),
            state,
            self.settings.keep_last,
        )
        for name in names:
            link_model(checkpoint, path / name)

    def _finish(self, state: str) -> None:
        if self.run is None:
            return
        quarantine = SkippedImages()
        for path, reason in self.progress.broken.items():
            quarantine.add(Path(path), reason)
        if len(quarantine):
            quarantine.write(self.run.path / "quarantine.csv")
        at = self.progress
        self.run.update(state=state, ended=now(), epochs=at.epoch, steps=at.step, broken_images=len(quarantine))


def make_accelerator(settings: TrainingSettings, task: type[Task]) -> Accelerator:
    """Return the accelerator that owns devices, precision, processes and trackers.

    Raises:
        UserError: bf16 on a GPU that has none; a tracker that is not installed; FSDP of the first version.
    """
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if settings.precision == "bf16" and not (bf16 or not torch.cuda.is_available()):
        raise UserError("this GPU has no bf16; use --precision fp32")
    torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
    only_deterministic(settings.deterministic)
    mixed = "bf16" if settings.precision == "bf16" or (settings.precision == "auto" and bf16) else "no"
    accelerator = Accelerator(
        mixed_precision=mixed,
        gradient_accumulation_steps=settings.accumulation_steps,
        log_with=to_track(settings.tracker),
        project_dir=settings.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not task.uses_all_parameters)],
    )
    return check_sharding(accelerator)
