"""One trainer for every task: step, log, save, validate, stop, and resume as if it had never stopped.

The loop is plain: a batch goes through the task, its losses are weighted and added up, accelerate does the rest. Optimiser
and schedule are the paper's: AdamW with decay on every parameter, and a learning rate that changes with every optimiser step
(schedule.py).

Everything that a step depends on is in the checkpoint or follows from the batch's ``Position`` (seed, epoch, batch, rank): the
order of the rows (the sampler), the rows themselves (the data set), and all randomness in the step (seeding.py). So a run that
was stopped anywhere and resumed takes exactly the steps of one that never stopped.

At the end of an epoch, or every ``Cadence.*_steps``, the trainer logs, then saves, then validates. Saving comes first: a
validation can take hours, and a kill during it must not cost the epoch. The checkpoint knows which step was validated, so a
resumed run makes up for a validation that was cut off.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, send_to_device
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from unifashion.config import RunSettings
from unifashion.data.batches import Batch
from unifashion.data.skipped import SkippedImages
from unifashion.distributed import join_processes, mean_over_ranks, share_buffers
from unifashion.errors import UserError
from unifashion.seeding import only_deterministic, seed_everything
from unifashion.training.checkpoint import keep_checkpoint, link_model, read_state, update_progress, write_checkpoint
from unifashion.training.grad_cache import GradCache
from unifashion.training.interrupt import Interrupt, outlive_first_signal
from unifashion.training.moving_average import MovingAverage
from unifashion.training.run_folder import BEST, LAST, TRAIN_METRICS, VALIDATION_METRICS, RunFolder, now
from unifashion.training.sharding import Sharding, check_sharding
from unifashion.training.tasks.task import Losses, Position, Task
from unifashion.training.tracking import to_track

log = logging.getLogger(__name__)

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# Not strict: a frozen language model is not saved, and what never had a gradient has no optimiser state.
KEPT = replace(WHOLE, strict=False)


@dataclass(frozen=True)
class Validation:
    """The outcome of a validation: rows of ``validation_metrics.csv``, the value that picks the best checkpoint, a picture."""

    rows: Sequence[Mapping[str, Any]]
    value: float | None = None  # None = no checkpoint is the best
    sheet: Image.Image | None = None
    logged: Mapping[str, float] = field(default_factory=dict)  # what trackers get besides ``value``


Evaluate = Callable[[Any], Validation]  # of the task, in evaluation mode, on every process
MakeSchedule = Callable[[Optimizer, int], LRScheduler]


class BatchSampler(Protocol):
    """Which rows make which batch. A pass yields the batches of ``epoch`` from index ``start`` on."""

    epoch: int
    start: int
    batches_per_epoch: int
    steps_per_epoch: int

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the keys of the rows of one batch after the other."""


@dataclass(frozen=True)
class Cadence:
    """How often something happens besides at the end of training; 0 = never.

    With ``log_steps`` a run is counted in steps; without, in epochs, and each epoch is logged and saved.
    """

    log_steps: int = 0
    save_steps: int = 0
    validate_steps: int = 0
    validate_epochs: int = 0


@dataclass
class Progress:
    """The progress of a run; kept in every checkpoint."""

    step: int = 0  # optimiser steps
    epoch: int = 0  # whole epochs
    batch: int = 0  # batches of the current epoch
    count: int = 0  # batches since the last row of the log
    sums: dict[str, float] = field(default_factory=dict)  # of their losses
    seconds: float = 0.0  # that they took
    validated_step: int = 0
    best: float | None = None
    best_step: int = 0
    lengths: dict[str, int] = field(default_factory=dict)  # bytes of the metrics files
    broken: dict[str, str] = field(default_factory=dict)  # images that could not be used


