"""CIRR: find the target photo for a reference photo and one sentence, in the whole split and in the reference's set of six.

    cirr/standard  R@1/5/10/50 over the whole split (2,297 photos in val), Rs@1/2/3 among the other five photos of the
                   reference's set, and "mean" = (R@5 + Rs@1) / 2; the reference is in neither gallery

(Liu et al., ICCV 2021, and the evaluation server of its test split, which is given the lists of ``ranked_names``.)

Shapes: Q queries (``split_queries``), G gallery photos (``split_gallery``), S photos of a set.
"""

from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.bootstrap import measured
from unifashion.evaluation.protocols.rows import columns_of, split_gallery, split_queries
from unifashion.evaluation.ranks import hits_at, target_ranks, top_k
from unifashion.evaluation.scores import MEAN, Measurement

PROTOCOL = "cirr/standard"
KS, SUBSET_KS = (1, 5, 10, 50), (1, 2, 3)
LIST_LENGTH, SUBSET_LENGTH = 50, 3  # names per query that the server wants


def evaluate(split: ComposedSplit, scores_QG: Tensor) -> list[Measurement]:
    """Return the recalls of scores whose rows are ``split_queries(split)`` and whose columns are ``split_gallery(split)``.

    Raises:
        UserError: hidden targets (test split), or a query whose target is its reference, not in its set, or not in the split.
    """
    target_Q = _targets(split)
    reference_Q, set_QS, kept_QS = _places(split)
    ranks_Q = target_ranks(scores_QG, target_Q, exclude=reference_Q)
    in_set_QS = scores_QG.gather(1, set_QS.clamp(min=0).to(scores_QG.device))
    set_ranks_Q = target_ranks(in_set_QS, set_QS == target_Q[:, None], exclude=~kept_QS)
    hits_QK, set_hits_QK = hits_at(ranks_Q, KS), hits_at(set_ranks_Q, SUBSET_KS)
    num_others = int(kept_QS.sum(dim=1).max())
    both_Q = (hits_QK[:, KS.index(5)] + set_hits_QK[:, SUBSET_KS.index(1)]) / 2
    return [
        *(measured(PROTOCOL, f"R@{k}", [hits_QK[:, c]], scores_QG.shape[1]) for c, k in enumerate(KS)),
        *(measured(PROTOCOL, f"Rs@{k}", [set_hits_QK[:, c]], num_others) for c, k in enumerate(SUBSET_KS)),
        measured(PROTOCOL, MEAN, [both_Q], None),
    ]


def ranked_names(split: ComposedSplit, scores_QG: Tensor) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return, by query id, the 50 best names of the split and the 3 best of the set, best first, without the reference.

    Lists are shorter where the split has fewer photos. Works with hidden targets.
    """
    gallery, ids = split_gallery(split), [query.id for query in split_queries(split)]
    reference_Q, set_QS, kept_QS = _places(split)
    best_QK = top_k(scores_QG, LIST_LENGTH, exclude=reference_Q)
    in_set_QS = scores_QG.gather(1, set_QS.clamp(min=0).to(scores_QG.device))
    place_QK = top_k(in_set_QS, SUBSET_LENGTH, exclude=~kept_QS).cpu()
    best_of_set_QK = set_QS.gather(1, place_QK)
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
                    f"CIRR {split.split} query {query.id}: target {query.target!r} {what}; mend its captions file"
                )
        targets.append([query.target])
    return columns_of(targets, split_gallery(split))[:, 0]


def _places(split: ComposedSplit) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns of references (Q,) and sets (Q, S), and which places of a set are in its gallery (Q, S)."""
    queries, gallery = split_queries(split), split_gallery(split)
    reference_Q = columns_of([[query.reference] for query in queries], gallery)[:, 0]
    others = [[name for name in query.members if name != query.reference] for query in queries]
    set_QS = columns_of(others, gallery)
    return reference_Q, set_QS, set_QS >= 0
