import json
import logging
from pathlib import Path

import pytest

from unifashion.data.fashioniq import CATEGORIES, has_leaky_captions, read_fashioniq
from unifashion.data.records import ComposedQuery
from unifashion.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
ANNOTATIONS = SHARED / "fashioniq_annotations"
PHOTOS = SHARED / "real_photos"
CAPTIONS = "captions_llava/next_llava.val.dress.caption.json"
QUERIES = "captions/cap.dress.val.json"
GALLERY = "image_splits/split.dress.val.json"
ROWS = [
    {"target": "B2", "candidate": "B1", "captions": ["is red", "has longer sleeves"]},
    {"target": "B3", "candidate": "B2", "captions": ["is plain"]},
]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.fixture
def root(tmp_path):
    """Two val queries of dresses, one test query without a target, four of the five images."""
    root = tmp_path / "fashionIQ_dataset"
    write(root / QUERIES, ROWS)
    write(root / GALLERY, ["B3", "B1", "B2", "B4"])
    write(root / "captions/cap.dress.test.json", [{"candidate": "B1", "captions": ["is red", "is long"]}])
    write(root / "image_splits/split.dress.test.json", ["B1"])
    for name in ("B1.jpg", "B2.jpg", "B2.png", "B3.WEBP"):
        write(root / "images" / name, b"")
    return root


def test_queries_gallery_and_images_keep_the_order_of_the_files(root):
    split = read_fashioniq(root.parent, "dress", "val")
    assert (split.dataset, split.category, split.split) == ("fashioniq", "dress", "val")
    assert split.queries == (
        ComposedQuery("B1", "B2", ("is red", "has longer sleeves")),
        ComposedQuery("B2", "B3", ("is plain",)),
    )
    assert split.gallery == ("B3", "B1", "B2", "B4")
    assert {name: path.name for name, path in split.images.items()} == {"B3": "B3.WEBP", "B1": "B1.jpg", "B2": "B2.png"}
    assert split.captions == {}


def test_the_data_root_may_be_the_folder_itself(root):
    assert read_fashioniq(root, "dress", "val") == read_fashioniq(root.parent, "dress", "val")


def test_the_test_split_has_no_targets(root):
    split = read_fashioniq(root, "dress", "test")
    assert split.queries == (ComposedQuery("B1", None, ("is red", "is long")),)
    assert split.answerable() == list(split.queries)


def test_without_images_everything_is_missing_and_nothing_is_dropped(root):
    for path in (root / "images").iterdir():
        path.unlink()
    (root / "images").rmdir()
    split = read_fashioniq(root, "dress", "val")
    assert split.images == {} and split.answerable() == []
    assert len(split.queries) == 2 and len(split.gallery) == 4


def test_an_absent_image_leaves_its_query_listed_but_not_answerable(root):
    (root / "images/B3.WEBP").unlink()
    split = read_fashioniq(root, "dress", "val")
    assert len(split.queries) == 2 and split.answerable() == [split.queries[0]]


def test_a_name_listed_twice_counts_once_and_is_logged(root, caplog):
    write(root / GALLERY, ["B3", "B1", "B3", "B2"])
    with caplog.at_level(logging.WARNING):
        assert read_fashioniq(root, "dress", "val").gallery == ("B3", "B1", "B2")
    assert "split.dress.val.json repeats 1 names" in caplog.text


def test_a_query_outside_the_gallery_is_kept_and_logged(root, caplog):
    write(root / GALLERY, ["B1", "B2"])
    with caplog.at_level(logging.WARNING):
        split = read_fashioniq(root, "dress", "val")
    assert split.gallery == ("B1", "B2") and len(split.queries) == 2
    assert set(split.images) == {"B1", "B2", "B3"}
    assert "split.dress.val.json lacks 1 images that queries name" in caplog.text


def test_a_byte_order_mark_is_tolerated(root):
    write(root / GALLERY, b"\xef\xbb\xbf" + json.dumps(["B1", "B2", "B3"]).encode())
    assert len(read_fashioniq(root, "dress", "val").gallery) == 3


def test_generated_captions_are_stripped_and_blank_ones_are_none(root):
    write(
        root / CAPTIONS,
        [
            {"image": "B1", "caption": "\nA red dress. ", "text_guidance": " "},
            {"image": "B2", "caption": "\n", "text_guidance": None},
            {"image": "B1", "caption": "Another.", "text_guidance": []},
            {"image": "B3", "caption": "A plain dress."},
        ],
    )
    assert read_fashioniq(root, "dress", "val").captions == {"B1": "A red dress.", "B3": "A plain dress."}
    assert not has_leaky_captions(root, "val")


@pytest.mark.parametrize("guidance", ["Is red and has longer sleeves", ["is red", "has longer sleeves"]])
def test_captions_written_with_the_query_are_refused_unless_allowed(root, caplog, guidance):
    rows = [{"image": "B1", "caption": "x"}, {"image": "B2", "caption": "A red dress", "text_guidance": guidance}]
    write(root / CAPTIONS, rows)
    message = r"next_llava\.val\.dress\.caption\.json, row 2: .*'text_guidance'.*--allow-leaky-captions"
    with pytest.raises(UserError, match=message):
        read_fashioniq(root, "dress", "val")
    assert has_leaky_captions(root, "val") and not has_leaky_captions(root, "test")
    with caplog.at_level(logging.WARNING):
        split = read_fashioniq(root, "dress", "val", allow_leaky=True)
    assert split.captions == {"B1": "x", "B2": "A red dress"}
    assert "1 captions were written with the queries' own sentences" in caplog.text