class Trainer:
    """Trains one task on one training set and keeps the run folder."""

    def __init__(
        self,
        task: Task,
        rows: Dataset[Any],
        sampler: BatchSampler,
        settings: RunSettings,
        accelerator: Accelerator,
        run: RunFolder | None,
        evaluate: Evaluate | None,
        make_schedule: MakeSchedule,
        total_steps: int,
        cadence: Cadence,
        grad_cache_chunk: int = 0,
        num_workers: int = 0,
    ) -> None:
        """Prepare model, optimiser, schedule and loader.

        Args:
            task: the network with its losses.
            rows: training rows, by the keys that ``sampler`` yields.
            sampler: their order.
            settings: optimiser, precision, what is kept.
            accelerator: from ``make_accelerator``.
            run: where metrics and checkpoints go; None on all but the main process.
            evaluate: validates the task; None = no validation.
            make_schedule: of an optimiser and the number of its steps.
            total_steps: optimiser steps of the whole training.
            cadence: how often to log, save and validate.
            grad_cache_chunk: rows in memory at once (grad_cache.py); 0 = the whole batch.
            num_workers: image-loading processes.

        Raises:
            UserError: a task that a gradient cache cannot chunk.
        """
        self.task, self.rows, self.sampler, self.settings, self.cadence = task, rows, sampler, settings, cadence
        self.accelerator, self.run, self.evaluate, self.total_steps = accelerator, run, evaluate, total_steps
        self.model = task.model
        self.loader: DataLoader[Batch] = DataLoader(
            rows,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=task.collate,
            num_workers=num_workers,
            pin_memory=accelerator.device.type == "cuda",
            multiprocessing_context="fork" if num_workers else None,
            worker_init_fn=outlive_first_signal if num_workers else None,
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
        self.cache: GradCache | None = None
        if grad_cache_chunk:
            self.cache = GradCache(task, grad_cache_chunk, accelerator, is_sharded)
        self.wrapped, self.optimizer = accelerator.prepare(task, optimizer)
        self.schedule = make_schedule(self.optimizer.optimizer, total_steps)
        # FSDP has replaced the parameters by its shards, so they are listed again.
        trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
        self.average = MovingAverage(trained, settings.ema_decay) if settings.ema_decay else None
        self.progress = Progress()
        self._saved_step = 0

    # Resuming ---------------------------------------------------------------------------------------------------------

    def resume(self, checkpoint: Path | None) -> None:
        """Resume from a checkpoint that ``find_checkpoint`` returned; without one, start from the beginning.

        Raises:
            UserError: the checkpoint was made by another number of processes, or for another model; a metrics file lacks rows.
        """
        if checkpoint is None:
            log.warning("the run has no checkpoint yet: it starts from the beginning")
        else:
            self._load(checkpoint)
            log.info("resuming from %s", checkpoint)
        if self.run is None:
            return
        for name in (TRAIN_METRICS, VALIDATION_METRICS):
            self.run.cut(name, self.progress.lengths.get(name, 0))
        if checkpoint is not None:
            with self.run.writing("checkpoints"):
                keep_checkpoint(checkpoint, self.settings.keep_last)
            self._link(checkpoint, LAST)
            if self.progress.best is not None and self.progress.best_step == self.progress.step:
                self._link(checkpoint, BEST)

    def _load(self, checkpoint: Path) -> None:
        state, progress = read_state(checkpoint)
        if state["world_size"] != self.accelerator.num_processes:
            raise UserError(
                f"{checkpoint} was written by {state['world_size']} processes, now there are "
                f"{self.accelerator.num_processes}; start the same number, or a new run with --init-from {checkpoint}/model"
            )
        self._check_names(checkpoint, state)
        self._set_weights(self.task.read_weights(checkpoint / "model"))
        if self.average is not None:
            # The model folder holds the average; the weights that the optimiser moves are in the state.
            self.average.restart(state["average"]["num_steps"])
            self._set_weights(state["average"]["trained"])
        set_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, state["optimizer"], options=KEPT)
        for name, parameter in self.task.named_parameters():
            if name not in state["optimizer"]["state"]:
                # It never had a gradient. torch has given it a state that has already taken one step.
                self.optimizer.optimizer.state.pop(parameter, None)
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**progress)
        self._saved_step = self.progress.step

    def _check_names(self, checkpoint: Path, state: dict[str, Any]) -> None:
        own = {name for name, parameter in self.task.named_parameters() if parameter.requires_grad}
        kept = {name for group in state["optimizer"]["param_groups"] for name in group["params"]}
        if own != kept or (self.average is not None) != ("average" in state):
            raise UserError(
                f"{checkpoint} was written for another set of trained weights (by an earlier version, or with other settings); "
                f"start a new run with --init-from {checkpoint}/model"
            )

    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        named: dict[str, Any] = self.sharding.as_trained(weights) if self.sharding is not None else weights
        set_model_state_dict(self.wrapped, named, options=KEPT)

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end. Ctrl-C and SIGTERM finish the step, save, and exit; data that cannot be read any more ends it too.

        Raises:
            UserError: a loss that is not finite (that step does not change the weights); a full disk.
            KeyboardInterrupt: after a signal, when everything is saved.
        """
        try:
            with Interrupt() as interrupt:
                if self.progress.validated_step < self.progress.step and self._is_validation_due():
                    self._validate()
                while self.progress.step < self.total_steps:
                    self._train_epoch(interrupt)
            self._finish("complete")
        except KeyboardInterrupt:
            self._finish("interrupted")
            raise
        except UserError:
            with contextlib.suppress(UserError):  # on a full disk this fails too; what is reported is what failed first
                self._finish("failed")
            raise

    def _read(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches. When no more can be read, save the steps since the last checkpoint, and raise ``UserError``."""
        try:
            yield from batches
        except UserError:
            at = self.progress
            is_between_steps = at.batch % self.settings.accumulation_steps == 0
            # Not with several processes, as perhaps only this one has failed.
            if at.step > self._saved_step and is_between_steps and self.accelerator.num_processes == 1:
                with contextlib.suppress(UserError):
                    self._save()
            raise

    def _train_epoch(self, interrupt: Interrupt) -> None:
        self.task.train()
        at, epoch = self.progress, self.progress.epoch
        self.sampler.epoch, self.sampler.start = epoch, at.batch
        started = time.perf_counter() - at.seconds
        bar = tqdm(
            self.loader,
            desc="training" if self.cadence.log_steps else f"epoch {epoch + 1}",
            initial=at.batch,
            total=self.sampler.batches_per_epoch,
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
        )
        with contextlib.closing(bar):
            for batch in self._read(bar):
                losses, stop = self._train_batch(batch, interrupt)
                at.batch, at.count = at.batch + 1, at.count + 1
                at.seconds = time.perf_counter() - started
                for name, value in losses.items():
                    at.sums[name] = at.sums.get(name, 0.0) + value
                bar.set_postfix({name: f"{total / at.count:.3f}" for name, total in at.sums.items()}, refresh=False)
                # Only between optimiser steps: half-accumulated gradients are in no checkpoint.
                if self.accelerator.sync_gradients:
                    count, is_last = at.count, at.step >= self.total_steps
                    self._after_step(stop)
                    if at.count != count:
                        started = time.perf_counter()
                    if is_last:
                        break
        if at.epoch == epoch and at.batch >= self.sampler.batches_per_epoch:
            # Version 0.1, when stopped in an epoch's last batch, saved before the epoch's end.
            self._after_step(stop=False)

    def _after_step(self, stop: bool) -> None:
        """Log, save and validate if due; raise ``KeyboardInterrupt`` if a signal came."""
        at, cadence = self.progress, self.cadence
        epoch_over = at.batch >= self.sampler.batches_per_epoch or at.step >= self.total_steps
        if epoch_over:
            at.epoch, at.batch = at.epoch + 1, 0
        if epoch_over or _is_due(at.step, cadence.log_steps):
            self._log()
        if epoch_over or stop or _is_due(at.step, cadence.save_steps):
            self._save()
        if stop:
            raise KeyboardInterrupt
        if self._is_validation_due():
            self._validate()

    def _is_validation_due(self) -> bool:
        """Return whether the model is validated after the step that was just taken."""
        at, cadence = self.progress, self.cadence
        if cadence.log_steps:
            return at.step >= self.total_steps or _is_due(at.step, cadence.validate_steps)
        epoch_over = at.batch == 0 and at.step > 0
        return epoch_over and bool(
            cadence.validate_epochs and (at.step >= self.total_steps or _is_due(at.epoch, cadence.validate_epochs))
        )

    def _train_batch(self, batch: Batch, interrupt: Interrupt) -> tuple[dict[str, float], bool]:
        """Run one batch; returns its losses, averaged over the processes, and whether a signal reached any of them."""
        at, position = self.progress, self._position()
        at.broken |= {str(path): reason for path, reason in batch.pop("broken", ())}
        rows = batch.pop("rows")
        batch = self.task.prepare(send_to_device(batch, self.accelerator.device, non_blocking=True), position)
        with self.accelerator.accumulate(self.wrapped):
            seed_everything(*position)
            losses: Losses = self.cache.backward(batch, position) if self.cache is not None else self.wrapped(batch)
            loss = self.task.total(losses)
            signal = torch.tensor(float(bool(interrupt.signal)), device=loss.device)
            # One all-reduce for all numbers of the step, including the stop signal, so that all processes stop at the same step.
            *values, stop = mean_over_ranks(torch.stack([*(v.float() for v in losses.values()), loss, signal])).tolist()
            shown = dict(zip([*losses, "loss"], values, strict=True))
            self._check_finite(shown, rows)
            if self.cache is None:
                self.accelerator.backward(loss)
            elif self.accelerator.sync_gradients:
                self.cache.share_gradients()
            if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                self.accelerator.clip_grad_norm_(self.task.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                at.step += 1
                if at.step < self.total_steps:  # OneCycleLR has no rate for a step after its last
                    self.schedule.step()
                if self.average is not None:
                    self.average.step()
        return shown, stop > 0

    def _check_finite(self, losses: Mapping[str, float], rows: Sequence[int]) -> None:
        if all(value == value and abs(value) != float("inf") for value in losses.values()):
            return
        at = self.progress
        where = "" if self.cadence.log_steps else f"epoch {at.epoch + 1}, "
        words = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise UserError(
            f"the loss is not finite in {where}step {at.step + 1} ({words}); the batch holds training rows "
            f"{', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''}; it did not change the weights; "
            "lower --learning-rate or look at these rows"
        )

    def _position(self) -> Position:
        at = self.progress
        return Position(self.settings.seed, at.epoch, at.batch, self.accelerator.process_index)

    # Logging and saving -----------------------------------------------------------------------------------------------

    def _log(self) -> None:
        """Write the mean losses since the last row."""
        at = self.progress
        means = {name: total / at.count for name, total in at.sums.items()}
        rate = self.schedule.get_last_lr()[0]
        self._track({**means, "learning_rate": rate})
        if self.run is not None:
            row = {**self._stamp(), **means, "learning_rate": rate, "seconds": round(at.seconds, 2)}
            self.run.append(TRAIN_METRICS, [row])
        at.count, at.sums, at.seconds = 0, {}, 0.0

    def _track(self, values: Mapping[str, Any]) -> None:
        with self.run.writing("the tracker's log") if self.run is not None else contextlib.nullcontext():
            self.accelerator.log(dict(values), step=self.progress.step)

    def _stamp(self) -> dict[str, int]:
        at = self.progress
        return {"step": at.step} if self.cadence.log_steps else {"epoch": at.epoch, "step": at.step}

    def _validate(self) -> None:
        """Validate on all processes together, log it, and keep the model if it is the best so far."""
        at = self.progress
        if self.evaluate is None:
            return
        share_buffers(self.task)
        with self._averaged():
            task = self.task
            if self.sharding is not None:
                task = self.sharding.whole_task(self.wrapped, self.accelerator.device)
            validation = self.evaluate(task.eval())
        self.task.train()
        at.validated_step = at.step
        is_best = validation.value is not None and (at.best is None or validation.value > at.best)
        value = {} if validation.value is None else {"validation": validation.value}
        self._track({**validation.logged, **value})
        if is_best:
            at.best, at.best_step = validation.value, at.step
        if self.run is not None:
            self._keep_validation(validation, is_best)
        self.accelerator.wait_for_everyone()

    def _keep_validation(self, validation: Validation, is_best: bool) -> None:
        assert self.run is not None
        at, path = self.progress, self.run.path
        rows = [{**self._stamp(), **row} for row in validation.rows]
        self.run.append(VALIDATION_METRICS, rows)
        if validation.sheet is not None:
            self.run.draw(f"validation/step-{at.step}.png", validation.sheet)
            self.run.update(validation=rows[-1])
        checkpoint = path / "checkpoints" / f"step_{at.step:08d}"
        if is_best:
            self.run.update(best={"epoch": at.epoch, "step": at.step, "value": at.best})
            self._link(checkpoint, BEST)
        # Last: a run that was killed before this line validates again, one that was killed after it has everything.
        at.lengths = self.run.lengths()
        if checkpoint.is_dir():
            with self.run.writing(f"checkpoints/{checkpoint.name}"):
                update_progress(checkpoint, asdict(at))

    def _link(self, checkpoint: Path, name: str) -> None:
        assert self.run is not None
        with self.run.writing(name):
            link_model(checkpoint, self.run.path / name)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def _save(self) -> None:
        """Write a checkpoint, and link ``last`` to its model. Every process must call this."""
        state = {
            "world_size": self.accelerator.num_processes,
            "optimizer": get_optimizer_state_dict(self.wrapped, self.optimizer.optimizer, options=WHOLE),
            "schedule": self.schedule.state_dict(),
        }
        if self.average is not None:
            names = {name for name, parameter in self.task.named_parameters() if parameter.requires_grad}
            # Cloned, because a state dict on the CPU shares its memory with the parameters, which hold the average below.
            trained = {name: tensor.clone() for name, tensor in self._weights().items() if name in names}
            state["average"] = {"num_steps": self.average.num_steps, "trained": trained}
        self._saved_step = self.progress.step
        with self._averaged():
            weights, at = self._weights(), self.progress
            if self.run is None:
                return
            at.lengths = self.run.lengths()
            checkpoint = write_checkpoint(
                self.run.path,
                at.step,
                lambda folder: self.task.write(folder, weights),
                state,
                asdict(at),
                self.settings.keep_last,
            )
        self._link(checkpoint, LAST)

    def _weights(self) -> dict[str, Tensor]:
        """Return the current weights, unsharded, on the CPU, with the shapes that a model folder has."""
        weights: dict[str, Any] = get_model_state_dict(self.wrapped, options=WHOLE)
        return self.sharding.as_saved(weights) if self.sharding is not None else weights

    def _finish(self, state: str) -> None:
        if self.run is None:
            return
        skipped = SkippedImages()
        for path, reason in self.progress.broken.items():
            skipped.add(Path(path), reason)
        if len(skipped):
            with self.run.writing("quarantine.csv"):
                skipped.write(self.run.path / "quarantine.csv")
        at = self.progress
        counted = {"steps": at.step} if self.cadence.log_steps else {"epochs": at.epoch, "steps": at.step}
        self.run.update(state=state, ended=now(), **counted, broken_images=len(skipped))


def _is_due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


def make_accelerator(settings: RunSettings, find_unused: bool = False) -> Accelerator:
    """Return the accelerator that owns devices, precision, processes and trackers.

    ``find_unused``: DDP must look for trained parameters that take no part in a step.

    Raises:
        UserError: bf16 on a GPU that has none; a tracker that is not installed; FSDP of the first version.
    """
    join_processes()
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
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
    )
    return check_sharding(accelerator)
