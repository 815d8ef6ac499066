"""Validation while captions are trained: accuracy and perplexity by value, whatever the batch."""

import math

import pytest
import torch
from PIL import Image
from tiny_heads import write_llm

from unifashion.config import DataSettings, EvaluationSettings, LanguageModelSettings
from unifashion.data.datasets import SHORT
from unifashion.data.images import load_image, normalise
from unifashion.errors import UserError
from unifashion.evaluation.caption_accuracy import validate_captions
from unifashion.llm.build import Learned, add_heads

TEXTS = ["a red dress", "a blue striped shirt with long sleeves", "a green top", "floral"]


@pytest.fixture(scope="module")
def model(make_model, tmp_path_factory):
    llm = write_llm(tmp_path_factory.mktemp("llm") / "llama", "llama")
    settings = LanguageModelSettings(llm=str(llm), lora_r=4, lora_alpha=8)
    return add_heads(
        make_model("blip2_cir_full"), settings, SHORT, Learned(lambda: TEXTS, lambda: None), None, ("itg",)
    ).eval()


@pytest.fixture
def shop(tmp_path):
    lines = ["image,text,split", "train.png,a dress,train"]
    for row, (text, colour) in enumerate(zip(TEXTS, ("red", "blue", "green", "white"), strict=True)):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{text},val")
    Image.new("RGB", (40, 40)).save(tmp_path / "train.png")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def validated(model, shop, **changes):
    data = DataSettings(data_root=str(shop), dataset="catalogue")
    scores, accuracy = validate_captions(model, data, EvaluationSettings(**changes), progress=False)
    values = {score.metric: score.value for score in scores}
    assert accuracy == values["accuracy"]
    return values, scores[0]


@torch.no_grad()
def one_by_one(model, shop, rows):
    """Return accuracy and perplexity from one row at a time, with the probabilities written out."""
    right, surprise = [], []
    for row in rows:
        pixels = model.base.image_transform(load_image(shop / f"{row}.png"))[None]
        query_rows = model.query_rows(model.base.read_images(normalise(pixels)))
        ids, mask = model.language.tokenize([TEXTS[row]])
        _, logits = model.language(query_rows, ids, mask)
        assert mask.all() and len(ids[0]) > 1
        for token, row_logits in zip(ids[0].tolist(), logits[0].double(), strict=True):
            surprise.append(float(torch.logsumexp(row_logits, 0) - row_logits[token]))
            right.append(int(row_logits.argmax()) == token)
    return {"accuracy": 100 * sum(right) / len(right), "perplexity": math.exp(sum(surprise) / len(surprise))}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_accuracy_and_perplexity_are_over_tokens_whatever_the_batch(model, shop, batch_size):
    values, score = validated(model, shop, eval_batch_size=batch_size)
    assert values == pytest.approx(one_by_one(model, shop, range(4)), rel=1e-4)
    assert values["perplexity"] > 1 and (score.n, score.missing) == (4, 0.0)
    assert score.protocol == "captions/next-token"


def test_fewer_texts_are_evenly_spaced_and_a_broken_image_is_counted(model, shop):
    values, score = validated(model, shop, num_queries=2)
    assert values == pytest.approx(one_by_one(model, shop, (0, 2)), rel=1e-4) and score.n == 2
    (shop / "2.png").write_bytes(b"broken")
    values, score = validated(model, shop, eval_batch_size=1)
    assert values == pytest.approx(one_by_one(model, shop, (0, 1, 3)), rel=1e-4)
    assert (score.n, score.missing) == (3, 25.0)


def test_a_split_without_a_readable_image_or_a_caption_is_one_sentence(model, shop):
    for row in range(4):
        (shop / f"{row}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="no image of the validation split can be read"):
        validated(model, shop)
