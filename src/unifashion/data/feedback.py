"""Words as the models read them: how two feedback sentences become one, and how every text is cleaned.

The rules are those of CLIP4Cir (joining) and BLIP (cleaning), so that published checkpoints see what they were trained on.
"""

import random
import re
from collections.abc import Mapping, Sequence

MAX_WORDS = 50
_STRIP = ".?, "


def evaluation_feedback(sentences: Sequence[str]) -> str:
    """Join feedback as in evaluation: "Is red and has longer sleeves"; one sentence is used alone, none gives an empty text."""
    if not sentences:
        return ""
    first, *rest = [sentence.strip(_STRIP) for sentence in sentences]
    return " and ".join([first.capitalize(), *rest])


def training_feedback(sentences: Sequence[str], rng: random.Random) -> str:
    """Join feedback as in training: "A and b", "B and a", "A" or "B", each with probability 1/4.

    One sentence is used alone, none gives an empty text; of more than two, the first two are used. Two sentences take exactly
    one draw from ``rng``, fewer take none.
    """
    if len(sentences) < 2:
        return evaluation_feedback(sentences)
    first, second = sentences[0], sentences[1]
    draw = rng.random()
    if draw < 0.25:
        return evaluation_feedback([first, second])
    if 0.25 < draw < 0.5:
        return evaluation_feedback([second, first])
    if 0.5 < draw < 0.75:
        return evaluation_feedback([first])
    return evaluation_feedback([second])


def prepare_text(text: str, max_words: int = MAX_WORDS) -> str:
    """Clean a text as BLIP's caption processor does: lower case, no . ! " ( ) * # : ; ~, single spaces, at most ``max_words``.

    Exactly as there, a lone tab or line break between two words stays; tokenizers read it as a space.
    """
    text = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def equal_texts(text_of: Mapping[str, str]) -> list[list[str]]:
    """Return groups of names whose texts are equal as the models read them; a name without its equal is in no group."""
    names_of: dict[str, list[str]] = {}
    for name, text in text_of.items():
        names_of.setdefault(prepare_text(text), []).append(name)
    return [names for names in names_of.values() if len(names) > 1]
