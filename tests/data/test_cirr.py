"""CIRR: what its annotation files become, and how their mistakes are named."""

import json

import pytest
from PIL import Image

from unifashion.data.annotations import NoSplit
from unifashion.data.cirr import read_cirr
from unifashion.errors import UserError

NAMES = [f"dev-{number}" for number in range(8)]
ROW = {
    "pairid": 7,
    "reference": NAMES[0],
    "target_hard": NAMES[2],
    "target_soft": {NAMES[2]: 1.0},
    "caption": "has more dogs",
    "img_set": {"id": 1, "members": NAMES[:6]},
}


@pytest.fixture
def root(tmp_path):
    write(tmp_path, [ROW])
    (tmp_path / "cirr_dataset" / "dev").mkdir()
    for name in NAMES[:-1]:
        Image.new("RGB", (9, 9)).save(tmp_path / "cirr_dataset" / "dev" / f"{name}.png")
    return tmp_path


def write(root, rows, files=None, split="val"):
    home = root / "cirr_dataset" / "cirr"
    for folder in ("captions", "image_splits"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    files = {name: f"./dev/{name}.png" for name in NAMES} if files is None else files
    (home / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps(rows))
    (home / "image_splits" / f"split.rc2.{split}.json").write_text(json.dumps(files))


@pytest.mark.parametrize("home", [".", "cirr_dataset", "cirr_dataset/cirr"])
def test_a_query_has_its_set_and_the_gallery_every_listed_name(root, home):
    split = read_cirr(root / home, "val")
    (query,) = split.queries
    assert (query.id, query.reference, query.target, query.feedback) == ("7", NAMES[0], NAMES[2], ("has more dogs",))
    assert query.members == tuple(NAMES[:6]) and split.gallery == tuple(NAMES)
    assert set(split.images) == set(NAMES[:-1]) and split.category == ""


def test_the_test_split_hides_its_targets(root):
    write(root, [{key: ROW[key] for key in ("pairid", "reference", "caption", "img_set")}], split="test1")
    assert read_cirr(root, "test1").queries[0].target is None
    with pytest.raises(NoSplit, match=r"cap\.rc2\.train\.json does not exist"):
        read_cirr(root, "train")


@pytest.mark.parametrize(
    ("rows", "files", "message"),
    [
        ([ROW, ROW], None, "row 2: pairid 7 occurs twice"),
        ([{**ROW, "reference": 3}], None, r"row 1: 'members' must name the reference"),
        ([{**ROW, "target_hard": "dev-99"}], None, r"row 1: image 'dev-99' is not in split\.rc2\.val\.json"),
        ([{**ROW, "img_set": [1]}], None, "row 1: 'img_set' must be an object"),
        ([{**ROW, "img_set": {"members": NAMES[1:4]}}], None, "row 1: 'members' must name the reference"),
        ([{key: value for key, value in ROW.items() if key != "caption"}], None, "row 1: .*'caption'"),
        (["text"], None, "row 1: expected an? "),
        ({"a": 1}, None, "expected a list"),
        ([ROW], ["dev-0"], "expected an object"),
        ([ROW], {name: 3 for name in NAMES}, "must be the path of its image, found 3"),
        ([ROW], {}, "lists no images"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_row(root, rows, files, message):
    write(root, rows, files)
    with pytest.raises(UserError, match=message) as caught:
        read_cirr(root, "val")
    assert "rc2.val.json" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_json_or_no_utf8_are_named(root):
    path = root / "cirr_dataset" / "cirr" / "captions" / "cap.rc2.val.json"
    path.write_text("[{]")
    with pytest.raises(UserError, match=r"cap\.rc2\.val\.json, line 1: not JSON"):
        read_cirr(root, "val")
    path.write_bytes('[{"caption": "Ä"}]'.encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_cirr(root, "val")
    with pytest.raises(UserError, match=r"unknown CIRR split 'vall' \(did you mean 'val'\?\)"):
        read_cirr(root, "vall")


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(NoSplit, match=r"expected cirr_dataset/cirr/captions/cap\.rc2\.val\.json"):
        read_cirr(tmp_path, "val")


def test_the_true_annotations_have_the_published_counts(shared):
    val, test = (read_cirr(shared / "data" / "cirr", split) for split in ("val", "test1"))
    assert (len(val.queries), len(val.gallery)) == (4181, 2297)
    assert (len(test.queries), len(test.gallery)) == (4148, 2315)
    assert all(len(query.members) == 6 and query.target in query.members for query in val.queries)
    assert all(query.target is None for query in test.queries)
