import random

import pytest
import torch
import torch.nn.functional as F

from unifashion.errors import UserError
from unifashion.evaluation import ranks
from unifashion.evaluation.metrics import query_values
from unifashion.evaluation.ranks import (
    gathered_scores,
    merge_reranked,
    score_matrix,
    target_ranks,
    top_k,
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randint(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def plain_rank(scores, positives, excluded=()):
    """Count the other items that score at least as high as the best positive."""
    positives = set(positives) - set(excluded)
    best = max(scores[item] for item in positives)
    others = [item for item in range(len(scores)) if item not in positives and item not in set(excluded)]
    return sum(scores[item] >= best for item in others)


def test_score_is_the_best_vector_of_the_image():
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    image = torch.tensor([[[0.5, 0.0], [-3.0, 1.0]], [[0.0, 0.0], [0.25, -1.0]], [[-1.0, -1.0], [-2.0, -2.0]]])
    assert score_matrix(text, image).tolist() == [[0.5, 0.25, -1.0], [2.0, 0.0, -2.0]]


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 100])
def test_scores_agree_with_all_products_at_once_for_any_chunk(chunk):
    text, image = randn(7, 6), randn(11, 3, 6, seed=1)
    expected = torch.stack([torch.stack([(vectors @ query).max() for vectors in image]) for query in text])
    torch.testing.assert_close(score_matrix(text, image, chunk=chunk), expected, atol=1e-6, rtol=0)


def test_default_chunk_bounds_the_largest_temporary(monkeypatch):
    sizes = []
    einsum = torch.einsum

    def watched(equation, *operands):
        result = einsum(equation, *operands)
        sizes.append(max(result.numel(), *(operand.numel() for operand in operands)))
        return result

    monkeypatch.setattr(ranks, "MAX_ELEMENTS", 2000)
    monkeypatch.setattr(torch, "einsum", watched)
    score_matrix(randn(20, 8), randn(50, 4, 8))
    score_matrix(randn(2, 8), randn(500, 4, 8))
    gathered_scores(randn(20, 8), randn(50, 4, 8), torch.zeros(30, 1).long(), torch.zeros(30, 9).long())
    assert len(sizes) > 5 and max(sizes) <= 2000


def test_equal_vectors_score_equal_wherever_they_stand():
    # In float32 the products of this very matrix differ by place; without double sums this test fails.
    query = F.normalize(randn(1000, 768), dim=-1)
    gallery = F.normalize(randn(1, 1, 768, seed=1), dim=-1).expand(37, 1, 768)
    for chunk in (None, 10, 3, 1):
        scores = score_matrix(query, gallery, chunk=chunk)
        assert torch.equal(scores, scores[:, :1].expand_as(scores))


def test_half_precision_embeddings_are_not_scored_in_half_precision():
    text, image = randn(5, 64).bfloat16(), randn(9, 2, 64, seed=1).bfloat16()
    scores = score_matrix(text, image)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, score_matrix(text.double(), image.double()))


def test_gathered_scores_are_the_chosen_entries_of_the_whole_matrix():
    text, image = randn(13, 6), randn(17, 3, 6, seed=1)
    rows, columns = randint(13, 40, 2), randint(17, 40, 5)
    assert torch.equal(
        gathered_scores(text, image, rows, columns), score_matrix(text, image)[rows[:, :, None], columns[:, None]]
    )


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    assert target_ranks(scores, torch.tensor([0, 0])).tolist() == [0, 2]


def test_ties_count_against_the_target():
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.1]])
    assert target_ranks(scores, torch.tensor([1])).tolist() == [2]


def test_a_constant_model_has_no_hit():
    text, image = torch.ones(4, 8), torch.ones(50, 3, 8)
    found = target_ranks(score_matrix(text, image), torch.arange(4))
    assert [query_values(f"R@{k}", found).sum() for k in (1, 10, 49)] == [0, 0, 0]


def test_rank_of_several_positives_is_that_of_the_best_and_other_positives_do_not_push_it_down():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    assert target_ranks(scores, torch.tensor([[False, True, True, True]])).tolist() == [1]
    assert target_ranks(torch.tensor([[0.9, 0.8, 0.8, 0.6]]), torch.tensor([[False, True, True, True]])).tolist() == [1]
    assert target_ranks(scores, torch.ones(1, 4, dtype=torch.bool)).tolist() == [0]


def test_excluded_items_are_not_in_the_gallery():
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    assert target_ranks(scores, torch.tensor([2, 2]), exclude=torch.tensor([0, -1])).tolist() == [1, 2]
    mask = torch.tensor([[True, True, False], [False, True, False]])
    assert target_ranks(scores, torch.tensor([2, 2]), exclude=mask).tolist() == [0, 1]


def test_ranks_agree_with_counting_in_plain_python():
    rng = random.Random(0)
    for _ in range(200):
        size = rng.randint(3, 12)
        scores = [rng.randint(0, 6) / 4 for _ in range(size)]
        positives = rng.sample(range(size), rng.randint(1, size - 1))
        excluded = rng.sample([item for item in range(size) if item != positives[0]], rng.randint(0, size - 2))
        masks = [torch.tensor([[item in chosen for item in range(size)]]) for chosen in (positives, excluded)]
        assert target_ranks(torch.tensor([scores]), *masks).tolist() == [plain_rank(scores, positives, excluded)]
        one = torch.tensor(positives[:1])
        assert target_ranks(torch.tensor([scores]), one).tolist() == [plain_rank(scores, positives[:1])]


