"""The training loop of try-on: step, log, validate, save, stop.

What is kept in the run folder (training/run_folder.py), besides its usual files:

    last/                      the pipeline, with the moving average of the weights: what inference uses
    resume.pt                  trained weights, moving average, optimiser and step: what --resume goes on from
    validation/step-N.png      person, garment, result, truth

All that is random in a row depends on the seed, the number of the step and the row's place in the batch of all processes: a
resumed run equals one never stopped, and two processes make the steps of one with twice the rows.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from unifashion.distributed import mean_over_ranks
from unifashion.errors import UserError
from unifashion.evaluation.tryon_validation import Validated
from unifashion.seeding import seed_for
from unifashion.training.interrupt import Interrupt
from unifashion.training.run_folder import RunFolder, now
from unifashion.tryon.dataset import Batch, LatentCache, RowSampler, TryOnRows, collate, collate_encoded, encode_batch
from unifashion.tryon.loading import LAST, save_pipeline
from unifashion.tryon.losses import TryOnLoss, draw
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import Retriever
from unifashion.tryon.settings import TryOnTrainingSettings

log = logging.getLogger(__name__)

RESUME = "resume.pt"


class TryOnTrainer:
    """Trains the denoiser of a pipeline and keeps the run folder."""

    def __init__(
        self,
        pipe: TryOnPipeline,
        rows: TryOnRows | LatentCache,
        settings: TryOnTrainingSettings,
        accelerator: Accelerator,
        run: RunFolder | None,
        validate: Callable[[TryOnPipeline], Validated],
        retriever: Retriever | None = None,
        num_workers: int = 0,
    ) -> None:
        """Prepare loss, optimiser, schedule and moving average.

        Args:
            pipe: its denoiser is frozen where it shall not train, and on the device.
            rows: training rows, as pixels or as latents.
            settings: optimiser, losses, length.
            accelerator: owns devices, precision and processes.
            run: where metrics and checkpoints go; None on all but the main process.
            validate: draws and measures.
            retriever: gives the rows of the Q-Former; not needed for cached rows.
            num_workers: image-loading processes.
        """
        self.pipe, self.rows, self.settings, self.accelerator, self.run = pipe, rows, settings, accelerator, run
        self.validate, self.retriever, self.num_workers = validate, retriever, num_workers
        self.trained = [parameter for parameter in pipe.denoiser.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.loss, self.optimizer = accelerator.prepare(
            TryOnLoss(pipe.denoiser, settings.atv_weight, pipe.scheduler), optimizer
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer.optimizer, self._rate)
        self.ema = EMAModel(self.trained, decay=settings.ema_decay) if settings.ema_decay else None
        self.step = 0

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step as a share of its full value: linear rise, plateau, cosine fall."""
        rise, fall, total = self.settings.warmup_steps, self.settings.decay_steps, self.settings.max_steps
        share = min((step + 1) / rise, 1.0) if rise else 1.0
        if fall and step > total - fall:
            share *= 0.5 * (1 + math.cos(math.pi * (step - (total - fall)) / fall))
        return share

    def fit(self) -> None:
        """Train to the end; Ctrl-C and SIGTERM let the step end and save before they leave.

        Raises:
            UserError: a loss that is not finite (nothing of that step reaches the weights); a full disk.
            KeyboardInterrupt: after a signal, when everything is saved.
        """
        try:
            with Interrupt() as interrupt:
                self._steps(interrupt)
                self.save()
            self._validate()
        except KeyboardInterrupt:
            self._finish("interrupted")
            raise
        except UserError:
            self._finish("failed")
            raise
        self._finish("complete")

    def _steps(self, interrupt: Interrupt) -> None:
        settings, accelerator = self.settings, self.accelerator
        self.pipe.denoiser.train()
        started, sums, count = time.perf_counter(), defaultdict[str, float](float), 0
        batches = iter(self._loader())
        bar = tqdm(
            total=settings.max_steps,
            initial=self.step,
            desc="training",
            disable=not accelerator.is_main_process,
            dynamic_ncols=True,
        )
        with bar:
            while self.step < settings.max_steps:
                for name, value in self._step(batches).items():
                    sums[name] += value
                count += 1
                bar.update()
                if self.step % settings.log_steps == 0 or self.step == settings.max_steps:
                    means = {name: total / count for name, total in sums.items()}
                    bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()}, refresh=False)
                    self._log(means, time.perf_counter() - started)
                    started, sums, count = time.perf_counter(), defaultdict[str, float](float), 0
                if self._told_to_stop(interrupt):
                    self.save()
                    raise KeyboardInterrupt
                if self.step < settings.max_steps:
                    if settings.save_steps and self.step % settings.save_steps == 0:
                        self.save()
                    if settings.validate_steps and self.step % settings.validate_steps == 0:
                        self._validate()

    def _told_to_stop(self, interrupt: Interrupt) -> bool:
        """Return whether a signal reached any of the processes."""
        signal = torch.tensor([float(bool(interrupt.signal))], device=self.accelerator.device)
        return bool(mean_over_ranks(signal).item() > 0)

    def _loader(self) -> DataLoader[Any]:
        settings, accelerator = self.settings, self.accelerator
        sampler = RowSampler(
            settings.batch_size,
            settings.max_steps * settings.accumulation_steps,
            self.step * settings.accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return DataLoader(
            self.rows,
            batch_size=settings.batch_size,
            sampler=sampler,
            collate_fn=collate_encoded if isinstance(self.rows, LatentCache) else collate,
            num_workers=self.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )

    def _step(self, batches: Any) -> dict[str, float]:
        """Make one optimiser step; returns its losses, averaged over its batches and the processes."""
        sums: defaultdict[str, float] = defaultdict(float)
        for part in range(self.settings.accumulation_steps):
            with self.accelerator.accumulate(self.loss):
                for name, value in self._backward(next(batches), part).items():
                    sums[name] += value / self.settings.accumulation_steps
                if self.accelerator.sync_gradients and self.settings.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.schedule.step()
        if self.ema is not None:
            self.ema.step(self.trained)
        self.step += 1
        return sums

    def _backward(self, batch: Batch, part: int) -> dict[str, float]:
        numbers, batch = batch.pop("number"), self._encoded(batch)
        drawn = draw(batch, self.pipe.vae, self.settings.unconditional_drop, self._generators(part, len(numbers)))
        losses: dict[str, Tensor] = self.loss(
            drawn, batch["text"], batch["keep"], batch.get("warped_mask"), batch.get("rows")
        )
        weights = {"noise": 1.0, "atv": self.settings.atv_weight}
        loss = torch.stack([weights[name] * value.float() for name, value in losses.items()]).sum()
        values = mean_over_ranks(torch.stack([*losses.values(), loss])).tolist()
        shown = dict(zip([*losses, "loss"], values, strict=True))
        if not all(math.isfinite(value) for value in values):
            words = ", ".join(f"{name} {value:g}" for name, value in shown.items())
            raise UserError(
                f"the loss is not finite in step {self.step + 1} ({words}); the batch holds training pairs "
                f"{', '.join(map(str, numbers[:8]))}; nothing of it reached the weights; lower --learning-rate"
            )
        self.accelerator.backward(loss)
        return shown

    def _generators(self, part: int, count: int) -> list[torch.Generator]:
        """Return one per row of this process, seeded by the row's place in the batch of all processes."""
        first = self.accelerator.process_index * self.settings.batch_size
        seeds = (seed_for(self.settings.seed, "step", self.step, part, first + row) for row in range(count))
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def _encoded(self, batch: Batch) -> Batch:
        """Return the batch as latents, on the device."""
        device = self.accelerator.device
        if isinstance(self.rows, LatentCache):
            return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        return encode_batch(self.pipe, batch, device, self.retriever)

    def _log(self, means: dict[str, float], seconds: float) -> None:
        rate = self.schedule.get_last_lr()[0]
        self.accelerator.log({**means, "learning_rate": rate}, step=self.step)
        if self.run is not None:
            self.run.append(
                "train_metrics.csv", [{"step": self.step, **means, "learning_rate": rate, "seconds": round(seconds, 2)}]
            )

    # Keeping ----------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write ``last`` and ``resume.pt``, each complete or not at all.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        if self.run is None:
            return
        fresh = self.run.path / f".{RESUME}"
        try:
            with self._averaged():
                save_pipeline(self.pipe, self.run.path / LAST)
            torch.save(self._state(), fresh)
            fresh.replace(self.run.path / RESUME)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors say so in their own ways
            fresh.unlink(missing_ok=True)
            raise UserError(
                f"{self.run.path}: the checkpoint of step {self.step} could not be written "
                f"({' '.join(str(error).split())[:120]}); what was kept before it is untouched; make room, then use --resume"
            ) from None

    def _state(self) -> dict[str, Any]:
        state = {
            "step": self.step,
            "trained": [parameter.detach().cpu() for parameter in self.trained],
            "optimizer": self.optimizer.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
        }
        state["schedule"].pop("lr_lambdas", None)
        return state

    def resume(self, path: Path) -> None:
        """Go on from ``resume.pt``.

        Raises:
            UserError: the file is damaged, or of another model.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            shapes = [tensor.shape for tensor in state["trained"]]
        except Exception as error:  # a cut file can raise anything
            raise UserError(
                f"{path} cannot be read ({' '.join(str(error).split())[:120]}); start the training anew"
            ) from None
        if shapes != [parameter.shape for parameter in self.trained]:
            raise UserError(f"{path} was written by a model of other sizes, or with another --trainable")
        with torch.no_grad():
            for parameter, value in zip(self.trained, state["trained"], strict=True):
                parameter.copy_(value)
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict({**state["schedule"], "lr_lambdas": [None]})
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.accelerator.device)
        self.step = state["step"]

    def _averaged(self) -> Any:
        return _Averaged(self.ema, self.trained)

    def _validate(self) -> None:
        """Draw the validation pictures on the main process."""
        self.accelerator.wait_for_everyone()
        if self.run is not None:
            with self._averaged():
                found = self.validate(self.pipe)
            folder = self.run.path / "validation"
            folder.mkdir(exist_ok=True)
            found.sheet.save(folder / f"step-{self.step}.png")
            row = {
                "step": self.step,
                "pairs": len(found.pictures),
                "ssim": found.ssim,
                "ssim_agnostic": found.ssim_agnostic,
            }
            self.run.append("validation_metrics.csv", [row])
            self.run.update(validation=row)
            self.accelerator.log({"ssim": found.ssim}, step=self.step)
            self.pipe.denoiser.train()
        self.accelerator.wait_for_everyone()

    def _finish(self, state: str) -> None:
        if self.run is not None:
            self.run.update(state=state, ended=now(), steps=self.step)


class _Averaged:
    """Inside the ``with`` block the parameters hold their moving average, and the module is in evaluation mode."""

    def __init__(self, ema: EMAModel | None, parameters: list[torch.nn.Parameter]) -> None:
        self.ema, self.parameters = ema, parameters

    def __enter__(self) -> None:
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)

    def __exit__(self, *_: object) -> None:
        if self.ema is not None:
            self.ema.restore(self.parameters)
