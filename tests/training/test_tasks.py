import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from unifashion.config import TrainingSettings
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.composed import ComposedTask
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Position

TEXTS = ["a red dress with short sleeves", "a blue striped shirt", "is longer and has dots"]


def pair_batch(model, rows=3, products=(1, 2, 3)):
    ids, mask = model.tokenize(TEXTS[:rows])
    image = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {
        "image": image,
        "text_ids": ids,
        "text_mask": mask,
        "product": torch.tensor(products[:rows]),
        "text": torch.arange(rows),
    }


def composed_batch(model, rows=3, captions=True):
    batch = pair_batch(model, rows)
    batch["reference"] = batch.pop("image")
    batch["target"] = batch["reference"].flip(-1) * 0.5
    if captions:
        batch["caption_ids"], batch["caption_mask"] = model.tokenize(TEXTS[::-1][:rows])
    return batch


def losses_of(task, batch):
    return task(task.prepare(batch, Position(0, 0, 0, 0)))


def test_cross_modal_losses_equal_the_plain_formulation(make_model):
    """One pass per loss, keys and values projected anew each time, one row at a time for matching."""
    model = make_model().eval()
    settings = dataclasses.replace(TrainingSettings(), itm_negatives="unifashion")
    batch = pair_batch(model)
    ids, mask, tokens = batch["text_ids"], batch["text_mask"], model.image_tokens(batch["image"])

    image = torch.stack([model.image_features(model.qformer.project_image(row[None]))[0] for row in tokens])
    text = torch.stack([model.text_features(ids[i : i + 1], mask[i : i + 1])[0] for i in range(3)])
    scores = torch.tensor([[max((q @ t).item() for q in rows) for t in text] for rows in image]) / model.temperature
    target = torch.arange(3)
    itc = F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)

    hide = scores - torch.eye(3) * 1e9
    wrong_image, wrong_text = hide.argmax(1), hide.T.argmax(1)
    pairs = [(i, i, 1) for i in range(3)] + [(int(wrong_image[i]), i, 0) for i in range(3)]
    pairs += [(i, int(wrong_text[i]), 0) for i in range(3)]
    logits = torch.cat(
        [
            model.match_logits(model.qformer.project_image(tokens[i, None]), ids[t, None], mask[t, None])
            for i, t, _ in pairs
        ]
    )
    itm = F.cross_entropy(logits, torch.tensor([label for _, _, label in pairs]))

    losses = losses_of(CrossModalTask(model, settings), batch)
    torch.testing.assert_close(losses["itc"], itc)
    torch.testing.assert_close(losses["itm"], itm)
    _, words = model.caption_pass(model.qformer.project_image(tokens), ids, mask)
    flat = [(words[b, i], ids[b, i + 1]) for b in range(3) for i in range(ids.shape[1] - 1) if mask[b, i + 1]]
    lm = F.cross_entropy(torch.stack([w for w, _ in flat]), torch.stack([t for _, t in flat]), label_smoothing=0.1)
    torch.testing.assert_close(losses["lm"], lm)


@pytest.mark.parametrize("captions", [True, False])
def test_composed_losses_and_which_of_them_there_are(make_model, captions):
    model = make_model("blip2_cir_rerank").eval()
    losses = losses_of(ComposedTask(model, TrainingSettings()), composed_batch(model, captions=captions))
    assert set(losses) == ({"itc", "itm", "ttc"} if captions else {"itc", "itm"})
    assert all(math.isfinite(loss.item()) for loss in losses.values())


@pytest.mark.parametrize("name", ["blip2_cir_cls", "blip2_cir_rerank"])
def test_a_batch_of_one_trains(make_model, name):
    model = make_model(name).train()
    batch = pair_batch(model, 1) if name == "blip2_cir_cls" else composed_batch(model, 1)
    losses = losses_of(RETRIEVAL_TASKS[name](model, TrainingSettings()), batch)
    sum(losses.values()).backward()
    assert losses["itc"].item() == pytest.approx(0.0, abs=1e-6)
    assert math.isfinite(losses["itm"].item())


def test_views_of_one_product_are_never_negatives(make_model):
    model = make_model().eval()
    batch = pair_batch(model, products=(7, 7, 7))
    losses = losses_of(CrossModalTask(model, TrainingSettings()), batch)
    assert losses["itc"].item() == pytest.approx(0.0, abs=1e-6)
    alone = F.cross_entropy(
        model.match_logits(model.read_images(batch["image"]), batch["text_ids"], batch["text_mask"]),
        torch.ones(3, dtype=torch.long),
    )
    torch.testing.assert_close(losses["itm"], alone)


def test_the_image_is_projected_once_per_step(make_model, monkeypatch):
    model = make_model().train()
    calls = []
    project = model.qformer.project_image
    monkeypatch.setattr(model.qformer, "project_image", lambda tokens: calls.append(1) or project(tokens))
    losses_of(CrossModalTask(model, TrainingSettings()), pair_batch(model))
    assert len(calls) == 1


def test_prompt_tokens_learn_from_the_target_and_query_tokens_from_the_fusion(make_model):
    model = make_model("blip2_cir_rerank").train()
    losses = losses_of(ComposedTask(model, TrainingSettings()), composed_batch(model))
    losses["ttc"].backward(retain_graph=True)
    assert model.prompt_tokens.grad is None and model.query_tokens.grad is not None
    model.zero_grad()
    losses["itm"].backward()
    assert model.query_tokens.grad is None and model.prompt_tokens.grad is not None
