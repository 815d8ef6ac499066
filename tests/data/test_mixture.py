"""Several data sets as one training set: what is in it, what is kept out, and how often an epoch draws each row."""

import csv
import json
import shutil
from collections import Counter

import pytest
import torch

from unifashion.config import DataSettings
from unifashion.data.batches import PairRows, TrainingSet, collate
from unifashion.data.mixture import epoch_rows, epoch_sizes, read_training_pairs, validation_part
from unifashion.data.sampler import EpochSampler
from unifashion.data.splits import read_pairs
from unifashion.errors import UserError
from unifashion.models.negatives import same_item

toy = pytest.importorskip("unifashion.apps.toy_catalogue")  # an app, which the core can do without

SMALL = toy.Sizes(
    train_products=8,
    val_products=4,
    train_families=3,
    val_families=2,
    val_distractors=2,
    train_queries=20,
    val_queries=6,
    side=32,
)
ALL = "fashiongen:1+fashion200k:0.5+fashioniq-cap:2"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", SMALL, progress=False)


def read(root, dataset, **changes):
    return read_training_pairs(DataSettings(data_root=str(root), dataset=dataset, **changes))


def facts(pairs):
    """What training makes of rows, whatever the names: texts, and how many views each product has."""
    return Counter(pair.text for pair in pairs), sorted(Counter(pair.product for pair in pairs).values())


