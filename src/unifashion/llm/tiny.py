"""A small LLaMA with random weights and a vocabulary of the training texts: the caption head where no language model is at hand.

It knows nothing but what it is trained on, so all of its weights are trained and saved. It exists to run the whole pipeline on a
laptop, not to write well.
"""

import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

TINY = "tiny"
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
