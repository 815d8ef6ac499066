"""What scoring a model on one data set yields, before it is known which checkpoint it was."""

from dataclasses import dataclass

from unifashion.evaluation.ranked_lists import Answer
from unifashion.evaluation.scores import Measurement


@dataclass(frozen=True)
class Outcome:
    """Metrics, what of the data could not be used, and the answers of the full-gallery protocol where they were asked for."""

    split: str  # as the data set calls it
    metrics: list[Measurement]
    missing: float  # share of the listed queries or images that could not be used, percent
    note: str  # "used N of M ..." where something is missing
    answers: list[Answer]
