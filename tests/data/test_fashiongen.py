import json
import logging
from pathlib import Path

import pytest

from unifashion.data.fashiongen import read_fashiongen, read_fashiongen_blocks
from unifashion.data.records import ImageText
from unifashion.errors import UserError

PHOTOS = Path(__file__).resolve().parents[2] / "../shared/data/real_photos"
TRAIN = "annotation_train.jsonl"
ROWS = [
    {
        "index": "100",
        "description": "A red skirt.",
        "productID": 7,
        "subcategory": "SHORT SKIRTS",
        "category": "SKIRTS",
    },
    {"index": "101", "description": "A red skirt.", "productID": 7, "subcategory": "SHORT SKIRTS"},
    {"index": "102", "description": "A blue shirt."},
    {"index": "103", "description": "A blue shirt."},
    {"index": 104, "description": "Socks."},
]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path):
    """Five training images of three products, two rows of validation, each with its own mix of keys."""
    root = tmp_path / "fashionGen"
    write_rows(root / TRAIN, ROWS)
    objects = [{"index": "[100, 101]", "description": "A red skirt."}, {"index": "[102, 103]", "description": "x"}]
    write_rows(root / "annotation_train_object.jsonl", objects)
    write_rows(root / "annotation_val.jsonl", [{"index": "200", "description": "A hat."}])
    blocks = [
        {"index": "201", "description": "Gloves."},
        {"index": "[200, 201]", "description": "A hat."},
        {"index": [202], "description": "A scarf."},
    ]
    write_rows(root / "val100_object.jsonl", blocks)
    for name in ("image/100.jpg", "image/101.png", "image/102.jpg", "image/103.webp", "image/104.jpeg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    for name in ("image_val/200.jpg", "image_val/201.jpg", "image_val/202.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def test_pairs_keep_the_order_of_the_file_and_views_share_their_product(root):
    split = read_fashiongen(root.parent, "train")
    assert (split.dataset, split.split, split.missing) == ("fashiongen", "train", ())
    assert [pair.image.name for pair in split.pairs] == ["100.jpg", "101.png", "102.jpg", "103.webp", "104.jpeg"]
    assert split.pairs[0] == ImageText(root / "image/100.jpg", "A red skirt.", "7", "SHORT SKIRTS")
    skirt_1, skirt_2, shirt_1, shirt_2, socks = [pair.product for pair in split.pairs]
    assert skirt_1 == skirt_2 == "7"
    assert shirt_1 == shirt_2
    assert len({skirt_1, shirt_1, socks}) == 3
    assert split.pairs[2].subcategory == ""


def test_without_product_numbers_and_object_file_every_image_is_a_product(root):
    (root / "annotation_train_object.jsonl").unlink()
    products = [pair.product for pair in read_fashiongen(root, "train").pairs]
    assert products[0] == products[1] == "7"
    assert len(set(products)) == 4


def test_validation_images_lie_in_their_own_folder(root):
    (pair,) = read_fashiongen(root, "val").pairs
    assert pair.image == root / "image_val/200.jpg"


def test_missing_images_are_named(root):
    (root / "image/101.png").unlink()
    (root / "image/104.jpeg").unlink()
    split = read_fashiongen(root, "train")
    assert split.missing == ("101", "104")
    assert [pair.image.stem for pair in split.pairs] == ["100", "102", "103"]


def test_an_absent_image_folder_means_that_all_are_missing(root):
    (root / "image").rename(root / "elsewhere")
    split = read_fashiongen(root, "train")
    assert split.pairs == () and len(split.missing) == 5


def test_a_row_that_is_there_twice_counts_once_and_is_logged(root, caplog):
    write_rows(root / TRAIN, [*ROWS, ROWS[2], {"index": "105", "description": " "}])
    with caplog.at_level(logging.WARNING):
        split = read_fashiongen(root, "train")
    assert len(split.pairs) == 5 and split.missing == ("105",)
    assert "1 rows repeat another and count once, 1 descriptions are empty" in caplog.text


def test_blank_lines_and_unusual_line_breaks_inside_texts_do_not_split_rows(root):
    text = "ends\x85here\u2028and\x0cthere"
    lines = json.dumps({"index": "100", "description": text}, ensure_ascii=False)
    (root / TRAIN).write_bytes(b"\xef\xbb\xbf\r\n" + lines.encode() + b"\r\n\r\n")
    assert [pair.text for pair in read_fashiongen(root, "train").pairs] == [text]


def test_blocks_keep_their_order_and_stand_for_their_first_view(root):
    blocks = read_fashiongen_blocks(root.parent)
    assert [(pair.image.name, pair.text) for pair in blocks.pairs] == [
        ("201.jpg", "Gloves."),
        ("200.jpg", "A hat."),
        ("202.jpg", "A scarf."),
    ]
    assert len({pair.product for pair in blocks.pairs}) == 3
    (root / "image_val/200.jpg").unlink()
    blocks = read_fashiongen_blocks(root)
    assert blocks.missing == ("200",) and len(blocks.pairs) == 2


def line(**values):
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (TRAIN, None, r"annotation_train\.jsonl nor fashiongen_256_256_train\.h5 exists; see dataset/README\.md"),
        (TRAIN, b"\n \n", r"annotation_train\.jsonl is empty"),
        (TRAIN, line(index="100", description="x") + b"\n{'index'}\n", r"annotation_train\.jsonl, row 2: not JSON"),
        (TRAIN, b'\n["100", "x"]', r"annotation_train\.jsonl, row 2: expected an object, found \['100', 'x'\]"),
        (TRAIN, "{}é".encode("latin-1"), r"annotation_train\.jsonl is not UTF-8 text"),
        (TRAIN, line(description="x"), r"row 1: no 'index'; it has 'description'"),
        (TRAIN, line(index="100"), "row 1: no 'description'; it has 'index'"),
        (TRAIN, b"{}", "row 1: no 'index'; it has no keys"),
        (TRAIN, line(index="", description="x"), "row 1: 'index' is empty"),
        (TRAIN, line(index=1.5, description="x"), "row 1: 'index' must be text, found 1.5"),
        (TRAIN, line(index="100", description=["x"]), "row 1: 'description' must be text"),
        (TRAIN, line(index="100", description="x", productID=True), "row 1: 'productID' must be text, found True"),
        (
            TRAIN,
            line(index="100", description="x") + b"\n" + line(index="100", description="y"),
            "row 2: image 100 already has another description; remove one of its rows",
        ),
        (
            "annotation_train_object.jsonl",
            line(index="[]"),
            r"annotation_train_object\.jsonl, row 1: 'index' must be an",
        ),
        (
            "annotation_train_object.jsonl",
            line(index=[None]),
            "row 1: 'index' must be an image number or a list of them",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named_with_file_and_row(root, file, content, message):
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_fashiongen(root.parent, "train")
    assert "\n" not in str(caught.value)


def test_missing_blocks_say_so(root):
    (root / "val100_object.jsonl").unlink()
    with pytest.raises(UserError, match=r"val100_object\.jsonl does not exist"):
        read_fashiongen_blocks(root)


def test_an_unknown_split_is_answered_with_the_known_ones(root):
    with pytest.raises(UserError, match=r"unknown FashionGen split 'vall' \(did you mean 'val'\?\); known: train, val"):
        read_fashiongen(root, "vall")


def test_a_folder_without_fashiongen_says_what_was_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            UserError,
            match=r"annotation_train\.jsonl or fashionGen/fashiongen_256_256_train\.h5 there; see dataset/README\.md",
        ):
            read_fashiongen(folder, "train")


def test_the_real_photos_are_all_there():
    if not PHOTOS.is_dir():
        pytest.skip("the real photos (../shared/data) are not on this machine")
    for split in ("train", "val"):
        pairs = read_fashiongen(PHOTOS, split)
        assert len(pairs.pairs) > 1000 and pairs.missing == ()
        assert all(pair.text and pair.subcategory for pair in pairs.pairs)
    blocks = read_fashiongen_blocks(PHOTOS)
    assert len(blocks.pairs) % 100 == 0 and blocks.missing == ()
