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


def test_harder_candidates_are_drawn_more_often():
    scores = torch.tensor([[0.0, 2.0, 0.0]]).expand(3000, 3)
    forbidden = torch.tensor([[True, False, False]]).expand(3000, 3)
    index, _ = hard_negatives(scores, forbidden, "multinomial", torch.Generator().manual_seed(0))
    share = (index == 1).float().mean().item()
    assert abs(share - torch.tensor([2.0, 0.0]).softmax(0)[0].item()) < 0.05


def test_unifashion_takes_the_hardest():
    scores = torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, 1.0], [0.0, 4.0, 9.0]])
    index, valid = hard_negatives(scores, torch.eye(3, dtype=torch.bool), "unifashion")
    assert index.tolist() == [2, 0, 1] and valid.all()


def test_a_row_without_candidates_says_so():
    for mining in ("multinomial", "unifashion"):
        _, valid = hard_negatives(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), mining)
        assert not valid.any()
