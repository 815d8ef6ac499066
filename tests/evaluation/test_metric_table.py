"""The table of metrics: every name that score files hold finds its row, and rows say what tables and reports need."""

import pytest
import torch

from unifashion.evaluation.metrics import METRICS, Metric, PairMetric, metric_row, query_values, register
from unifashion.evaluation.ranks import average_precision_at


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("i2t R@1", "R@k"),
        ("t2i R@10", "R@k"),
        ("R@50", "R@k"),
        ("Rs@2", "Rs@k"),
        ("mAP@25", "mAP@k"),
        ("BLEU-4", "BLEU-k"),
        ("KID x1000", "KID x1000"),
        ("CLIP-S", "CLIP-S"),
        ("mean", "mean"),
    ],
)
def test_a_name_of_a_score_file_finds_the_row_of_its_family(name, row):
    assert metric_row(name) is METRICS[row]


def test_rows_say_which_way_is_better_and_how_many_digits_are_shown():
    lower = {name for name, row in METRICS.items() if not row.higher_is_better}
    assert lower == {"LPIPS", "FID", "KID x1000", "perplexity"}
    assert {name for name, row in METRICS.items() if row.digits == 3} == {"SSIM", "LPIPS"}
    assert {row.digits for row in METRICS.values()} == {1, 3}


@pytest.mark.parametrize("name", METRICS)
def test_every_row_has_one_sentence_for_readers(name):
    sentence = METRICS[name].sentence
    assert METRICS[name].name == name
    assert sentence.endswith(".") and sentence.count(". ") == 0 and 30 < len(sentence) < 125


def test_a_metric_that_is_in_no_row_claims_nothing():
    assert metric_row("somebody's own") == Metric("somebody's own", "")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is already a metric 'SSIM'"):
        register(PairMetric("SSIM", "Again.", compute=lambda pair, network: 0.0, profiles=()))


def test_values_of_queries_are_those_of_the_definition():
    ranks_Q = torch.tensor([0, 4, 9, 10])
    assert query_values("t2i R@5", ranks_Q).tolist() == [1, 1, 0, 0]
    assert query_values("R@10", ranks_Q).tolist() == [1, 1, 1, 0]
    ranks_QP = torch.tensor([[0, 2, 7], [5, 100, 100]])
    num_positives_Q = torch.tensor([4, 1])
    expected = [(1 / 1 + 2 / 3) / 4, 0.0]
    assert query_values("mAP@5", ranks_QP, num_positives_Q).tolist() == pytest.approx(expected)
    assert torch.equal(query_values("mAP@5", ranks_QP), average_precision_at(ranks_QP, torch.tensor([3, 3]), 5))


def test_what_is_not_computed_from_ranks_is_refused():
    with pytest.raises(ValueError, match="'SSIM' is not computed from ranks; known: R@k, Rs@k, mAP@k"):
        query_values("SSIM", torch.tensor([0]))
    with pytest.raises(ValueError, match="no queries"):
        query_values("R@1", torch.tensor([], dtype=torch.long))
