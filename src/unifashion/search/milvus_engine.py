"""An ANN index kept by Milvus: a milvus-lite file (``INDEX/milvus.db``) or a cluster (``http://host:19530``).

A milvus-lite file is open in one process at a time.

A collection belongs to one index, whose name is part of its own. One row is one vector: ``row`` = slot x Q + index of the vector,
``slot``, ``vector``. Rows are written by their key, so writing them twice changes nothing, and a writer that was stopped
continues without checking what is there. A cluster that asks for a token gets ``$MILVUS_TOKEN``. Failed calls are retried
after growing delays; then one sentence says so.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unifashion.errors import UserError, require
from unifashion.search.index import IndexConfig

log = logging.getLogger(__name__)
DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds between tries
TIMEOUT = 60.0  # seconds for one answer
ROWS_PER_CALL = 4096
LISTS = 1024
INDEX_TYPES: dict[str, tuple[str, dict[str, int]]] = {
    "ivf": ("IVF_SQ8", {"nlist": LISTS}),
    "hnsw": ("HNSW", {"M": 32, "efConstruction": 200}),
    "flat": ("FLAT", {}),
}
COLLECTION_NOT_FOUND = 100  # Milvus's error code

Answer = TypeVar("Answer")


def portable_uri(uri: str, folder: Path) -> str:
    """Return a URI as ``nearest.json`` has it: an index folder may be moved together with the milvus-lite file in it.

    Raises:
        UserError: neither an address nor a file of milvus-lite.
    """
    if "://" in uri:
        return uri
    if not uri.endswith(".db"):
        raise UserError(f"--uri {uri}: give http://host:19530, or a file of milvus-lite that ends in .db")
    path = Path(uri).absolute()
    return path.name if path.parent == folder.absolute() else str(path)


def usable_uri(uri: str, folder: Path) -> str:
    """Return the URI that Milvus opens, from one that ``portable_uri`` returned."""
    return uri if "://" in uri else str(folder.absolute() / uri)


class MilvusEngine:
    """See ``ann.AnnEngine``."""

    max_results, slots_per_commit = 16_384, 5_000  # the first is Milvus's own limit

    def __init__(self, uri: str, config: IndexConfig, ann: str) -> None:
        self.uri, self.config, self.ann = uri, config, ann
        self.collection = f"unifashion_{config.name}_{ann}"
        self._client: Any = None

    def add(
        self, start: int, end: int, vectors: Callable[[int, int], Tensor], on_progress: Callable[[int], Any]
    ) -> None:
        """Write the rows of the slots; from slot 0 where the collection is missing or does not hold what was written before."""
        if not self._retry(lambda client: client.has_collection(self.collection)):
            self._retry(self._create)
            start = 0
        elif start and self._retry(self._count) < start * self.config.num_vectors:
            start = 0
        step = max(1, ROWS_PER_CALL // self.config.num_vectors)
        for first in range(start, end, step):
            stop = min(end, first + step)
            self._retry(partial(self._upsert, self._rows(first, vectors(first, stop))))
            on_progress(stop - first)
        self._retry(lambda client: client.flush(self.collection, timeout=TIMEOUT))

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the nearest vectors.

        Raises:
            UserError: Milvus does not answer, or does not have the collection.
        """
        effort = {"params": {"nprobe": max(8, LISTS // 32), "ef": max(256, num)} if self.ann != "flat" else {}}
        hits = self._retry(
            lambda client: client.search(
                self.collection,
                [query_D.numpy().astype(np.float32)],
                limit=num,
                output_fields=["slot"],
                search_params=effort,
                timeout=TIMEOUT,
            )
        )
        return np.array([hit["entity"]["slot"] for hit in hits[0]], dtype=np.int64)

    def drop(self) -> None:
        """Delete the collection."""
        self._retry(lambda client: client.drop_collection(self.collection))

    def _upsert(self, rows: list[dict[str, Any]], client: Any) -> None:
        client.upsert(self.collection, rows, timeout=TIMEOUT)

    def _count(self, client: Any) -> int:
        (answer,) = client.query(self.collection, filter="", output_fields=["count(*)"], timeout=TIMEOUT)
        return int(answer["count(*)"])

    def _create(self, client: Any) -> None:
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("slot", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.config.width)
        index_params = client.prepare_index_params()
        kind, sizes = INDEX_TYPES[self.ann]
        index_params.add_index(field_name="vector", index_type=kind, metric_type="IP", params=sizes)
        client.create_collection(self.collection, schema=schema, index_params=index_params)

    def _rows(self, first_slot: int, vectors_BQD: Tensor) -> list[dict[str, Any]]:
        per_item = self.config.num_vectors
        rows_RD = vectors_BQD.flatten(0, 1).float().numpy()
        return [
            {"row": row, "slot": row // per_item, "vector": vector}
            for row, vector in enumerate(rows_RD, first_slot * per_item)
        ]

    def _retry(self, call: Callable[[Any], Answer]) -> Answer:
        """Call Milvus, with retries.

        Raises:
            UserError: it failed every time.
        """
        require("pymilvus", f"--uri {self.uri}")
        import grpc
        from pymilvus.exceptions import ConnectionConfigException, MilvusException

        for delay in (*DELAYS, None):
            try:
                return call(self._connect())
            except ConnectionConfigException as error:
                raise UserError(self._unusable(str(error.message))) from None
            except (MilvusException, grpc.RpcError, OSError) as error:
                if isinstance(error, MilvusException) and error.code == COLLECTION_NOT_FOUND:
                    raise UserError(
                        f"Milvus at {self.uri} no longer has the collection {self.collection}; write it again with: "
                        f"unifashion index INDEX --uri {self.uri}, or search with --exact"
                    ) from None
                self._client = None  # a client whose server went away does not always find it again
                message = error.message if isinstance(error, MilvusException) else ""
                reason = (str(message) or str(error) or type(error).__name__).splitlines()[0]
                if delay is None:
                    raise UserError(self._lost(reason)) from None
                log.warning("Milvus at %s does not answer (%s); trying again in %.1f s", self.uri, reason, delay)
                time.sleep(delay)
        raise AssertionError("the last try returns or raises")

    def _unusable(self, reason: str) -> str:
        if "://" not in self.uri and Path(self.uri).exists():
            return (
                f"{self.uri} cannot be opened ({reason}); a milvus-lite file is for one process at a time: stop the other one, "
                "search with --exact, or use FAISS (--ann) or a Milvus server (--uri http://...)"
            )
        return f"--uri {self.uri} cannot be used ({reason}); name a file in a folder that can be written, or http://host:19530"

    def _lost(self, reason: str) -> str:
        return (
            f"Milvus at {self.uri} did not answer {len(DELAYS) + 1} times in {sum(DELAYS):.0f} seconds ({reason}); nothing is "
            "lost, the vectors are in the index folder: start Milvus and call again, or search with --exact"
        )

    def _connect(self) -> Any:
        if self._client is None:
            from pymilvus import MilvusClient

            for name in ("pymilvus", "milvus_lite", "faiss"):  # they log what is raised and reported here
                logging.getLogger(name).setLevel(logging.CRITICAL)
            if "://" not in self.uri:
                Path(self.uri).parent.mkdir(parents=True, exist_ok=True)
            self._client = MilvusClient(self.uri, token=os.environ.get("MILVUS_TOKEN", ""))
            if self._client.has_collection(self.collection):
                self._client.load_collection(self.collection)
        return self._client
