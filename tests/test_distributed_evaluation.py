"""Evaluation split over two processes gives, on both, what one process gives: the same bits."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from unifashion.distributed import shard_batches
from unifashion.encoders.embedder import Embedder

TEXTS = ["a red dress", "a blue striped shirt", "is longer", "a green floral top", "has dots", "is red", "short"]


@pytest.fixture
def images(tmp_path):
    paths = []
    for number in range(7):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    paths[3].write_bytes(b"no picture")
    return paths


def everything(model, images):
    embedder = Embedder(model, batch_size=2, progress=False)
    vectors, broken = embedder.images(images)
    pairs = torch.tensor([[text, image] for text in range(3) for image in (0, 2, 4)])
    tensors = [vectors, embedder.texts(TEXTS), embedder.texts(TEXTS[:1]), embedder.match(TEXTS, images, pairs)]
    return [*tensors, embedder.composed(images[:3], TEXTS[:3])], broken, embedder.find_broken(images)


def test_two_processes_find_what_one_finds(make_model, images, on_two_processes):
    model = make_model("blip2_cir_rerank")
    expected = everything(model, images)
    for found in on_two_processes(lambda: everything(model, images)):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True))
        assert found[1:] == expected[1:]
    assert list(expected[1]) == [images[3]]


def test_every_batch_belongs_to_one_process(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares.append(shard_batches(7, 2))
    assert shares == [[[0, 1], [6]], [[2, 3]], [[4, 5]]]
    assert shard_batches(2, 2) == []
