"""Which wrong image and which wrong text the matching loss shows with each row: by value, against plain loops.

Row b's wrong image is drawn by how near each image is to text b, its wrong text by how near each text is to image b: softmax over
what is not excluded, plus a constant of 1e-4.
"""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from unifashion.config import TrainingSettings
from unifashion.distributed import rank
from unifashion.training.tasks.composed import ComposedTask
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Position

TEXTS = ["a red dress", "a blue striped shirt", "longer and has dots", "longer", "a dress with short sleeves", "a top"]
CAPTIONS = ["a green floral top", "a shirt", "a red dress with dots", "a blue top with dots", "is striped", "short"]
# Rows 0 and 4 are one product, rows 2 and 3 have one text.
SOME_ALIKE = {"product": torch.tensor([1, 2, 3, 4, 1, 6]), "text": torch.tensor([0, 1, 2, 2, 4, 5])}
# Row 0 shares its product or its text with every other row; the others have someone left.
ONE_ALONE = {"product": torch.tensor([1, 1, 1, 4, 5, 6]), "text": torch.tensor([0, 1, 2, 0, 0, 0])}
KINDS = ("pairs", "feedback", "feedback and captions")


@pytest.fixture
def make_task(make_model):
    """Return a task of a kind, and its batch of six rows."""

    def make(kind, mining, alike):
        model = make_model("blip2_cir_cls" if kind == "pairs" else "blip2_cir_rerank").eval()
        settings = dataclasses.replace(TrainingSettings(), itm_negatives=mining)
        image = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        batch = {**alike, **dict(zip(("text_ids", "text_mask"), model.tokenize(TEXTS), strict=True))}
        if kind == "pairs":
            return CrossModalTask(model, settings), {**batch, "image": image}
        batch |= {"reference": image, "target": image.flip(-1) * 0.5}
        if kind == "feedback and captions":
            batch |= dict(zip(("caption_ids", "caption_mask"), model.tokenize(CAPTIONS), strict=True))
        return ComposedTask(model, settings), batch

    return make


def plain_similarities(task, vectors):
    """Return similarity[i][j] of image i and text j (or fused query j): of the best query token, over the temperature."""
    images, texts = (vectors[name] for name in (("image", "text") if "image" in vectors else ("target", "fused")))
    temperature = task.model.temperature.item()
    return [[max((q @ text).item() for q in image) / temperature for text in texts] for image in images]


def plain_weights(scores, allowed):
    """Return how likely each candidate is: the softmax over the allowed ones, plus the constant, normalised."""
    total = sum(math.exp(score) for score, may in zip(scores, allowed, strict=True) if may)
    weights = [math.exp(score) / total + 1e-4 if may else 0.0 for score, may in zip(scores, allowed, strict=True)]
    return [weight / sum(weights) for weight in weights]


def plain_tables(similarity, alike):
    """Return weights of wrong images and of wrong texts, a row of six for every row that has candidates; and those rows."""
    product, text = alike["product"].tolist(), alike["text"].tolist()
    images, texts, rows = [], [], []
    for b in range(6):
        allowed = [product[b] != product[m] and text[b] != text[m] for m in range(6)]
        if any(allowed):
            rows.append(b)
            images.append(plain_weights([similarity[m][b] for m in range(6)], allowed))
            texts.append(plain_weights([similarity[b][m] for m in range(6)], allowed))
    return torch.tensor(images), torch.tensor(texts), rows


