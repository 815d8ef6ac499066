"""Files of weights, and their hash: caches and indexes on disk are named by it, so its bytes may never change."""

import hashlib
import json
import os
import struct

import pytest
import torch
from transformers import CLIPTextModel

from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.models.pretrained import weights_hash
from unifashion.models.weight_files import load_foreign, read_safetensors

WEIGHTS = {"b.weight": torch.tensor([[1.0, -2.0], [0.5, 4.0]]), "a.bias": torch.tensor([3, -1])}


@pytest.mark.parametrize("size", [12, 16])
def test_it_is_blake2_over_name_type_shape_and_bytes_in_the_order_of_names(size):
    content = b"a.bias torch.int64 (2,)" + struct.pack("<2q", 3, -1)
    content += b"b.weight torch.float32 (2, 2)" + struct.pack("<4f", 1.0, -2.0, 0.5, 4.0)
    assert weights_hash(WEIGHTS, size) == hashlib.blake2b(content, digest_size=size).hexdigest()
    assert weights_hash(dict(reversed(WEIGHTS.items())), size) == weights_hash(WEIGHTS, size)


@pytest.mark.parametrize(
    "other",
    [
        {"a.bias": torch.tensor([3, -1])},
        {**WEIGHTS, "a.bias": torch.tensor([3, -2])},
        {**WEIGHTS, "a.bias": torch.tensor([[3], [-1]])},
        {**WEIGHTS, "a.bias": torch.tensor([3, -1], dtype=torch.int32)},
        {"b.weight": WEIGHTS["b.weight"], "c.bias": WEIGHTS["a.bias"]},
    ],
    ids=["fewer", "a value", "a shape", "a type", "a name"],
)
def test_every_difference_counts(other):
    assert weights_hash(other) != weights_hash(WEIGHTS)


def test_a_view_of_other_weights_and_a_scalar_in_half_precision_have_a_hash():
    matrix = torch.arange(6.0).view(2, 3)
    assert weights_hash({"m": matrix.T}) == weights_hash({"m": matrix.T.clone()}) != weights_hash({"m": matrix})
    assert len(weights_hash({"s": torch.tensor(1.0, dtype=torch.bfloat16)})) == 32


def test_settings_of_a_tokenizer_that_no_library_checks_are_checked(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": {"x": []}}))
    with pytest.raises(UserError, match="model_max_length is not a number"):
        UniFashion.from_pretrained(tmp_path)
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(UserError, match=r"tokenizer_config.json has more than 268,435,456 bytes"):
        UniFashion.from_pretrained(tmp_path)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.write_bytes(bytes(100))])
def test_weights_without_a_header_are_refused_before_a_library_reads_or_waits_for_them(tmp_path, put):
    (tmp_path / "vae").mkdir()
    path = tmp_path / "vae/x.safetensors"
    put(path)
    with pytest.raises(UserError, match=r"x\.safetensors is missing or damaged"):
        read_safetensors(path)
    for options in ({}, {"subfolder": "vae"}):
        with pytest.raises(UserError, match=r"x\.safetensors is missing or damaged"):
            load_foreign(CLIPTextModel, tmp_path, **options)
