"""The cache of a frozen tower's tokens."""

import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from damage import damaged, refused
from unifashion.data import feature_cache
from unifashion.data.batches import Photos
from unifashion.data.feature_cache import TOWER_HASH_SIZE, FeatureCache, key_of
from unifashion.data.images import ImageError, ImageTransform, normalise
from unifashion.errors import UserError
from unifashion.models.pretrained import weights_hash

TRANSFORM = ImageTransform(8)


class Tower(nn.Module):
    """Four tokens of width 6 from pixels, and a count of the images it has seen."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(3 * 8 * 8, 24)
        self.seen = 0

    @torch.no_grad()
    def forward(self, pixels_B3SS):
        self.seen += len(pixels_B3SS)
        return self.linear(pixels_B3SS.flatten(1)).view(-1, 4, 6)


@pytest.fixture
def images(tmp_path):
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    return paths


def hash_of(tower):
    return weights_hash(tower.state_dict(), TOWER_HASH_SIZE)


def open_cache(folder, tower, form="fp16"):
    return FeatureCache(folder, key_of(hash_of(tower), TRANSFORM, form, "no"), form, Photos(TRANSFORM))


def filled(folder, tower, images, form="fp16", **options):
    cache = open_cache(folder, tower, form)
    cache.fill(images, tower, batch_size=3, progress=False, **options)
    return cache


def truth(tower, path):
    return tower(normalise(Photos(TRANSFORM)(path))[None])[0]


@pytest.mark.parametrize(("form", "tolerance"), [("fp16", 2**-11), ("int8", 0.5 / 127 + 2**-11)])
def test_tokens_are_the_towers_to_the_precision_of_the_form(tmp_path, images, form, tolerance):
    tower = Tower()
    cache = filled(tmp_path / "cache", tower, images, form)
    for path in images:
        tokens_NW = truth(tower, path)
        error_N = (cache(path).float() - tokens_NW).abs().amax(dim=1)
        assert (error_N <= tolerance * tokens_NW.abs().amax(dim=1) + 1e-7).all()


def test_nothing_is_computed_twice(tmp_path, images):
    tower = Tower()
    filled(tmp_path / "cache", tower, images[:5])
    tower.seen = 0
    filled(tmp_path / "cache", tower, images)
    assert tower.seen == 2 + 1  # the two new ones, and one to learn the size
    tower.seen = 0
    filled(tmp_path / "cache", tower, images)
    assert tower.seen == 0


def test_equal_photos_share_a_row_and_a_changed_photo_gets_a_new_one(tmp_path, images):
    tower = Tower()
    shutil.copy(images[0], images[1])
    assert len(filled(tmp_path / "cache", tower, images)) == 6
    shutil.copy(images[3], images[0])
    before = truth(tower, images[2])
    cache = filled(tmp_path / "cache", tower, images)
    assert torch.equal(cache(images[0]), truth(tower, images[3]).half())
    assert torch.equal(cache(images[2]), before.half())


def test_a_cache_belongs_to_one_tower_one_preprocessing_and_one_form(tmp_path, images):
    keys = {
        key_of(hash_of(Tower(0)), TRANSFORM, "fp16", "no")[0],
        key_of(hash_of(Tower(1)), TRANSFORM, "fp16", "no")[0],
        key_of(hash_of(Tower(0)), ImageTransform(8, pad="square"), "fp16", "no")[0],
        key_of(hash_of(Tower(0)), TRANSFORM, "int8", "no")[0],
        key_of(hash_of(Tower(0)), TRANSFORM, "fp16", "bf16")[0],
    }
    assert len(keys) == 5
    assert key_of(hash_of(Tower(0)), TRANSFORM, "fp16", "no")[0] in keys


def test_two_processes_share_the_work(tmp_path, images):
    tower = Tower()
    filled(tmp_path / "cache", tower, images, share=(0, 2))
    first = tower.seen - 1
    tower.seen = 0
    other = open_cache(tmp_path / "cache", tower)
    assert len(other) == first == 4
    filled(tmp_path / "alone", tower, images, share=(1, 2))
    assert tower.seen - 1 == 3


def test_what_was_finished_before_a_kill_is_kept(tmp_path, images, monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 1)
    tower = Tower()

    def dies(pixels):
        if tower.seen >= 4:
            os._exit(9)
        return tower(pixels)

    if (child := os.fork()) == 0:
        filled_by = open_cache(tmp_path / "cache", tower)
        filled_by.fill(images, dies, batch_size=3, progress=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(open_cache(tmp_path / "cache", tower)) == 3
    assert len(filled(tmp_path / "cache", tower, images)) == 7


def test_a_broken_image_has_no_row_and_says_why(tmp_path, images):
    images[2].write_bytes(b"no picture")
    cache = filled(tmp_path / "cache", Tower(), images)
    assert len(cache) == 6
    with pytest.raises(ImageError, match=r"2\.png"):
        cache(images[2])
    with pytest.raises(ImageError, match="no such file"):
        cache(tmp_path / "absent.png")


def test_a_disk_that_is_too_small_is_found_before_anything_is_computed(tmp_path, images, monkeypatch):
    usage = namedtuple("usage", "free")(feature_cache.RESERVE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"7 images x 4 tokens x 6 in fp16 = .* do not fit"):
        filled(tmp_path / "cache", Tower(), images)


def test_numbers_beyond_fp16_are_refused(tmp_path, images):
    with pytest.raises(UserError, match="int8"):
        open_cache(tmp_path / "cache", Tower()).fill(images, lambda x: Tower()(x) * 1e6, 3, progress=False)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="name another folder"):
        open_cache(tmp_path / "file", Tower())


def test_a_loader_process_can_read_it(tmp_path, images):
    cache = filled(tmp_path / "cache", Tower(), images)
    cache(images[0])
    loader = torch.utils.data.DataLoader(
        [*map(str, images)], num_workers=1, collate_fn=lambda x: cache(tmp_path / x[0])
    )
    assert [tokens.shape for tokens in loader] == [(4, 6)] * 7


@pytest.mark.filterwarnings(
    "ignore:Reading .* required additional header parsing"
)  # numpy: a header with one more line end
@pytest.mark.parametrize("form", ["fp16", "int8"])
@given(data=st.data())
def test_a_damaged_shard_is_computed_again(tmp_path, form, data):
    cache, image = tmp_path / "cache", tmp_path / "image.png"
    shutil.rmtree(cache, ignore_errors=True)
    Image.new("RGB", (8, 8), (9, 99, 200)).save(image)
    whole = filled(cache, Tower(), [image], form)(image)
    files = {
        path.name: path for path in cache.rglob("*") if path.is_file()
    }  # those of a shard are in a folder with a random name
    file = files[data.draw(st.sampled_from(sorted(files)))]
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    refused(lambda: filled(cache, Tower(), [image], form)(image))
    if file.exists():
        file.write_bytes(b"")
    assert torch.equal(filled(cache, Tower(), [image], form)(image), whole)


@pytest.mark.parametrize("name", ["tokens.npy", "scales.npy", "images.txt"])
@pytest.mark.parametrize("fault", ["gone", "empty", "cut", "of another shape"])
def test_of_a_damaged_shard_nothing_is_used(tmp_path, images, caplog, name, fault):
    tower = Tower()
    filled(tmp_path / "cache", tower, images, "int8")
    (file,) = (tmp_path / "cache").rglob(name)
    content = file.read_bytes()
    if fault == "gone":
        file.unlink()
    elif fault == "of another shape" and name.endswith(".npy"):
        np.save(file, np.load(file)[:-1])
    else:
        file.write_bytes({"empty": b"", "cut": content[:-33], "of another shape": content[33:]}[fault])
    tower.seen = 0
    cache = filled(tmp_path / "cache", tower, images, "int8")
    assert tower.seen == 7 + 1 and len(cache) == 7 and not file.exists()
    assert "is damaged and is removed" in caplog.text


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_numbers_that_are_not_finite_are_neither_kept_nor_used(tmp_path, images, form):
    with pytest.raises(UserError, match="not finite"):
        open_cache(tmp_path / "bad", Tower(), form).fill(images, lambda x: Tower()(x) * np.nan, 3, progress=False)
    cache = filled(tmp_path / "cache", Tower(), images, form)
    (file,) = (tmp_path / "cache").rglob("tokens.npy" if form == "fp16" else "scales.npy")
    np.save(file, np.full_like(np.load(file), np.nan))
    with pytest.raises(UserError, match="not finite"):
        cache(images[0])