def test_training_captions_may_be_guided(root):
    write(root / "captions/cap.dress.train.json", ROWS)
    write(root / "image_splits/split.dress.train.json", ["B1", "B2", "B3"])
    rows = [{"image": "B2", "caption": "A red dress", "text_guidance": "is red"}]
    write(root / "captions_llava/next_llava.train.dress.caption.json", rows)
    assert read_fashioniq(root, "dress", "train").captions == {"B2": "A red dress"}


def changed(**values):
    return [ROWS[0], {**ROWS[1], **values}]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (QUERIES, None, r"cap\.dress\.val\.json does not exist; see dataset/README\.md"),
        (QUERIES, b"", r"cap\.dress\.val\.json is empty"),
        (QUERIES, b"[]", "split val of dress has no queries"),
        (QUERIES, b'[{"target": "B2",\n "candidate" "B1"}]', r"cap\.dress\.val\.json, line 2: not JSON"),
        (QUERIES, b'["\xff\xfe"]', r"cap\.dress\.val\.json is not UTF-8 text \(byte 2\)"),
        (QUERIES, {"target": "B2"}, r"cap\.dress\.val\.json: expected a list, found a dict"),
        (QUERIES, [ROWS[0], "B2"], r"cap\.dress\.val\.json, row 2: expected a dict, found 'B2'"),
        (QUERIES, [{"target": "B2", "captions": ["is red"]}], r"row 1: no 'candidate'; it has 'target', 'captions'"),
        (QUERIES, changed(target=None), r"cap\.dress\.val\.json, row 2: no 'target'"),
        (QUERIES, changed(target=" "), "row 2: no 'target'"),
        (QUERIES, changed(candidate=""), "row 2: 'candidate' is empty"),
        (QUERIES, changed(candidate=["B1"]), r"row 2: 'candidate' must be text, found \['B1'\]"),
        (QUERIES, changed(captions="is red"), "row 2: 'captions' must be a list of texts, found 'is red'"),
        (QUERIES, changed(captions=[1, 2]), r"row 2: 'captions' must be a list of texts, found \[1, 2\]"),
        (QUERIES, changed(captions=[]), "row 2: 'captions' is empty"),
        (QUERIES, [{"target": "B2", "candidate": "B1"}], "row 1: no 'captions'"),
        (GALLERY, None, r"split\.dress\.val\.json does not exist"),
        (GALLERY, b"[]", "split val of dress has no images"),
        (GALLERY, b" \n", r"split\.dress\.val\.json is empty"),
        (GALLERY, [1, 2], r"split\.dress\.val\.json, row 1: expected a str, found 1"),
        (CAPTIONS, [{"caption": "A dress"}], r"next_llava\.val\.dress\.caption\.json, row 1: no 'image'"),
        (CAPTIONS, [{"image": "B1"}], "row 1: no 'caption'"),
        (CAPTIONS, [{"image": "B1", "caption": "x", "text_guidance": {"a": 1}}], "'text_guidance' must be text"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_file_and_row(root, file, content, message):
    if content is None:
        (root / file).unlink()
    else:
        write(root / file, content)
    with pytest.raises(UserError, match=message) as caught:
        read_fashioniq(root.parent, "dress", "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("category", "split", "message"),
    [
        (
            "dresses",
            "val",
            r"unknown FashionIQ category 'dresses' \(did you mean 'dress'\?\); known: dress, shirt, toptee",
        ),
        ("dress", "valid", r"unknown FashionIQ split 'valid' \(did you mean 'val'\?\); known: train, val, test"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(root, category, split, message):
    with pytest.raises(UserError, match=message):
        read_fashioniq(root, category, split)


def test_a_folder_without_fashioniq_says_what_was_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"expected fashionIQ_dataset/captions there; see dataset/README\.md"):
            read_fashioniq(folder, "dress", "val")


@pytest.mark.parametrize(
    ("split", "queries", "galleries"),
    [
        ("train", (5985, 5988, 6027), (11452, 19036, 16121)),
        ("val", (2017, 2038, 1961), (3817, 6346, 5373)),
        ("test", (2024, 2038, 2056), (3818, 6346, 5374)),
    ],
)
def test_the_true_annotations_have_their_published_sizes(split, queries, galleries):
    if not ANNOTATIONS.is_dir():
        pytest.skip("the FashionIQ annotations (../shared/data) are not on this machine")
    splits = [read_fashioniq(ANNOTATIONS, category, split) for category in CATEGORIES]
    assert tuple(len(part.queries) for part in splits) == queries
    assert tuple(len(part.gallery) for part in splits) == galleries
    assert all(len(query.feedback) == 2 and (query.target is None) == (split == "test")
               for part in splits for query in part.queries)  # fmt: skip
    assert all(part.images == {} for part in splits)


def test_the_released_captions_are_caught(tmp_path):
    if not (ANNOTATIONS / "fashion_iq_cap").is_dir():
        pytest.skip("the Fashion-IQ-Cap captions (../shared/data) are not on this machine")
    for name, target in (("captions",) * 2, ("image_splits",) * 2, ("captions_llava", "fashion_iq_cap")):
        (tmp_path / name).symlink_to((ANNOTATIONS / target).resolve())
    for category, size in zip(CATEGORIES, (3817, 6346, 5373), strict=True):
        with pytest.raises(UserError, match="leak"):
            read_fashioniq(tmp_path, category, "val")
        split = read_fashioniq(tmp_path, category, "val", allow_leaky=True)
        assert len(split.captions) == size and set(split.captions) == set(split.gallery)
    assert has_leaky_captions(tmp_path, "val")


def test_the_real_photos_answer_all_their_queries():
    if not PHOTOS.is_dir():
        pytest.skip("the real photos (../shared/data) are not on this machine")
    for category in CATEGORIES:
        split = read_fashioniq(PHOTOS, category, "val")
        assert split.queries and len(split.answerable()) == len(split.queries)
        assert set(split.images) >= set(split.gallery)
