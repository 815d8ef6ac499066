import random
from collections import Counter

import pytest
import torch
from PIL import Image

from unifashion.data.batches import ComposedRows, PairRows, Photos, TrainingSet, collate, stable_id
from unifashion.data.datasets import retrieval_sets, spec_of
from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageError, ImageTransform
from unifashion.data.records import ComposedQuery, ComposedSplit, ImageText
from unifashion.errors import UserError
from unifashion.evaluation.composed import query_text

SIDE = 8
GREYS = [20 * index for index in range(10)]


def word_lengths(texts):
    """A tokenizer whose ids are the lengths of the words."""
    lengths = [[len(word) for word in text.split()] for text in texts]
    longest = max(map(len, lengths))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in lengths])
    return ids, (ids > 0).long()


@pytest.fixture
def paths(tmp_path):
    """Ten images, the n-th evenly grey of brightness 20 n."""
    paths = [tmp_path / f"{index}.png" for index in range(len(GREYS))]
    for path, grey in zip(paths, GREYS, strict=True):
        Image.new("RGB", (SIDE, SIDE), (grey,) * 3).save(path)
    return paths


@pytest.fixture
def photos():
    return Photos(ImageTransform(SIDE))


@pytest.fixture
def pairs(paths):
    """Ten photos of five products; the two views of a product share their text."""
    return [ImageText(path, f"Product {index // 2}.", f"p{index // 2}") for index, path in enumerate(paths)]


@pytest.fixture
def composed(paths):
    """Three queries, one of them without its target's image, one with hidden target; two of four images have a caption."""
    images = {f"n{index}": path for index, path in enumerate(paths[:4])}
    queries = (
        ComposedQuery("n0", "n1", ("is red", "is long")),
        ComposedQuery("n0", "gone", ("is blue", "is wide")),
        ComposedQuery("n2", "n3", ("is green", "has dots")),
        ComposedQuery("n2", None, ("is black", "is plain")),
    )
    captions = {"n1": "A RED dress.", "n3": "A green dress"}
    return ComposedSplit("fashioniq", "train", "dress", queries, (*images, "gone"), images, captions)


def grey_of(pixels):
    assert pixels.shape == (3, SIDE, SIDE) and pixels.dtype == torch.uint8
    return pixels.unique().item()


def test_a_pair_row_holds_pixels_prepared_words_and_ids(pairs, photos):
    row = TrainingSet(PairRows(pairs, photos), seed=0)[0, 3]
    assert grey_of(row["image"]) == GREYS[3]
    assert row["words"] == "product 1"
    assert (row["product"], row["text"]) == (stable_id("p1"), stable_id("product 1"))
    assert (row["index"], row["broken"]) == (3, [])


def test_views_of_a_product_share_its_number_and_others_do_not(pairs, photos):
    rows = PairRows(pairs, photos)
    numbers = [rows.row(index, random.Random(0))["product"] for index in range(10)]
    assert all(numbers[i] == numbers[i + 1] for i in range(0, 10, 2)) and len(set(numbers)) == 5


def test_numbers_are_the_same_on_every_machine_and_fit_a_tensor():
    assert stable_id("p1") == 5253249113598888820
    numbers = [stable_id(str(value)) for value in range(2000)]
    assert len(set(numbers)) == 2000 and all(0 <= value < 2**63 for value in numbers)
    assert torch.tensor(numbers).tolist() == numbers


def test_a_composed_row_holds_reference_target_and_feedback(composed, photos):
    rows = ComposedRows([composed], photos)
    assert len(rows) == 2  # what cannot be trained on is not a row
    row = rows.row(1, random.Random(0))
    assert (grey_of(row["reference"]), grey_of(row["target"])) == (GREYS[2], GREYS[3])
    assert row["product"] == stable_id("n3")
    assert row["caption"] == "a green dress" and row["text"] == stable_id("a green dress")


def test_captions_are_used_only_when_all_targets_have_one(composed, photos):
    assert ComposedRows([composed], photos).row(0, random.Random(0))["caption"] == "a red dress"
    del composed.captions["n3"]
    row = ComposedRows([composed], photos).row(0, random.Random(0))
    assert "caption" not in row and row["text"] == stable_id(row["words"])


def test_rows_of_several_categories_follow_one_another(composed, photos):
    shirts = ComposedSplit(
        "fashioniq", "train", "shirt", composed.queries[2:3], ("n2", "n3"), composed.images, composed.captions
    )
    rows = ComposedRows([composed, shirts], photos)
    assert [grey_of(rows.row(i, random.Random(0))["target"]) for i in range(len(rows))] == [20, 60, 60]


def test_the_same_seed_epoch_and_index_give_the_same_row_whatever_came_before(composed, photos):
    rows = TrainingSet(ComposedRows([composed], photos), seed=0)
    said = [rows[epoch, 0]["words"] for epoch in range(12)]
    random.seed(5)
    again = TrainingSet(ComposedRows([composed], photos), seed=0)
    assert [again[epoch, 0]["words"] for epoch in reversed(range(12))] == said[::-1]


