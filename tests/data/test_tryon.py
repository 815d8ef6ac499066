"""Reading try-on pairs: VITON-HD with both spellings of its folders, MGD's additions, and lists with mistakes."""

import json
import shutil

import pytest
from PIL import Image

from unifashion.data.annotations import NoSplit
from unifashion.data.tryon import PERSON_MAPS, read_vitonhd
from unifashion.errors import UserError

NEEDS = (*PERSON_MAPS, "garment")
FIRST = "00006_00"  # the first test person of the toy set


@pytest.fixture
def root(tryon_root, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(tryon_root / "vitonhd", tmp_path / "vitonhd")
    return tmp_path


def test_paired_items_wear_their_own_garment_and_know_all_their_maps(tryon_root):
    split = read_vitonhd(tryon_root, "train", (*NEEDS, "sketch", "warped_mask", "garment_mask"))
    assert [item.name for item in split.items] == [f"{number:05d}_00" for number in range(6)]
    assert all(item.is_paired and len(item.caption) == 3 for item in split.items)
    assert not split.missing
    for item in split.items:
        assert {path.parent.name for path in item.maps.values()} == {
            "image", "cloth", "cloth-mask", "agnostic-v3.2", "agnostic-mask", "image-densepose", "im_sketch",
            "gt_cloth_warped_mask",
        }  # fmt: skip


def test_unpaired_items_take_the_garment_of_the_list_and_its_caption_and_sketch(tryon_root):
    split = read_vitonhd(tryon_root, "test", (*NEEDS, "sketch"), "unpaired")
    captions = json.loads((tryon_root / "vitonhd" / "captions.json").read_text())
    item = split.items[0]
    assert (item.person, item.garment, item.name) == (FIRST, "00007_00", f"{FIRST}_00007_00")
    assert item.maps["garment"].stem == "00007_00"
    assert item.maps["sketch"].name == f"{FIRST}_00007_00.png"
    assert item.text == ", ".join(captions["00007"])
    assert "warped_mask" not in item.maps


@pytest.mark.parametrize("folder", ["test/cloth_sketch", "cloth_sketch/results/test"])
def test_a_sketch_of_the_garment_s_photo_is_found_by_the_garment_s_name(root, folder):
    home = root / "vitonhd" / folder
    home.mkdir(parents=True)
    for name in (FIRST, "00007_00"):
        Image.new("L", (48, 64)).save(home / f"{name}.png")
    needs = (*NEEDS, "garment-sketch")
    paired, unpaired = (read_vitonhd(root, "test", needs, pairs) for pairs in ("paired", "unpaired"))
    assert [item.maps["garment-sketch"].stem for item in paired.items] == [FIRST, "00007_00"]
    assert {item.maps["garment-sketch"] for item in unpaired.items} == {
        home / f"{item.garment}.png" for item in unpaired.items
    }
    assert unpaired.items[0].name == f"{FIRST}_00007_00" and "00007_00_00008_00: no garment-sketch" in unpaired.missing


def test_the_folders_may_be_spelt_as_stableviton_spells_them(root):
    expected = read_vitonhd(root, "test", NEEDS)
    test = root / "vitonhd" / "test"
    for old, new in (("agnostic-v3.2", "agnostic"), ("cloth-mask", "cloth_mask"), ("agnostic-mask", "agnostic_mask")):
        (test / old).rename(test / new)
    found = read_vitonhd(root / "vitonhd", "test", (*NEEDS, "garment_mask"))
    assert [item.name for item in found.items] == [item.name for item in expected.items]


def test_an_item_without_a_map_is_left_out_and_says_why(root):
    (root / "vitonhd/test/image-densepose" / f"{FIRST}.jpg").unlink()
    split = read_vitonhd(root, "test", NEEDS)
    assert len(split.items) == 3
    assert split.missing == (f"{FIRST}: no densepose",)
    assert len(read_vitonhd(root, "test", ("image", "garment")).items) == 4


def spoil_pairs(text):
    def change(root):
        (root / "pairs.txt").write_text(text)
        return str(root / "pairs.txt")

    return change


def remove(folder):
    def change(root):
        shutil.rmtree(root / "vitonhd" / "test" / folder)
        return "paired"

    return change


def spoil_captions(root):
    (root / "vitonhd" / "captions.json").write_text('{"00001": "red"}')
    return "paired"


BAD = {
    "a person who is not there": (spoil_pairs("99999_00.jpg 00007_00.jpg"), r"line 1: '99999_00' is not in .*image"),
    "a garment that is not there": (spoil_pairs(f"\n{FIRST}.jpg nothing.jpg"), r"line 2: 'nothing' is not in .*cloth"),
    "one name in a line": (spoil_pairs(f"{FIRST}.jpg\n"), "expected 'PERSON.jpg GARMENT.jpg'"),
    "a pair twice": (
        spoil_pairs(f"{FIRST}.jpg {FIRST}.jpg\n" * 2),
        "line 2: .* occurs twice, the first time in line 1",
    ),
    "an empty list": (spoil_pairs(" \n"), "is empty"),
    "a list that is not there": (lambda root: str(root / "none.txt"), "does not exist"),
    "no agnostic folder": (remove("agnostic-v3.2"), r"there are no images in agnostic-v3.2 or agnostic \(agnostic\)"),
    "captions of another form": (spoil_captions, "'00001' must be a list of texts"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_in_the_data_is_one_sentence(root, what):
    change, sentence = BAD[what]
    with pytest.raises(UserError, match=sentence):
        read_vitonhd(root, "test", NEEDS, change(root))


def test_a_set_or_split_that_is_not_there_says_where_it_was_looked_for(tryon_root, tmp_path):
    with pytest.raises(NoSplit, match="no VITON-HD in"):
        read_vitonhd(tmp_path, "test", NEEDS)
    (tmp_path / "vitonhd" / "test").mkdir(parents=True)
    with pytest.raises(NoSplit, match="has no train split; it has test"):
        read_vitonhd(tmp_path, "train", NEEDS)


def test_the_real_samples_are_read(shared):
    split = read_vitonhd(shared / "data/vitonhd", "test", ("image", "garment"), "unpaired")
    assert len(split.items) >= 5
    assert all(item.caption for item in split.items)
    with pytest.raises(UserError, match=r"agnostic-v3.2 or agnostic \(agnostic\), agnostic-mask or agnostic_mask"):
        read_vitonhd(shared / "data/vitonhd", "test", NEEDS)


def test_the_real_samples_of_mgd_bring_their_sketches(shared):
    """MGD comes without garment photos: a sketch of the garment on the person is what is drawn from."""
    root = shared / "data/mgd/vitonhd"
    split = read_vitonhd(root, "test", ("image", "sketch"), "unpaired")
    assert {item.name for item in split.items} == {"12419_00_01944_00", "03191_00_00349_00"}
    for item in split.items:
        with Image.open(item.maps["sketch"]) as sketch:
            assert sketch.size == (768, 1024)


LISTS = {
    "Windows": "p 1.jpg\tg.2.jpg\r\n",
    "a comma": "p 1.jpg, g.2.jpg\n",
    "a third column": "p 1.jpg\tg.2.jpg\t0\n",
    "paths": "test/image/p 1.jpg\ttest/cloth/g.2.jpg\n",
    "paths of Windows": "test\\image\\p 1.jpg\ttest\\cloth\\g.2.jpg\n",
    "no suffix": "p 1\tg.2\n",
    "a comment": "# mine\n\np 1.jpg\tg.2.jpg\n",
    "a byte-order mark": "\ufeffp 1.jpg\tg.2.jpg\n",
    "capitals": "p 1.JPG\tg.2.Png\n",
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_of_pairs_is_read_however_it_was_written(root, what):
    test = root / "vitonhd" / "test"
    endings = {"image": ".jpg", "agnostic-v3.2": ".jpg", "agnostic-mask": "_mask.png", "image-densepose": ".jpg"}
    for folder, ending in endings.items():
        shutil.copy(next((test / folder).glob(f"{FIRST}*")), test / folder / f"p 1{ending}")
    shutil.copy(next((test / "cloth").glob(f"{FIRST}*")), test / "cloth" / "g.2.jpg")
    (root / "pairs.txt").write_text(LISTS[what], newline="")
    split = read_vitonhd(root, "test", NEEDS, str(root / "pairs.txt"))
    assert [(item.person, item.garment) for item in split.items] == [("p 1", "g.2")]


def test_a_person_with_several_garments_is_one_paired_item(root):
    names = f"{FIRST}.jpg 00007_00.jpg\n{FIRST}.jpg 00008_00.jpg\n"
    (root / "vitonhd" / "test_pairs.txt").write_text(names)
    assert [item.name for item in read_vitonhd(root, "test", NEEDS).items] == [FIRST]
    unpaired = read_vitonhd(root, "test", NEEDS, "unpaired").items
    assert [item.name for item in unpaired] == [f"{FIRST}_00007_00", f"{FIRST}_00008_00"]


def test_a_caption_belongs_to_the_garment_of_its_whole_name(root, caplog):
    cloth = root / "vitonhd" / "test" / "cloth"
    for name in ("red_shirt_01", "red_coat_02", "1_2"):
        shutil.copy(cloth / f"{FIRST}.jpg", cloth / f"{name}.jpg")
    garments = ("red_shirt_01", "red_coat_02", "1_2", "00007_00")
    (root / "pairs.txt").write_text("".join(f"{FIRST}.jpg {name}.jpg\n" for name in garments))
    captions = {"red_shirt_01.jpg": ["a shirt"], "red": ["wrong"], "1_2": ["exact"], "1": ["short"], "00007": ["a top"]}
    (root / "vitonhd" / "captions.json").write_text(json.dumps(captions))
    items = read_vitonhd(root, "test", NEEDS, str(root / "pairs.txt")).items
    assert [item.text for item in items] == ["a shirt", "", "exact", "a top"]
    (line,) = [record.message for record in caplog.records if "caption" in record.message]
    assert "1 of 4 garments have no caption, such as red_coat_02; captions that belong to none of them: 2" in line
