"""Write a random LLaVA-NeXT (or LLaVA 1.5) of a few thousand weights, with the real classes and the real file layout.

    python tests/apps/fashioniq_captions/tiny_llava.py runs/tiny_llava

It shows that the pipeline runs on a laptop; what it writes is nonsense.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE, PATCH = 28, 14
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '</s>' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def write_tiny_llava(folder: Path, version: str = "next", seed: int = 0) -> Path:
    """Write the model and its processor; ``version`` is "next" or "1.5"."""
    tokenizer = _tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.5,
        **sizes,
        **ids,
    )
    vision = CLIPVisionConfig(
        image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=16, initializer_range=0.5, **sizes
    )
    common = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    grid = [[IMAGE_SIZE, 2 * IMAGE_SIZE], [2 * IMAGE_SIZE, IMAGE_SIZE], [2 * IMAGE_SIZE, 2 * IMAGE_SIZE]]
    torch.manual_seed(seed)
    if version == "next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=grid))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_processor(folder, version, grid)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens: every text has a form, and nothing has to be trained."""
    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*special, *letters])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>"],
        model_max_length=2048,
    )


def _write_processor(folder: Path, version: str, grid: list[list[int]]) -> None:
    """Write the processor's files in the layout of the published checkpoints."""
    is_next = version == "next"
    image = {
        "image_processor_type": "LlavaNextImageProcessor" if is_next else "CLIPImageProcessor",
        "processor_class": "LlavaNextProcessor" if is_next else "LlavaProcessor",
        "do_convert_rgb": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "size": {"shortest_edge": IMAGE_SIZE},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    if is_next:
        image |= {"aspect_ratio_setting": "anyres", "image_grid_pinpoints": grid, "do_pad": True}
    processor = {
        "processor_class": image["processor_class"],
        "image_token": "<image>",
        "patch_size": PATCH,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    for name, value in (
        ("preprocessor_config.json", image),
        ("processor_config.json", processor),
        ("chat_template.json", {"chat_template": TEMPLATE}),
    ):
        (folder / name).write_text(json.dumps(value, indent=1))


if __name__ == "__main__":
    print(write_tiny_llava(Path(sys.argv[1])))
