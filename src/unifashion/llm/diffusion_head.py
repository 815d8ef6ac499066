"""The diffusion head (q2I): a Stable Diffusion 1.x conditioned on the Q-Former's query rows.

    query rows -> adapter -> inserted among CLIP's word embeddings -> CLIP text layers -> cross-attention of the UNet

The loss is the noise-prediction error on the latents of the target image (paper, section 3.2.2). The parts of Stable Diffusion
are the classes of diffusers and transformers; only the adapter is new. diffusers is imported where it is used, because captions
alone do not need it.

``tiny`` is made on the spot: a small UNet and text encoder with random weights, and a linear VAE (models/blocks_vae.py) that is
fitted to the training photos. It predicts "v" in place of the noise, which gives global colours in far fewer steps.

Shapes: B rows, Q query rows, H Q-Former width, L words of the prompt, E width of the text encoder, S x T height and width of what
is drawn, pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from unifashion.config import drawing_shape
from unifashion.errors import UserError, one_line, require
from unifashion.io import read_json
from unifashion.models.context_adapter import ContextAdapter, encode_with_context
from unifashion.models.kinds import check_folder
from unifashion.models.weight_files import load_foreign

NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}  # Stable Diffusion 1.x


class DiffusionHead(nn.Module):
    """Adapter, text encoder, autoencoder and UNet."""

    def __init__(
        self,
        width: int,
        num_rows: int,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: nn.Module,
        unet: nn.Module,
        size: str | int = 256,
        prompt: str = "",
        trains_unet: bool = True,
        prediction: str = "epsilon",
    ) -> None:
        """Put an adapter for rows of ``width`` before a Stable Diffusion; all but adapter and, if asked, UNet are frozen.

        Args:
            width: of the Q-Former's rows.
            num_rows: how many rows an image has.
            text_encoder: CLIP's.
            tokenizer: its tokenizer.
            vae: between pixels and latents.
            unet: predicts the noise.
            size: "256", or "512x384" = height x width.
            prompt: words that go with the rows; "" = each row's own.
            trains_unet: whether the UNet learns.
            prediction: what it predicts, as diffusers names it.
        """
        from diffusers import DDPMScheduler

        super().__init__()
        self.text_encoder: Any = text_encoder.requires_grad_(False).eval()
        self.vae: Any = vae.requires_grad_(False).eval()
        self.unet: Any = unet.requires_grad_(trains_unet)
        self.tokenizer, self.shape, self.prompt, self.trains_unet = tokenizer, drawing_shape(size), prompt, trains_unet
        self.num_rows = num_rows
        self.adapter = ContextAdapter(width, text_encoder.config.hidden_size)
        self.schedule = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction, **NOISE)

    def train(self, mode: bool = True) -> "DiffusionHead":
        """Follow the model's mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.text_encoder, self.vae, *(() if self.trains_unet else (self.unet,))):
            module.eval()
        return self

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Return the ids (B, L) of prompts, cut and padded to what the query rows leave room for; see ``prompt``."""
        room = self.text_encoder.config.max_position_embeddings - self.num_rows
        texts = [self.prompt or prompt for prompt in prompts]
        words = self.tokenizer(texts, padding="max_length", max_length=room, truncation=True, return_tensors="pt")
        ids_BL: Tensor = words["input_ids"]
        return ids_BL

    def condition(self, rows_BQH: Tensor | None, prompt_BL: Tensor) -> Tensor:
        """Return what the UNet attends to (B, T, E): the prompts, with the adapted rows in them if there are any."""
        return encode_with_context(self.text_encoder, prompt_BL, None if rows_BQH is None else self.adapter(rows_BQH))

    @torch.no_grad()
    def latents(self, image_B3ST: Tensor) -> Tensor:
        """Return scaled latents of images in -1..1, resized to the size of drawn images where they have another."""
        if image_B3ST.shape[-2:] != self.shape:
            image_B3ST = F.interpolate(image_B3ST, self.shape, mode="bilinear", antialias=True, align_corners=False)
        sampled: Tensor = self.vae.encode(image_B3ST.to(self.vae.dtype)).latent_dist.sample()
        return sampled * self.vae.config.scaling_factor

    def forward(self, rows_BQH: Tensor, image_B3ST: Tensor, prompt_BL: Tensor) -> Tensor:
        """Return the denoising loss on target images in -1..1; step and noise come from torch's global generators."""
        latents = self.latents(image_B3ST)
        noise = torch.randn_like(latents)
        step_B = torch.randint(self.schedule.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.schedule.add_noise(latents, noise, step_B)
        is_noise = self.schedule.config.prediction_type == "epsilon"
        wanted = noise if is_noise else self.schedule.get_velocity(latents, noise, step_B)
        predicted = self.unet(noisy, step_B, encoder_hidden_states=self.condition(rows_BQH, prompt_BL)).sample
        return F.mse_loss(predicted.float(), wanted.float())

    @torch.inference_mode()
    def draw(
        self,
        rows_BQH: Tensor | None,
        prompts: Sequence[str],
        steps: int = 50,
        guidance: float = 5.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return drawn images (B, 3, S, T) in 0..1, by DDIM with classifier-free guidance against an empty prompt.

        Args:
            rows_BQH: query rows; None = the prompts alone.
            prompts: words of each row; "" = none.
            steps: of the sampler.
            guidance: how strongly rows and words steer; 1 = not more than in training.
            generators: of each row's first noise, on the CPU; they make drawing repeatable on every device.
        """
        from diffusers import DDIMScheduler

        kind, device = self.schedule.config.prediction_type, self.adapter.expand.weight.device
        sampler = DDIMScheduler(
            **NOISE, prediction_type=kind, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
        sampler.set_timesteps(steps, device=device)
        cond_BTE = self.condition(rows_BQH, self.tokenize(prompts).to(device))
        uncond_BTE = encode_with_context(self.text_encoder, self._empty_prompt(cond_BTE), None)
        # The grid of latents is as large as that of a picture of zeros.
        grid = self.vae.encode(torch.zeros(1, 3, *self.shape, device=device)).latent_dist.mean.shape[-2:]
        shape = (1, self.unet.config.in_channels, *grid)
        sources: Sequence[torch.Generator | None] = generators or [None] * len(prompts)
        x = torch.cat([torch.randn(shape, generator=generator) for generator in sources]).to(device)
        for step in sampler.timesteps:
            cond, uncond = (self.unet(x, step, encoder_hidden_states=c).sample for c in (cond_BTE, uncond_BTE))
            x = sampler.step(uncond + guidance * (cond - uncond), step, x).prev_sample
        decoded: Tensor = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return (decoded / 2 + 0.5).clamp(0, 1)

    def _empty_prompt(self, like_BTE: Tensor) -> Tensor:
        length = like_BTE.shape[1]
        words = self.tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids_1L: Tensor = words["input_ids"].to(like_BTE.device)
        return ids_1L.expand(len(like_BTE), -1)

    def save_frozen(self, folder: Path) -> None:
        """Write everything but UNet and adapter, in diffusers form, into a new folder."""
        self.vae.save_pretrained(folder / "vae")
        self.text_encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        self.schedule.save_pretrained(folder / "scheduler")


def load_diffusion_head(
    name: str, width: int, num_rows: int, size: str | int, prompt: str, trains_unet: bool, unet: str | None = None
) -> DiffusionHead:
    """Build the head from a Stable Diffusion 1.x in diffusers form.

    Args:
        name: folder or hub id.
        width: of the Q-Former's rows.
        num_rows: how many rows an image has.
        size: of the drawn image, as in ``DiffusionHead``; multiples of 8.
        prompt: words that go with the rows; "" = each row's own.
        trains_unet: whether the UNet learns.
        unet: folder of a UNet that was trained before; default: the one in ``name``.

    Raises:
        UserError: nothing usable there, another kind of diffusion model, or a size that does not fit.
    """
    require("diffusers", f"the diffusion model {name!r}")
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    from unifashion.models.blocks_vae import BlockAutoencoder

    if not _is_tiny(name):
        check_folder(name, "diffusion", "unet", "vae", "text_encoder", "tokenizer", "scheduler")
    try:
        parts = (
            load_foreign(CLIPTextModel, name, subfolder="text_encoder"),
            load_foreign(AutoTokenizer, name, subfolder="tokenizer"),
            load_foreign(BlockAutoencoder if _is_tiny(name) else AutoencoderKL, name, subfolder="vae"),
            load_foreign(UNet2DConditionModel, unet or name, **({} if unet else {"subfolder": "unet"})),
        )
        kind = load_foreign(DDPMScheduler, name, subfolder="scheduler").config.prediction_type
    except UserError:
        raise
    except Exception as error:  # for a wrong or broken folder, diffusers raises all kinds of errors
        raise UserError(
            f"diffusion model {name!r} could not be loaded ({one_line(error)}); give a Stable Diffusion 1.x in diffusers form, "
            "with the folders unet, vae, text_encoder, tokenizer and scheduler"
        ) from None
    if (kind != "epsilon" and not _is_tiny(name)) or parts[3].config.cross_attention_dim != parts[0].config.hidden_size:
        raise UserError(
            f"diffusion model {name!r} is not a Stable Diffusion 1.x: it must predict noise from CLIP's text rows"
        )
    check_blocks(size, getattr(parts[2].config, "patch", 8))
    return DiffusionHead(width, num_rows, *parts, size=size, prompt=prompt, trains_unet=trains_unet, prediction=kind)


def check_blocks(size: str | int, block: int) -> None:
    """Check that an autoencoder can cut what is drawn into its blocks of ``block`` pixels.

    Raises:
        UserError: it cannot.
    """
    if any(side % block for side in drawing_shape(size)):
        raise UserError(f"drawing_size {size}: the autoencoder works on blocks of {block} pixels; give multiples of it")


def _is_tiny(name: str) -> bool:
    """Return whether a folder holds what ``save_frozen`` wrote of a head that was made on the spot."""
    config = read_json(Path(name) / "vae" / "config.json")
    return isinstance(config, dict) and config.get("_class_name") == "BlockAutoencoder"