@pytest.fixture
def drawn(monkeypatch):
    """The (normalised) weights that ``torch.multinomial`` is given, in the order of the calls."""
    weights = []
    multinomial = torch.multinomial

    def draw(weights_BM, *args, **kwargs):
        weights.append(weights_BM / weights_BM.sum(dim=1, keepdim=True))
        return multinomial(weights_BM, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", draw)
    return weights


def pairs_of(task, batch):
    batch = task.prepare(dict(batch), Position(0, 0, 0, 0))
    features = task.encode(batch)
    return features, batch, task.contrastive_losses(features.vectors, batch)[1]


def assert_near(ours, plain):
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("alike", [SOME_ALIKE, ONE_ALONE], ids=["some alike", "one without candidates"])
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_images_and_texts_are_drawn_by_their_similarity(kind, alike, make_task, drawn):
    task, batch = make_task(kind, "multinomial", alike)
    torch.manual_seed(3)
    features, batch, pairs = pairs_of(task, batch)
    similarity = plain_similarities(task, features.vectors)
    images, texts, rows = plain_tables(similarity, alike)
    assert rows == ([0, 1, 2, 3, 4, 5] if alike is SOME_ALIKE else [1, 2, 3, 4, 5])
    assert (images - texts).abs().max() > 0.1 and (images > 0.02).sum() > 8, "the numbers must tell right from wrong"
    assert len(drawn) == 2
    assert_near(drawn[0][rows], images)
    assert_near(drawn[1][rows], texts)

    # The same seed draws the same rows from our own weights: a row without candidates is drawn for, too, but not shown.
    full = torch.full((2, 6, 6), 1 / 6)
    full[0, rows], full[1, rows] = images, texts
    torch.manual_seed(3)
    wrong_image, wrong_text = (torch.multinomial(weights, 1)[rows, 0] for weights in full)
    assert pairs.wrong_image_I.tolist() == wrong_image.tolist()
    assert pairs.text_row_T.tolist() == rows
    name = "caption" if kind == "feedback and captions" else "text"
    ids, mask = batch[f"{name}_ids"], batch[f"{name}_mask"]
    assert torch.equal(pairs.ids_RL, torch.cat([ids, ids[rows], ids[wrong_text]]))
    assert torch.equal(pairs.mask_RL, torch.cat([mask, mask[rows], mask[wrong_text]]))

    # And the loss is the mean over all pairs, each looked at alone.
    shown = [(i, i, 1) for i in range(6)]
    shown += [(int(i), t, 0) for i, t in zip(wrong_image, rows, strict=True)]
    shown += [(i, int(t), 0) for i, t in zip(rows, wrong_text, strict=True)]
    losses = []
    for i, t, label in shown:
        image = task.model.qformer.project_image(features.tokens_BNW[i, None])
        logits = task.model.match_logits(image, ids[t, None], mask[t, None])
        losses.append(F.cross_entropy(logits, torch.tensor([label])))
    torch.testing.assert_close(task.itm_loss(features, pairs), torch.stack(losses).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_takes_the_nearest_and_looks_from_the_other_side(kind, make_task, drawn):
    """``itm_negatives: unifashion``: wrong images are the nearest to image b's own row of the matrix (convert/QUIRKS.md)."""
    task, batch = make_task(kind, "unifashion", SOME_ALIKE)
    features, batch, pairs = pairs_of(task, batch)
    images, texts, rows = plain_tables(plain_similarities(task, features.vectors), SOME_ALIKE)
    assert images.argmax(1).tolist() != texts.argmax(1).tolist() and not drawn
    assert pairs.wrong_image_I.tolist() == texts.argmax(1).tolist()
    name = "caption" if kind == "feedback and captions" else "text"
    matches, wrong_texts = batch[f"{name}_ids"], batch["text_ids"][images.argmax(1)]  # always another row's feedback
    length = pairs.ids_RL.shape[1]
    expected = [F.pad(ids, (0, length - ids.shape[1])) for ids in (matches, matches, wrong_texts)]
    assert torch.equal(pairs.ids_RL, torch.cat(expected)) and rows == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_draw_from_the_rows_of_both(kind, make_task, drawn, on_two_processes):
    task, batch = make_task(kind, "multinomial", SOME_ALIKE)
    features, _, _ = pairs_of(task, batch)
    images, texts, _ = plain_tables(plain_similarities(task, features.vectors), SOME_ALIKE)

    def half():
        drawn.clear()
        own = slice(3 * rank(), 3 * rank() + 3)
        pairs = pairs_of(task, {name: value[own] for name, value in batch.items()})[2]
        return drawn[:], pairs.wrong_image_I

    halves = on_two_processes(half)
    assert_near(torch.cat([weights[0] for weights, _ in halves]), images)
    assert_near(torch.cat([weights[1] for weights, _ in halves]), texts)
    wrong = torch.cat([index for _, index in halves])
    assert (images[torch.arange(6), wrong] > 0).all()
