"""``TryOn``: one person, one garment, one picture; with and without a retrieval model."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.data.images import load_image
from unifashion.data.tryon import PERSON_MAPS, read_vitonhd
from unifashion.errors import UserError
from unifashion.tryon.api import Person, TryOn
from unifashion.tryon.loading import save_pipeline
from unifashion.tryon.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def items(tryon_root):
    return read_vitonhd(tryon_root, "test", (*PERSON_MAPS, "garment")).items


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "last"
    save_pipeline(pipe, folder)
    return folder.parent


@pytest.fixture(scope="module")
def tryon(saved):
    return TryOn.from_pretrained(saved, device="cpu")


def same(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_a_run_folder_puts_a_garment_on_a_person(tryon, items):
    person, garment = Person.of(items[0]), items[1].maps["garment"]
    seen = []
    picture = tryon(person, garment, "red shirt", steps=3, on_step=lambda done, of: seen.append((done, of)))
    assert picture.size == load_image(person.image).size == (48, 64)
    assert tryon(person, garment, "red shirt", steps=3, size="model").size == (24, 36)
    assert tryon.reads == "garment"
    assert seen[0] == (1, 3)
    assert seen[-1] == (3, 3)
    assert same(picture, tryon(person, garment, "red shirt", steps=3))
    assert not same(picture, tryon(person, garment, "red shirt", steps=3, seed=1))
    assert not same(picture, tryon(person, items[2].maps["garment"], "red shirt", steps=3))


def test_files_and_pictures_are_the_same_to_it(tryon, items):
    maps = {name: load_image(items[0].maps[name]) for name in (*PERSON_MAPS, "garment")}
    person = Person(maps["image"], maps["agnostic_mask"], maps["densepose"], maps["agnostic"])
    picture = tryon(person, maps["garment"], steps=2)
    assert same(picture, tryon(Person.of(items[0]), items[0].maps["garment"], steps=2))
    cut_out = maps["garment"].convert("RGBA")
    assert same(picture, tryon(person, cut_out, steps=2)), "alpha is laid on white"


def test_another_sampler_draws_another_picture(saved, items):
    other = TryOn.from_pretrained(saved, device="cpu", scheduler="euler")
    first = TryOn.from_pretrained(saved, device="cpu")
    pair = Person.of(items[0]), items[0].maps["garment"]
    assert not same(first(*pair, steps=3), other(*pair, steps=3))


@pytest.mark.parametrize("name", ["agnostic_mask", "densepose", "agnostic"])
def test_a_map_of_another_frame_is_refused(tryon, items, name):
    maps = {key: load_image(items[0].maps[key]) for key in PERSON_MAPS}
    maps[name] = Image.new("RGB", (64, 64))
    maps[name].paste("white", (16, 16, 48, 48))
    with pytest.raises(UserError, match=f"{name}: 64 x 64 pixels do not fit the person's photo"):
        tryon(Person(**maps), items[0].maps["garment"], steps=1)


def test_rows_of_a_retrieval_model_change_the_picture(make_model, items, tmp_path):
    retriever = make_model()
    retriever.save_pretrained(tmp_path / "retriever")
    torch.manual_seed(0)
    pipe = tiny_pipeline(["red shirt"], adapter_width=retriever.config.qformer.hidden_size, image_size=(36, 24))
    save_pipeline(pipe, tmp_path / "model" / "last")
    tryon = TryOn.from_pretrained(tmp_path / "model", retriever=tmp_path / "retriever", device="cpu")
    pair = Person.of(items[0]), items[0].maps["garment"], "red shirt"
    picture = tryon(*pair, steps=2)
    assert same(picture, tryon(*pair, steps=2))
    with torch.no_grad():
        tryon.pipe.denoiser.adapter.weight.mul_(-3)
    assert not same(picture, tryon(*pair, steps=2))
    with pytest.raises(UserError, match="trained with rows of a retrieval model"):
        TryOn.from_pretrained(tmp_path / "model", device="cpu")


def test_a_toy_model_of_an_earlier_version_names_its_vae_by_an_older_module_and_draws_the_same(
    saved, tryon, items, tmp_path
):
    shutil.copytree(saved, tmp_path / "old")
    index = tmp_path / "old" / "last" / "model_index.json"
    now = index.read_text()
    index.write_text(now.replace("unifashion.models.blocks_vae", "unifashion.tryon.blocks_vae"))
    assert index.read_text() != now
    pair = Person.of(items[0]), items[0].maps["garment"]
    assert same(tryon(*pair, steps=1), TryOn.from_pretrained(tmp_path / "old", device="cpu")(*pair, steps=1))


@pytest.fixture
def sketching(pipe):
    """The toy model, as if it had been trained on sketches of garments."""
    pipe.denoiser.register_to_config(control="garment-sketch")
    yield TryOn(pipe)
    pipe.denoiser.register_to_config(control="garment")


def test_a_model_that_reads_sketches_of_garments_gets_them_from_photos(sketching, items, tryon):
    person, photo = Person.of(items[0]), items[1].maps["garment"]
    picture = sketching(person, photo, steps=2)
    sketch = sketching.sketcher(load_image(photo))
    assert same(picture, sketching(person, sketch, is_sketch=True, steps=2))
    assert not same(picture, sketching(person, photo, is_sketch=True, steps=2))
    assert sketching.reads == "garment-sketch"
    with pytest.raises(UserError, match="this model reads photos of garments"):
        tryon(person, sketch, is_sketch=True)


def test_a_model_without_an_adapter_takes_no_retriever(pipe):
    with pytest.raises(UserError, match="trained without a retrieval model"):
        TryOn(pipe, object())


def test_the_settings_do_not_load_the_libraries_that_draw():
    program = (
        "import sys, unifashion.tryon.settings; assert 'diffusers' not in sys.modules; from unifashion import TryOn"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
