"""The outputs of the frozen parts for pixels and texts: latents, text states, and the denoiser's 13 channels.

Shapes: B rows, H x W pixels, h x w latent positions, L text tokens, D their width. Images are in [-1, 1], masks in [0, 1].
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase


def posterior(vae: AutoencoderKL, image_B3HW: Tensor) -> Tensor:
    """Return mean and logarithm of the variance of the latents, (B, 8, h, w), not scaled."""
    return vae.encode(image_B3HW.to(vae.dtype)).latent_dist.parameters.float()


def latents(vae: AutoencoderKL, posterior_B8hw: Tensor, noise_B4hw: Tensor | None = None) -> Tensor:
    """Return scaled latents (B, 4, h, w): a sample of the posterior for standard normal ``noise``, else its mean."""
    mean, log_variance = posterior_B8hw.chunk(2, dim=1)
    if noise_B4hw is not None:
        # The clamp is that of diffusers' DiagonalGaussianDistribution.
        mean = mean + noise_B4hw.to(mean) * (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
    return mean * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latent_B4hw: Tensor) -> Tensor:
    """Return the images (B, 3, H, W) in [-1, 1], float32."""
    pixels = vae.decode((latent_B4hw / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
    return pixels.float().clamp(-1, 1)


def text_states(tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel, texts: Sequence[str]) -> Tensor:
    """Return the last hidden states (B, L, D) of captions, padded and cut to the encoder's length."""
    ids_BL = text_ids(tokenizer, texts, encoder.config.max_position_embeddings)
    return encoder(ids_BL.to(encoder.device))[0]


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> Tensor:
    """Return the ids (B, L) of captions, padded and cut to a length."""
    words = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids_BL: Tensor = words["input_ids"]
    return ids_BL


def to_latent_size(mask_B1HW: Tensor, size: Sequence[int]) -> Tensor:
    """Reduce a mask to the latents' size; each value is the mean over the pixels there."""
    return F.interpolate(mask_B1HW.float(), tuple(size), mode="bilinear", antialias=True)


def denoiser_input(noisy_B4hw: Tensor, agnostic_B4hw: Tensor, keep_B1HW: Tensor, densepose_B4hw: Tensor) -> Tensor:
    """Assemble the denoiser's input, (B, 13, h, w)."""
    keep_B1hw = to_latent_size(keep_B1HW, noisy_B4hw.shape[-2:]).to(noisy_B4hw)
    return torch.cat([noisy_B4hw, agnostic_B4hw.to(noisy_B4hw), keep_B1hw, densepose_B4hw.to(noisy_B4hw)], dim=1)
