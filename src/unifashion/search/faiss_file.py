"""An ANN index kept by FAISS in a file of the index: 8 bits a number, memory-mapped, on all threads of this machine."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError
from unifashion.search.index import About

POINTS_A_LIST = 39  # that FAISS wants for k-means
BLOCK = 2**24  # numbers given to FAISS at a time


def num_lists(num_vectors: int) -> int:
    """Return how many lists so many vectors are put into."""
    return max(1, min(int(2 * math.sqrt(num_vectors)), num_vectors // POINTS_A_LIST))


class FaissStore:
    """See ``nearest.Store``."""

    most, at_once = 2**20, 2**40

    def __init__(self, path: Path, about: About, ann: str) -> None:
        self.path, self.about, self.ann = path, about, ann
        self._seen: tuple[int, int] | None = None
        self._open: Any = None

    def extend(self, covered: int, vectors: Callable[[int, int], Tensor], end: int, told: Callable[[int], Any]) -> None:
        """Add to the file, or make it anew where it is missing or has far too few lists; written beside, then renamed."""
        faiss = _faiss()
        per_item = self.about.num_vectors
        faiss_index: Any = faiss.read_index(str(self.path)) if covered and self.path.is_file() else None
        if faiss_index is not None and (
            faiss_index.ntotal != covered * per_item
            or (self.ann == "ivf" and num_lists(end * per_item) > 1.5 * faiss_index.nlist)
        ):
            faiss_index = None
        if faiss_index is not None and covered == end:
            return
        if faiss_index is None:
            covered, faiss_index = 0, self._train(vectors, end)
        step = max(1, BLOCK // (per_item * self.about.width))
        for start in range(covered, end, step):
            stop = min(end, start + step)
            faiss_index.add(_rows(vectors(start, stop)))
            told(stop - start)
        fresh = self.path.with_name(f".{self.path.name}")
        try:
            faiss.write_index(faiss_index, str(fresh))
        except RuntimeError as error:  # FAISS's own error for a disk
            fresh.unlink(missing_ok=True)
            raise UserError(
                f"{self.path} cannot be written ({str(error).splitlines()[0][-120:]}); make room and call again"
            ) from None
        fresh.replace(self.path)

    def _train(self, vectors: Callable[[int, int], Tensor], end: int) -> Any:
        faiss = _faiss()
        num = end * self.about.num_vectors
        lists = num_lists(num)
        spec = {"ivf": f"IVF{lists},SQ8", "hnsw": "HNSW32,SQ8", "flat": "Flat"}[self.ann]
        faiss_index = faiss.index_factory(self.about.width, spec, faiss.METRIC_INNER_PRODUCT)
        if not faiss_index.is_trained:
            wanted = max(POINTS_A_LIST * lists, 2**16) // self.about.num_vectors + 1
            chosen = np.unique(np.linspace(0, end - 1, min(end, wanted)).astype(np.int64))
            faiss_index.train(np.concatenate([_rows(vectors(slot, slot + 1)) for slot in chosen.tolist()]))
        return faiss_index

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the nearest vectors; raises ``UserError`` where the file is gone."""
        faiss_index = self._load()
        if self.ann == "ivf":
            faiss_index.nprobe = max(8, faiss_index.nlist // 32)
        if self.ann == "hnsw":
            faiss_index.hnsw.efSearch = max(256, 2 * num)
        _, found = faiss_index.search(query_D[None].numpy().astype(np.float32), min(num, faiss_index.ntotal))
        return np.asarray(found[0][found[0] >= 0] // self.about.num_vectors, dtype=np.int64)

    def drop(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> Any:
        """Return the file's index, read again when it was replaced."""
        faiss = _faiss()
        try:
            facts = self.path.stat()
            if (facts.st_mtime_ns, facts.st_ino) != self._seen:
                self._open = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP)
                self._seen = (facts.st_mtime_ns, facts.st_ino)
        except (OSError, RuntimeError):
            raise UserError(
                f"{self.path} is missing or damaged; make it again with: unifashion index {self.path.parent} --ann "
                f"{self.ann}, or search with --exact"
            ) from None
        return self._open


def _faiss() -> Any:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs that it was loaded
    import faiss

    return faiss


def _rows(vectors_BQD: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors_BQD.flatten(0, 1).float().numpy())
