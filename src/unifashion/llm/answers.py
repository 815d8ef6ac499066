"""What of a language model's answer is the caption: thoughts, wrappers and greetings go, refusals are none.

    "<think>Is it red?</think>The dress is red."        -> "The dress is red."
    '```json\\n{"caption": "The dress is red."}\\n```'    -> "The dress is red."
    "Sure! Here is the caption:\\n\\n\\"A red dress.\\""    -> "A red dress."
    "I'm sorry, but I can't help with that."            -> no caption: the model refused
    "<think>Okay, I see a red dress. Wait,"             -> no caption: only thoughts

What stands inside a sentence stays: quotations, "<3", a slogan that says sorry.
"""

import json
import re

TAGS = r"(?:think(?:ing)?|thought|reason(?:ing)?|reflection|scratchpad|analysis|seed:think)"
THOUGHTS = (
    re.compile(rf"<(?P<tag>{TAGS})>.*?</(?P=tag)>", re.I | re.S),
    re.compile(r"\[THINK\].*?\[/THINK\]", re.S),  # Mistral
    re.compile(r"◁think▷.*?◁/think▷", re.S),  # Kimi
    re.compile(r"<\|channel\|>(?:analysis|commentary).*?(?:<\|end\|>|(?=<\|channel\|>final)|\Z)", re.S),  # harmony
    re.compile(r"\Aanalysis(?=[A-Z]).*?assistantfinal", re.S),  # harmony, decoded without its special tokens
)
UNOPENED = re.compile(
    rf"\A.*(?:</{TAGS}>|\[/THINK\]|◁/think▷)", re.I | re.S
)  # a chat template opens the tag in the prompt
UNCLOSED = re.compile(rf"\A\s*(?:<{TAGS}>|\[THINK\]|◁think▷).*\Z", re.I | re.S)  # cut at the token limit
MARKS = re.compile(
    r"<\|(?:start|im_start|start_header_id)\|>\s*assistant|<\|channel\|>final|<\|[a-z_]+\|>|</?(?:answer|final|caption|output|response)>",
    re.I,
)
FENCE = re.compile(r"```[\w-]*[ \t]*\n?(?P<inside>.*?)\n?[ \t]*```", re.S)
OPEN_FENCE = re.compile(r"\A```[\w-]*[ \t]*\n?")
KEYS = ("caption", "description", "text", "answer", "final_answer", "output", "response", "content")
CUT_OBJECT = re.compile(rf"\A\{{\s*\"(?:{'|'.join(KEYS)})\"\s*:\s*\"(?P<value>(?:[^\"\\]|\\.)*)\Z", re.I | re.S)
MARKDOWN = (
    (re.compile(r"^[ \t]*(?:#{1,6}|>)[ \t]+", re.M), ""),
    (re.compile(r"\*\*(?P<inside>\S(?:[^*]*\S)?)\*\*"), r"\g<inside>"),
    (re.compile(r"(?<!\w)__(?P<inside>\S(?:[^_]*\S)?)__(?!\w)"), r"\g<inside>"),
    (re.compile(r"\A\s*[-*•][ \t]+(?=[^\n]*\Z)"), ""),  # one bullet; of several, a list is left as it is
)
GREETING = re.compile(
    r"\A(?:(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great|got it|here you go|no problem)[,.!:]+\s*)+(?=\S)",
    re.I,
)
LABEL = re.compile(
    r"\A(?:(?:here(?:'s| is| are)|this is|below is|the following is)\b[^\n:.!?]{0,80}"
    r"\b(?:captions?|descriptions?|answer|summary|text)\b[^\n:.!?]{0,60}:|"
    r"(?:(?:final|catalogue|catalog|product|image|garment|my|the)\s+)*(?:caption|description|answer|output|response)\s*:)\s*",
    re.I,
)
OFFER = re.compile(
    r"\s+(?:let me know if|please let me know|feel free to|would you like me to|is there anything else|i hope this)\b[^\n]*\Z",
    re.I,
)
QUOTES = (('"', '"'), ("“", "”"), ("'", "'"), ("‘", "’"), ("«", "»"), ("`", "`"))
CANNOT = r"(?:can ?not|can't|could not|couldn't|(?:am|'m|are|'re) (?:not able|unable|not allowed) to|won't|will not)"
REFUSALS = tuple(
    re.compile(rf"\A(?:{pattern})", re.I)
    for pattern in (
        r"(?:(?:i'm|i am|we're|we are) (?:\w+ )?sorry|sorry|i apologi[sz]e|(?:my )?apologies)\b",
        rf"(?:(?:unfortunately|however|as (?:an?|your) [^,.]*)?,? ?)(?:i|we) ?{CANNOT}\b",
        r"i (?:do not|don't) (?:see|have)\b",
        r"(?:there (?:is|was) )?no (?:image|photo|picture) (?:was|is|has been|provided|attached)\b",
        r"as an? (?:ai|artificial|(?:large )?language|responsible|vision)\b[^.]*\b(?:i|we)\b",
        r"it (?:seems|appears|looks like)\b.*\b(?:image|photo|attach|upload|provid)",
        r"please (?:provide|upload|share|attach|send)\b",
        r"(?:this|the|your) (?:request|content|prompt|image|photo)\b[^.]*\b(?:violates|against (?:my|our|the)|not allowed)\b",
        r"(?:n/?a|none|null|nan|unknown|error|\[?(?:no caption|redacted|blank)\]?)\.?\Z",
    )
)


