"""CIRR: find the target photo for a reference photo and one sentence, in the whole split and in the reference's set of six.

    cirr/standard  R@1/5/10/50 over the whole split (2,297 photos in val), Rs@1/2/3 among the other five photos of the
                   reference's set, and "mean" = (R@5 + Rs@1) / 2; the reference is in neither gallery

(Liu et al., ICCV 2021, and the evaluation server of its test split, which receives the lists of ``ranked_names``.)

Shapes: Q queries (``split_queries``), G gallery photos (``split_gallery``), S photos of a set.
"""

from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.protocols.inputs import columns_of, split_gallery, split_queries
from unifashion.evaluation.protocols.registry import ComposedProtocol, for_each_split, register
from unifashion.evaluation.ranks import target_ranks, top_k
from unifashion.evaluation.scores import MEAN, Measurement

PROTOCOL = "cirr/standard"
KS, SUBSET_KS = (1, 5, 10, 50), (1, 2, 3)
LIST_LENGTH, SUBSET_LENGTH = 50, 3  # names per query that the server expects


def evaluate(split: ComposedSplit, scores_QG: Tensor) -> list[Measurement]:
    """Return the recalls of scores whose rows are ``split_queries(split)`` and whose columns are ``split_gallery(split)``.

    Raises:
        UserError: hidden targets (test split), or a query whose target is its reference, not in its set, or not in the split.
    """
    target_Q = _targets(split)
    reference_Q, set_QS, kept_QS = _columns(split)
    ranks_Q = target_ranks(scores_QG, target_Q, exclude=reference_Q)
    in_set_QS = scores_QG.gather(1, set_QS.clamp(min=0).to(scores_QG.device))
    set_ranks_Q = target_ranks(in_set_QS, set_QS == target_Q[:, None], exclude=~kept_QS)
    hits = {f"R@{k}": query_values(f"R@{k}", ranks_Q) for k in KS}
    set_hits = {f"Rs@{k}": query_values(f"Rs@{k}", set_ranks_Q) for k in SUBSET_KS}
    num_others = int(kept_QS.sum(dim=1).max())
    return [
        *(measured(PROTOCOL, name, [values], scores_QG.shape[1]) for name, values in hits.items()),
        *(measured(PROTOCOL, name, [values], num_others) for name, values in set_hits.items()),
        measured(PROTOCOL, MEAN, [(hits["R@5"] + set_hits["Rs@1"]) / 2], None),
    ]


STANDARD = register(
    ComposedProtocol(
        PROTOCOL,
        "The full gallery without the reference; Rs@k among the five others of the reference's set.",
        ("cirr",),
        evaluate=for_each_split(evaluate),
        without_reference=True,
    )
)


def ranked_names(split: ComposedSplit, scores_QG: Tensor) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return, by query id, the 50 best names of the split and the 3 best of the set, best first, without the reference.

    Lists are shorter where the split has fewer photos. Works with hidden targets.
    """
    gallery, ids = split_gallery(split), [query.id for query in split_queries(split)]
    reference_Q, set_QS, kept_QS = _columns(split)
    best_QK = top_k(scores_QG, LIST_LENGTH, exclude=reference_Q)
    in_set_QS = scores_QG.gather(1, set_QS.clamp(min=0).to(scores_QG.device))
    best_in_set_QK = top_k(in_set_QS, SUBSET_LENGTH, exclude=~kept_QS).cpu()
    best_of_set_QK = set_QS.gather(1, best_in_set_QK)
    lists = [
        {id_: [gallery[column] for column in row] for id_, row in zip(ids, columns.tolist(), strict=True)}
        for columns in (best_QK, best_of_set_QK)
    ]
    return lists[0], lists[1]


def _targets(split: ComposedSplit) -> Tensor:
    """Return the gallery column of every target, as (Q,)."""
    queries, gallery = split_queries(split), set(split_gallery(split))
    if not queries:
        raise UserError(f"CIRR {split.split} has no query to evaluate: check its captions and images")
    targets = []
    for query in queries:
        if query.target is None:
            raise UserError(f"CIRR {split.split} hides its targets: write a submission, or evaluate the val split")
        wrong = [
            ("is its reference", query.target == query.reference),
            ("is not in its set", query.target not in query.members),
            ("is not in the split file", query.target not in gallery),
        ]
        for what, is_so in wrong:
            if is_so:
                raise UserError(
                    f"CIRR {split.split} query {query.id}: target {query.target!r} {what}; correct its captions file"
                )
        targets.append([query.target])
    return columns_of(targets, split_gallery(split))[:, 0]


def _columns(split: ComposedSplit) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns of references (Q,) and sets (Q, S), and which of a set's photos are in its gallery (Q, S)."""
    queries, gallery = split_queries(split), split_gallery(split)
    reference_Q = columns_of([[query.reference] for query in queries], gallery)[:, 0]
    others = [[name for name in query.members if name != query.reference] for query in queries]
    set_QS = columns_of(others, gallery)
    return reference_Q, set_QS, set_QS >= 0
