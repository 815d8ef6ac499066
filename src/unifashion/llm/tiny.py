"""A small LLaMA and a small Stable Diffusion with random weights, for where no pretrained ones are at hand.

They know nothing but what they are trained on, so all of their weights are trained (or fitted) and saved. They exist to run the
whole pipeline on a laptop, not to write or draw well.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from unifashion.errors import require
from unifashion.llm.diffusion_head import DiffusionHead, check_blocks

TINY = "tiny"
TEXT_WIDTH, PROMPT_LENGTH, PATCH = 64, 24, 3
_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
_SPACE = "\u2581"
_PIECE = rf"{_SPACE}?\w+|{_SPACE}?[^\w\s{_SPACE}]|{_SPACE}"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4000) -> PreTrainedTokenizerFast:
    """Build a tokenizer that keeps case and punctuation: the most frequent words, and every character for the rest.

    As in LLaMA's, a space belongs to the word after it, and decoding gives back the exact text. The vocabulary is sorted by
    count, then by spelling, so the same texts always give the same ids.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(_PIECE, _SPACE + " ".join(text.split()).replace(" ", _SPACE)))
    characters = sorted(
        {character for piece in counts for character in piece} | set(map(chr, range(33, 127))) | {_SPACE}
    )
    words = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-counts[piece], piece))
    words = words[: max(vocab_size - len(_SPECIAL) - len(characters), 0)]
    # A Unigram model takes the split with the highest sum: one word beats the characters that spell it.
    scores = [(piece, 0.0) for piece in _SPECIAL] + [(piece, -1.0) for piece in words]
    scores += [(character, -10.0) for character in characters]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(_PIECE), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def tiny_llama(tokenizer: PreTrainedTokenizerBase, max_positions: int = 512) -> LlamaForCausalLM:
    """Build the model with random weights, from torch's global generator."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=max_positions,
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).float()


def tiny_diffusion_head(
    texts: Iterable[str], drawings: Callable[[], Tensor], width: int, num_rows: int, size: str, prompt: str
) -> DiffusionHead:
    """Build a diffusion head with random weights, from torch's global generator, and an autoencoder fitted to pictures.

    Args:
        texts: the prompts' vocabulary.
        drawings: called for pictures (N, 3, S, T) in -1..1.
        width: of the Q-Former's rows.
        num_rows: how many rows an image has.
        size: of the drawn image.
        prompt: as in ``DiffusionHead``.
    """
    require("diffusers", "--diffusion-model tiny")
    from diffusers import UNet2DConditionModel

    from unifashion.models.blocks_vae import BlockAutoencoder

    check_blocks(size, PATCH)
    tokenizer = train_tokenizer(texts)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=num_rows + PROMPT_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = BlockAutoencoder(patch=PATCH)
    vae.fit(drawings())
    return DiffusionHead(width, num_rows, text_encoder, tokenizer, vae, unet, size, prompt, prediction="v_prediction")
