"""What the language model is asked: the paper's instructions by data set, in one prompt around the image."""

from transformers import PreTrainedTokenizerBase

QUERIES = "<queries>"
SHORT = "Short description."
PROFESSIONAL = "Write a detail and professional description for the cloth."
KEY_POINTS = "Describe the cloth's style, color, design... and other key points."
INSTRUCTIONS = {"fashiongen": PROFESSIONAL, "fashion200k": SHORT, "fashioniq": KEY_POINTS, "fashioniq-cap": KEY_POINTS}


def instruction_for(dataset: str) -> str:
    """Return the paper's instruction for a data set (of a mixture, its first); of sets unknown to the paper, FashionGen's."""
    first = dataset.split("+")[0].partition(":")[0].strip()
    return INSTRUCTIONS.get(first, PROFESSIONAL)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, instruction: str) -> tuple[list[int], list[int]]:
    """Return the token ids before and after the image, with the opening token in front of the first word.

    A template that starts with <queries> is the layout of LAVIS: the image, then the opening token and the instruction.
    """
    before, after = template.replace("{instruction}", instruction).split(QUERIES)
    ids = [list(tokenizer(part, add_special_tokens=False)["input_ids"]) if part else [] for part in (before, after)]
    if tokenizer.bos_token_id is not None:
        ids[0 if before else 1].insert(0, tokenizer.bos_token_id)
    return ids[0], ids[1]
