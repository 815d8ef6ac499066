import math

import pytest
import torch
import torch.nn.functional as F

from unifashion.models.losses import best_query_scores, contrastive_loss, language_loss, matching_loss


@pytest.mark.parametrize(("images", "texts"), [(4, 4), (1, 4), (4, 1), (1, 1)])
def test_scores_keep_their_shape_at_every_batch_size(images, texts):
    assert best_query_scores(torch.randn(images, 32, 8), torch.randn(texts, 8)).shape == (images, texts)


def test_scores_take_the_best_query_token():
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    text = torch.tensor([[0.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(best_query_scores(image, text), torch.tensor([[1.0, -1.0]]))


def test_uninformative_scores_cost_log_n():
    assert contrastive_loss(torch.zeros(5, 5)).item() == pytest.approx(math.log(5))


def test_a_forbidden_column_is_no_negative_but_the_match_stays():
    scores = torch.zeros(3, 3)
    forbidden = torch.eye(3, dtype=torch.bool)
    forbidden[0, 1] = True
    expected = (math.log(2) + 2 * math.log(3)) / 3
    assert contrastive_loss(scores, forbidden).item() == pytest.approx(expected)


def test_the_mean_over_two_ranks_is_the_loss_of_the_whole_batch():
    scores = torch.randn(6, 6, dtype=torch.float64)
    ranks = [contrastive_loss(scores[i : i + 3], offset=i) for i in (0, 3)]
    torch.testing.assert_close(sum(ranks) / 2, contrastive_loss(scores))


def test_matching_by_hand():
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    expected = (-F.logsigmoid(torch.tensor(2.0)) - F.logsigmoid(torch.tensor(-2.0))) / 2
    torch.testing.assert_close(matching_loss(logits, torch.tensor([1, 0])), expected)


def test_language_loss_is_a_mean_over_real_targets_with_smoothing():
    logits, ids = torch.randn(2, 4, 7), torch.tensor([[1, 3, 2, 0], [1, 4, 5, 2]])
    mask = (ids != 0).long()
    rows = [(0, 0, 3), (0, 1, 2), (1, 0, 4), (1, 1, 5), (1, 2, 2)]
    log_probability = logits.log_softmax(-1)
    plain = [-(0.9 * log_probability[b, i, t] + 0.1 * log_probability[b, i].mean()) for b, i, t in rows]
    torch.testing.assert_close(language_loss(logits, ids, mask), torch.stack(plain).mean())


def test_padding_is_no_target_whatever_stands_there():
    logits, ids, mask = torch.randn(1, 5, 7), torch.tensor([[1, 3, 2, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(language_loss(logits, ids, mask), language_loss(logits[:, :3], ids[:, :3], mask[:, :3]))
