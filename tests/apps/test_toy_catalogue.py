import json
import os
import random
import re
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small_disk import filled
from unifashion.apps.toy_catalogue import TryOnSizes, write, write_tryon
from unifashion.apps.toy_catalogue.drawing import draw
from unifashion.apps.toy_catalogue.garment import (
    CATEGORIES,
    COLOURS,
    LENGTHS,
    NECKLINES,
    PATTERNS,
    SLEEVES,
    Garment,
    change,
    draw_garment,
)
from unifashion.apps.toy_catalogue.words import LENGTH_WORDS, caption, describe, feedback, phrase
from unifashion.apps.toy_catalogue.write import Sizes, write_catalogue
from unifashion.config import DataSettings
from unifashion.data import splits as sets
from unifashion.data.fashiongen import read_fashiongen, read_fashiongen_blocks
from unifashion.data.fashioniq import CATEGORIES as FASHIONIQ_CATEGORIES
from unifashion.data.fashioniq import has_leaky_captions, read_fashioniq
from unifashion.data.own_catalogue import read_own_catalogue, read_products
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError

SMALL = Sizes(
    train_products=4,
    val_products=3,
    train_families=2,
    val_families=2,
    val_distractors=2,
    train_queries=8,
    val_queries=6,
    side=24,
)
TINY = replace(SMALL, train_products=1, val_products=1, train_families=1, val_families=1, val_distractors=1, side=16)
PLAIN = Garment("dress", "red", "", "plain", "short-sleeved", "round neck", "medium")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", SMALL, progress=False)


@pytest.fixture(scope="module")
def garments(root):
    """What is on every photo, by its path below the root."""
    rows = [json.loads(line) for line in (root / "attributes.jsonl").read_text().splitlines()]
    return {row.pop("image"): Garment(**row) for row in rows}


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def some_garments(count=300, seed=0):
    rng = random.Random(seed)
    return [draw_garment(category, rng) for category in CATEGORIES for _ in range(count)]


# What the words say, read back independently of how they were written.

COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
PATTERN = {
    "plain": r"\bplain\b|no pattern",
    "striped": r"\bstrip(ed|es)\b",
    "dotted": r"\bdot(ted|s)\b",
    "checked": r"\bcheck(ed|s)\b",
    "floral": r"\bfloral\b|\bflowers\b",
}
SLEEVE = {
    "sleeveless": r"\bsleeveless\b|no sleeves",
    "short-sleeved": r"short-sleeved|short sleeves",
    "long-sleeved": r"long-sleeved|long sleeves",
}
CATEGORIES_SAID = {name: rf"\b{name}\b" for name in CATEGORIES}
NECKLINE = {name: rf"\b{name}\b" for name in ("round neck", "v-neck", "square neck", "collar")}


def said(choices, text):
    return [name for name, words in choices.items() if re.search(words, text)]


def length_words(category):
    return {length: rf"\b{word}\b" for length, word in LENGTH_WORDS[category].items()}


def read_garment(text):
    """The garment that a description or caption states; fails where it is silent or says two things."""
    text = text.lower()
    (category,) = said(CATEGORIES_SAID, text)
    (pattern,), (sleeve,), (neckline,) = (said(choices, text) for choices in (PATTERN, SLEEVE, NECKLINE))
    (length,) = said(length_words(category), text)
    colour, *second = COLOUR.findall(text)
    return Garment(category, colour, "".join(second), pattern, sleeve, neckline, length)


def read_clause(clause, category):
    """The attributes that one clause of feedback gives to its target."""
    claims = {}
    for name, choices in (
        ("pattern", PATTERN),
        ("sleeve", SLEEVE),
        ("neckline", NECKLINE),
        ("length", length_words(category)),
    ):
        if values := said(choices, clause):
            (claims[name],) = values
    if colours := COLOUR.findall(clause):
        (claims["second_colour" if "pattern" in claims else "colour"],) = colours
    return claims


def check_feedback(sentences, reference, target):
    """Fail where a sentence is false, says nothing, or speaks of what did not change; return the attributes named."""
    named = set()
    for clause in " and ".join(sentences).split(" and "):
        now, _, before = clause.partition(" instead of ")
        claims = read_clause(now, target.category)
        assert claims and all(getattr(target, name) == value for name, value in claims.items()), (clause, target)
        assert set(claims) & set(reference.differences(target)), (clause, reference, target)
        for name, value in read_clause(before, target.category).items():
            assert getattr(reference, name) == value, (clause, reference)
        if direction := re.search("longer|shorter", clause):
            order, name = (SLEEVES, "sleeve") if "sleeve" in clause else (LENGTHS, "length")
            grows = order.index(getattr(target, name)) > order.index(getattr(reference, name))
            assert grows == (direction[0] == "longer"), (clause, reference, target)
        named |= set(claims)
    return named


