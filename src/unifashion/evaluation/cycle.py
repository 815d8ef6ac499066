"""Cycle consistency: does a drawn garment find the true one? Needs a retrieval model, and none of Inception's weights.

    encoder = load_encoder("runs/quickstart/pretrain")
    cycle_scores(drawn, names, {"00891": Path("cloth/00891.jpg"), ...}, encoder)     R@1, R@5, R@10, and chance

    cycle/tryon/paired+MODEL          what try-on drew, cut out by the agnostic mask (``image_inputs.painted_region``)
    cycle/tryon/paired+photo+MODEL    the real photo in its place, cut out likewise: what a perfect result reaches
    cycle/tryon/paired+chance         100 k / N: what guessing reaches
    cycle/tryon/unpaired+MODEL        persons in another's garment, which is the true one; there is no photo of it
    cycle/design+MODEL                drawings of garments alone, as they are; cycle/composed: from a photo and feedback

The gallery is the in-shop photo of every garment, N of them; two garments with equal photos tie, which counts against both. Two
pictures of V vectors each are compared by late interaction: every vector of the query is scored as a text would be, by the
garment's best-matching vector (``ranks.score_matrix``), and the mean of these V scores ranks the garment. Neither the best of all
V x V products nor the mean vector that a search by image takes (search/retriever.py) would do: a vector that all pictures share,
such as that of a plain background, would win everywhere and make them equal; here it adds the same to all. On the embedded
catalogue the intervals of the three overlap, and persons whose garment is hidden score what chance does: the shape of the mask
does not give the garment away there.

MODEL is the kind of the retrieval model and the beginning of its weights' hash: numbers of two models are not comparable. A model
that took part in the drawing may be kinder to it than others are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion.encoders.protocol import Encoder, Picture
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.ranks import score_matrix, target_ranks
from unifashion.evaluation.scores import Measurement

KS = (1, 5, 10)
HASH_DIGITS = 8  # of the weights' hash in a protocol's name


def cycle_scores(
    drawn: Iterable[Picture],
    truth: Sequence[str],
    gallery: Mapping[str, Path],
    encoder: Encoder,
    *,
    protocol: str = "cycle/design",
    photos: Iterable[Picture] | None = None,
    note: str = "",
    batch_size: int = 32,
    progress: bool = True,
) -> list[Measurement]:
    """Return the recall of the true garment among all garments, beside that of the real photos and of chance, in percent.

    Args:
        drawn: pictures of garments, files or Pillow images; read a batch at a time, so a generator will do.
        truth: for each of them, the name of the garment that it should show.
        gallery: photos of garments by name, at least two.
        encoder: the retrieval model.
        protocol: name of the protocol, to which the model's is added; ``cycle/KIND``, and after a "+" what holds for the
            drawn pictures only.
        photos: real pictures of the same garments in the same order, if there are any.
        note: of all rows but those of chance.
        batch_size: pictures that the model sees at once.
        progress: show bars.

    Raises:
        UserError: no picture, fewer than two garments, a true garment that is not among them, vectors that are not numbers.
        ImageError: a picture that cannot be read.
    """
    column_of = {name: column for column, name in enumerate(gallery)}
    _check(truth, column_of)
    target_Q = torch.tensor([column_of[name] for name in truth])
    image_GVD = _embed(encoder, gallery.values(), "embedding garments", batch_size, progress)
    model, kind = f"{encoder.name}-{encoder.weights_hash()[:HASH_DIGITS]}", protocol.split("+")[0]
    queries = {protocol: drawn} if photos is None else {protocol: drawn, f"{kind}+photo": photos}
    measurements = []
    for name, pictures in queries.items():
        image_QVD = _embed(encoder, pictures, "embedding pictures", batch_size, progress)
        ranks_Q = target_ranks(picture_scores(image_QVD, image_GVD), target_Q)
        for k in KS:
            hits_Q = query_values(f"R@{k}", ranks_Q)
            measurements.append(replace(measured(f"{name}+{model}", f"R@{k}", [hits_Q], len(gallery)), note=note))
    for k in KS:
        chance = 100 * min(k / len(gallery), 1)
        measurements.append(Measurement(f"{kind}+chance", f"R@{k}", chance, len(truth), len(gallery)))
    return measurements


def picture_scores(image_QVD: Tensor, image_GVD: Tensor) -> Tensor:
    """Score Q pictures against G others, as (Q, G): the mean over a picture's vectors of the other's best match for each."""
    scores_QG = torch.zeros(len(image_QVD), len(image_GVD))
    for vector_QD in image_QVD.unbind(dim=1):
        scores_QG += score_matrix(vector_QD, image_GVD)
    return scores_QG / image_QVD.shape[1]


def _check(truth: Sequence[str], garments: Mapping[str, int]) -> None:
    if not truth:
        raise UserError("there is no picture of a garment to measure")
    if len(garments) < 2:
        raise UserError(
            f"cycle consistency needs the photos of at least two garments to choose from, and there is {len(garments)}"
        )
    unknown = [name for name in truth if name not in garments]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} should be drawn, and the {len(garments)} garments to choose from lack its photo"
        )


def _embed(encoder: Encoder, pictures: Iterable[Picture], description: str, batch_size: int, progress: bool) -> Tensor:
    """Return image_NVD; only a batch of pictures is open at a time."""
    rest = iter(tqdm(pictures, desc=description, disable=not progress, dynamic_ncols=True, leave=False))
    batches = iter(lambda: list(islice(rest, batch_size)), [])
    return torch.cat([encoder.embed_images(batch, batch_size) for batch in batches])
