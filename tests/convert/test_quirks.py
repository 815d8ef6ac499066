"""Where the original is reproduced behind a switch, and where it is corrected (src/unifashion/convert/QUIRKS.md)."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from toy import GOLDEN, Recording, as_float32, build, training_batch

from unifashion.config import DataSettings, ModelSettings, TrainingSettings
from unifashion.data.batches import Photos
from unifashion.data.images import ImageTransform
from unifashion.data.sampler import EpochSampler
from unifashion.models.losses import best_query_scores
from unifashion.training import train
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "src" / "unifashion" / "convert" / "QUIRKS.md"


def matched_texts(case, mining, monkeypatch, change=None):
    """Token ids that the matching head is shown in one training step; draws take the likeliest candidate."""
    recording = Recording.read(GOLDEN, case)
    inputs = as_float32(recording.inputs)
    model = build(recording.facts)
    if case == "rerank":
        model.config = dataclasses.replace(model.config, target_queries="prompt_tokens")
    batch = {**training_batch(inputs), **(change or {})}
    seen = []
    monkeypatch.setattr(torch, "multinomial", lambda weights, *_, **__: weights.argmax(dim=1, keepdim=True))
    match_logits = model.match_logits
    monkeypatch.setattr(model, "match_logits", lambda *given: seen.append(given) or match_logits(*given))
    settings = dataclasses.replace(TrainingSettings(), itm_negatives=mining)
    task = RETRIEVAL_TASKS[model.config.model_name](model, settings)
    task(task.prepare(batch, Position(0, 0, 0, 0)))
    ((_, ids, _),) = seen
    return model, batch, ids


def rows_of(ids, table):
    """Which rows of ``table`` these texts are; padding is no difference."""
    length = max(ids.shape[1], table.shape[1])
    ids, table = (torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in (ids, table))
    return [next((row for row, other in enumerate(table) if torch.equal(text, other)), None) for text in ids]


@pytest.mark.parametrize(("mining", "source"), [("multinomial", "caption_ids"), ("unifashion", "text_ids")])
def test_the_wrong_text_of_a_composed_query_is_a_caption_or_as_in_the_original_a_feedback(monkeypatch, mining, source):
    _, batch, ids = matched_texts("rerank", mining, monkeypatch)
    wrong = rows_of(ids[2 * len(batch["text_ids"]) :], batch[source])
    assert len(wrong) == len(batch["text_ids"]) and None not in wrong
    assert all(row != own for own, row in enumerate(wrong))


@pytest.mark.parametrize("mining", ["multinomial", "unifashion"])
def test_the_wrong_text_lies_near_the_image_or_as_in_the_original_near_the_text(monkeypatch, mining):
    model, batch, ids = matched_texts("cls", mining, monkeypatch)
    image = model.image_features(model.read_images(batch["image"]))
    scores = best_query_scores(image, model.text_features(batch["text_ids"], batch["text_mask"])).fill_diagonal_(-2)
    near_image, near_text = scores.argmax(dim=1), scores.argmax(dim=0)
    assert near_image.tolist() != near_text.tolist(), "the recording cannot tell them apart"
    expected = near_image if mining == "multinomial" else near_text
    assert rows_of(ids[2 * len(image) :], batch["text_ids"]) == expected.tolist()


def test_equal_texts_never_make_the_original_negatives_a_draw(monkeypatch):
    """Two rows with one text: the original draws all wrong images anew by chance, ours stay the hardest."""
    same = torch.tensor([0, 0, 2])
    _, batch, ids = matched_texts("cls", "unifashion", monkeypatch, {"text": same})
    num_rows = len(batch["text_ids"])
    assert rows_of(ids[:num_rows], batch["text_ids"]) == [0, 1, 2]
    wrong = rows_of(ids[2 * num_rows :], batch["text_ids"])
    assert wrong[:2] == [2, 2], "row 1 has the text of row 0 and is no negative of it"


def test_training_reads_the_training_split_alone(tmp_path):
    lines = ["image,text,id,split"]
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,dress {number},{number},{'val' if number % 2 else 'train'}")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines))
    data = DataSettings(data_root=str(tmp_path), dataset="catalogue")
    rows, _ = train._read_rows(data, ModelSettings(), Photos(ImageTransform(16)))
    assert [rows.pairs[row].image.name for row in range(len(rows))] == ["0.png", "2.png", "4.png"]


def test_composed_training_takes_its_rows_in_another_order_every_epoch():
    orders = [EpochSampler([50], [1.0], seed=0).order(epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) != order for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_every_test_that_the_table_of_quirks_names_exists():
    named = set(re.findall(r"`(tests/[\w/]+\.(?:py|sh))(?:::(\w+))?`", TABLE.read_text(encoding="utf-8")))
    assert len(named) > 15
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file} has no {test}"
