"""Edit captions by rule: what remains is about the garment, not about people, poses, backdrops or the photo itself.

    "The image shows a woman wearing a long red dress. She is smiling."          -> "A long red dress."
    "The skirt ends above the wearer's knees, and the model is posing."          -> "The skirt ends above the knees."
    "The shirt has a print of a woman playing guitar on a darker background."    kept: this woman is part of the garment

Also removed: markdown, repeated sentences, and a last sentence that the token limit cut off. A caption of which nothing would
remain is kept as it is.
"""

import re

PERSON = (
    r"(?:woman|women|man|men|model|models|person|people|lady|ladies|girl|girls|boy|boys|individual|wearer|mannequin)"
)
BODY = r"(?:hair|face|expression|pose|posture|smile|skin|gaze|hands|eyes|makeup|stance)"  # not legs: trousers have them
ARTICLE = r"(?:the|a|an|this|her|his|their|one|two|three)"
GARMENT = (
    r"(?:dress|gown|skirt|shirt|top|toptee|blouse|tee|t-shirt|tank|sweater|jacket|outfit|garment|sleeves?|collar|hem)"
)
ADJECTIVES = (  # up to four words that may precede a person and are neither a garment nor a verb
    rf"(?:(?!(?:is|are|has|have|features?|with|of|and|in|on|for|includes?|shows?|worn|by|{GARMENT})\b)[\w-]+,? ){{0,4}}?"
)
PRINTED = re.compile(  # people in such a sentence are drawn on the garment
    r"\b(?:graphic|print(?:s|ed)?|logo|depict\w*|cartoon|character|illustrat\w*|portrait|emblem|drawing|design of|image of|"
    r"photo(?:graph)? of|picture of|figure of|silhouette of|face of|text|letter\w*|lettering|reads|caricature|stylized|motif)\b",
    re.I,
)
LEAD = re.compile(
    r"^(?:in (?:the|this) (?:image|photo|photograph|picture),? ?(?:there is |we (?:can )?see |you can see )?|"
    r"(?:the|this) (?:image|photo|photograph|picture) (?:is of|shows|features|displays|depicts|presents|captures|contains|"
    r"showcases) )",
    re.I,
)
WEARING = re.compile(
    rf"^(?:{ARTICLE} )?{ADJECTIVES}(?:{PERSON}|she|he|they)\b[^.;]*?\b"
    r"(?:wearing|wears|wore|dressed in|clad in|sporting|modell?ing|showcasing|showing off)\s+(?P<garment>.+)$",
    re.I,
)
WORN = re.compile(  # worn by a model, displayed on a mannequin against a wall
    rf",?\s*\b(?P<verb>(?:is|are) )?(?:as |being |and |which is |that is )*(?:worn|modell?ed|displayed|shown|presented|showcased|"
    rf"draped|hung|hanging|held up|seen|pictured|photographed|placed|isolated)(?: (?:by|on|against) (?:{ARTICLE} )?{ADJECTIVES}"
    rf"(?:{PERSON}|hanger|dress form|backdrop|background|wall|surface)\b)+(?: (?:with|who|that) [^,.;]*)?",
    re.I,
)
CUTS = [
    re.compile(pattern, re.I)
    for pattern in (
        r",?\s*\b(?:who|whose)\b[^,.;]*",
        r",?\s*\band (?:it|the [\w-]+) (?:is|are) shown(?=[.;]|$)",
        rf"\s+\b(?:on|for|to) (?:{ARTICLE} )?(?:[\w-]+ )?(?:model|mannequin|hanger|dress form|wearer|woman|man)\b(?!')",
        rf",?\s*\b(?:and|while|as|with) (?:{ARTICLE} )?(?:[\w-]+ )?(?:{PERSON}|she|he)\b(?!')[^,.;]*",
        r",?\s*\b(?:and |while |is )*(?:standing|posing|posed|smiling|sitting|walking)\b(?! (?:collar|out|neck|up))[^,.;]*",
        r",?\s*\b(?:and |while )*looking (?:at|away|into|to|directly|down|over)\b[^,.;]*",
        r",?\s*\bin (?:the|this) (?:image|photo|photograph|picture)\b",
    )
]
OWNED = re.compile(r"\b(?:the|this|her|his) (?:woman|man|model|person|lady|girl|boy|individual|wearer)'s ", re.I)
HERS = re.compile(
    rf"\b(?:her|his) (?={GARMENT}|(?:knees?|waist|hips?|ankles?|calves|calf|thighs?|shoulders?|chest|arms?)\b)", re.I
)
ABOUT_PEOPLE = re.compile(
    rf"^(?:(?:{ARTICLE}|there is|there are) )*{ADJECTIVES}(?:{PERSON}|{BODY})\b(?!['-])|^(?:she|he|her|his)\b", re.I
)
ABOUT_PHOTO = re.compile(
    r"^(?:the|this) (?:[\w-]+ ){0,2}?(?:background|backdrop|photo|photograph|picture|setting|scene|lighting)\b"
    rf"(?! (?:of|on) (?:the |this )?(?:{GARMENT}|print|pattern|graphic|logo|design|fabric))|^the image (?:is|has|was)\b",
    re.I,
)
SAYS_NOTHING = re.compile(
    r"^(?:(?!\b(?:that|which|has|have|features?)\b)[^,;])*\b(?:is|are) (?:not (?:[\w-]+ )?visible|shown)\b[^,;]*$", re.I
)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z\ue000])")
HIDDEN = "\ue000{}\ue001"  # stands for a quotation: two private characters that no caption has


