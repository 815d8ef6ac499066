"""Validation during caption training: how well the model predicts the words of the validation texts.

Protocol ``captions/next-token``: each token of a text is predicted from the image and the true tokens before it; ``accuracy`` is
the share of correct predictions, ``perplexity`` the exponential of the mean loss, over the tokens of up to ``num_queries`` texts
that are evenly spaced in the split. It picks the best checkpoint; captions themselves are written by ``unifashion caption`` and
scored by ``metrics.py``.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.datasets import spec_of
from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageError, ImageTransform, load_image, normalise
from unifashion.data.splits import is_composed, read_composed, read_pairs, root_marks
from unifashion.errors import UserError
from unifashion.evaluation.scores import Measurement, Score, as_scores
from unifashion.llm.model import UniFashionFull

PROTOCOL = "captions/next-token"
Row = tuple[Path, str, str]  # image, feedback ("" for image-text data), caption


@dataclass(frozen=True)
class Totals:
    """Sums over what was predicted so far: loss, correct predictions, tokens, and rows whose image could be read."""

    loss: float = 0.0
    right: float = 0.0
    tokens: float = 0.0
    rows: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        """Return the sums of both."""
        return Totals(
            self.loss + other.loss, self.right + other.right, self.tokens + other.tokens, self.rows + other.rows
        )


def validate_captions(
    model: UniFashionFull, data: DataSettings, evaluation: EvaluationSettings, progress: bool = True
) -> tuple[list[Score], float]:
    """Score a model with a language model on the validation split of ``data.dataset``.

    Returns:
        score rows, and the accuracy, which picks the best checkpoint.

    Raises:
        UserError: the split has no captions, or none of its images can be read.
    """
    rows = validation_rows(data)
    step = max(len(rows) / evaluation.num_queries, 1.0)
    chosen = [rows[int(index * step)] for index in range(int(len(rows) / step))]
    totals = Totals()
    starts = range(0, len(chosen), evaluation.eval_batch_size)
    for start in tqdm(starts, desc="predicting captions", disable=not progress, dynamic_ncols=True, leave=False):
        totals += _predict(model, chosen[start : start + evaluation.eval_batch_size])
    if not totals.tokens:
        raise UserError(
            f"{data.dataset}: no image of the validation split can be read; check the images below --data-root"
        )
    accuracy = 100 * totals.right / totals.tokens
    # The exponential of an untrained model's loss can overflow a float; e**50 says "hopeless" just as well.
    values = {"accuracy": accuracy, "perplexity": math.exp(min(totals.loss / totals.tokens, 50.0))}
    scores = as_scores(
        [Measurement(PROTOCOL, name, value, n=totals.rows, gallery=None) for name, value in values.items()],
        dataset=data.dataset,
        split="val",
        model="",
        missing=100 * (len(chosen) - totals.rows) / len(chosen),
        marks=(*model.config.marks, *root_marks(data)),
    )
    return scores, accuracy


def rehearse_captions(data: DataSettings, evaluation: EvaluationSettings, ranks: bool = False) -> None:
    """Check before a training what ``validate_captions`` needs; ``ranks``: something is retrieved as well.

    Raises:
        UserError: the split does not exist or has no captions; a setting that predicting captions does not have.
    """
    if evaluation.rerank and not ranks:
        raise UserError("rerank: nothing is ranked while captions are trained; leave it out")
    validation_rows(data)


def validation_rows(data: DataSettings) -> list[Row]:
    """Return the validation texts with what they are predicted from.

    Raises:
        UserError: the split does not exist or has no captions.
    """
    if is_composed(data.dataset):
        rows = [
            (
                split.images[query.reference],
                prepare_text(spec_of(split.dataset).join_feedback(query.feedback)),
                split.captions[query.target],
            )
            for split in read_composed(data, "val")
            for query in split.answerable()
            if query.target in split.captions
        ]
    else:
        rows = [(pair.image, "", pair.text) for pair in read_pairs(data, "val").pairs if pair.text.strip()]
    if not rows:
        raise UserError(
            f"the validation split of {data.dataset} has no captions; add --eval-every 0 to train without scores"
        )
    return rows


@torch.inference_mode()
def _predict(model: UniFashionFull, rows: list[Row]) -> Totals:
    pixels, readable = _pixels(model.base.image_transform, rows)
    if not readable:
        return Totals()
    device = model.base.temperature.device
    feedback = [row[1] for row in readable]
    text = [x.to(device) for x in model.base.tokenize(feedback)] if any(feedback) else []
    query_rows = model.query_rows(model.base.read_images(normalise(pixels.to(device))), *text)
    assert model.language is not None, "itg is among the losses"
    ids, mask = (x.to(device) for x in model.language.tokenize([row[2] for row in readable]))
    loss, logits = model.language(query_rows, ids, mask)
    num_tokens = mask.sum().item()
    right = ((logits.argmax(dim=-1) == ids) & mask.bool()).sum().item()
    # The loss is a mean over the batch's tokens; batches have different numbers of them, so sums are added up, not means.
    return Totals(loss.item() * num_tokens, right, num_tokens, len(readable))


def _pixels(transform: ImageTransform, rows: list[Row]) -> tuple[Tensor, list[Row]]:
    images, readable = [], []
    for row in rows:
        try:
            images.append(transform(load_image(row[0])))
        except ImageError:
            continue
        readable.append(row)
    return (torch.stack(images) if images else torch.empty(0)), readable
