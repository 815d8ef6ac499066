"""The hash of weights: caches and indexes on disk are named by it, so its bytes may never change."""

import hashlib
import struct

import pytest
import torch

from unifashion.models.pretrained import weights_hash

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
