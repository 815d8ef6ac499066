"""DressCode: three categories, its own file names, the additions of MGD, and lists with mistakes."""

import shutil

import pytest
from PIL import Image

from unifashion.data.annotations import NoSplit
from unifashion.data.dresscode import read_dresscode
from unifashion.data.splits import find_tryon, read_tryon
from unifashion.data.tryon import PERSON_MAPS, read_vitonhd
from unifashion.errors import UserError
from unifashion.tryon.maps import load_maps

NEEDS = (*PERSON_MAPS, "garment")


def save(path, size=(12, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new(mode, size)
    picture.paste("white", (4, 5, 8, 12))  # a mask that paints something
    picture.save(path)


@pytest.fixture
def root(tmp_path):
    """Two dresses and a pair of trousers, with all maps."""
    for category, numbers in (("dresses", ("000001", "000002")), ("lower_body", ("000003",))):
        home = tmp_path / "dresscode" / category
        for number in numbers:
            for name in ("images/N_0.jpg", "images/N_1.jpg", "agnostic/N_0.jpg", "image-densepose/N_0.png"):
                save(home / name.replace("N", number))
            for name in ("agnostic-mask/N_0_mask.png", "im_sketch/N_1.png", "gt_cloth_warped_mask/N_0.png"):
                save(home / name.replace("N", number), mode="L")
        (home / "train_pairs.txt").write_text("".join(f"{number}_0.jpg\t{number}_1.jpg\n" for number in numbers))
    home = tmp_path / "dresscode" / "dresses"
    shutil.copy(home / "train_pairs.txt", home / "test_pairs_paired.txt")
    (home / "test_pairs_unpaired.txt").write_text("000001_0.jpg\t000002_1.jpg\n000002_0.jpg\t000001_1.jpg\n")
    save(home / "im_sketch_unpaired" / "000001_0_000002_1.png", mode="L")
    (tmp_path / "dresscode" / "coarse_captions.json").write_text('{"000001": ["coarse"], "000002": ["long dress"]}')
    (tmp_path / "dresscode" / "fine_captions.json").write_text('{"000001": ["red dress", "belt"]}')
    return tmp_path


def test_all_categories_are_read_with_their_maps_and_the_fine_captions_first(root):
    split = read_dresscode(root, "train", (*NEEDS, "sketch", "warped_mask"))
    assert [(item.category, item.name) for item in split.items] == [
        ("dresses", "000001"), ("dresses", "000002"), ("lower_body", "000003"),
    ]  # fmt: skip
    first = split.items[0]
    assert (first.maps["image"].name, first.maps["garment"].name) == ("000001_0.jpg", "000001_1.jpg")
    assert first.maps["agnostic_mask"].name == "000001_0_mask.png"
    assert [item.text for item in split.items] == ["red dress, belt", "long dress", ""]
    assert set(load_maps(first, ("image", "keep", "garment", "sketch"), 16, 12)) == {
        "image",
        "keep",
        "garment",
        "sketch",
    }


def test_unpaired_items_take_the_other_garment_its_caption_and_its_sketch_on_this_person(root):
    first, second = read_dresscode(root, "test", NEEDS, "unpaired").items
    assert (first.name, first.text, first.is_paired) == ("000001_000002", "long dress", False)
    assert first.maps["garment"].name == "000002_1.jpg"
    assert first.maps["sketch"].name == "000001_0_000002_1.png"
    assert "sketch" not in second.maps and "warped_mask" not in second.maps


def test_both_spellings_of_folders_are_accepted(root):
    home = root / "dresscode" / "dresses"
    for old, new in (("agnostic-mask", "agnostic_mask"), ("image-densepose", "image_densepose")):
        (home / old).rename(home / new)
    (root / "dresscode").rename(root / "DressCode")
    assert len(read_tryon("dresscode", root, "test", NEEDS).items) == 2
    assert find_tryon("dresscode", root) == root / "DressCode"


def test_what_lacks_a_map_is_named_with_its_category(root):
    (root / "dresscode/dresses/image-densepose/000002_0.png").unlink()
    split = read_dresscode(root, "test", NEEDS)
    assert len(split.items) == 1
    assert split.missing == ("dresses/000002: no densepose",)


def spoiled(text):
    def change(root):
        (root / "own.txt").write_text(text)
        return "test", str(root / "own.txt")

    return change


def without(name):
    def change(root):
        for home in (root / "dresscode").glob("*_*"), (root / "dresscode").glob("dresses"):
            for folder in home:
                shutil.rmtree(folder / name, ignore_errors=True)
        return "test", "paired"

    return change


BAD = {
    "an unknown person": (spoiled("999999_0.jpg 000001_1.jpg"), r"line 1: '999999_0' is in no folder"),
    "an unknown garment": (spoiled("\n000001_0.jpg 999999_1.jpg"), r"line 2: '999999_1' is not in .*dresses.images"),
    "a garment of another category": (spoiled("000001_0.jpg 000003_1.jpg"), r"'000003_1' is not in .*dresses.images"),
    "two persons": (spoiled("000001_0.jpg 000002_0.jpg"), "expected 'PERSON_0.jpg GARMENT_1.jpg'"),
    "a pair twice": (spoiled("000001_0.jpg 000001_1.jpg\n" * 2), "line 2: .* occurs twice, the first time in line 1"),
    "no agnostic pictures": (without("agnostic"), r"agnostic or agnostic-v3.2 \(agnostic\); 'unifashion prepare tryon"),
    "no unpaired training": (lambda root: ("train", "unpaired"), "unpaired lists for test only"),
    "another split": (lambda root: ("val", "paired"), "has the splits train and test, not val"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_in_the_data_is_one_sentence(root, what):
    change, sentence = BAD[what]
    split, pairs = change(root)
    with pytest.raises(UserError, match=sentence):
        read_dresscode(root, split, NEEDS, pairs)


def test_a_set_that_is_not_there_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(NoSplit, match="expected dresscode/dresses/images"):
        read_dresscode(tmp_path, "test", NEEDS)


def test_the_catalogue_and_vitonhd_are_read_by_the_same_call(tryon_root):
    for name in ("catalogue", "vitonhd"):
        assert read_tryon(name, tryon_root, "test", NEEDS) == read_vitonhd(tryon_root, "test", NEEDS)


def test_the_real_samples_of_mgd_are_read_in_pairs_and_out_of_pairs(shared):
    root = shared / "data/mgd"
    paired = read_dresscode(root, "test", ("image", "sketch"))
    assert {(item.category, item.name) for item in paired.items} == {
        ("dresses", "052012"), ("lower_body", "050855"), ("lower_body", "050915"), ("upper_body", "048462"),
    }  # fmt: skip
    unpaired = read_dresscode(root, "test", ("image", "sketch"), "unpaired")
    assert {item.name for item in unpaired.items} == {
        "052012_052033", "050855_050908", "050915_051078", "048462_049951",
    }  # fmt: skip
    for item in (*paired.items, *unpaired.items):
        assert load_maps(item, ("image", "sketch"), 64, 48)["sketch"].shape == (3, 64, 48)
    assert all(item.caption for item in paired.items)


def test_a_person_with_several_garments_is_one_paired_item(root):
    lines = "000001_0.jpg\t000002_1.jpg\t2\n000001_0.jpg\t000001_1.jpg\t2\n"
    (root / "dresscode" / "dresses" / "test_pairs_paired.txt").write_text(lines)
    (item,) = read_dresscode(root, "test", NEEDS).items
    assert (item.person, item.garment) == ("000001", "000001")