class NoCaption(ValueError):
    """An answer that is not a caption; the message says why."""


def caption_of(answer: str) -> str:
    """Return the caption in a model's answer; one that is nothing else comes back as it is, but for white space around it.

    Raises:
        NoCaption: nothing, thoughts alone, or a refusal.
    """
    if not answer.strip():
        raise NoCaption("the model returned no text")
    text = _without_thoughts(answer)
    if not text:
        raise NoCaption("the model returned thoughts alone; a higher --max-new-tokens leaves room for the caption")
    text = _unwrapped(text)
    if not re.search(r"[^\W_]|[^\x00-\x7f]", text):
        raise NoCaption(f"the answer has no words: {_excerpt(answer)}")
    plain = text.replace("\u2019", "'")
    if any(refusal.search(plain) for refusal in REFUSALS):
        raise NoCaption(f"the model refused: {_excerpt(text)}")
    return text


def _without_thoughts(text: str) -> str:
    for thoughts in THOUGHTS:
        text = thoughts.sub("", text)
    return MARKS.sub("", UNCLOSED.sub("", UNOPENED.sub("", text))).strip()


def _unwrapped(text: str) -> str:
    """Take off what lies around a caption, layer by layer: a fence may hold JSON, and a greeting stand before both."""
    before = None
    while text != before:
        before = text
        text = _inside_json(_inside_fence(text))
        for pattern, inside in MARKDOWN:
            text = pattern.sub(inside, text)
        text = OFFER.sub("", LABEL.sub("", GREETING.sub("", text))) or text
        text = _inside_quotes(text.strip())
    return text


def _inside_fence(text: str) -> str:
    fences = FENCE.findall(text)
    if len(fences) == 1 and fences[0].strip():
        around = FENCE.sub("", text).strip()
        return fences[0].strip() if not around or around.endswith(":") or fences[0].lstrip().startswith("{") else text
    return OPEN_FENCE.sub("", text)


def _inside_json(text: str) -> str:
    """Return the caption of a JSON object, of a list with one, or of an object that the token limit cut."""
    cut = CUT_OBJECT.match(text)
    if not text.startswith(("{", "[")):
        return text
    try:
        value = json.loads(f'"{cut["value"]}"' if cut else text, strict=False)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        by_key = {str(key).lower(): inside for key, inside in value.items()}
        only = next(iter(value.values())) if len(value) == 1 else None
        value = next((by_key[key] for key in KEYS if isinstance(by_key.get(key), str)), only)
    return value.strip() if isinstance(value, str) else text


def _inside_quotes(text: str) -> str:
    """Return a text without the quotes around it, unless they belong to two quotations in it."""
    for opening, closing in QUOTES:
        if len(text) > 1 and text.startswith(opening) and text.endswith(closing):
            inside = text[1:-1]
            others = re.sub(r"(?<=\w)['\u2019](?=\w)", "", inside)  # without apostrophes
            return inside.strip() if inside.strip() and opening not in others and closing not in others else text
    return text


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 80 else f"{words[:77]}..."
