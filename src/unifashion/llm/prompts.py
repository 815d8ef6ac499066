"""The language model's prompt: the paper's instruction for each data set, around the image."""

from transformers import PreTrainedTokenizerBase

from unifashion.data.splits import first_spec

QUERIES = "<queries>"


def instruction_for(dataset: str) -> str:
    """Return a data set's instruction (a mixture: its first set's); sets that the paper does not name have FashionGen's."""
    return first_spec(dataset).instruction


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, instruction: str) -> tuple[list[int], list[int]]:
    """Return the token ids before and after the image, with the opening token in front of the first word.

    A template that starts with <queries> is the layout of LAVIS: the image, then the opening token and the instruction.
    """
    before, after = template.replace("{instruction}", instruction).split(QUERIES)
    ids = [list(tokenizer(part, add_special_tokens=False)["input_ids"]) if part else [] for part in (before, after)]
    if tokenizer.bos_token_id is not None:
        ids[0 if before else 1].insert(0, tokenizer.bos_token_id)
    return ids[0], ids[1]
