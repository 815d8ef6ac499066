"""The VAE of the toy model: blocks of pixels become their principal components. Linear, fitted in closed form, no training.

It speaks as diffusers' ``AutoencoderKL`` does, with a posterior that has (almost) no spread, so the rest of try-on cannot tell.
Of a block's numbers four stay: three for its colour and one for what changes within. The rest no denoiser can bring back.
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
    """Principal components of blocks of pixels, each scaled to unit variance."""

    @register_to_config
    def __init__(self, patch: int = 2, latent_channels: int = 4, scaling_factor: float = 1.0) -> None:
        """Build an empty one; ``fit`` gives it components.

        Args:
            patch: pixels per block, in each direction.
            latent_channels: components that are kept.
            scaling_factor: as in ``AutoencoderKL``; 1, since the components are scaled already.
        """
        super().__init__()
        size = 3 * patch * patch
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.components = nn.Parameter(torch.eye(size)[:latent_channels].clone(), requires_grad=False)  # rows, unit length
        self.spread = nn.Parameter(torch.ones(latent_channels), requires_grad=False)

    @torch.no_grad()
    def fit(self, image_B3HW: Tensor) -> float:
        """Set the components to the principal ones of these pictures, in [-1, 1]; return the share of variance they keep."""
        block_NP = self._blocks(image_B3HW).flatten(0, 2)
        mean = block_NP.mean(0)
        variance_P, vector_PP = torch.linalg.eigh(torch.cov((block_NP - mean).T))
        kept = len(self.spread)
        vector_KP = vector_PP.flip(1)[:, :kept].T
        vector_KP = vector_KP * vector_KP.sum(1, keepdim=True).sign()  # eigenvectors have no sign of their own
        self.mean.copy_(mean)
        self.components.copy_(vector_KP)
        self.spread.copy_(variance_P.flip(0)[:kept].clamp(min=1e-8).sqrt())
        return float(variance_P.flip(0)[:kept].sum() / variance_P.sum())

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