def edit(caption: str, finished: bool = True) -> str:
    """Return the caption without people, poses and backdrops.

    Args:
        caption: a model's words.
        finished: False where they were cut at the token limit: the last sentence is then dropped, unless it is the only one.
    """
    quotes: list[str] = []

    def hide(match: re.Match[str]) -> str:
        quotes.append(match.group())
        return HIDDEN.format(len(quotes) - 1)

    # Quotations are lettering on the garment: nothing in them is cut, and no sentence ends within one.
    text = re.sub(r"\*\*|__|[\ue000\ue001]", "", " ".join(caption.replace("\u2019", "'").split()))
    sentences = _once(ENDS.split(QUOTED.sub(hide, text)))
    if not finished and len(sentences) > 1 and not sentences[-1].endswith((".", "!", "?")):
        sentences.pop()
    edited = " ".join(_once(_garment_only(sentences))) or " ".join(sentences)
    return re.sub(r"\ue000(\d+)\ue001", lambda match: quotes[int(match.group(1))], edited)


def _once(sentences: list[str]) -> list[str]:
    """Drop repeated sentences."""
    first: dict[str, str] = {}
    for sentence in filter(None, sentences):
        first.setdefault(sentence.lower().rstrip(".!?"), sentence)
    return list(first.values())


def _garment_only(sentences: list[str]) -> list[str]:
    kept, has_printed_people = [], False
    for sentence in sentences:
        text = LEAD.sub("", sentence)
        if PRINTED.search(text):
            has_printed_people |= bool(re.search(rf"\b{PERSON}\b", text, re.I))
            text = _finish(OWNED.sub(_the, text) if "wearer" in text else text)
        elif has_printed_people and re.search(rf"^(?:the|she|he|his|her)\b.*|\b{PERSON}\b", text, re.I):
            text = _finish(text)  # "The man is holding a frog" is still about the print
        else:
            text = _without_people(text)
        if text:
            kept.append(text)
    return kept


def _without_people(sentence: str) -> str:
    """Return what one sentence says about the garment, or an empty string."""
    worn = WEARING.match(sentence)
    text = worn.group("garment") if worn else sentence
    text = HERS.sub(_the, OWNED.sub(_the, text))
    text = WORN.sub(lambda match: f" {match['verb']}shown" if match["verb"] else "", text)
    for cut in CUTS:
        text = cut.sub("", text)
    if SAYS_NOTHING.match(text) or (not worn and (ABOUT_PEOPLE.match(text) or ABOUT_PHOTO.match(text))):
        return ""
    return _finish(text)


def _the(match: re.Match[str]) -> str:
    return "The " if match.group()[0].isupper() else "the "


def _finish(sentence: str) -> str:
    """Return a sentence with a capital and a full stop; an empty string if fewer than three words are left."""
    text = re.sub(r"\s+([,.;!?])", r"\1", " ".join(sentence.split())).strip(" ,;")
    text = re.sub(r"(?:,|\b(?:and|with|is|which is|that is))+\s*(?=[.!?]?$)", "", text).strip(" ,;")
    if len(re.findall(r"[\w\ue000]+", text)) < 3:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "”", '"', "\ue001")) else f"{text}."
