"""The training losses of UNIStableVITON: predict the noise; in the second stage also keep the attention smooth.

MSE(noise, predicted noise) + atv_weight * attention total variation
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from unifashion.tryon import encode
from unifashion.tryon.dataset import IMAGES, Batch
from unifashion.tryon.denoiser import Denoised, TryOnDenoiser
from unifashion.tryon.pipeline import default_scheduler
from unifashion.tryon.warp import attention_total_variation, warp_region


def noise_schedule(scheduler: SchedulerMixin | None = None) -> DDPMScheduler:
    """Return the noise schedule of training, 1000 steps: that of a pipeline's sampler, by default Stable Diffusion's."""
    config = (scheduler or default_scheduler()).config
    # Given explicitly, because from_config drops what was a default of the other class.
    return DDPMScheduler.from_config(config, prediction_type=config.prediction_type)


def draw(batch: Batch, vae: AutoencoderKL, drop: float, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Draw everything that is random in a step, on the CPU: posterior samples, noise, timesteps, drops.

    Args:
        batch: from ``dataset.encode_batch`` or a ``LatentCache``.
        vae: whose latents these are.
        drop: share of rows whose context becomes the unconditional vector.
        generators: one per row, so that a row's draws do not depend on its process or on the other rows.
    """
    device = batch["image"].device
    _, channels, height, width = batch["image"].shape

    # On the CPU and row by row: a row's noise is then the same on every device and in every batch.
    def normal() -> Tensor:
        shape = (channels // 2, height, width)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

    drawn = {name: encode.latents(vae, batch[name], normal()) for name in IMAGES}
    drawn["noise"] = normal()
    drawn["t"] = torch.cat([torch.randint(1000, (1,), generator=generator) for generator in generators]).to(device)
    drawn["drop"] = (torch.cat([torch.rand(1, generator=generator) for generator in generators]) < drop).to(device)
    return drawn


def denoise(
    denoiser: TryOnDenoiser, schedule: DDPMScheduler, batch: Batch, with_attention: bool, text_encoder: Any = None
) -> Denoised:
    """Predict the noise of a batch.

    Args:
        denoiser: the network, possibly wrapped by accelerate.
        schedule: from ``noise_schedule``.
        batch: from ``dataset.encode_batch``, with ``drawn`` from ``draw``.
        with_attention: also return where the garment's attention is centred.
        text_encoder: frozen; for a denoiser that inserts rows among the words.
    """
    drawn = batch["drawn"]
    noisy = schedule.add_noise(drawn["image"], drawn["noise"], drawn["t"])
    x13 = encode.denoiser_input(noisy, drawn["agnostic"], batch["keep"], drawn["densepose"])
    context = denoiser.context(batch["text"], batch.get("query_rows"), drawn["drop"], text_encoder)
    predicted: Denoised = denoiser(x13, drawn["t"], context, drawn["control"], attention_centre=with_attention)
    return predicted


def noise_loss(predicted: Denoised, schedule: DDPMScheduler, drawn: dict[str, Tensor]) -> Tensor:
    """Return the mean squared error of the prediction: of the noise, or of v if the schedule predicts v."""
    target = drawn["noise"]
    if schedule.config.prediction_type == "v_prediction":
        target = schedule.get_velocity(drawn["image"], drawn["noise"], drawn["t"])
    return F.mse_loss(predicted.noise.float(), target)


def attention_loss(predicted: Denoised, warped_mask_B1HW: Tensor) -> Tensor:
    """Return the total variation of the attention centres where the garment is on the person."""
    centre_BHW2 = predicted.attention_centre
    assert centre_BHW2 is not None, "the prediction was made without attention centres"
    rows, columns = predicted.noise.shape[-2:]
    region = warp_region(warped_mask_B1HW, (rows, columns), (centre_BHW2.shape[1], centre_BHW2.shape[2]))
    return attention_total_variation(centre_BHW2, region)