def test_descriptions_state_every_attribute():
    rng = random.Random(1)
    for garment in some_garments():
        assert read_garment(describe(garment, rng)) == garment


def test_what_people_type_is_true_and_short():
    rng = random.Random(1)
    for garment in some_garments():
        text = phrase(garment, rng)
        claims = {"colour": COLOUR.findall(text) or [garment.colour], "category": said(CATEGORIES_SAID, text)}
        for name, choices in (("pattern", PATTERN), ("sleeve", SLEEVE), ("neckline", NECKLINE)):
            claims[name] = said(choices, text) or [getattr(garment, name)]
        claims["length"] = said(length_words(garment.category), text) or [garment.length]
        assert all(values == [getattr(garment, name)] for name, values in claims.items()), (text, garment)
        assert len(text.split()) < len(describe(garment, rng).split())


def test_only_training_texts_leave_attributes_out(root):
    texts = {
        split: [json.loads(line)["description"] for line in path.read_text().splitlines()]
        for split in ("train", "val")
        for path in [root / "fashionGen" / f"annotation_{split}.jsonl"]
    }
    assert all(read_garment(text) for text in texts["val"])
    assert 0 < sum(not text[0].isupper() for text in texts["train"]) < len(texts["train"]) / 2


def test_captions_state_every_attribute():
    for garment in some_garments():
        assert read_garment(caption(garment)) == garment


def test_feedback_is_true_of_the_target_and_speaks_of_what_changed():
    rng = random.Random(2)
    complete = Counter()
    for reference in some_garments():
        target = change(reference, rng)
        named = check_feedback(feedback(reference, target, rng), reference, target)
        complete[set(reference.differences(target)) - {"second_colour"} <= named] += 1
    assert complete[True] > 0.9 * complete.total()  # one time in ten both sentences speak of the same


def test_feedback_on_the_second_colour_alone_names_it():
    reference = replace(PLAIN, pattern="striped", second_colour="blue")
    target = replace(reference, second_colour="white")
    for seed in range(20):
        assert "second_colour" in check_feedback(feedback(reference, target, random.Random(seed)), reference, target)


def test_a_change_touches_one_or_two_attributes():
    rng = random.Random(3)
    counts = Counter()
    for garment in some_garments():
        changed = change(garment, rng)
        names = set(garment.differences(changed))
        if "pattern" in names:
            names.discard("second_colour")
        assert changed.category == garment.category and 1 <= len(names) <= 2
        counts.update(names)
    assert set(counts) == {"colour", "pattern", "sleeve", "neckline", "length"}


def test_every_value_of_every_attribute_is_drawn():
    garments = some_garments()
    assert {garment.colour for garment in garments} == set(COLOURS)
    assert {garment.second_colour for garment in garments} == {"", *COLOURS}
    assert {garment.pattern for garment in garments} == set(PATTERNS)
    assert {garment.sleeve for garment in garments} == set(SLEEVES)
    assert {garment.length for garment in garments} == set(LENGTHS)
    for category in CATEGORIES:
        drawn = {garment.neckline for garment in garments if garment.category == category}
        assert drawn == set(NECKLINES[category])


@pytest.mark.parametrize(
    "changes", [{"second_colour": "blue"}, {"pattern": "striped"}, {"pattern": "striped", "second_colour": "red"}]
)
def test_impossible_garments_are_refused(changes):
    with pytest.raises(ValueError, match="no such garment"):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_garment_has_about_the_colour_of_its_name(colour):
    for seed, category in enumerate(("dress", "top", "dress", "top")):
        picture = draw(replace(PLAIN, category=category, colour=colour), 64, random.Random(seed))
        chest = np.asarray(picture.crop((27, 20, 37, 24)), dtype=float).mean(axis=(0, 1))
        distances = {name: np.abs(chest - value).max() for name, value in COLOURS.items()}
        assert distances[colour] < 40
        assert min(distances, key=distances.get) == colour


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "blue"},
        {"category": "top"},
        {"pattern": "striped", "second_colour": "white"},
        {"pattern": "dotted", "second_colour": "white"},
        {"pattern": "checked", "second_colour": "white"},
        {"pattern": "floral", "second_colour": "white"},
        {"sleeve": "sleeveless"},
        {"sleeve": "long-sleeved"},
        {"neckline": "v-neck"},
        {"neckline": "square neck"},
        {"length": "short"},
        {"length": "long"},
    ],
)
def test_every_attribute_can_be_seen(changes):
    def pixels(garment):
        return np.asarray(draw(garment, 48, random.Random(0)), dtype=float)

    seen = (np.abs(pixels(replace(PLAIN, **changes)) - pixels(PLAIN)).max(axis=2) > 40).mean()
    assert seen > 0.005  # of the picture's area: about twelve pixels


