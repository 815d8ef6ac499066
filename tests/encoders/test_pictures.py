"""Pillow images are read as files are, whichever function takes them, and one at a time."""

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.data.images import ImageError, ImageTransform
from unifashion.encoders import embedder
from unifashion.llm.captioner import Captioner


@pytest.fixture
def turned(tmp_path):
    """A photo that its EXIF data turn by a quarter."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    return tmp_path / "turned.png"


@pytest.fixture(
    params=[
        ("blip2_cir_cls", lambda model, image: model.embed_images([image])),
        ("blip2_cir_rerank", lambda model, image: model.embed_queries(["is longer"], [image])),
        ("blip2_cir_cls", lambda model, image: model.match("a dress", [image])),
        ("blip2_cir_cls", lambda model, image: Captioner(model).caption([image])),
    ],
    ids=["images", "queries", "match", "caption"],
)
def use(request, make_model):
    """One of the functions that take an image, of a tiny model."""
    name, function = request.param
    model = make_model(name).eval()
    return lambda image: function(model, image)


def test_an_opened_image_is_turned_like_its_file(use, turned):
    found, expected = use(Image.open(turned)), use(turned)
    assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected


@pytest.mark.parametrize("opened", [False, True])
def test_a_truncated_image_is_named(use, turned, opened):
    turned.write_bytes(turned.read_bytes()[:4000])
    with pytest.raises(ImageError, match=r"turned.png: damaged image"):
        use(Image.open(turned) if opened else turned)


@pytest.mark.parametrize("opened", [False, True])
def test_an_image_that_does_not_fit_into_memory_is_not_called_damaged(use, turned, monkeypatch, opened):
    def too_large(*_):
        raise MemoryError

    image = Image.open(turned) if opened else turned
    monkeypatch.setattr("unifashion.data.images._to_rgb", too_large)
    with pytest.raises(ImageError, match=r"turned.png: there is not enough memory"):
        use(image)


def test_photos_are_made_small_one_by_one(make_model, turned, monkeypatch):
    steps = []
    read, make_small = embedder.open_image, ImageTransform.__call__
    monkeypatch.setattr(embedder, "open_image", lambda image: steps.append("read") or read(image))
    monkeypatch.setattr(
        ImageTransform, "__call__", lambda self, image: steps.append("small") or make_small(self, image)
    )
    make_model("blip2_cir_cls").eval().embed_images([turned] * 5, batch_size=2)
    make_model("blip2_cir_rerank").eval().embed_queries(["is longer"] * 5, [turned] * 5, batch_size=2)
    assert steps == ["read", "small"] * 10
