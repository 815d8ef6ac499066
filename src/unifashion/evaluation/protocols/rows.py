"""Which query a row of scores belongs to and which image a column: the same for every composed-retrieval set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unifashion.data.records import ComposedQuery, ComposedSplit


def split_queries(split: ComposedSplit) -> list[ComposedQuery]:
    """Return the queries that can be scored, in annotation order: their images, and all of their set, are on disk."""
    return [query for query in split.answerable() if all(name in split.images for name in query.members)]


def split_gallery(split: ComposedSplit) -> tuple[str, ...]:
    """Return the listed gallery names that have an image, each once, in the order of the split file."""
    return tuple(dict.fromkeys(name for name in split.gallery if name in split.images))


def columns_of(names: Sequence[Sequence[str]], gallery: Sequence[str]) -> Tensor:
    """Return the gallery column of every name, as (rows, longest row); -1 fills up, and stands for names not in the gallery."""
    place = {name: column for column, name in enumerate(gallery)}
    longest = max(map(len, names), default=0)
    return torch.tensor(
        [[place.get(name, -1) for name in row] + [-1] * (longest - len(row)) for row in names], dtype=torch.long
    ).view(len(names), longest)
