"""What is measured while a model trains, and picks its best checkpoint: what its losses are for.

itc, itm, ttc     the retrieval protocols of the data set (retrieval.py); their headline picks the best checkpoint
itg               how well the language model predicts the validation captions (caption_accuracy.py); it picks where nothing
                  is retrieved
"""

from collections.abc import Sequence
from typing import Any

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.evaluation import rehearsal, retrieval
from unifashion.evaluation.scores import Score
from unifashion.models.unifashion import UniFashionModel

RETRIEVAL = frozenset(("itc", "itm", "ttc"))


def rehearse(data: DataSettings, evaluation: EvaluationSettings, losses: Sequence[str]) -> None:
    """Check in seconds, before a training, what ``validate`` needs.

    Raises:
        UserError: the validation split does not exist, or has not what is measured.
    """
    if RETRIEVAL & set(losses):
        rehearsal.rehearse(data, evaluation)
    if "itg" in losses:
        from unifashion.evaluation.caption_accuracy import rehearse_captions  # peft and diffusers come with it

        rehearse_captions(data, evaluation, ranks=bool(RETRIEVAL & set(losses)))


def validate(
    model: Any, losses: Sequence[str], data: DataSettings, evaluation: EvaluationSettings
) -> tuple[list[Score], float | None]:
    """Score a model on the validation split of ``data.dataset``.

    Args:
        model: what is trained: a ``UniFashionModel``, or a ``UniFashionFull`` with heads.
        losses: what it minimises.
        data: the data set.
        evaluation: sizes of the protocols.

    Returns:
        score rows, and the number that picks the best checkpoint; None where nothing is measured (drawing alone).
    """
    scores: list[Score] = []
    value: float | None = None
    if RETRIEVAL & set(losses):
        network = model if isinstance(model, UniFashionModel) else model.base
        scores, value = retrieval.validate(network, data, evaluation)
    if "itg" in losses:
        from unifashion.evaluation.caption_accuracy import validate_captions

        captions, accuracy = validate_captions(model, data, evaluation)
        scores, value = scores + captions, accuracy if value is None else value
    return scores, value
