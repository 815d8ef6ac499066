"""The try-on model at toy size: the same classes as at full size, small enough to train on a laptop's CPU in minutes.

There is nothing pretrained at this size, so three things differ from full size, and all of the denoiser trains:

* the VAE is a linear map of 3 x 3 pixels to 4 numbers, fitted to the training pictures in closed form (models/blocks_vae.py);
* the text encoder keeps its random weights, which still distinguish words;
* the denoiser predicts "v" (Salimans & Ho, 2022) instead of the noise, which gives global colours in far fewer steps, and DDIM
  samples it. This is the scheduler's ``prediction_type``, which loss and sampler follow.
"""

from collections.abc import Iterable

from diffusers import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from unifashion.models.blocks_vae import BlockAutoencoder
from unifashion.models.tokenizer import train_wordpiece
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.pipeline import NOISE, TryOnPipeline
from unifashion.tryon.settings import Adapter, Control

TEXT_WIDTH, TEXT_LENGTH = 32, 24
CLIP_WIDTH = 64  # of the texts that a clip adapter reads: as the toy diffusion head has it


def tiny_pipeline(
    texts: Iterable[str],
    adapter_width: int | None = None,
    adapter_kind: Adapter = "linear",
    num_rows: int = 0,
    retriever: str | None = None,
    control: Control = "garment",
    image_size: tuple[int, int] = (48, 36),
) -> TryOnPipeline:
    """Build the toy model with random weights from torch's global generator.

    Args:
        texts: captions that the vocabulary is made from.
        adapter_width: see ``TryOnDenoiser``.
        adapter_kind: likewise.
        num_rows: how many rows the adapter reads.
        retriever: likewise.
        control: likewise.
        image_size: likewise.
    """
    width, more = (CLIP_WIDTH, num_rows) if adapter_kind == "clip" else (TEXT_WIDTH, 0)
    tokenizer: PreTrainedTokenizerFast = train_wordpiece(texts)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH + more,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    scheduler = DDIMScheduler(
        **NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    denoiser = TryOnDenoiser(
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        cross_attention_dim=width,
        num_heads=2,
        norm_num_groups=8,
        adapter_width=adapter_width,
        adapter_kind=adapter_kind,
        retriever=retriever,
        control=control,
        image_size=image_size,
    )
    return TryOnPipeline(BlockAutoencoder(patch=3), CLIPTextModel(text_config).eval(), tokenizer, denoiser, scheduler)
