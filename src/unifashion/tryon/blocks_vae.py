"""The toy VAE (models/blocks_vae.py), under the name by which the ``model_index.json`` of earlier try-on models imports it."""

from diffusers import ModelMixin  # diffusers looks here for the base class that says how a part is loaded

from unifashion.models.blocks_vae import BlockAutoencoder

__all__ = ["BlockAutoencoder", "ModelMixin"]
