"""Tokenizers: any Hugging Face one plus the [DEC] token that opens a caption, or a WordPiece trained on the spot."""

import string
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unifashion.errors import UserError, one_line
from unifashion.models.weight_files import load_foreign

DEC = "[DEC]"
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the hub and make sure that it has [DEC], as the Q-Former of BLIP-2 expects.

    Raises:
        UserError: no such tokenizer, or one without [CLS], [SEP] and padding.
    """
    try:
        tokenizer = load_foreign(AutoTokenizer, name)
    except UserError as error:
        raise UserError(f"tokenizer {name!r}: {error}") from None
    except Exception as error:  # for a broken file, transformers and tokenizers raise all kinds of errors
        raise UserError(
            f"tokenizer {name!r} could not be loaded ({one_line(error)}); give a folder or a hub id, "
            "or --tokenizer train to build one from the training texts"
        ) from None
    if None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        raise UserError(f"tokenizer {name!r} lacks [CLS], [SEP] or a padding token; use a BERT-style tokenizer")
    # The embeddings of BLIP-2 have one row more than BERT's vocabulary, for this token; it must be the last one.
    if tokenizer.convert_tokens_to_ids(DEC) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"bos_token": DEC})
    return tokenizer


def train_wordpiece(texts: Iterable[str], vocab_size: int = 4000) -> PreTrainedTokenizerFast:
    """Build a lower-casing WordPiece from ``texts``: their most frequent words, and every character for the rest.

    The vocabulary is sorted by count, then by spelling, so the same texts always give the same ids (the trainers of the
    tokenizers library break ties at random).
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted({character for word in counts for character in word} | set(string.printable.split()[0]))
    pieces = [*_SPECIAL, DEC, *characters, *(f"##{character}" for character in characters)]
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    pieces += words[: max(vocab_size - len(pieces), 0)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=50))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizer  # type: ignore[assignment]
    tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    tokenizer.post_processor = processors.BertProcessing(  # type: ignore[assignment]
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DEC,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
