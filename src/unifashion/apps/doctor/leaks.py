"""Do generated captions give the answers away? Measured by a search that sees no image and learns nothing.

A caption that was written with the query's own sentences shares their words, and words alone retrieve it: TF-IDF from the
feedback to the gallery's captions (lower-case words, smoothed inverse document frequency, cosine). With Fashion-IQ-Cap's released
val captions this reaches R@10 49.3 % and R@50 62.6 %, the mean over the three categories.

Honest captions share words with honest feedback too, as both name colours and sleeves, so what counts is how sharply words point
at one image: the share of queries whose target is within the best 1/400 of the gallery. The released captions reach 47 % to 57 %;
the embedded catalogue's, made of attributes alone and as close to the feedback's words as captions can be, reach 8 % to 12 %.
``SUSPICIOUS`` lies between.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SUSPICIOUS = 25.0  # percent of the queries
NARROW = 400  # the best 1/400 of a gallery
CUTS = (10, 50)
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class WordOverlap:
    """How far words alone get: recall in percent, the number of queries, and of captions in the gallery."""

    recall_at_10: float
    recall_at_50: float
    pinpointed: float  # share of the queries whose target is in the best 1/400 of the gallery, percent
    num_queries: int
    gallery: int

    @property
    def is_suspicious(self) -> bool:
        """Whether the captions know too much about the queries."""
        return self.pinpointed >= SUSPICIOUS


def word_overlap(feedback: Sequence[str], targets: Sequence[str], captions: dict[str, str]) -> WordOverlap | None:
    """Look for every query's target by the words of its feedback.

    Args:
        feedback: one text per query.
        targets: name of the image that each query asks for.
        captions: the gallery's captions by image name.

    Returns:
        None where no target has a caption. Ties count against the search.
    """
    names = list(captions)
    row_of = {name: row for row, name in enumerate(names)}
    asked = [(text, row_of[target]) for text, target in zip(feedback, targets, strict=True) if target in row_of]
    if not asked:
        return None
    documents = [Counter(_WORD.findall(text.lower())) for text in captions.values()]
    known = Counter(word for document in documents for word in document)
    column = {word: index for index, word in enumerate(known)}
    # Smoothed: a word that every caption has keeps weight 1, so that captions of only such words are still compared.
    weight = np.array([math.log((1 + len(names)) / (1 + count)) + 1 for count in known.values()], np.float32)
    gallery_GV = _unit_rows(documents, column, weight)
    queries_QV = _unit_rows([Counter(_WORD.findall(text.lower())) for text, _ in asked], column, weight)
    target_Q = np.array([row for _, row in asked])
    rank_Q = np.empty(len(asked), np.int64)
    for start in range(0, len(asked), 512):
        scores_QG = queries_QV[start : start + 512] @ gallery_GV.T
        own_Q = np.take_along_axis(scores_QG, target_Q[start : start + 512, None], axis=1)
        # Ties, within float32's rounding, count against the target: captions that are all alike must not be found.
        rank_Q[start : start + 512] = (scores_QG >= own_Q - 1e-6).sum(axis=1) - 1
    at_10, at_50, narrow = (100 * float((rank_Q < cut).mean()) for cut in (*CUTS, -(-len(names) // NARROW)))
    return WordOverlap(at_10, at_50, narrow, len(asked), len(names))


def _unit_rows(bags: Sequence[Counter[str]], column: dict[str, int], weight: np.ndarray) -> np.ndarray:
    """Return one TF-IDF row per bag of words, of length 1; a bag without a known word stays 0."""
    rows = np.zeros((len(bags), len(column)), np.float32)
    for row, bag in zip(rows, bags, strict=True):
        for word, count in bag.items():
            if word in column:
                row[column[word]] = count
    rows *= weight
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
