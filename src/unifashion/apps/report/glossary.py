"""Marks, states and protocols, explained in plain sentences to readers who do not know the project."""

import re

from unifashion.evaluation.protocols.registry import protocol_sentence

MARKS = {
    "synthetic": "The pictures are drawn by a program. The numbers show that the code works, not how good a model is.",
    "incomplete": "Images were missing. The numbers cover a part of the data set and are not comparable with others.",
    "leaky": "Captions were written with the query's own words. The numbers are inflated and do not measure retrieval.",
    "equal-texts": "Some products have the same text, and count as wrong answers for one another, so that 100 is out of reach.",
    "untrained": "The model was never trained: its learning rate was zero. Its numbers are those of guessing.",
    "trained-on-val": "The validation data was part of the training. The numbers do not say how well the model generalises.",
    "short-gallery": "There were fewer candidates than the protocol asks for. The task was easier, and the numbers are too high.",
    "repaint": "Pixels outside the mask were pasted back from the photo. Numbers without repainting are not comparable.",
    "ground-truth-start": "Sampling started from the true photo, as the original code does. The model saw the answer.",
}
UNKNOWN_MARK = (
    "This mark was set by whoever scored the model; see the documentation of the data set or of the checkpoint."
)

STATES = {
    "running": "This run is not finished, or it was stopped by force. Below is what it has so far.",
    "interrupted": "This run was interrupted. Below is what it has so far; --resume continues it.",
    "failed": "This run stopped with an error. Below is what it had by then.",
}

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image", "composed": "photo and feedback to photo"}

# Of captions and try-on; those of retrieval are in the rows of evaluation/protocols.
PROTOCOLS = {
    "captions/standard": "Generated captions against the reference captions, with the standard scorers.",
    "captions/unifashion-compat": "As an older script scored: texts cut to 100 characters, references and predictions swapped.",
    "tryon/catvton/paired": "Results against the photo of the same person in the same garment, as CatVTON measures.",
    "tryon/catvton/unpaired": "Results in other garments against the photos of the people, as CatVTON measures.",
    "tryon/catvton-lossless/paired": "As CatVTON measures, but photos that were resized are not compressed to JPEG anew.",
    "tryon/catvton-lossless/unpaired": "As CatVTON measures, but photos that were resized are not compressed to JPEG anew.",
    "tryon/ladi/paired": "Results against the photo of the same person in the same garment, as LaDI-VTON measures.",
    "tryon/ladi/unpaired": "Results in other garments against the photos of the people, as LaDI-VTON measures.",
    "tryon/hrviton/paired": "Results against the photo of the same person in the same garment, as HR-VITON measures.",
    "design/mgd/paired": "Garments designed from sketch and words, on the people who wear them in the photos, as MGD measures.",
    "design/mgd/unpaired": "Garments designed from sketch and words, on other people, as MGD measures.",
    "cycle/tryon/paired": "What was painted is the query of a search for the true garment, among the photos of all garments.",
    "cycle/tryon/unpaired": "As cycle/tryon/paired, of persons in other garments than that of their photo.",
    "cycle/design": "A drawn garment is the query of a search for the true one, among the photos of all garments.",
    "cycle/composed": "As cycle/design; the garment was drawn from a photo and feedback, and the true one is the target.",
    "captions/next-token": "The next word of the true caption, predicted from the image and the words before it.",
}

SUFFIXES = {
    "captions": "The similarity of query and generated caption is added.",
    "repaint": "Pixels outside the mask are those of the photo.",
    "photo": "The real photos are in the place of the results: what a perfect result reaches.",
    "chance": "What guessing reaches.",
}


def is_tryon(protocol: str) -> bool:
    """Return whether a protocol scores generated pictures."""
    return protocol.startswith(("tryon/", "design/", "cycle/"))


def protocol_words(protocol: str) -> str:
    """Return what a protocol measures, with what its suffixes add; empty for an unknown one."""
    base, *suffixes = protocol.split("+")
    words = [protocol_sentence(base) or PROTOCOLS.get(base, "")]
    for suffix in suffixes:
        if suffix in SUFFIXES:
            words.append(SUFFIXES[suffix])
        elif suffix in ("jpg", "webp"):
            words.append(f"Results were stored as {suffix.upper()}.")
        elif re.fullmatch(r"itm\d+", suffix):
            words.append(f"The best {suffix[3:]} are re-ranked by the matching head.")
        elif re.fullmatch(r"itm2img\d+", suffix):
            words.append(
                f"The best {suffix[7:]} are re-ranked by the matching head, which reads reference and target at once."
            )
        elif re.fullmatch(r".+-[0-9a-f]{8}", suffix):
            words.append(
                f"The search is by {suffix[:-9]}, the retrieval model whose weights' hash begins with {suffix[-8:]}."
            )
    return " ".join(word for word in words if word)