def test_a_shirt_shows_its_collar_and_buttons():
    shirt = Garment("shirt", "white", "", "plain", "long-sleeved", "collar", "medium")
    top = replace(shirt, category="top", neckline="round neck")
    difference = np.abs(
        np.asarray(draw(shirt, 96, random.Random(0)), dtype=float)
        - np.asarray(draw(top, 96, random.Random(0)), dtype=float)
    ).max(axis=2)
    middle = difference[20:60, 44:52]
    assert (middle > 40).sum() > 10


def test_the_same_state_draws_the_same_picture():
    first, second, third = (draw(PLAIN, 32, random.Random(seed)).tobytes() for seed in ("a", "a", "b"))
    assert first == second != third


def test_no_product_of_validation_has_a_twin(tmp_path, monkeypatch):
    for drawing in ("_draw_all", "layouts.write_layouts"):  # only the attributes are looked at
        monkeypatch.setattr(f"{write.__name__}.{drawing}", lambda *_: None)
    rows = (write_catalogue(tmp_path / "c", progress=False) / "attributes.jsonl").read_text().splitlines()
    shown = {row.pop("image"): Garment(**row) for row in map(json.loads, rows)}
    objects = (tmp_path / "c/fashionGen/val100_object.jsonl").read_text().splitlines()
    products = [shown[f"fashionGen/image_val/{json.loads(row)['index']}.jpg"] for row in objects]
    assert len(products) == 390 and len(set(products)) == 390


def test_fashiongen_reads_it(root, garments):
    for split, count in (("train", SMALL.train_products), ("val", SMALL.val_products)):
        read = read_fashiongen(root, split)
        assert read.missing == ()
        views = Counter(pair.product for pair in read.pairs)
        assert len(views) == count * len(CATEGORIES) and set(views.values()) <= {1, 2, 3}
        for pair in read.pairs:
            garment = garments[pair.image.relative_to(root).as_posix()]
            typed = split == "train" and pair.text[0].islower()
            assert typed or read_garment(pair.text) == garment
            assert pair.subcategory == garment.category
            with Image.open(pair.image) as image:
                assert image.size == (SMALL.side, SMALL.side) and image.mode == "RGB"


def test_the_object_files_group_the_same_views(root):
    for split in ("train", "val"):
        by_product = {}
        for pair in read_fashiongen(root, split).pairs:
            by_product.setdefault(pair.product, []).append(int(pair.image.stem))
        rows = (root / f"fashionGen/annotation_{split}_object.jsonl").read_text().splitlines()
        assert [json.loads(json.loads(row)["index"]) for row in rows] == list(by_product.values())


def test_the_block_rows_are_one_view_of_each_product_of_validation(root):
    blocks, val = read_fashiongen_blocks(root), read_fashiongen(root, "val")
    product_of = {pair.image: pair.product for pair in val.pairs}
    assert blocks.missing == () and len(blocks.pairs) == SMALL.val_products * len(CATEGORIES)
    assert sorted(product_of[pair.image] for pair in blocks.pairs) == sorted(set(product_of.values()))


def test_fashioniq_reads_it(root, garments):
    for name, category in zip(FASHIONIQ_CATEGORIES, CATEGORIES, strict=True):
        for split, size, limit in (("train", 4 * 2, SMALL.train_queries), ("val", 4 * 2 + 2, SMALL.val_queries)):
            read = read_fashioniq(root, name, split)
            assert len(read.gallery) == len(read.images) == len(read.captions) == size
            assert 0 < len(read.queries) <= limit and read.answerable() == list(read.queries)
            shown = {image: garments[path.relative_to(root).as_posix()] for image, path in read.images.items()}
            assert {garment.category for garment in shown.values()} == {category}
            assert len(set(shown.values())) == size  # no two alike: the target is the only right answer
            assert {image: read_garment(text) for image, text in read.captions.items()} == shown
            for query in read.queries:
                assert len(query.feedback) == 2
                check_feedback(query.feedback, shown[query.reference], shown[query.target])
    assert not has_leaky_captions(root, "val")


