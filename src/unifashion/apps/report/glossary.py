"""What a reader who was not there must be told: marks, states and protocols in plain sentences."""

import re

MARKS = {
    "synthetic": "The pictures are drawn by a program. The numbers show that the code works, not how good a model is.",
    "incomplete": "Images were missing. The numbers are those of a part of the data set and compare with no others.",
    "leaky": "Captions were written with the query's own words. The numbers are flattered and do not measure retrieval.",
    "untrained": "The model never learned anything: its learning rate was zero. Its numbers are those of guessing.",
    "trained-on-val": "The validation data was part of the training. The numbers do not say how well the model generalises.",
    "short-gallery": "There were fewer candidates than the protocol asks for. The task was easier, and the numbers are too high.",
    "repaint": "Pixels outside the mask were pasted back from the truth. Numbers without repainting do not compare.",
    "ground-truth-start": "Sampling started from the true photo, as the original code does. The model saw the answer.",
}
UNKNOWN_MARK = "Whoever scored this model set this mark. See the documentation of the data set or of the checkpoint."

STATES = {
    "running": "This run is not finished, or it was stopped by force. What follows is as far as it came.",
    "interrupted": "This run was interrupted. What follows is as far as it came; --resume goes on with it.",
    "failed": "This run stopped with an error. What follows is as far as it came.",
}

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image", "composed": "photo and feedback to photo"}

PROTOCOLS = {
    "fashiongen/sub100": "Each query against its answer and 100 others of the same sub-category, averaged over several draws.",
    "fashiongen/blocks100": "Blocks of 100 rows in file order; each row is asked within its block.",
    "fashiongen/full": "All images of the split against all its texts, both ways.",
    "fashion200k/full": "All images of the split against all its texts, both ways.",
    "catalogue/full": "All images of the split against all its texts, both ways.",
    "fashioniq/original": "Every photo of the category is in the gallery, the reference photo too.",
    "fashioniq/original-noref": "Every photo of the category is in the gallery, except the reference photo.",
    "fashioniq/union": "The gallery holds the photos that queries start from or look for, except the reference photo.",
    "cirr/standard": "The full gallery without the reference; Rs@k among the five others of the reference's set.",
    "circo/standard": "The full gallery, several right answers a query; R@k looks for the one that was annotated first.",
    "captions/standard": "Captions against the written ones, by the field's scorers.",
    "captions/unifashion-compat": "As an older script scored them: texts cut to 100 characters, references and guesses swapped.",
    "tryon/catvton/paired": "Results against the photo of the same person in the same garment, as CatVTON measures.",
    "tryon/catvton/unpaired": "Results in other garments against the photos of the persons, as CatVTON measures.",
    "tryon/ladi/paired": "Results against the photo of the same person in the same garment, as LaDI-VTON measures.",
    "tryon/ladi/unpaired": "Results in other garments against the photos of the persons, as LaDI-VTON measures.",
    "tryon/hrviton/paired": "Results against the photo of the same person in the same garment, as HR-VITON measures.",
    "design/mgd/paired": "Garments designed from sketch and words, on the persons who wear them in the photos, as MGD measures.",
    "design/mgd/unpaired": "Garments designed from sketch and words, on other persons, as MGD measures.",
    "captions/next-token": "The next word of the true caption, guessed from the image and the words before it.",
}


def is_tryon(protocol: str) -> bool:
    """Return whether a protocol scores drawn pictures."""
    return protocol.startswith(("tryon/", "design/"))


def protocol_words(protocol: str) -> str:
    """Return what a protocol measures, with what its suffixes add; empty for an unknown one."""
    base, *suffixes = protocol.split("+")
    words = [PROTOCOLS.get(base, "")]
    for suffix in suffixes:
        if suffix == "captions":
            words.append("The similarity of query and generated caption is added.")
        elif suffix == "repaint":
            words.append("Pixels outside the mask are those of the photo.")
        elif suffix in ("jpg", "webp"):
            words.append(f"Results were stored as {suffix.upper()}.")
        elif re.fullmatch(r"itm\d+", suffix):
            words.append(f"The best {suffix[3:]} are put in order again by the matching head.")
    return " ".join(word for word in words if word)
