"""Every reader meets every kind of broken file: it answers with one sentence that names it, or with records.

Each row of ``FILES`` is one annotation file of one reader, in its smallest form. ``faults`` breaks it in all the ways that a
table of annotations can be broken; ``HARMLESS`` names those that a reader takes on purpose.
"""

import io
import json
from dataclasses import dataclass

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from damage import damaged, damaged_json, refused
from unifashion.data.circo import read_circo
from unifashion.data.cirr import read_cirr
from unifashion.data.dresscode import read_dresscode
from unifashion.data.fashion200k import read_fashion200k
from unifashion.data.fashiongen import read_fashiongen, read_fashiongen_blocks
from unifashion.data.fashiongen_hdf5 import read_fashiongen_hdf5
from unifashion.data.fashioniq import has_leaky_captions, read_fashioniq, read_fashioniq_cap
from unifashion.data.images import load_image
from unifashion.data.own_catalogue import read_own_catalogue, read_products
from unifashion.data.tryon import read_vitonhd
from unifashion.errors import UserError

MEMBERS = [f"dev-{n}" for n in range(6)]
CIRR_ROW = {
    "pairid": 1,
    "reference": "dev-0",
    "target_hard": "dev-1",
    "caption": "is red",
    "img_set": {"id": 1, "members": MEMBERS},
}
CIRCO_ROW = {
    "id": 0,
    "reference_img_id": 10,
    "target_img_id": 11,
    "gt_img_ids": [11],
    "relative_caption": "is red",
    "shared_concept": "a dog",
    "semantic_aspects": ["addition"],
}
QUERY = {"candidate": "B1", "target": "B2", "captions": ["is red", "is long"]}
CAPTION = {"image": "B1", "caption": "a dress", "text_guidance": ""}
PAIR = {"index": "1", "description": "red skirt", "productID": 7, "subcategory": "SKIRTS"}
VIEW = "women/dresses/mini/7/7_0.jpeg"
CATALOGUE = "image,text,id,split\n1.png,red,1,train\n2.png,blue,2,val\n"


@dataclass(frozen=True)
class File:
    """One annotation file: what reads it, where it lies, its content, and how its rows are written."""

    read: object
    name: str
    content: object
    kind: str  # json, jsonl, lines or csv
    needs: tuple[str, ...] = ()  # other files of FILES that must be there


def _pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


FILES = {
    "fashioniq": File(
        lambda root: read_fashioniq(root, "dress", "val"), "captions/cap.dress.val.json", [QUERY], "json", ("iq-split",)
    ),
    "iq-split": File(
        lambda root: read_fashioniq(root, "dress", "val"),
        "image_splits/split.dress.val.json",
        ["B1", "B2"],
        "json",
        ("fashioniq",),
    ),
    "iq-captions": File(
        lambda root: (read_fashioniq(root, "dress", "val"), has_leaky_captions(root, "val")),
        "captions_llava/next_llava.val.dress.caption.json",
        [CAPTION],
        "json",
        ("fashioniq", "iq-split"),
    ),
    "fashioniq-cap": File(
        lambda root: read_fashioniq_cap(root, "train"),
        "captions_llava/next_llava.train.dress.caption.json",
        [CAPTION],
        "json",
        ("fashioniq",),
    ),
    "fashiongen": File(lambda root: read_fashiongen(root, "train"), "annotation_train.jsonl", [PAIR], "jsonl"),
    "gen-objects": File(
        lambda root: read_fashiongen(root, "train"),
        "annotation_train_object.jsonl",
        [{"index": "[1, 2]", "description": "red"}],
        "jsonl",
        ("fashiongen",),
    ),
    "gen-blocks": File(
        read_fashiongen_blocks,
        "val100_object.jsonl",
        [{"index": "1", "description": "red"}],
        "jsonl",
        ("fashiongen",),
    ),
    "200k-labels": File(
        lambda root: read_fashion200k(root, "train"),
        "labels/dress_train_detect_all.txt",
        [f"{VIEW}\t0.9\tred dress"],
        "lines",
    ),
    "200k-jsonl": File(
        lambda root: read_fashion200k(root, "train"),
        "annotation_pairs_train.jsonl",
        [{"image_path": VIEW, "caption": "red dress"}],
        "jsonl",
    ),
    "200k-objects": File(
        lambda root: read_fashion200k(root, "train"),
        "annotation_train_object.jsonl",
        [{"all_images": [VIEW], "caption": "red dress"}],
        "jsonl",
        ("200k-jsonl",),
    ),
    "cirr": File(lambda root: read_cirr(root, "val"), "captions/cap.rc2.val.json", [CIRR_ROW], "json", ("cirr-split",)),
    "cirr-split": File(
        lambda root: read_cirr(root, "val"),
        "image_splits/split.rc2.val.json",
        {name: f"./dev/{name}.png" for name in MEMBERS},
        "json",
        ("cirr",),
    ),
    "circo": File(lambda root: read_circo(root, "val"), "annotations/val.json", [CIRCO_ROW], "json", ("coco",)),
    "coco": File(
        lambda root: read_circo(root, "val"),
        "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
        {"images": [{"id": 10, "file_name": "a.jpg"}, {"id": 11, "file_name": "b.jpg"}]},
        "json",
        ("circo",),
    ),
    "catalogue": File(
        lambda root: (read_own_catalogue(root, "train"), read_products(root)), "catalogue.csv", CATALOGUE, "csv"
    ),
    "viton-pairs": File(
        lambda root: read_vitonhd(root, "test", ("image", "garment"), "unpaired"),
        "test_pairs.txt",
        ["1_00.jpg 2_00.jpg"],
        "lines",
    ),
    "viton-captions": File(
        lambda root: read_vitonhd(root, "test", ("image", "garment")), "captions.json", {"1": ["red"]}, "json"
    ),
}

