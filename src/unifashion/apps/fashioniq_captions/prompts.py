"""What the model is asked. The attribute list follows the paper's idea (style, colour, design ...); the wording is our own.

One step: describe the garment, attribute by attribute. Chain of thought, two steps: first the attributes as a list, then one
caption from that list. The model is told to leave out what it cannot see: lists of opposites ("fitted or loose, plain or
patterned") make LLaVA deny each of them in turn, as many released Fashion-IQ captions show.
"""

import hashlib

NOUNS = {"dress": "dress", "shirt": "shirt", "toptee": "top", "garment": "garment"}
ATTRIBUTES = {
    "dress": (
        "style and occasion",
        "colour",
        "pattern or print",
        "material and its finish",
        "sleeve",
        "neckline and straps",
        "length",
        "waist and fit",
        "skirt and hem",
        "details such as belt, lace, ruffles, buttons or slits",
    ),
    "shirt": (
        "style and occasion",
        "colour",
        "pattern, graphic or lettering, with what it shows",
        "material and its finish",
        "sleeve",
        "collar or neckline",
        "closure",
        "length and fit",
        "details such as pockets, cuffs or contrasting seams",
    ),
    "toptee": (
        "type of top and style",
        "colour",
        "pattern, graphic or lettering, with what it shows",
        "material and its finish",
        "sleeve or straps",
        "neckline",
        "length and fit",
        "hem",
        "details such as lace, ruffles, buttons or cut-outs",
    ),
    "garment": (
        "type of garment and style",
        "colour",
        "pattern, graphic or lettering, with what it shows",
        "material and its finish",
        "sleeve or straps",
        "neckline or collar",
        "length and fit",
        "closure",
        "details such as pockets, lace or trimmings",
    ),
}
WORDS = {"dress": "dress", "gown": "dress", "shirt": "shirt", "blouse": "toptee", "top": "toptee", "tee": "toptee"}
ONLY_SEEN = "Write only what can be seen, leave out what the {noun} does not have, and say nothing of the person or the backdrop."


def kind_of(category: str) -> str:
    """Return which prompt a category gets: dress, shirt, toptee, or garment for everything else."""
    word = category.lower().rstrip("s").replace("dresse", "dress")
    return WORDS.get(word, word if word in NOUNS else "garment")


def describe(kind: str, guidance: str = "") -> str:
    """Return the one question of a photo; ``guidance`` is what shoppers wrote about it."""
    noun = NOUNS[kind]
    asked = f"Describe this {noun} for a catalogue in two to four sentences: {'; '.join(ATTRIBUTES[kind])}."
    hint = f' Shoppers said about it: "{guidance}". Use this where the photo agrees.' if guidance else ""
    return f'{asked} {ONLY_SEEN.format(noun=noun)}{hint} Begin with "The {noun} is".'


def list_attributes(kind: str, guidance: str = "") -> str:
    """Return the first question of a chain of thought."""
    noun = NOUNS[kind]
    lines = "\n".join(f"- {attribute}: " for attribute in ATTRIBUTES[kind])
    hint = f'\nShoppers said about it: "{guidance}". Use this where the photo agrees.' if guidance else ""
    return (
        f"Look closely at the {noun} in this photo, one property at a time. Complete this list with a few words a line; "
        f'write "not visible" where you cannot tell.\n{lines}{hint}'
    )


def write_caption(kind: str) -> str:
    """Return the second question of a chain of thought."""
    noun = NOUNS[kind]
    return (
        f"Now write one catalogue caption of one to three sentences from your list. {ONLY_SEEN.format(noun=noun)} "
        f'Begin with "The {noun} is".'
    )


def fingerprint(chain: bool, prompt: str | None) -> str:
    """Return a short text that changes when any question changes."""
    asked = [prompt or "", *(part(kind) for kind in NOUNS for part in _parts(chain))]
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:12]


def _parts(chain: bool) -> tuple:
    return (list_attributes, write_caption) if chain else (describe,)