def test_ranks_agree_with_sorting_and_with_top_k_lists():
    scores, target = randn(50, 200), randint(200, 50)
    order = scores.argsort(dim=1, descending=True)
    assert torch.equal(target_ranks(scores, target), (order == target[:, None]).nonzero()[:, 1])
    assert torch.equal(top_k(scores, 10), order[:, :10])
    in_list = (top_k(scores, 10) == target[:, None]).any(dim=1)
    assert torch.equal(in_list, target_ranks(scores, target) < 10)


def test_order_of_the_gallery_does_not_matter():
    text, image, order = randn(9, 16), randn(40, 4, 16, seed=1), randn(40, seed=2).argsort()
    image = torch.cat([image[:30], image[:10]])
    before = target_ranks(score_matrix(text, image), torch.arange(9))
    after = target_ranks(score_matrix(text, image[order]), order.argsort()[:9])
    assert torch.equal(before, after)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_never_ranked(bad):
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(UserError, match="query 1 has a score that is NaN or infinite"):
        target_ranks(scores, torch.tensor([0, 2, 0]))
    with pytest.raises(UserError, match="NaN"):
        top_k(scores, 2)
    with pytest.raises(UserError, match="NaN"):
        merge_reranked(scores, torch.zeros(3, 1).long(), torch.zeros(3, 1))
    with pytest.raises(UserError, match="matching score"):
        merge_reranked(torch.zeros(3, 4), torch.arange(4).expand(3, 4), scores)


def test_a_broken_embedding_reaches_the_rank_as_an_error():
    image = randn(5, 2, 4)
    image[3, 1, 0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        target_ranks(score_matrix(randn(2, 4), image), torch.tensor([0, 1]))


def test_a_query_without_a_positive_is_an_error():
    scores = torch.zeros(2, 3)
    for target, exclude in [
        (torch.tensor([0, -1]), None),
        (torch.tensor([0, 1]), torch.tensor([-1, 1])),
        (torch.tensor([[True, False, False], [False, False, False]]), None),
    ]:
        with pytest.raises(ValueError, match="query 1 has no positive"):
            target_ranks(scores, target, exclude)


@pytest.mark.parametrize(
    "target", [torch.tensor([0, 3]), torch.tensor([0, -2]), torch.tensor([0]), torch.ones(2, 2, dtype=torch.bool)]
)
def test_a_target_that_does_not_fit_the_scores_is_an_error(target):
    with pytest.raises(ValueError, match=r"indices must be|mask of shape"):
        target_ranks(torch.zeros(2, 3), target)


def test_recall_by_hand():
    recalls = {k: float(query_values(f"R@{k}", torch.tensor([0, 1, 4, 9])).mean()) for k in (1, 5, 10)}
    assert recalls == {1: 0.25, 5: 0.75, 10: 1.0}
    with pytest.raises(ValueError, match="no queries"):
        query_values("R@1", torch.tensor([], dtype=torch.long))


def test_top_k_lists_leave_out_what_is_excluded_and_end_with_the_gallery():
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    assert top_k(scores, 5).tolist() == [[0, 1, 2], [2, 1, 0]]
    assert top_k(scores, 5, exclude=torch.tensor([0, -1])).tolist() == [[1, 2], [2, 1]]


def test_reranking_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    merged = merge_reranked(scores, torch.tensor([[0, 1, 2]]), torch.tensor([[-50.0, -49.0, -60.0]]))
    assert merged.argsort(dim=1, descending=True).tolist() == [[1, 0, 2, 3, 4]]
    assert torch.equal(merged[:, 3:], scores[:, 3:])


def test_reranking_orders_candidates_by_the_sum_and_keeps_the_rest_in_place():
    scores, itm = randn(30, 60), 3 * randn(30, 12, seed=1)
    top = top_k(scores, 12)
    merged = merge_reranked(scores, top, itm)
    for row in range(30):
        total = {int(item): float(scores[row, item] + value) for item, value in zip(top[row], itm[row], strict=True)}
        rest = sorted(set(range(60)) - set(total), key=lambda item: -scores[row, item])
        expected = sorted(total, key=total.get, reverse=True) + rest
        assert merged[row].argsort(descending=True).tolist() == expected


def test_reranking_keeps_ties_as_ties():
    merged = merge_reranked(
        torch.tensor([[0.5, 0.25, 0.0]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 0.25, -1.0]])
    )
    assert merged[0, 0] == merged[0, 1] > merged[0, 2]


def test_a_candidate_stands_above_the_rest_even_where_the_first_stage_ties():
    merged = merge_reranked(torch.full((1, 4), -2.0), torch.tensor([[2, 1]]), torch.tensor([[-9.0, -9.0]]))
    assert merged[0, 1] == merged[0, 2] > merged[0, 0] == merged[0, 3] == -2.0


def test_reranking_does_not_move_targets_that_are_no_candidates():
    scores = randn(20, 50)
    outside = top_k(scores, 50)[:, 30]
    merged = merge_reranked(scores, top_k(scores, 10), randn(20, 10, seed=1))
    assert target_ranks(merged, outside).tolist() == [30] * 20


def test_reranking_refuses_a_candidate_that_is_listed_twice():
    with pytest.raises(ValueError, match="twice"):
        merge_reranked(torch.zeros(1, 3), torch.tensor([[1, 1]]), torch.zeros(1, 2))
