"""FashionGen's HDF5 form: read in place, the same records as its jsonl form, mistakes named."""

import os
import shutil

import h5py
import numpy as np
import pytest

from unifashion.data.fashiongen import read_fashiongen
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError

TEXTS = ["A red dress.", "A red dress.", "Caf\xe9 coloured shirt."]


def write(path, changes=None, leave_out=()):
    """A file of three photos of two products."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    columns = {
        "input_image": pixels,
        "input_description": np.array([[text.encode("iso-8859-1")] for text in TEXTS]),
        "input_productID": np.array([[5], [5], [6]]),
        "input_subcategory": np.array([[b"MINI"], [b"MINI"], [b"SHIRTS"]]),
        "input_category": np.array([[b"DRESSES"], [b"DRESSES"], [b"SHIRTS"]]),
        "index": np.array([[0], [1], [2]]),
        **(changes or {}),
    }
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if name not in leave_out:
                file[name] = values
    return pixels


@pytest.fixture
def root(tmp_path):
    (tmp_path / "fashionGen").mkdir()
    return tmp_path / "fashionGen"


def test_photos_are_read_in_place_and_texts_from_latin_1(root):
    pixels = write(root / "fashiongen_256_256_train.h5")
    split = read_fashiongen(root.parent, "train")
    assert [pair.text for pair in split.pairs] == TEXTS
    assert split.pairs[0].product == split.pairs[1].product != split.pairs[2].product
    assert [pair.subcategory for pair in split.pairs] == ["MINI", "MINI", "SHIRTS"]
    for row, pair in enumerate(split.pairs):
        assert np.array_equal(np.asarray(load_image(pair.image)), pixels[row])


@pytest.mark.parametrize(
    ("changes", "leave_out", "message"),
    [
        ({}, ("input_image",), "input_image"),
        ({}, ("input_description",), "input_description"),
        ({"input_image": np.zeros((3, 8, 8), np.uint8)}, (), r"must be uint8 \[N, height, width, 3\]"),
        ({"input_image": np.zeros((3, 8, 8, 3), np.float32)}, (), "must be uint8"),
        ({"input_description": np.array([[b"one"]])}, (), "input_description"),
    ],
)
def test_a_file_that_is_not_fashiongen_is_named(root, changes, leave_out, message):
    write(root / "fashiongen_256_256_train.h5", changes, leave_out)
    with pytest.raises(UserError, match=message) as caught:
        read_fashiongen(root, "train")
    assert "fashiongen_256_256_train.h5" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", None])
def test_a_truncated_or_foreign_file_is_one_sentence(root, content):
    path = root / "fashiongen_256_256_train.h5"
    write(path)
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(UserError, match=r"fashiongen_256_256_train\.h5") as caught:
        read_fashiongen(root, "train")
    assert "\n" not in str(caught.value)


def test_a_row_that_is_not_there_is_a_broken_image(root):
    path = root / "fashiongen_256_256_train.h5"
    write(path)
    with pytest.raises(ImageError, match="no image 9"):
        load_image(path.with_name(f"{path.name}#9"))


def change(path, change):
    write(path)
    with h5py.File(path, "a") as file:
        change(file)


def external_link(file):
    del file["input_image"]
    file["input_image"] = h5py.ExternalLink("/dev/zero", "/x")


def optional_external_link(file):
    del file["input_subcategory"]
    file["input_subcategory"] = h5py.ExternalLink("pipe.h5", "/x")


def soft_link(file):
    file.move("input_image", "other")
    file["input_image"] = h5py.SoftLink("/other")


def virtual(file):
    del file["input_image"]
    layout = h5py.VirtualLayout((3, 8, 8, 3), np.uint8)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3, 8, 8, 3))
    file.create_virtual_dataset("input_image", layout)


def external_storage(file):
    del file["input_image"]
    file.create_dataset("input_image", (3, 8, 8, 3), np.uint8, external=[("/etc/passwd", 0, 576)])


def texts_of_any_length(file):
    del file["input_description"]
    file["input_description"] = np.array(TEXTS, object)


def claims(key, shape, dtype=np.uint8, **options):
    def make(file):
        del file[key]
        file.create_dataset(key, shape, dtype, **options)

    return make


def foreign_filter(file):
    del file["input_image"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((1, 8, 8, 3))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard
    space = h5py.h5s.create_simple((3, 8, 8, 3))
    h5py.h5d.create(file.id, b"input_image", h5py.h5t.NATIVE_UINT8, space, plan)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (external_link, "'input_image' is a link"),
        (optional_external_link, "'input_subcategory' is a link"),
        (soft_link, "'input_image' is a link"),
        (virtual, "kept in another file"),
        (external_storage, "kept in another file"),
        (texts_of_any_length, "'input_description' holds object; only numbers and texts of fixed length"),
        (foreign_filter, "filter 32015, which is not part of HDF5"),
        (claims("input_image", (10**12, 8, 8, 3), chunks=(1, 8, 8, 3)), "claims .* too many for a file of"),
        (claims("input_image", (3, 10**6, 10**6, 3), chunks=(1, 8, 8, 3)), "claims .* too many for a file of"),
        (claims("input_image", (3, 0, 8, 3)), "must be uint8"),
        (claims("input_productID", (10**12, 1), "i8", chunks=(100, 1)), "claims .* too many for a file of"),
        (claims("input_description", (3, 1), "S100000000", chunks=(1, 1)), "claims .* too many for a file of"),
    ],
)
def test_what_is_elsewhere_or_cannot_be_held_is_refused_before_it_is_read(root, fault, message):
    path = root / "fashiongen_256_256_train.h5"
    change(path, fault)
    os.mkfifo(root / "pipe.h5")  # to open it would wait
    with pytest.raises(UserError, match=rf"fashiongen_256_256_train\.h5: .*{message}") as caught:
        read_fashiongen(root, "train")
    assert "\n" not in str(caught.value)
    if "input_image" in message or "another file" in message or "filter" in message:
        with pytest.raises(ImageError, match=message):
            load_image(path.with_name(f"{path.name}#0"))


def test_every_filter_that_is_part_of_hdf5_is_read(root):
    path = root / "fashiongen_256_256_train.h5"
    pixels = write(path, leave_out=("input_image",))
    with h5py.File(path, "a") as file:
        file.create_dataset("input_image", data=pixels, compression="lzf", shuffle=True, fletcher32=True)
    assert np.array_equal(np.asarray(load_image(read_fashiongen(root, "train").pairs[2].image)), pixels[2])


def test_the_real_file_gives_the_records_of_its_jsonl_form(shared, tmp_path):
    source = shared / "data" / "real_photos" / "fashionGen"
    home = tmp_path / "fashionGen"
    home.mkdir()
    shutil.copy(source / "fashiongen_256_256_validation.h5", home)
    from_hdf5 = read_fashiongen(tmp_path, "val")
    by_text = {pair.text for pair in read_fashiongen(source, "val").pairs}
    assert len(from_hdf5.pairs) > 10 and not from_hdf5.missing
    assert sum(pair.text in by_text for pair in from_hdf5.pairs) >= 0.9 * len(from_hdf5.pairs)
    assert load_image(from_hdf5.pairs[3].image).size == (256, 256)
