"""A toy pipeline, made once; and the way to tests/golden."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))  # for toy.py

from unifashion.tryon.tiny import tiny_pipeline

TEXTS = ["red striped shirt, long-sleeved red shirt", "blue top, short blue top with a v-neck"]


@pytest.fixture(scope="session")
def pipe():
    """The toy pipeline; tests must not change it."""
    torch.manual_seed(0)
    made = tiny_pipeline(TEXTS, image_size=(36, 24))
    with torch.no_grad():  # fresh warp blocks pass nothing on
        for block in made.denoiser.warp_blocks:
            block.zero_conv.weight.normal_(std=0.1)
        made.denoiser.garment_encoder.controlnet_cond_embedding.weight.normal_(std=0.1)
    made.set_progress_bar_config(disable=True)
    return made
