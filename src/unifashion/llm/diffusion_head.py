"""The diffusion head (q2I): a Stable Diffusion 1.x conditioned on the Q-Former's query rows.

    query rows -> adapter -> inserted among CLIP's word embeddings -> CLIP text layers -> cross-attention of the UNet

The loss is the noise-prediction error on the latents of the target image (paper, section 3.2.2). The parts of Stable Diffusion
are the classes of diffusers and transformers; only the adapter is new. diffusers is imported where it is used, because captions
alone do not need it.

Shapes: B rows, Q query rows, H Q-Former width, L words of the prompt, E width of the text encoder, S side in pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from unifashion.errors import UserError, one_line, require
from unifashion.models.kinds import check_folder
from unifashion.models.weight_files import load_foreign

INSERT_AT = 2  # the rows follow the opening token and one word
NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}  # Stable Diffusion 1.x


class ContextAdapter(nn.Module):
    """LayerNorm, expand, quick GELU, contract, dropout, residual. Where the widths differ the residual is a linear map."""

    def __init__(self, width: int, text_width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, text_width)
        self.residual = nn.Identity() if width == text_width else nn.Linear(width, text_width, bias=False)
        self.dropout = dropout

    def forward(self, x_BQH: Tensor) -> Tensor:
        """Return (B, Q, E)."""
        h = self.expand(self.norm(x_BQH))
        out_BQE = self.contract(h * torch.sigmoid(1.702 * h))
        return self.residual(x_BQH) + F.dropout(out_BQE, self.dropout, self.training)


def encode_with_context(encoder: Any, ids_BL: Tensor, context_BQE: Tensor | None, insert_at: int = INSERT_AT) -> Tensor:
    """Run CLIP's text encoder with extra rows among its word embeddings.

    Args:
        encoder: a ``CLIPTextModel``.
        ids_BL: tokens of the prompt.
        context_BQE: rows that are inserted before token ``insert_at``; None = none. Positions continue through them.
        insert_at: position of the first row.

    Returns:
        last hidden state (B, L + Q, E), after the final LayerNorm; every position sees itself and those before it.
    """
    clip = getattr(encoder, "text_model", encoder)  # older transformers wrap it once more
    x_BTE = clip.embeddings.token_embedding(ids_BL)
    if context_BQE is not None:
        x_BTE = torch.cat([x_BTE[:, :insert_at], context_BQE.to(x_BTE.dtype), x_BTE[:, insert_at:]], dim=1)
    x_BTE = clip.embeddings(inputs_embeds=x_BTE)  # adds the positions, which continue through the inserted rows
    length = x_BTE.shape[1]
    # The encoder builds its own causal mask only from token ids; given embeddings it has to be passed.
    mask_TT = torch.full((length, length), torch.finfo(x_BTE.dtype).min, dtype=x_BTE.dtype, device=x_BTE.device).triu(1)
    hidden_BTE = clip.encoder(
        inputs_embeds=x_BTE, attention_mask=mask_TT[None, None], is_causal=False
    ).last_hidden_state
    normed: Tensor = clip.final_layer_norm(hidden_BTE)
    return normed


class DiffusionHead(nn.Module):
    """Adapter, text encoder, autoencoder and UNet."""

    def __init__(
        self,
        width: int,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: nn.Module,
        unet: nn.Module,
        size: int = 256,
        prompt: str = "a photo of a garment",
        trains_unet: bool = True,
    ) -> None:
        """Put an adapter for rows of ``width`` before a Stable Diffusion; all but adapter and, if asked, UNet are frozen."""
        from diffusers import DDPMScheduler

        super().__init__()
        self.text_encoder: Any = text_encoder.requires_grad_(False).eval()
        self.vae: Any = vae.requires_grad_(False).eval()
        self.unet: Any = unet.requires_grad_(trains_unet)
        self.tokenizer, self.size, self.prompt, self.trains_unet = tokenizer, size, prompt, trains_unet
        self.adapter = ContextAdapter(width, text_encoder.config.hidden_size)
        self.schedule = DDPMScheduler(num_train_timesteps=1000, **NOISE)

    def train(self, mode: bool = True) -> "DiffusionHead":
        """Follow the model's mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in (self.text_encoder, self.vae, *(() if self.trains_unet else (self.unet,))):
            module.eval()
        return self

    def condition(self, rows_BQH: Tensor) -> Tensor:
        """Return what the UNet attends to (B, T, E): the prompt with the adapted rows in it."""
        context_BQE = self.adapter(rows_BQH)
        room = self.text_encoder.config.max_position_embeddings - context_BQE.shape[1]
        return encode_with_context(self.text_encoder, self._prompt_ids(self.prompt, room, rows_BQH), context_BQE)

    def _prompt_ids(self, prompt: str, length: int, like: Tensor) -> Tensor:
        words = self.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids_1L: Tensor = words["input_ids"].to(like.device)
        return ids_1L.expand(len(like), -1)

    @torch.no_grad()
    def latents(self, image_B3SS: Tensor) -> Tensor:
        """Return scaled latents of images in -1..1, resized to the size of drawn images."""
        shape = (self.size, self.size)
        resized = F.interpolate(image_B3SS, shape, mode="bilinear", antialias=True, align_corners=False)
        sampled: Tensor = self.vae.encode(resized.to(self.vae.dtype)).latent_dist.sample()
        return sampled * self.vae.config.scaling_factor

    def forward(self, rows_BQH: Tensor, image_B3SS: Tensor) -> Tensor:
        """Return the noise-prediction loss on target images in -1..1; step and noise come from torch's global generators."""
        latents = self.latents(image_B3SS)
        noise = torch.randn_like(latents)
        step_B = torch.randint(self.schedule.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.schedule.add_noise(latents, noise, step_B)
        predicted = self.unet(noisy, step_B, encoder_hidden_states=self.condition(rows_BQH)).sample
        return F.mse_loss(predicted.float(), noise.float())

    @torch.inference_mode()
    def draw(
        self, rows_BQH: Tensor, steps: int = 50, guidance: float = 5.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return drawn images (B, 3, S, S) in 0..1, by DDIM with classifier-free guidance against an empty prompt."""
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        sampler.set_timesteps(steps, device=rows_BQH.device)
        cond_BTE = self.condition(rows_BQH)
        uncond_BTE = encode_with_context(self.text_encoder, self._prompt_ids("", cond_BTE.shape[1], rows_BQH), None)
        side = self.size // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (len(rows_BQH), self.unet.config.in_channels, side, side)
        x = torch.randn(shape, generator=generator).to(rows_BQH.device)
        for step in sampler.timesteps:
            cond, uncond = (self.unet(x, step, encoder_hidden_states=c).sample for c in (cond_BTE, uncond_BTE))
            x = sampler.step(uncond + guidance * (cond - uncond), step, x).prev_sample
        decoded: Tensor = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return (decoded / 2 + 0.5).clamp(0, 1)


def load_diffusion_head(
    name: str, width: int, size: int, prompt: str, trains_unet: bool, unet: str | None = None
) -> DiffusionHead:
    """Build the head from a Stable Diffusion 1.x in diffusers form.

    Args:
        name: folder or hub id.
        width: of the Q-Former's rows.
        size: side of the drawn image, pixels; a multiple of 8.
        prompt: words that go with the rows.
        trains_unet: whether the UNet learns.
        unet: folder of a UNet that was trained before; default: the one in ``name``.

    Raises:
        UserError: nothing usable there, another kind of diffusion model, or a size that does not fit.
    """
    if size % 8 or size < 8:
        raise UserError(f"drawing_size {size}: the autoencoder works on blocks of 8 pixels; give a multiple of 8")
    require("diffusers", f"the diffusion model {name!r}")
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    check_folder(name, "diffusion", "unet", "vae", "text_encoder", "tokenizer", "scheduler")
    try:
        parts = (
            load_foreign(CLIPTextModel, name, subfolder="text_encoder"),
            load_foreign(AutoTokenizer, name, subfolder="tokenizer"),
            load_foreign(AutoencoderKL, name, subfolder="vae"),
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
    if kind != "epsilon" or parts[3].config.cross_attention_dim != parts[0].config.hidden_size:
        raise UserError(
            f"diffusion model {name!r} is not a Stable Diffusion 1.x: it must predict noise from CLIP's text rows"
        )
    return DiffusionHead(width, *parts, size=size, prompt=prompt, trains_unet=trains_unet)
