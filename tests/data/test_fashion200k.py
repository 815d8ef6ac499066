"""Fashion200K: its labels and its jsonl form, and how their mistakes are named."""

import json

import pytest
from PIL import Image

from unifashion.data.annotations import NoSplit
from unifashion.data.fashion200k import read_fashion200k
from unifashion.errors import UserError

IMAGES = [
    "women/dresses/mini/11/11_0.jpeg",
    "women/dresses/mini/11/11_1.jpeg",
    "women/tops/shirts/12/12_0.jpeg",
]
LABELS = "".join(
    f"{name}\t0.9\t{text}\n" for name, text in zip(IMAGES, ["red dress", "red dress", "blue shirt"], strict=True)
)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "fashion200K"
    (folder / "labels").mkdir(parents=True)
    for name in IMAGES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(folder / name)
    (folder / "labels" / "dress_train_detect_all.txt").write_text(LABELS)
    return folder


def test_labels_and_jsonl_form_give_the_same_records(root):
    from_labels = read_fashion200k(root.parent, "train")
    texts = ["red dress", "red dress", "blue shirt"]
    rows = [json.dumps({"image_path": name, "caption": text}) for name, text in zip(IMAGES, texts, strict=True)]
    (root / "annotation_pairs_train.jsonl").write_text("\n".join(rows) + "\n")
    (root / "labels" / "dress_train_detect_all.txt").unlink()
    assert read_fashion200k(root, "train") == from_labels
    assert [(pair.text, pair.product, pair.subcategory) for pair in from_labels.pairs] == [
        ("red dress", "11", "mini"),
        ("red dress", "11", "mini"),
        ("blue shirt", "12", "shirts"),
    ]


def test_object_rows_say_which_views_are_one_product(root):
    rows = [{"all_images": [IMAGES[0], IMAGES[2]], "caption": "set"}]
    (root / "annotation_train_object.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    products = [pair.product for pair in read_fashion200k(root, "train").pairs]
    assert (products[0] == products[2] and len(set(products)) == 1) or products == ["11", "11", "11"]


def test_missing_images_are_named_and_repeated_ones_count_once(root, caplog):
    (root / IMAGES[1]).unlink()
    (root / "labels" / "top_train_detect_all.txt").write_text(f"{IMAGES[0]}\t0.5\tanother text\n")
    split = read_fashion200k(root, "train")
    assert split.missing == (IMAGES[1],) and [pair.text for pair in split.pairs] == ["red dress", "blue shirt"]
    assert "1 rows repeat an image" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a/b.jpg 0.9 red\n", "row 1: expected path, score and description separated by tabs"),
        (f"{LABELS}x.jpg\tmuch\tred\n".encode(), "row 4: the second column must be a detection score, found 'much'"),
        (f"{LABELS}\t0.3\tred\n".encode(), "row 4: expected path"),
        ("x.jpg\t0.3\tschön\n".encode("latin-1"), "is not UTF-8 text"),
        (b"", "empty"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_row(root, content, message):
    (root / "labels" / "dress_train_detect_all.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_fashion200k(root, "train")
    assert "dress_train_detect_all.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_split_or_a_set_that_is_not_there_says_what_was_expected(root, tmp_path):
    with pytest.raises(NoSplit, match=r"no labels/\*_test_detect_all\.txt and no annotation_pairs_test\.jsonl"):
        read_fashion200k(root, "test")
    with pytest.raises(NoSplit, match=r"expected fashion200K/labels/\*_train_detect_all\.txt"):
        read_fashion200k(tmp_path / "absent", "train")
