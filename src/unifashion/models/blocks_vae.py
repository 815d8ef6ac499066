"""The VAE of the toy model: a block of pixels becomes its mean colour and one detail. Linear, fitted in closed form, no training.

It has the interface of diffusers' ``AutoencoderKL``, with a posterior of (almost) no variance, so it can take its place anywhere.
Latents are the principal axes of the mean colours (3) and the first one of what varies within blocks (1), each of unit
variance. The rest of a block is lost, and no denoiser can restore it.
"""

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

LOG_VARIANCE = -30.0  # what AutoencoderKL clamps to


class BlockAutoencoder(ModelMixin, ConfigMixin):
    """Mean colour and first detail of blocks of pixels."""

    @register_to_config
    def __init__(self, patch: int = 2, latent_channels: int = 4, scaling_factor: float = 1.0) -> None:
        """Build an unfitted one; ``fit`` sets its components.

        Args:
            patch: pixels per block, in each direction.
            latent_channels: components that are kept, three of them for the colour.
            scaling_factor: as in ``AutoencoderKL``; 1, since the components are scaled already.
        """
        super().__init__()
        size = 3 * patch * patch
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.components = nn.Parameter(
            torch.eye(size)[:latent_channels].clone(), requires_grad=False
        )  # rows, unit length
        self.spread = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @torch.no_grad()
    def fit(self, image_B3HW: Tensor) -> float:
        """Set the components for these pictures, in [-1, 1]; return the share of variance that they explain."""
        block_NP = self._blocks(image_B3HW).flatten(0, 2)
        centred_NP = block_NP - block_NP.mean(0)
        pixels = self.config.patch**2
        colour_3P = (
            torch.eye(3, device=block_NP.device).repeat_interleave(pixels, 1) / pixels**0.5
        )  # mean of each channel
        colour_3P = _principal(centred_NP @ colour_3P.T, 3) @ colour_3P
        within_NP = centred_NP - centred_NP @ colour_3P.T @ colour_3P
        component_KP = torch.cat([colour_3P, _principal(within_NP, len(self.spread) - 3)])
        latent_NK = centred_NP @ component_KP.T
        self.mean.copy_(block_NP.mean(0))
        self.components.copy_(component_KP)
        self.spread.copy_(latent_NK.std(0).clamp(min=1e-4))
        return float(latent_NK.var(0).sum() / centred_NP.var(0).sum())

    def encode(self, x: Tensor) -> AutoencoderKLOutput:
        """Return the posterior of pictures (B, 3, H, W) in [-1, 1]; its mean is (B, 4, H / patch, W / patch)."""
        mean = ((self._blocks(x) - self.mean) @ self.components.T / self.spread).permute(0, 3, 1, 2)
        parameters = torch.cat([mean, torch.full_like(mean, LOG_VARIANCE)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Return the pictures of latents."""
        block = (z.permute(0, 2, 3, 1) * self.spread) @ self.components + self.mean
        sample = F.pixel_shuffle(block.permute(0, 3, 1, 2), self.config.patch)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def _blocks(self, image_B3HW: Tensor) -> Tensor:
        return F.pixel_unshuffle(image_B3HW, self.config.patch).permute(0, 2, 3, 1)


def _principal(centred_NP: Tensor, count: int) -> Tensor:
    """Return the first principal components (count, P) of centred rows.

    Their signs are arbitrary, and another machine's LAPACK may return the others. They are fixed so that a sum of the entries is
    positive, in which the first ones weigh a little more: the plain sum is zero for what lies within a block.
    """
    _, vector_PP = torch.linalg.eigh(torch.cov(centred_NP.T))
    vector_KP = vector_PP.flip(1)[:, :count].T
    weight_P = torch.linspace(1.1, 1, vector_KP.shape[1], device=vector_KP.device)
    return torch.where((vector_KP @ weight_P)[:, None] < 0, -vector_KP, vector_KP)
