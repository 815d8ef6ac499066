"""CIRCO: find all photos that answer a reference photo and a sentence, among the 123,403 unlabelled photos of COCO 2017.

    circo/standard  mAP@5/10/25/50 over all right answers, R@5/10/25/50 for the one that the sentence was written for, and
                    mAP@10 of the queries with each semantic aspect (as categories); the reference stays in the gallery

(Baldrati et al., ICCV 2023, and the evaluation server of its test split, which receives the lists of ``ranked_names``.)

Shapes: Q queries (``split_queries``), G gallery photos (``split_gallery``), P right answers of a query.
"""

import torch
from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.protocols.inputs import columns_of, split_gallery, split_queries
from unifashion.evaluation.protocols.registry import ComposedProtocol, for_each_split, register
from unifashion.evaluation.ranks import positive_ranks, target_ranks, top_k
from unifashion.evaluation.scores import Measurement

PROTOCOL = "circo/standard"
KS = (5, 10, 25, 50)
ASPECT_METRIC = "mAP@10"
LIST_LENGTH = 50  # images per query that the server expects


def evaluate(split: ComposedSplit, scores_QG: Tensor) -> list[Measurement]:
    """Return the scores of a matrix whose rows are ``split_queries(split)`` and whose columns are ``split_gallery(split)``.

    A right answer whose image is missing counts as never found.
    Raises ``UserError`` for hidden targets (test split), no queries, or a target that is not in the gallery.
    """
    queries, gallery = split_queries(split), split_gallery(split)
    if not queries:
        raise UserError(f"CIRCO {split.split} has no query to evaluate: check its annotations and images")
    targets = [query.target for query in queries if query.target is not None]
    if len(targets) < len(queries):
        raise UserError(f"CIRCO {split.split} hides its targets: write a submission, or evaluate the val split")
    target_Q = columns_of([[target] for target in targets], gallery)[:, 0]
    if (target_Q < 0).any():
        query = queries[int((target_Q < 0).nonzero()[0])]
        raise UserError(f"CIRCO {split.split} query {query.id}: target {query.target} is not in the list of images")
    answers = [list(dict.fromkeys(query.targets or (target,))) for query, target in zip(queries, targets, strict=True)]
    ranks_QP = positive_ranks(scores_QG, columns_of(answers, gallery))
    # Of all right answers, also of those whose image is missing: a smaller denominator would make a broken copy look better.
    num_answers_Q = torch.tensor([len(names) for names in answers])
    target_ranks_Q = target_ranks(scores_QG, target_Q)
    num_images = scores_QG.shape[1]
    precisions = {f"mAP@{k}": query_values(f"mAP@{k}", ranks_QP, num_answers_Q) for k in KS}
    hits = {f"R@{k}": query_values(f"R@{k}", target_ranks_Q) for k in KS}
    measurements = [measured(PROTOCOL, name, [values], num_images) for name, values in {**precisions, **hits}.items()]
    for aspect in sorted({aspect for query in queries for aspect in query.aspects}):
        chosen = torch.tensor([aspect in query.aspects for query in queries])
        measurements.append(
            measured(PROTOCOL, ASPECT_METRIC, [precisions[ASPECT_METRIC][chosen]], num_images, category=aspect)
        )
    return measurements


STANDARD = register(
    ComposedProtocol(
        PROTOCOL,
        "The full gallery, several right answers per query; R@k looks for the one that was annotated first.",
        ("circo",),
        evaluate=for_each_split(evaluate),
        all_targets=True,
    )
)


def ranked_names(split: ComposedSplit, scores_QG: Tensor) -> dict[str, list[str]]:
    """Return the names of the 50 best images by query id, best first; works with hidden targets."""
    gallery, ids = split_gallery(split), [query.id for query in split_queries(split)]
    best_QK = top_k(scores_QG, LIST_LENGTH)
    return {id_: [gallery[column] for column in row] for id_, row in zip(ids, best_QK.tolist(), strict=True)}
