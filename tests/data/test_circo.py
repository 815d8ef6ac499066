"""CIRCO: what its annotation files become, and how their mistakes are named."""

import json

import pytest
from PIL import Image

from unifashion.data.annotations import NoSplit
from unifashion.data.circo import IMAGE_INFO, read_circo
from unifashion.errors import UserError

ROW = {
    "id": 4,
    "reference_img_id": 10,
    "target_img_id": 12,
    "gt_img_ids": [12, 11],
    "relative_caption": "is outdoors",
    "shared_concept": "a dog",
    "semantic_aspects": ["background", "addition"],
}


@pytest.fixture
def root(tmp_path):
    write(tmp_path, [ROW])
    folder = tmp_path / "circo" / "COCO2017_unlabeled" / "unlabeled2017"
    folder.mkdir(parents=True)
    for number in (10, 11, 12):
        Image.new("RGB", (9, 9)).save(folder / f"{number:012d}.jpg")
    return tmp_path


def write(root, rows, split="val", images=(10, 11, 12, 13)):
    home = root / "circo"
    (home / IMAGE_INFO).parent.mkdir(parents=True, exist_ok=True)
    (home / "annotations").mkdir(exist_ok=True)
    (home / "annotations" / f"{split}.json").write_text(json.dumps(rows))
    info = {"images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in images]}
    (home / IMAGE_INFO).write_text(json.dumps(info))


@pytest.mark.parametrize("home", [".", "circo"])
def test_a_query_has_every_right_answer_and_the_gallery_every_image(root, home):
    split = read_circo(root / home, "val")
    (query,) = split.queries
    assert (query.id, query.reference, query.target, query.targets) == ("4", "10", "12", ("12", "11"))
    assert (query.feedback, query.concept, query.aspects) == (("is outdoors",), "a dog", ("background", "addition"))
    assert split.gallery == ("10", "11", "12", "13") and set(split.images) == {"10", "11", "12"}


def test_the_test_split_hides_its_targets(root):
    write(root, [{"id": 0, "reference_img_id": 10, "relative_caption": "x", "shared_concept": "y"}], "test")
    (query,) = read_circo(root, "test").queries
    assert query.target is None and query.targets == () and query.aspects == ()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "row 2: id 4 occurs twice"),
        ([{**ROW, "reference_img_id": 99}], "row 1: image 99 is not in COCO2017"),
        ([{**ROW, "gt_img_ids": [11, 12]}], "row 1: 'target_img_id' 12 must be the first of 'gt_img_ids', found 11"),
        ([{**ROW, "gt_img_ids": 12}], "row 1: 'gt_img_ids' must be a list of image numbers, found 12"),
        ([{**ROW, "gt_img_ids": []}], "row 1: 'gt_img_ids' must be a list of image numbers"),
        ([{**ROW, "semantic_aspects": "background"}], "row 1: .*'semantic_aspects'"),
        ([{key: value for key, value in ROW.items() if key != "relative_caption"}], "row 1: .*'relative_caption'"),
        ({"id": 4}, "expected a list"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_row(root, rows, message):
    write(root, rows)
    with pytest.raises(UserError, match=message) as caught:
        read_circo(root, "val")
    assert "val.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_images_that_is_none_is_named(root):
    (root / "circo" / IMAGE_INFO).write_text('{"images": []}')
    with pytest.raises(UserError, match=r"image_info_unlabeled2017\.json: expected an object with the list 'images'"):
        read_circo(root, "val")
    (root / "circo" / IMAGE_INFO).unlink()
    with pytest.raises(UserError, match=r"image_info_unlabeled2017\.json does not exist"):
        read_circo(root, "val")


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(NoSplit, match=r"expected circo/annotations/val\.json"):
        read_circo(tmp_path, "val")


def test_the_true_annotations_have_the_published_counts(shared, tmp_path):
    source = shared / "data" / "circo" / "annotations"
    for split, count in (("val", 220), ("test", 800)):
        rows = json.loads((source / f"{split}.json").read_text())
        named = {row["reference_img_id"] for row in rows} | {n for row in rows for n in row.get("gt_img_ids", [])}
        write(tmp_path, rows, split, sorted(named))
        found = read_circo(tmp_path, split)
        assert len(found.queries) == count
        if split == "val":
            assert sum(len(query.targets) for query in found.queries) == sum(len(row["gt_img_ids"]) for row in rows)