def test_the_own_catalogue_reads_the_photos_of_fashiongen_all_described(root, garments):
    for split in ("train", "val"):
        own, fashiongen = read_own_catalogue(root, split), read_fashiongen(root, split)
        described = [replace(pair, text=mine.text) for pair, mine in zip(fashiongen.pairs, own.pairs, strict=True)]
        assert own.missing == () and list(own.pairs) == described
        assert all(read_garment(pair.text) == garments[pair.image.relative_to(root).as_posix()] for pair in own.pairs)
    prices = {float(row.metadata["price"]) for row in read_products(root)}
    assert len(prices) > 5 and min(prices) >= 15


def test_no_photo_is_in_training_and_validation(root):
    def photos(split):
        paths = [pair.image for pair in read_fashiongen(root, split).pairs]
        for category in FASHIONIQ_CATEGORIES:
            paths += read_fashioniq(root, category, split).images.values()
        return {path.read_bytes() for path in paths}, len(paths)

    (train, num_train), (val, num_val) = photos("train"), photos("val")
    assert len(train) == num_train and len(val) == num_val and not train & val


def test_every_photo_has_its_attributes(root, garments):
    photos = {path for path in content(root) if path.endswith(".jpg")}
    assert set(garments) == {path for path in photos if path.split("/")[0] in ("fashionGen", "fashionIQ_dataset")}


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_processes(root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert content(write_catalogue(tmp_path / "again", SMALL, progress=False)) == content(root)


def test_another_seed_writes_other_bytes(root, tmp_path):
    other = content(write_catalogue(tmp_path / "other", replace(SMALL, seed=1), progress=False))
    first = content(root)
    shared = {path for path in first if path in other and path.endswith(".jpg")}
    assert shared and not [path for path in shared if first[path] == other[path]]
    assert first["catalogue.csv"] != other["catalogue.csv"]


def test_a_second_call_writes_nothing(tmp_path):
    root = write_catalogue(tmp_path / "catalogue", TINY, progress=False)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_catalogue(root, TINY, progress=False) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_sizes_replace_the_catalogue(tmp_path):
    root = write_catalogue(tmp_path / "catalogue", TINY, progress=False)
    write_catalogue(root, replace(TINY, val_products=2), progress=False)
    assert len(read_fashiongen_blocks(root).pairs) == 6
    fresh = write_catalogue(tmp_path / "fresh", replace(TINY, val_products=2), progress=False)
    assert content(root) == content(fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "fresh"]


def test_an_interrupted_call_leaves_nothing_half_done(tmp_path, monkeypatch):
    root = tmp_path / "catalogue"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write, "_draw_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_catalogue(root, TINY, progress=False)
    assert list(tmp_path.iterdir()) == []
    write_catalogue(root, TINY, progress=False)
    before = content(root)
    with monkeypatch.context() as patch:
        patch.setattr(write, "_draw_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_catalogue(root, replace(TINY, seed=1), progress=False)
    assert content(root) == before


def test_the_catalogue_of_a_faster_process_is_left_in_place(tmp_path, monkeypatch):
    root, draw_all, inodes = tmp_path / "catalogue", write._draw_all, []

    def draw_while_another_finishes(*args):
        monkeypatch.setattr(write, "_draw_all", draw_all)
        inodes.append(write_catalogue(root, TINY, progress=False).stat().st_ino)
        draw_all(*args)

    monkeypatch.setattr(write, "_draw_all", draw_while_another_finishes)
    write_catalogue(root, TINY, progress=False)
    assert [root.stat().st_ino] == inodes
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]


def test_two_processes_may_finish_at_the_same_moment(tmp_path, monkeypatch):
    root, move = tmp_path / "catalogue", Path.replace

    def move_after_another(path, target):
        if path.name == "new":
            monkeypatch.setattr(Path, "replace", move)
            write_catalogue(root, TINY, progress=False)
        return move(path, target)

    monkeypatch.setattr(Path, "replace", move_after_another)
    write_catalogue(root, TINY, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]
    assert content(root) == content(write_catalogue(tmp_path / "alone", TINY, progress=False))


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "catalogue").symlink_to(tmp_path / "disk")
    write_catalogue(tmp_path / "catalogue", TINY, progress=False)
    assert (tmp_path / "catalogue").is_symlink() and (tmp_path / "disk/manifest.json").is_file()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["fashionGen/annotation_train.jsonl"], "holds other things (fashionGen); name an empty folder"),  # a real one
        (["catalogue.csv", "fashionIQ_dataset/images/1.jpg"], "holds other things (catalogue.csv, fashionIQ_dataset);"),
        (["manifest.json"], "holds other things (manifest.json);"),
        (["photos/1.jpg"], "holds other things (photos);"),
    ],
)
def test_a_folder_that_it_did_not_write_is_refused_and_left_alone(tmp_path, files, message):
    for name in files:
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).write_text("{}")
    before = content(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        write_catalogue(tmp_path / "shop", TINY, progress=False)
    assert content(tmp_path) == before


def test_a_catalogue_to_which_something_was_added_is_not_replaced(tmp_path):
    root = write_catalogue(tmp_path / "catalogue", TINY, progress=False)
    (root / "notes.txt").write_text("mine")
    assert write_catalogue(root, TINY, progress=False) == root  # as it is, it may be used
    before = content(root)
    with pytest.raises(UserError, match=r"holds other things \(notes\.txt\)"):
        write_catalogue(root, SMALL, progress=False)
    assert content(root) == before


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "catalogue").write_text("mine")
    with pytest.raises(UserError, match=r"catalogue holds other things \(a file\)"):
        write_catalogue(tmp_path / "catalogue", TINY, progress=False)


