"""An ANN index kept by FAISS in a file of the index folder: 8 bits per number, memory-mapped, on all threads of this machine."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError, require
from unifashion.io import remove_leftovers, replacing
from unifashion.search.index import IndexConfig

POINTS_PER_LIST = 39  # with fewer, FAISS warns that k-means has too little to learn from
BLOCK = 2**24  # numbers given to FAISS at a time


def num_lists(num_vectors: int) -> int:
    """Return into how many lists an IVF index of this size is divided."""
    return max(1, min(int(2 * math.sqrt(num_vectors)), num_vectors // POINTS_PER_LIST))


class FaissEngine:
    """See ``ann.AnnEngine``."""

    max_results, slots_per_commit = 2**20, 2**40  # the file is written once, at the end

    def __init__(self, path: Path, config: IndexConfig, ann: str) -> None:
        self.path, self.config, self.ann = path, config, ann
        self._opened: Any = None
        self._opened_stat: tuple[int, int] | None = None

    def add(
        self, start: int, end: int, vectors: Callable[[int, int], Tensor], on_progress: Callable[[int], Any]
    ) -> None:
        """Add to the file, or rebuild it where it is missing, does not hold ``start`` slots, or now has far too few lists."""
        faiss = _import_faiss()
        per_item = self.config.num_vectors
        faiss_index: Any = faiss.read_index(str(self.path)) if start and self.path.is_file() else None
        if faiss_index is not None and (
            faiss_index.ntotal != start * per_item
            or (self.ann == "ivf" and num_lists(end * per_item) > 1.5 * faiss_index.nlist)
        ):
            faiss_index = None
        if faiss_index is not None and start == end:
            return
        if faiss_index is None:
            start, faiss_index = 0, self._train(vectors, end)
        step = max(1, BLOCK // (per_item * self.config.width))
        for first in range(start, end, step):
            stop = min(end, first + step)
            faiss_index.add(_rows(vectors(first, stop)))
            on_progress(stop - first)
        remove_leftovers(self.path)
        try:
            with replacing(self.path, durable=True) as unfinished:
                faiss.write_index(faiss_index, str(unfinished))
        except RuntimeError as error:  # how FAISS reports a full disk
            raise UserError(
                f"{self.path} cannot be written ({str(error).splitlines()[0][-120:]}); make room and run the same command again"
            ) from None

    def _train(self, vectors: Callable[[int, int], Tensor], end: int) -> Any:
        """Return an empty FAISS index whose k-means centres and 8-bit ranges are learned from items all over the catalogue."""
        faiss = _import_faiss()
        lists = num_lists(end * self.config.num_vectors)
        spec = {"ivf": f"IVF{lists},SQ8", "hnsw": "HNSW32,SQ8", "flat": "Flat"}[self.ann]
        faiss_index = faiss.index_factory(self.config.width, spec, faiss.METRIC_INNER_PRODUCT)
        if not faiss_index.is_trained:
            # A sample is enough for centres, and all vectors as float32 may not fit into memory. Evenly spread over the slots,
            # because catalogues are sorted: their first items would be one category.
            wanted = max(POINTS_PER_LIST * lists, 2**16) // self.config.num_vectors + 1
            sample = np.unique(np.linspace(0, end - 1, min(end, wanted)).astype(np.int64))
            faiss_index.train(np.concatenate([_rows(vectors(slot, slot + 1)) for slot in sample.tolist()]))
        return faiss_index

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the nearest vectors; raises ``UserError`` if the file is missing."""
        faiss_index = self._load()
        if self.ann == "ivf":
            faiss_index.nprobe = max(8, faiss_index.nlist // 32)
        if self.ann == "hnsw":
            faiss_index.hnsw.efSearch = max(256, 2 * num)
        _, ids = faiss_index.search(query_D[None].numpy().astype(np.float32), min(num, faiss_index.ntotal))
        # FAISS numbers vectors in the order in which they were added, and returns -1 where the lists it read held too few.
        return np.asarray(ids[0][ids[0] >= 0] // self.config.num_vectors, dtype=np.int64)

    def drop(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> Any:
        """Return the file's index, read again when the file was replaced."""
        faiss = _import_faiss()
        try:
            stat = self.path.stat()
            if (stat.st_mtime_ns, stat.st_ino) != self._opened_stat:
                self._opened = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP)
                self._opened_stat = (stat.st_mtime_ns, stat.st_ino)
        except (OSError, RuntimeError):
            raise UserError(
                f"{self.path} is missing or damaged; make it again with: unifashion index {self.path.parent} --ann "
                f"{self.ann}, or search with --exact"
            ) from None
        return self._opened


def _import_faiss() -> Any:
    require("faiss", "approximate search")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs that it was loaded
    import faiss

    return faiss


def _rows(vectors_BQD: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors_BQD.flatten(0, 1).float().numpy())
