"""An ANN index kept by FAISS in a file of the index folder: 8 bits per number, memory-mapped, on all threads of this machine.

FAISS believes what a file says, and may crash on one that is damaged. So the file ends with a seal: a hash of the name of the
index that it was made for, of its size, and of pieces from all over it. A file without its seal is made again.
"""

import hashlib
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
SEAL, PIECE, PIECES = 16, 2**16, 64  # bytes; a file of gigabytes is not read whole whenever a search opens it


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
        faiss_index: Any = self._usable(start, end) if start else None
        if start == end and (faiss_index is not None or not end):
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
                with unfinished.open("ab") as file:
                    file.write(self._seal(unfinished, unfinished.stat().st_size))
        except RuntimeError as error:  # how FAISS reports a full disk
            raise UserError(
                f"{self.path} cannot be written ({str(error).splitlines()[0][-120:]}); make room and run the same command again"
            ) from None

    def _usable(self, start: int, end: int) -> Any:
        """Return the file's index if more vectors can be added to it, else None."""
        try:
            faiss_index = self._read(0)
        except (OSError, RuntimeError):
            return None
        right = isinstance(faiss_index, self._kind()) and faiss_index.ntotal == start * self.config.num_vectors
        if right and self.ann == "ivf":
            right = num_lists(end * self.config.num_vectors) <= 1.5 * faiss_index.nlist
        return faiss_index if right else None

    def _kind(self) -> Any:
        faiss = _import_faiss()
        return {"ivf": faiss.IndexIVF, "hnsw": faiss.IndexHNSW, "flat": faiss.IndexFlat}[self.ann]

    def _read(self, flags: int) -> Any:
        """Read the file; raises ``OSError`` or ``RuntimeError`` where it is missing, damaged, or another index's."""
        faiss = _import_faiss()
        size = self.path.stat().st_size - SEAL
        with self.path.open("rb") as file:
            file.seek(max(0, size))
            if size <= 0 or file.read() != self._seal(self.path, size):
                raise OSError("not sealed")
        faiss_index = faiss.read_index(str(self.path), flags)
        if faiss_index.d != self.config.width:
            raise OSError("another width")
        return faiss_index

    def _seal(self, path: Path, size: int) -> bytes:
        seal = hashlib.blake2b(f"{self.config.name} {size}".encode(), digest_size=SEAL)
        with path.open("rb") as file:
            for start in np.linspace(0, max(0, size - PIECE), min(PIECES, -(-size // PIECE))).astype(np.int64).tolist():
                file.seek(start)
                seal.update(file.read(min(PIECE, size - start)))
        return seal.digest()

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
        faiss = _import_faiss()
        faiss_index = self._load()
        # By the file, not by ``ann``: a writer that was killed may have left the next kind's file beside this kind's record.
        if isinstance(faiss_index, faiss.IndexIVF):
            faiss_index.nprobe = max(8, faiss_index.nlist // 32)
        if isinstance(faiss_index, faiss.IndexHNSW):
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
                self._opened = self._read(faiss.IO_FLAG_MMAP)
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
    # Slots of deleted items may have been damaged: their numbers matter to nobody, but FAISS stops at those that are none.
    return np.ascontiguousarray(vectors_BQD.flatten(0, 1).float().nan_to_num(0.0, 0.0, 0.0).numpy())
