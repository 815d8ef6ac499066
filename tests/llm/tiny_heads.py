"""Tiny language and diffusion models of the real classes, written as folders."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from unifashion.llm.tiny import train_tokenizer

TEXTS = ["A red dress with short sleeves.", "A blue striped shirt.", "USER: <Img></Img> Describe this. Assistant:"]
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_llm(folder: Path, kind: str = "llama") -> Path:
    """Write a random LLaMA or Qwen of a few thousand weights."""
    tokenizer = train_tokenizer(TEXTS)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    torch.manual_seed(0)
    heads = {"num_key_value_heads": 1, "max_position_embeddings": 256, "initializer_range": 0.3}
    model(config(vocab_size=len(tokenizer), **SIZES, **heads, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_diffusion(folder: Path, width: int = SIZES["hidden_size"]) -> Path:
    """Write a random Stable Diffusion of a few thousand weights, whose words have ``width`` numbers."""
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")
    tokenizer = train_tokenizer(TEXTS)
    sizes = {**SIZES, "hidden_size": width}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(prediction_type="epsilon").save_pretrained(folder / "scheduler")
    return folder