def test_every_layout_of_the_catalogue_gives_the_same_training_rows(root, tmp_path):
    jsonl = tmp_path / "fashion200K"
    jsonl.mkdir()
    (jsonl / "women").symlink_to(root / "fashion200K" / "women")
    labels = [
        line.split("\t")
        for file in sorted((root / "fashion200K" / "labels").glob("*_train_detect_all.txt"))
        for line in file.read_text().splitlines()
    ]
    rows = [json.dumps({"image_path": name, "caption": text}) for name, _, text in labels]
    (jsonl / "annotation_pairs_train.jsonl").write_text("\n".join(rows))
    with (root / "catalogue.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["split"] == "train"]
    several = tmp_path / "several"
    several.mkdir()
    (several / "fashionGen").symlink_to(root / "fashionGen")
    views: dict[str, list[str]] = {}
    for row in table:
        views.setdefault(row["id"], []).append(row["image"])
    texts = {row["id"]: row["text"] for row in table}
    with (several / "catalogue.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "split"])
        writer.writerows([";".join(images), texts[product], "train"] for product, images in views.items())
    expected = facts(read(root, "fashiongen").pairs)
    assert sum(expected[0].values()) > 24 and max(expected[1]) > 1
    assert facts(read(root / "hdf5", "fashiongen").pairs) == expected
    own = facts(read(root, "catalogue").pairs)  # the same products, all views with the whole description
    assert own == facts(read(several, "catalogue").pairs) and own[1] == expected[1]
    assert expected[0] - own[0] == Counter({text: n for text, n in expected[0].items() if text[0].islower()})
    short = facts(read(root, "fashion200k").pairs)  # the same products, described in a few words
    assert short == facts(read(tmp_path, "fashion200k").pairs) and short[1] == expected[1]
    assert len(read(root, "fashioniq-cap").pairs) > 24


def test_a_batch_of_a_mixture_never_holds_views_of_one_product_as_negatives(root):
    mixture = read(root, ALL)
    rows = PairRows(mixture.pairs, lambda path: torch.zeros(3, 2, 2), mixture.sizes, mixture.weights)
    training = TrainingSet(rows, 0)
    met = 0
    for keys in EpochSampler(*rows.mixture(), seed=0, batch_size=16):
        words = lambda texts: (torch.zeros(len(texts), 1), torch.ones(1))  # noqa: E731
        batch = collate([training[key] for key in keys], words)
        pairs = [mixture.pairs[index] for index in batch["rows"]]
        forbidden = same_item(batch["product"], batch["product"], batch["text"], batch["text"])
        for row, one in enumerate(pairs):
            for column, other in enumerate(pairs):
                alike = one.product == other.product or one.text.lower() == other.text.lower()
                assert forbidden[row, column] >= alike
                met += alike and row != column
                if one.product != other.product and one.text.split()[:3] != other.text.split()[:3]:
                    assert not forbidden[row, column]
    assert met > 10


def test_products_of_two_sets_are_apart_unless_they_show_the_same_file(root):
    mixture = read(root, "fashiongen+fashioniq-cap")
    first, second = mixture.sizes
    products = [{pair.product for pair in part} for part in (mixture.pairs[:first], mixture.pairs[first:])]
    assert len(mixture.pairs) == first + second and not products[0] & products[1]
    shared = read(root, "fashiongen+catalogue")  # its table names the photos of fashionGen
    half = len(shared.pairs) // 2
    assert [pair.product for pair in shared.pairs[:half]] == [pair.product for pair in shared.pairs[half:]]
    assert {pair.product.split("/")[0] for pair in shared.pairs} == {"fashiongen"}


def test_no_validation_image_is_trained_on_unless_asked(root, tmp_path, caplog):
    own = tmp_path / "shop"
    shutil.copytree(root, own)
    with (own / "catalogue.csv").open("a") as file:
        held_out = next((own / "fashionIQ_dataset" / "images").glob("*_val_*"))
        file.write(f'{held_out.relative_to(own)},"a leak",leak,dress,1.00,train\n')
    read_kept = read(own, "catalogue")
    assert read_kept.excluded == 1 and "1 training pairs show validation images" in caplog.text
    for name in ("fashiongen", "fashion200k", "catalogue"):
        data = DataSettings(data_root=str(own), dataset=name)
        val = {pair.image for pair in read_pairs(data, "val").pairs}
        trained = {pair.image for pair in read(own, name).pairs}
        assert val and not val & trained and held_out not in trained
        assert val < {pair.image for pair in read(own, name, include_val=True).pairs}


def test_what_can_be_validated_on_is_found_before_training(root, tmp_path, caplog):
    def part(dataset, place=root):
        return validation_part(DataSettings(data_root=str(place), dataset=dataset))

    assert part("fashioniq-cap+fashion200k").dataset == "fashion200k" and not caplog.text
    assert part("fashioniq-cap") is None and "runs without validation" in caplog.text
    with pytest.raises(UserError, match="no FashionGen in"):
        part("fashiongen", tmp_path)
    shutil.copytree(root / "fashionGen", tmp_path / "fashionGen")
    (tmp_path / "fashionGen" / "annotation_val.jsonl").unlink()
    caplog.clear()
    assert part("fashiongen", tmp_path) is None and "annotation_val.jsonl" in caplog.text
    (tmp_path / "fashionGen" / "annotation_val.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"annotation_val\.jsonl, row 1: not JSON"):
        part("fashiongen", tmp_path)


@pytest.mark.parametrize("weight", [0.5, 1, 1.7, 2])
def test_rows_come_up_equally_often_over_epochs(weight):
    sizes, weights = (10, 7), (weight, 1)
    drawn = Counter(row for epoch in range(6) for row in epoch_rows(sizes, weights, 3, epoch))
    first = [drawn[row] for row in range(10)]
    assert max(first) - min(first) <= 1 and sum(first) == 6 * round(10 * weight)
    assert [drawn[row] for row in range(10, 17)] == [6] * 7


def test_an_epoch_is_every_row_once_where_weights_are_one():
    assert epoch_rows((4, 3), (1, 1), 0, 5) == list(range(7))
    assert epoch_rows((4, 3), (0.5, 1), 0, 5) == epoch_rows((4, 3), (0.5, 1), 0, 5)
    assert epoch_sizes((100, 1, 0), (0.25, 0.1, 2.0)) == [25, 1, 0]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("fashiongen+fashionGen", "did you mean 'fashiongen'"),
        ("fashiongen+fashiongen", "occurs twice"),
        ("fashiongen:0", "the weight in 'fashiongen:0': must be above 0"),
        ("fashiongen:-1", "must be above 0"),
        ("fashiongen:inf", "expected a number, got 'inf'"),
        ("fashiongen:", "expected a number, got ''"),
        ("fashiongen:x", "dataset"),
        ("fashiongen:1e9", "must be at most 1000"),
        ("fashiongen+", "is not one of"),
        ("fashiongen+cirr", "mixes images with texts"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_sentence(dataset, message):
    with pytest.raises(UserError, match=message):
        DataSettings(dataset=dataset)
