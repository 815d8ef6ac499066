"""An ANN index kept by Milvus: a milvus-lite file (``INDEX/milvus.db``) or a cluster (``http://host:19530``).

A milvus-lite file is open in one process at a time.

A collection belongs to one index (its name holds that of the index). One row is one vector: ``row`` = slot x Q + number of the
vector, ``slot``, ``vector``. Rows are written by their number, so writing them twice changes nothing. A cluster that asks for a
token gets ``$MILVUS_TOKEN``. What fails is tried again, later and later; then one sentence says so.
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

from unifashion.errors import UserError
from unifashion.search.index import About

log = logging.getLogger(__name__)
DELAYS = (0.5, 1.0, 2.0, 4.0)  # seconds between tries
TIMEOUT = 60.0  # seconds for one answer
ROWS_AT_ONCE = 4096
KINDS = {"ivf": "IVF_SQ8", "hnsw": "HNSW", "flat": "FLAT"}
LISTS = 1024
COLLECTION_NOT_FOUND = 100  # Milvus's number for it

Answer = TypeVar("Answer")


class MilvusStore:
    """See ``nearest.Store``."""

    most, at_once = 16_384, 5_000  # the first is Milvus's own limit

    def __init__(self, uri: str, about: About, ann: str) -> None:
        self.uri, self.about, self.ann = uri, about, ann
        self.collection = f"unifashion_{about.name}_{ann}"
        self._client: Any = None

    def extend(self, covered: int, vectors: Callable[[int, int], Tensor], end: int, told: Callable[[int], Any]) -> None:
        """Write the rows of the slots; a collection that is gone is made anew, from slot 0."""
        if not self._patiently(lambda client: client.has_collection(self.collection)):
            self._patiently(self._create)
            covered = 0
        step = max(1, ROWS_AT_ONCE // self.about.num_vectors)
        for start in range(covered, end, step):
            stop = min(end, start + step)
            rows = self._rows(start, vectors(start, stop))
            self._patiently(partial(self._upsert, rows))
            told(stop - start)
        self._patiently(lambda client: client.flush(self.collection, timeout=TIMEOUT))

    def search(self, query_D: Tensor, num: int) -> NDArray[np.int64]:
        """Return the slots of the nearest vectors.

        Raises:
            UserError: Milvus does not answer, or does not have the collection.
        """
        asked = {"params": {"nprobe": max(8, LISTS // 32), "ef": max(256, num)} if self.ann != "flat" else {}}
        hits = self._patiently(
            lambda client: client.search(
                self.collection,
                [query_D.numpy().astype(np.float32)],
                limit=num,
                output_fields=["slot"],
                search_params=asked,
                timeout=TIMEOUT,
            )
        )
        return np.array([hit["entity"]["slot"] for hit in hits[0]], dtype=np.int64)

    def drop(self) -> None:
        """Delete the collection."""
        self._patiently(lambda client: client.drop_collection(self.collection))

    def _upsert(self, rows: list[dict[str, Any]], client: Any) -> None:
        client.upsert(self.collection, rows, timeout=TIMEOUT)

    def _create(self, client: Any) -> None:
        from pymilvus import DataType

        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("slot", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.about.width)
        kinds = client.prepare_index_params()
        sizes = {"ivf": {"nlist": LISTS}, "hnsw": {"M": 32, "efConstruction": 200}, "flat": {}}[self.ann]
        kinds.add_index(field_name="vector", index_type=KINDS[self.ann], metric_type="IP", params=sizes)
        client.create_collection(self.collection, schema=schema, index_params=kinds)

    def _rows(self, start: int, vectors_BQD: Tensor) -> list[dict[str, Any]]:
        rows_RD = vectors_BQD.flatten(0, 1).float().numpy()
        per_item = self.about.num_vectors
        first = start * per_item
        return [
            {"row": number, "slot": number // per_item, "vector": vector}
            for number, vector in enumerate(rows_RD, first)
        ]

    def _patiently(self, call: Callable[[Any], Answer]) -> Answer:
        """Call Milvus, again after a while when it fails.

        Raises:
            UserError: it failed every time.
        """
        import grpc
        from pymilvus.exceptions import ConnectionConfigException, MilvusException

        for delay in (*DELAYS, None):
            try:
                return call(self._connected())
            except ConnectionConfigException as error:
                raise UserError(self._unusable(str(error.message))) from None
            except (MilvusException, grpc.RpcError, OSError) as error:
                if getattr(error, "code", None) == COLLECTION_NOT_FOUND:
                    raise UserError(
                        f"Milvus at {self.uri} has no collection {self.collection} anymore; write it again with: "
                        f"unifashion index INDEX --uri {self.uri}, or search with --exact"
                    ) from None
                self._client = None
                reason = (str(getattr(error, "message", "")) or str(error) or type(error).__name__).splitlines()[0]
                if delay is None:
                    raise UserError(self._lost(reason)) from None
                log.warning("Milvus at %s does not answer (%s); trying again in %.1f s", self.uri, reason, delay)
                time.sleep(delay)
        raise AssertionError

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

    def _connected(self) -> Any:
        if self._client is None:
            from pymilvus import MilvusClient

            for name in ("pymilvus", "milvus_lite", "faiss"):  # they log what is raised and told here
                logging.getLogger(name).setLevel(logging.CRITICAL)
            if "://" not in self.uri:
                Path(self.uri).parent.mkdir(parents=True, exist_ok=True)
            self._client = MilvusClient(self.uri, token=os.environ.get("MILVUS_TOKEN", ""))
            if self._client.has_collection(self.collection):
                self._client.load_collection(self.collection)
        return self._client
