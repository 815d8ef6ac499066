"""The training loss of UNIStableVITON: predict the noise; in the second stage also keep the gaze steady.

MSE(noise, predicted noise) + atv_weight * attention total variation
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from unifashion.tryon import encode
from unifashion.tryon.dataset import IMAGES, Batch
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.pipeline import default_scheduler
from unifashion.tryon.warp import attention_total_variation, warp_region


def noise_schedule(scheduler: SchedulerMixin | None = None) -> DDPMScheduler:
    """Return the noise schedule of training, 1000 steps: that of a pipeline's sampler, by default Stable Diffusion's."""
    config = (scheduler or default_scheduler()).config
    # Named again, because from_config forgets what was a default of the other class.
    return DDPMScheduler.from_config(config, prediction_type=config.prediction_type)


def draw(batch: Batch, vae: AutoencoderKL, drop: float, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Draw everything that is random in a step, on the CPU: posterior samples, noise, timesteps, drops.

    Args:
        batch: from ``rows.encode_batch`` or a ``LatentCache``.
        vae: whose latents these are.
        drop: share of rows whose context becomes the unconditional vector.
        generators: one per row, so that a row's draws do not depend on which process has it, or beside which others.
    """
    device = batch["image"].device
    _, channels, height, width = batch["image"].shape

    def normal() -> Tensor:
        shape = (channels // 2, height, width)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

    drawn = {name: encode.latents(vae, batch[name], normal()) for name in IMAGES}
    drawn["noise"] = normal()
    drawn["t"] = torch.cat([torch.randint(1000, (1,), generator=generator) for generator in generators]).to(device)
    drawn["drop"] = (torch.cat([torch.rand(1, generator=generator) for generator in generators]) < drop).to(device)
    return drawn


class TryOnLoss(nn.Module):
    """The denoiser with its loss, as one module that accelerate can wrap."""

    def __init__(
        self, denoiser: TryOnDenoiser, atv_weight: float = 0.0, scheduler: SchedulerMixin | None = None
    ) -> None:
        super().__init__()
        self.denoiser, self.atv_weight = denoiser, atv_weight
        self.schedule = noise_schedule(scheduler)

    def forward(
        self,
        drawn: dict[str, Tensor],
        text_BLD: Tensor,
        keep_B1HW: Tensor,
        warped_B1HW: Tensor | None = None,
        rows_BQH: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses: ``noise`` (mean squared error) and, with a weight for it, ``atv`` (before the weight)."""
        noisy = self.schedule.add_noise(drawn["image"], drawn["noise"], drawn["t"])
        x13 = encode.thirteen(noisy, drawn["agnostic"], keep_B1HW, drawn["densepose"])
        context = self.denoiser.context(text_BLD, rows_BQH, drawn["drop"])
        found = self.denoiser(x13, drawn["t"], context, drawn["control"], gaze=self.atv_weight > 0)
        wanted = drawn["noise"]
        if self.schedule.config.prediction_type == "v_prediction":
            wanted = self.schedule.get_velocity(drawn["image"], drawn["noise"], drawn["t"])
        losses = {"noise": F.mse_loss(found.noise.float(), wanted)}
        if self.atv_weight > 0:
            assert warped_B1HW is not None, "the total variation loss needs the garment's mask on the person"
            region = warp_region(warped_B1HW, noisy.shape[-2:], found.gaze.shape[1:3])
            losses["atv"] = attention_total_variation(found.gaze, region)
        return losses