def test_it_is_synthetic_from_wherever_it_is_read(root, tmp_path, monkeypatch):
    assert is_synthetic(root) and is_synthetic(root / "fashionGen") and is_synthetic(root / "fashionIQ_dataset")
    assert not is_synthetic(root.parent) and not is_synthetic(tmp_path)
    monkeypatch.chdir(root / "fashionGen")
    assert is_synthetic(Path())
    (tmp_path / "manifest.json").write_text("[]")
    assert not is_synthetic(tmp_path)


def settings(root, dataset):
    return DataSettings(data_root=str(root), dataset=dataset)


def test_all_data_sets_are_found_by_name_and_marked_synthetic(root):
    for dataset in ("fashiongen", "catalogue"):
        data = settings(root, dataset)
        assert not sets.is_composed(dataset)
        assert len(sets.read_pairs(data, "val").pairs) == len(read_fashiongen(root, "val").pairs)
        assert sets.root_marks(data) == ("synthetic",)
        with pytest.raises(UserError, match=f"{dataset} holds images with texts"):
            sets.read_composed(data, "val")
    data = settings(root, "fashioniq")
    assert sets.is_composed("fashioniq")
    assert [split.category for split in sets.read_composed(data, "val")] == list(FASHIONIQ_CATEGORIES)
    assert sets.root_marks(data) == ("synthetic",)
    with pytest.raises(UserError, match="fashioniq holds composed queries"):
        sets.read_pairs(data, "val")


def test_the_training_texts_cover_both_phases_and_nothing_of_validation(root):
    pairs, composed = ({*sets.training_texts(settings(root, name))} for name in ("fashiongen", "fashioniq"))
    assert composed < pairs
    split = read_fashioniq(root, "dress", "train")
    assert {*split.captions.values(), *split.queries[0].feedback} <= composed
    assert {pair.text for pair in read_fashiongen(root, "train").pairs} == pairs - composed
    assert not {pair.text for pair in read_fashiongen(root, "val").pairs} & pairs


def test_guided_captions_mark_every_score(root, tmp_path):
    write_catalogue(tmp_path / "catalogue", TINY, progress=False)
    path = tmp_path / "catalogue/fashionIQ_dataset/captions_llava/next_llava.val.shirt.caption.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**rows[0], "text_guidance": "is red"}, *rows[1:]]))
    assert sets.root_marks(settings(tmp_path / "catalogue", "fashioniq")) == ("synthetic", "leaky")


def test_a_killed_drawing_leaves_no_process_and_the_next_one_removes_what_it_left(tmp_path):
    code = f"""
    from pathlib import Path
    from unifashion.apps.toy_catalogue import TryOnSizes, write_tryon
    write_tryon(Path({str(tmp_path)!r}) / "vitonhd", TryOnSizes(train=4000, test=4, height=64), progress=False)
    """
    source = Path(__file__).resolve().parents[2] / "src"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": str(source)}
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not (helpers := children.read_text().split()) or not list(tmp_path.glob(".vitonhd-*/new/train/image/*.jpg")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    for helper in helpers:
        while Path(f"/proc/{helper}").exists() and "Z" not in Path(f"/proc/{helper}/stat").read_text().split()[2]:
            time.sleep(0.05)
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".vitonhd-"]
    write_tryon(tmp_path / "vitonhd", TryOnSizes(train=2, test=2, height=64), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["vitonhd"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_disk):
    disk = small_disk(1)
    for leave in (0, 8, 100):
        with filled(disk, leave), pytest.raises(UserError, match=r"/vitonhd cannot be written: the disk is full"):
            write_tryon(disk / "vitonhd", TryOnSizes(train=2, test=2, height=64), progress=False)
        assert not list(disk.iterdir())