FILES |= {
    "dresscode-pairs": File(
        lambda root: read_dresscode(root, "test", ("image",)),
        "dresses/test_pairs_paired.txt",
        ["1_0.jpg 1_1.jpg"],
        "lines",
    ),
    "dresscode-captions": File(
        lambda root: read_dresscode(root, "test", ("image",)),
        "fine_captions.json",
        {"1": ["red"]},
        "json",
        ("dresscode-pairs",),
    ),
}

WRONG = {"none": None, "float": 1.5, "list": [], "object": {}, "true": True, "blank": " ", "deep": [[1]]}

ODD = ("NUL", "very long")  # such a name is that of an image that is not there


def _all(key):
    """Every fault of a key that the reader does not look at."""
    return {f"{key} {name}" for name in ("absent", *WRONG)}


def _optional(key):
    return {f"{key} {name}" for name in ("absent", "none", "blank")}


def _odd(*words):
    return {f"{word} {name}" for word in words for name in ODD}


HARMLESS = {
    "fashioniq": {"row twice"} | _odd("B1", "red"),
    "iq-split": {"row twice", "row is blank", "row is text"} | _odd("B1"),
    "iq-captions": {"row twice", "is list", "caption blank", "text_guidance list"}
    | _odd("B1")
    | _optional("text_guidance"),
    "fashioniq-cap": {"row twice"} | _odd("B1") | _all("text_guidance"),
    "fashiongen": {"row twice", "description blank"} | _odd("red") | _optional("productID") | _optional("subcategory"),
    "gen-objects": {"row twice"} | _odd("red") | _all("description"),
    "gen-blocks": {"row twice", "description blank"} | _odd("red"),
    "200k-labels": {"row twice"} | _odd("red", "7_0"),
    "200k-jsonl": {"row twice", "caption blank"} | _odd("red", "7_0"),
    "200k-objects": {"row twice"} | _odd("red", "7_0") | _all("caption"),
    "cirr": {"caption blank"} | _odd("red"),
    "cirr-split": _odd("1.png") | {f"{name} blank" for name in MEMBERS},
    "circo": {"relative_caption blank", "semantic_aspects absent", "semantic_aspects list"}
    | _odd("red")
    | _optional("shared_concept"),
    "coco": _odd("a.jpg"),
    "catalogue": _odd("red", "1.png"),
    "viton-pairs": set(),
    "viton-captions": {"is object", "1 list"} | _odd("red"),
    "dresscode-pairs": {"row twice"},  # paired: each person once
    "dresscode-captions": {"is object", "1 list"} | _odd("red"),
}
OPTIONAL = {"iq-captions", "gen-objects", "200k-objects", "viton-captions", "dresscode-captions"}


def encode(content, kind):
    if kind == "json":
        return json.dumps(content).encode()
    if kind == "jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in content).encode()
    return (content if kind == "csv" else "".join(f"{row}\n" for row in content)).encode()


