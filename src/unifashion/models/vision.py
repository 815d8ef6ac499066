"""The image tower: any transformers image model that returns a grid or a sequence of features.

The paper's tower is EVA-ViT-g, which transformers calls ``Blip2VisionModel``; BLIP-2's smaller one is CLIP ViT-L. Their last
LayerNorm is not part of the frozen tower: the model owns it (``ln_vision``, trainable), so the output is what a feature
cache may store.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, Blip2VisionConfig, Blip2VisionModel, CLIPVisionConfig


class VisionTower(nn.Module):
    """Turn pixels (B, 3, S, S) into image tokens (B, N, W)."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Build the tower from a transformers config as a dict with its ``model_type``; weights are random."""
        super().__init__()
        options = {key: value for key, value in config.items() if key != "model_type"}
        if config["model_type"] == Blip2VisionConfig.model_type:
            self.encoder: nn.Module = Blip2VisionModel(Blip2VisionConfig(**options))
        else:
            encoder = AutoModel.from_config(
                AutoConfig.for_model(config["model_type"], **options), trust_remote_code=False
            )
            self.encoder = getattr(encoder, "vision_model", encoder)  # older transformers wrap CLIP's tower once more
        if config["model_type"] in (Blip2VisionConfig.model_type, CLIPVisionConfig.model_type):
            # BLIP-2 replaces it by ln_vision, which trains; keeping both would normalise twice.
            self.encoder.post_layernorm = nn.Identity()
        self.frozen = False

    def freeze(self) -> None:
        """Exclude the tower from training for good: no gradients, and always in evaluation mode."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "VisionTower":
        """Follow the model's mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, pixels_B3SS: Tensor) -> Tensor:
        """Return tokens (B, N, W), before ``ln_vision``."""
        # Not inference_mode: its tensors could not enter the Q-Former's backward pass.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(pixel_values=pixels_B3SS).last_hidden_state
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