def test_epochs_seeds_and_rows_join_the_feedback_differently(composed, photos):
    rows = TrainingSet(ComposedRows([composed], photos), seed=0)
    counts = Counter(rows[epoch, 0]["words"] for epoch in range(200))
    assert set(counts) == {"is red and is long", "is long and is red", "is red", "is long"}
    assert all(30 < count < 70 for count in counts.values())
    other = TrainingSet(ComposedRows([composed], photos), seed=1)
    assert [other[epoch, 0]["words"] for epoch in range(20)] != [rows[epoch, 0]["words"] for epoch in range(20)]


def test_a_broken_image_is_replaced_by_the_next_row_and_reported(pairs, paths, photos):
    paths[3].write_bytes(b"")
    paths[4].unlink()
    rows = TrainingSet(PairRows(pairs, photos), seed=0)
    row = rows[0, 3]
    assert grey_of(row["image"]) == GREYS[5] and row["words"] == "product 2"
    assert row["broken"] == [(paths[3], "the file is empty"), (paths[4], "no such file")]
    assert row["index"] == 3
    paths[9].write_bytes(b"no image")
    assert grey_of(rows[0, 9]["image"]) == GREYS[0]  # after the last comes the first


def test_a_broken_reference_costs_its_row_too(composed, paths, photos):
    paths[0].write_bytes(b"")
    row = TrainingSet(ComposedRows([composed], photos), seed=0)[0, 0]
    assert grey_of(row["target"]) == GREYS[3] and row["broken"] == [(paths[0], "the file is empty")]


def test_a_training_set_without_a_readable_image_says_so(pairs, paths, photos):
    for path in paths:
        path.write_bytes(b"")
    message = r"none of the 10 training rows has a readable image, the first is .*2\.png \(the file is empty\); check"
    with pytest.raises(UserError, match=message):
        TrainingSet(PairRows(pairs, photos), seed=0)[0, 2]


def test_collated_rows_have_the_documented_shapes(composed, pairs, photos):
    rows = TrainingSet(PairRows(pairs, photos), seed=0)
    batch = collate([rows[0, index] for index in (4, 0, 5)], word_lengths)
    assert batch["image"].shape == (3, 3, SIDE, SIDE) and batch["image"].dtype == torch.uint8
    assert [grey_of(pixels) for pixels in batch["image"]] == [80, 0, 100]
    assert batch["text_ids"].tolist() == [[7, 1]] * 3 and batch["text_mask"].tolist() == [[1, 1]] * 3
    assert batch["product"].shape == batch["text"].shape == (3,)
    assert batch["product"].tolist() == [stable_id("p2"), stable_id("p0"), stable_id("p2")]
    assert (batch["rows"], batch["broken"]) == ([4, 0, 5], [])
    assert set(batch) == {"image", "text_ids", "text_mask", "product", "text", "set", "rows", "broken"}


def test_a_composed_batch_has_two_images_and_captions_where_they_exist(composed, photos):
    rows = TrainingSet(ComposedRows([composed], photos), seed=0)
    batch = collate([rows[0, 0], rows[0, 1]], word_lengths)
    assert batch["reference"].shape == batch["target"].shape == (2, 3, SIDE, SIDE)
    assert batch["caption_ids"].tolist() == [[1, 3, 5], [1, 5, 5]]
    assert "image" not in batch
    del composed.captions["n1"]
    rows = TrainingSet(ComposedRows([composed], photos), seed=0)
    assert "caption_ids" not in collate([rows[0, 0], rows[0, 1]], word_lengths)


def test_broken_images_of_all_rows_reach_the_batch(pairs, paths, photos):
    paths[1].write_bytes(b"")
    paths[6].write_bytes(b"")
    rows = TrainingSet(PairRows(pairs, photos), seed=0)
    batch = collate([rows[0, index] for index in (0, 1, 6)], word_lengths)
    assert batch["broken"] == [(paths[1], "the file is empty"), (paths[6], "the file is empty")]
    assert len(batch["image"]) == 3


def test_photos_are_kept_only_when_told(paths):
    keeps, forgets = Photos(ImageTransform(SIDE), keep=True), Photos(ImageTransform(SIDE))
    assert torch.equal(keeps(paths[5]), forgets(paths[5]))
    paths[5].unlink()
    assert grey_of(keeps(paths[5])) == GREYS[5]
    with pytest.raises(ImageError, match="no such file"):
        forgets(paths[5])


def test_words_are_prepared_as_evaluation_prepares_them(pairs, photos, paths):
    text = 'Has a "BOW"; and   dots! ' + "word " * 60
    row = PairRows([ImageText(paths[0], text, "p")], photos).row(0, random.Random(0))
    assert row["words"] == prepare_text(text) and len(row["words"].split()) == 50


def test_feedback_is_the_same_text_in_training_and_validation_unless_the_set_has_a_rule_that_draws(paths, photos):
    """CIRR's sentence, with blanks, commas and question marks at its ends, which FashionIQ's rule would strip."""
    sentences = (", is it in a red box?",)
    for spec in retrieval_sets("composed"):
        images = {"n0": paths[0], "n1": paths[1]}
        split = ComposedSplit(spec.name, "train", "", (ComposedQuery("n0", "n1", sentences),), tuple(images), images)
        row = ComposedRows([split], photos).row(0, random.Random(0))
        assert row["words"] == prepare_text(query_text(split, split.queries[0])), spec.name
    assert spec_of("cirr").join_feedback(sentences) == sentences[0]
    assert [spec.name for spec in retrieval_sets("composed") if spec.draw_feedback] == ["fashioniq"]