def faults(file):
    """Yield (name, bytes) for every way to break a file."""
    whole = encode(file.content, file.kind)
    yield "empty", b""
    yield "white space", b" \n\n"
    yield "UTF-16", whole.decode().encode("utf-16")
    latin = (
        whole.replace(b"red", b"ros\xe9").replace(b"B1", b"B\xe9").replace(b"dev-0", b"\xe9").replace(b"2_00", b"\xe9")
    )
    yield "Latin-1", latin.replace(b"a.jpg", b"\xe9.jpg").replace(b"1_1.", b"\xe9.")
    yield "binary", bytes(range(256))
    yield from strange_words(whole, file.kind)
    if file.kind.startswith("json"):
        yield "cut short", whole[: len(whole) * 2 // 3]
        yield "deeply nested", b"[" * 100_000
        yield "endless number", b"[" + b"1" * 10_000 + b"]"
        yield from ((f"is {name}", json.dumps(value).encode()) for name, value in WRONG.items() if name != "blank")
    if isinstance(file.content, list):
        yield "row twice", encode([*file.content, file.content[0]], file.kind)
    if file.kind.startswith("json"):
        yield from wrong_values(file.content, file.kind)


def wrong_values(content, kind):
    """Yield the file with a value, a key or a row of another type."""
    if isinstance(content, dict):
        for key in content:
            yield from ((f"{key} {name}", encode({**content, key: value}, kind)) for name, value in WRONG.items())
        return
    for name, value in {**WRONG, "text": "x", "number": 3}.items():
        yield f"row is {name}", encode([*content, value], kind)
    for key in content[0] if isinstance(content[0], dict) else ():
        rest = {other: value for other, value in content[0].items() if other != key}
        yield f"{key} absent", encode([rest], kind)
        yield from ((f"{key} {name}", encode([{**rest, key: value}], kind)) for name, value in WRONG.items())


def strange_words(whole, kind):
    """Yield the file with a word that no name and no sentence should be."""
    strange = {"NUL": ("\0", r"\u0000"), "half a character": ("\ud800", r"\ud800"), "very long": ("x" * 5000,) * 2}
    for word in (b"B1", b"dev-0", b"red", b"a.jpg", b"1_00", b"1_0.jpg", b"7_0", b"1.png"):
        for name, (raw, escaped) in strange.items():
            if word in whole:
                new = escaped if kind.startswith("json") else raw
                yield f"{word.decode()} {name}", whole.replace(word, new.encode("utf-8", "surrogatepass"))


def build(root, name):
    for needed in (name, *FILES[name].needs):
        path = root / FILES[needed].name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(FILES[needed].content, FILES[needed].kind))
    _pictures(root, "1.png", "2.png", "image/1.png", "image_val/1.png", VIEW, "images/B1.png", "images/B2.png")
    _pictures(root, "dev/dev-0.png", "test/image/1_00.jpg", "test/cloth/1_00.jpg", "test/cloth/2_00.jpg")
    _pictures(root, "dresses/images/1_0.jpg", "dresses/images/1_1.jpg")


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_one_sentence_or_taken_on_purpose(tmp_path, name):
    file = FILES[name]
    build(tmp_path, name)
    file.read(tmp_path)
    taken = set()
    for fault, content in faults(file):
        (tmp_path / file.name).write_bytes(content)
        try:
            file.read(tmp_path)
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error), fault
        else:
            taken.add(fault)
    assert not taken ^ HARMLESS[name]


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_one_sentence_or_optional(tmp_path, name):
    build(tmp_path, name)
    (tmp_path / FILES[name].name).unlink()
    try:
        FILES[name].read(tmp_path)
    except UserError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)
    else:
        assert name in OPTIONAL


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_any_damage_gives_records_or_one_sentence(tmp_path, name, data):
    file = FILES[name]
    if not any(tmp_path.iterdir()):
        build(tmp_path, name)
    whole = data.draw(
        damaged_json(file.content, lines=file.kind == "jsonl")
        if file.kind.startswith("json")
        else damaged(encode(file.content, file.kind))
    )
    (tmp_path / file.name).write_bytes(whole)
    refused(file.read, tmp_path)


def small_hdf5():
    """The bytes of a small file of FashionGen."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["input_image"] = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)
        file["input_description"] = np.array([[b"caf\xe9"]] * 20)
        file["input_productID"] = np.arange(20)[:, None]
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hdf5():
    return small_hdf5()


@given(content=damaged(small_hdf5()))
def test_any_damage_to_an_hdf5_file_gives_records_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hdf5") / "train.h5"  # another path for each: the file of the last one is still open
    path.write_bytes(content)
    refused(lambda: [load_image(pair.image) for pair in read_fashiongen_hdf5(path, "train").pairs])


def test_an_hdf5_file_cut_anywhere_is_one_sentence(tmp_path, hdf5):
    path = tmp_path / "fashiongen_256_256_train.h5"
    path.write_bytes(hdf5)
    assert read_fashiongen_hdf5(path, "train").pairs[3].text == "café"
    for size in [*range(0, 3000, 97), *range(3000, len(hdf5), 1001), len(hdf5) - 1]:
        path.write_bytes(hdf5[:size])
        with pytest.raises(UserError, match=r"fashiongen_256_256_train\.h5"):
            read_fashiongen(tmp_path, "train")


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("input_description", np.ones((20, 1)), "must be text or a whole number"),
        ("input_description", np.array([[b"a", b"b"]] * 20), "must have one value for each of the 20 images"),
        ("input_productID", np.arange(3)[:, None], "must have one value for each of the 20 images"),
        ("input_image", np.zeros((20, 8, 8), np.uint8), "must be uint8"),
        ("input_image", np.zeros((0, 8, 8, 3), np.uint8), "holds no images"),
        ("input_image", None, "no 'input_image'; it has"),
        ("input_description", "group", "found a group"),
    ],
)
def test_an_hdf5_file_of_another_shape_is_named(tmp_path, hdf5, key, values, message):
    path = tmp_path / "fashiongen_256_256_train.h5"
    path.write_bytes(hdf5)
    with h5py.File(path, "a") as file:
        del file[key]
        if isinstance(values, str):
            file.create_group(key)
        elif values is not None:
            file[key] = values
    with pytest.raises(UserError, match=message):
        read_fashiongen_hdf5(path, "train")
