import math

import pytest
import torch

from unifashion.models.negatives import hard_negatives, same_item


def test_one_product_or_one_text_is_the_same_item():
    product, text = torch.tensor([1, 1, 2]), torch.tensor([5, 6, 6])
    assert same_item(product, product, text, text).int().tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_the_same_item_is_never_drawn():
    forbidden = torch.eye(6, dtype=torch.bool)
    forbidden[0, 1:5] = True
    scores = torch.zeros(6, 6)
    scores[0, 1:5] = 50.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        index, valid = hard_negatives(scores, forbidden, "multinomial", generator)
        assert valid.all() and index[0] == 5
        assert not forbidden[torch.arange(6), index].any()


def test_candidates_are_drawn_as_often_as_the_softmax_of_their_scores_says():
    scores, forbidden = torch.tensor([9.0, 0.0, 2.0, -1.0, 1.0]), torch.tensor([True, False, False, False, False])
    rows = 40_000
    index, _ = hard_negatives(
        scores.expand(rows, 5), forbidden.expand(rows, 5), "multinomial", torch.Generator().manual_seed(0)
    )
    total = sum(math.exp(score) for score in (0.0, 2.0, -1.0, 1.0))
    shares = [0.0, *(math.exp(score) / total for score in (0.0, 2.0, -1.0, 1.0))]
    drawn = [(index == candidate).float().mean().item() for candidate in range(5)]
    assert drawn == pytest.approx(shares, abs=0.01) and drawn[0] == 0


def test_candidates_that_are_far_away_can_still_be_drawn():
    """The constant of 1e-4: fifty of them get one draw in two hundred, where the softmax alone says one in 10 to the 24th."""
    scores, rows = torch.tensor([60.0] + [0.0] * 50), 20_000
    allowed = torch.zeros(rows, 51, dtype=torch.bool)
    index, _ = hard_negatives(scores.expand(rows, 51), allowed, "multinomial", torch.Generator().manual_seed(0))
    assert 60 <= int((index > 0).sum()) <= 140  # 100 are expected


def test_unifashion_takes_the_hardest():
    scores = torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, 1.0], [0.0, 4.0, 9.0]])
    index, valid = hard_negatives(scores, torch.eye(3, dtype=torch.bool), "unifashion")
    assert index.tolist() == [2, 0, 1] and valid.all()


def test_a_row_without_candidates_says_so():
    for mining in ("multinomial", "unifashion"):
        _, valid = hard_negatives(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), mining)
        assert not valid.any()
