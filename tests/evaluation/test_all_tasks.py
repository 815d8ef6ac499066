"""Everything that one checkpoint and the data below one root allow, and what is said about the rest."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings
from unifashion.errors import UserError
from unifashion.evaluation.all_tasks import COLUMNS, score_all, summary
from unifashion.evaluation.scores import read_scores
from unifashion.llm.build import Learned, add_heads
from unifashion.tryon.loading import save_pipeline
from unifashion.tryon.tiny import tiny_pipeline

FEW = EvaluationSettings(num_drawings=4, drawing_steps=2, eval_batch_size=8)


@pytest.fixture
def shop(tmp_path):
    """Five products in validation, with two photos each."""
    lines = ["image,text,id,split"]
    for number in range(10):
        Image.new("RGB", (30, 40), (20 * number, 90, 200 - 20 * number)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,dress number {number // 2},p{number // 2},val")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines))
    return tmp_path


def data(root):
    return DataSettings(data_root=str(root), dataset="all", image_size=32)


def drawing_model(make_model, losses=("q2i",)):
    settings = LanguageModelSettings(diffusion_model="tiny", drawing_size="24x18")
    learned = Learned(lambda: ["a red dress"], lambda: torch.rand(8, 3, 24, 18) * 2 - 1)
    return add_heads(make_model("blip2_cir_full"), settings, "", learned, None, losses).eval()


def test_what_checkpoint_and_data_allow_is_measured_and_the_rest_has_its_reason(make_model, shop, tmp_path):
    drawing_model(make_model).save_pretrained(tmp_path / "model")
    scores, lacking, folder = score_all(str(tmp_path / "model"), None, data(shop), FEW)
    assert folder == tmp_path / "model/validate/all" and read_scores(folder) == scores
    protocols = {score.protocol.split("+blip")[0] for score in scores}
    assert protocols == {"catalogue/full", "cycle/design", "cycle/design+photo", "cycle/design+chance"}
    assert {score.dataset for score in scores} == {"catalogue"}
    assert all(score.gallery == 5 and score.n == 4 for score in scores if score.protocol.startswith("cycle/"))
    reasons = dict(reason.split(": ", 1) for reason in lacking)
    assert {"fashiongen", "fashion200k", "fashioniq", "cirr", "circo", "captions", "try-on"} == set(reasons)
    assert "was not trained to write captions" in reasons["captions"]


def test_reranking_by_two_images_without_composed_queries_is_said(make_model, shop, tmp_path):
    make_model("blip2_cir_cls").save_pretrained(tmp_path / "model")
    few = replace(FEW, rerank=2, rerank_by="two-image")
    scores, lacking, _ = score_all(str(tmp_path / "model"), None, data(shop), few)
    assert "catalogue/full+itm2" in {score.protocol for score in scores}
    assert "re-ranking by two-image: no composed queries were scored" in lacking


def test_a_model_of_one_kind_says_what_it_does_not_retrieve(make_model, shop, tmp_path):
    make_model("blip2_cir_rerank").save_pretrained(tmp_path / "model")
    with pytest.raises(
        UserError, match=r"nothing can be measured below .*a blip2_cir_rerank retrieves no image-text data"
    ):
        score_all(str(tmp_path / "model"), None, data(shop), FEW)


def test_nothing_there_is_one_sentence(make_model, tmp_path):
    make_model("blip2_cir_full").save_pretrained(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--dataset all: nothing can be measured below"):
        score_all(str(tmp_path / "model"), None, data(tmp_path / "empty"), FEW)
    with pytest.raises(UserError, match="all is for validation"):
        data(tmp_path).mixture()


def test_the_summary_has_the_columns_of_the_ablation(make_model, shop, tmp_path):
    drawing_model(make_model).save_pretrained(tmp_path / "model")
    found = summary(score_all(str(tmp_path / "model"), None, data(shop), FEW)[0])
    assert list(found) == [title for title, _, _ in COLUMNS]
    assert found["retrieval mean"] == found["composed mean"] == found["BLEU-4"] == "-"
    assert 0 <= float(found["drawing R@1"]) <= 100


def test_a_try_on_model_in_the_same_folder_draws_the_first_test_pairs(make_model, shop, tryon_root, tmp_path):
    (shop / "vitonhd").symlink_to(tryon_root / "vitonhd")
    make_model("blip2_cir_full").save_pretrained(tmp_path / "model")
    save_pipeline(tiny_pipeline(["red shirt"], image_size=(36, 24)), tmp_path / "model" / "tryon" / "last")
    few = replace(FEW, num_drawings=2)
    scores, lacking, folder = score_all(str(tmp_path / "model"), None, data(shop), few)
    (ssim,) = [score for score in scores if score.metric == "SSIM"]
    assert (ssim.protocol, ssim.dataset, ssim.n) == ("tryon/catvton/paired", "vitonhd", 2)
    assert "synthetic" in ssim.marks and "incomplete" not in ssim.marks
    assert len(list((folder / "vitonhd-tryon").glob("*_00.png"))) == 2
    assert any("LPIPS (squeeze) cannot be computed without" in reason for reason in lacking)
