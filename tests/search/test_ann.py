"""The approximate search: FAISS and Milvus against the exact one, which is compared with a loop in numpy."""

import json
import logging
import subprocess
import threading
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unifashion.errors import UserError
from unifashion.search import ann, milvus_engine
from unifashion.search.ann import AnnRecord, Searcher, catch_up, drop_ann, read_record, requested_record
from unifashion.search.exact import exact_search
from unifashion.search.faiss_engine import num_lists
from unifashion.search.index import Index, IndexConfig
from unifashion.search.items import Entry
from unifashion.search.milvus_engine import MilvusEngine
from unifashion.search.recall import measure_recall, photo_queries
from unifashion.search.writer import writing

Q, D = 4, 16


def vectors_of(num, seed=0):
    """Vectors of items that are somewhat alike, as those of photos are."""
    generator = torch.Generator().manual_seed(seed)
    kinds_KD, own_ND = torch.randn(6, 1, D, generator=generator), torch.randn(num, 1, D, generator=generator)
    noise_NQD = torch.randn(num, Q, D, generator=generator)
    return F.normalize(kinds_KD[torch.arange(num) % 6] + own_ND + 0.7 * noise_NQD, dim=-1)


def entries_of(first, num):
    return [
        Entry(f"i{n}", f"{n}.png", f"digest{n}", {"kind": "ab"[n % 2], "price": str(n)})
        for n in range(first, first + num)
    ]


@pytest.fixture
def index(tmp_path):
    index = Index.create(tmp_path / "index", IndexConfig("model", "blip2_cir_cls", "print", Q, D, "fp32"))
    with writing(index) as writer:
        writer.put(entries_of(0, 300), vectors_of(300))
    index.refresh()
    return index


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Let few items count as many, and do not wait long for Milvus."""
    monkeypatch.setattr(ann, "EXACT_BELOW", 5)
    monkeypatch.setattr(milvus_engine, "DELAYS", (0.01, 0.02))


def approximate(index, ann, engine="faiss"):
    uri = str(index.folder / "milvus.db") if engine == "milvus" else None
    with writing(index):
        catch_up(index, requested_record(index, ann, uri))
    return Searcher(index)


def queries(num=8):
    return F.normalize(
        vectors_of(300)[:num, 0] + 0.2 * torch.randn(num, D, generator=torch.Generator().manual_seed(9)), dim=-1
    )


def test_the_exact_search_is_that_of_a_loop(index):
    vectors, query = vectors_of(300).numpy(), queries(1)[0]
    scores = [max(float(np.dot(vector, query.numpy())) for vector in item) for item in vectors]
    for rows in (range(300), range(1, 300, 7)):
        mask = np.isin(np.arange(300), list(rows))
        best = sorted(rows, key=lambda row: -scores[row])[:10]
        found, found_scores = exact_search(index, query, 10, mask)
        assert found == best
        assert found_scores == pytest.approx([scores[row] for row in best], abs=1e-5)


@pytest.mark.parametrize("engine", ["faiss", "milvus"])
def test_all_vectors_looked_at_give_the_exact_answer_with_and_without_a_filter(index, engine):
    searcher = approximate(index, "flat", engine)
    asked = []
    ask = searcher.search(queries(1)[0], 1) and searcher._opened[1].search
    searcher._opened[1].search = lambda query_D, num: (asked.append(num), ask(query_D, num))[1]
    for query_D in queries():
        for rule in (None, "kind == 'a'", "price > 250 or kind == 'b'"):
            mask = index.snapshot.select(rule)
            rows, scores = searcher.search(query_D, 5, mask)
            exact_rows, exact_scores = exact_search(index, query_D, 5, mask)
            assert rows == exact_rows and scores == pytest.approx(exact_scores)
    assert min(asked) == 5 * Q and max(asked) == 2 * 5 * Q


@pytest.mark.parametrize(
    ("ann", "engine"), [("ivf", "faiss"), ("hnsw", "faiss"), ("ivf", "milvus"), ("hnsw", "milvus")]
)
def test_most_of_the_exact_answer_is_found_and_what_is_found_has_its_exact_score(index, ann, engine):
    searcher = approximate(index, ann, engine)
    recall = measure_recall(index, searcher, "photos", photo_queries(index, 40), 10)
    assert recall.num_queries == 40 and 0.8 < recall.recall <= 1
    every = dict(zip(*exact_search(index, queries(1)[0], 300), strict=True))
    for row, score in zip(*searcher.search(queries(1)[0], 10), strict=True):
        assert score == pytest.approx(every[row], abs=1e-6)


def test_recall_counts_what_the_approximate_search_misses(index, monkeypatch):
    searcher = approximate(index, "flat")
    queries_MD = photo_queries(index, 12)
    assert measure_recall(index, searcher, "photos", queries_MD, 10).recall == 1
    lame = dict.fromkeys(range(0, 300, 2))
    monkeypatch.setattr(
        searcher, "search", lambda query_D, k: exact_search(index, query_D, k, np.isin(np.arange(300), list(lame)))
    )
    found = np.mean([len(set(exact_search(index, query_D, 10)[0]) & set(lame)) / 10 for query_D in queries_MD])
    assert measure_recall(index, searcher, "photos", queries_MD, 10).recall == pytest.approx(found)


@pytest.mark.parametrize("engine", ["faiss", "milvus"])
def test_what_was_added_changed_or_deleted_since_is_right_before_and_after_catching_up(index, engine):
    searcher = approximate(index, "flat", engine)
    with writing(index) as writer:
        writer.put(entries_of(290, 40), vectors_of(40, seed=1))  # ten of them with new pictures
        writer.delete(["i3", "i4", "i320"])
    index.refresh()
    for _ in range(2):
        for query_D in [*queries(6), *vectors_of(40, seed=1)[:12, 0]]:
            assert searcher.search(query_D, 7)[0] == exact_search(index, query_D, 7)[0]
        searcher = approximate(index, None, engine)
    assert read_record(index.folder).covered == 340


def test_a_filter_that_fits_only_far_items_is_answered_exactly(index):
    searcher = approximate(index, "ivf")
    query_D = queries(1)[0]
    far = np.zeros(300, dtype=bool)
    far[np.array(exact_search(index, query_D, 300)[0][-12:])] = True
    assert searcher.search(query_D, 10, far) == exact_search(index, query_D, 10, far)


def test_a_faiss_file_is_made_anew_when_it_has_far_too_few_lists(index):
    searcher = approximate(index, "ivf")
    lists = searcher.search(queries(1)[0], 3) and searcher._opened[1]._load().nlist
    with writing(index) as writer:
        writer.put(entries_of(300, 900), vectors_of(900, seed=1))
    index.refresh()
    approximate(index, None)
    searcher.search(queries(1)[0], 3)
    assert (lists, searcher._opened[1]._load().nlist) == (num_lists(300 * Q), num_lists(1200 * Q))


def test_going_back_to_the_exact_search_leaves_no_file(index):
    searcher = approximate(index, "ivf")
    assert (index.folder / "nearest.faiss").is_file()
    drop_ann(index)
    assert not list(index.folder.glob("nearest*"))
    assert searcher.search(queries(1)[0], 3) == exact_search(index, queries(1)[0], 3)


WAYS = {
    "exact": (None, None),
    "flat": ("flat", None),
    "ivf": ("ivf", None),
    "hnsw": ("hnsw", None),
    "milvus flat": ("flat", "milvus.db"),
    "milvus ivf": ("ivf", "milvus.db"),
}


def check_state(index, way):
    kind, uri = WAYS[way]
    record = read_record(index.folder)
    assert (record and (record.ann, record.uri, record.covered)) == (kind and (kind, uri, 300))
    assert (index.folder / "nearest.faiss").exists() == (kind is not None and uri is None)
    searcher, shares = Searcher(index), []
    for query_D in queries():
        if record:
            shares.append(len(searcher._engine(record).search(query_D, 40)))
        found, best = searcher.search(query_D, 10)[0], exact_search(index, query_D, 10)[0]
        shares.append(len(set(found) & set(best)) / 10)
    assert min(shares) >= (0.5 if kind in ("ivf", "hnsw") else 1)


def go(index, way):
    kind, uri = WAYS[way]
    with writing(index):
        if kind is None:
            drop_ann(index)
        else:
            catch_up(index, requested_record(index, kind, uri and str(index.folder / uri)))
    check_state(index, way)


@pytest.mark.parametrize("pair", sorted(permutations(["exact", "flat", "ivf", "hnsw"], 2)), ids="-".join)
def test_every_kind_can_follow_every_other_and_leaves_an_index_that_is_what_it_says(index, pair):
    go(index, pair[0])
    go(index, pair[1])


def test_milvus_can_follow_faiss_and_another_kind_in_milvus(index):
    for way in ("flat", "milvus flat", "milvus ivf", "milvus flat", "exact", "ivf", "milvus ivf", "exact"):
        go(index, way)


def test_what_may_be_one_server_under_two_names_is_not_deleted(index, cluster, caplog):
    for host in ("127.0.0.1", "localhost"):
        with writing(index):
            catch_up(index, requested_record(index, "flat", f"http://{host}:{cluster.port}"))
    assert "may be the same Milvus" in caplog.text
    assert Searcher(index).search(queries(1)[0], 5) == exact_search(index, queries(1)[0], 5)


@pytest.mark.parametrize("ann", ["ivf", "hnsw", "flat"])
@pytest.mark.parametrize("covered", [0, 100, 299, 301, 10**12])
def test_a_record_that_contradicts_the_file_is_put_right_by_the_next_call(index, ann, covered):
    approximate(index, "hnsw" if ann == "flat" else "flat")
    (index.folder / "nearest.json").write_text(json.dumps({"ann": ann, "uri": None, "covered": covered}))
    found = Searcher(index).search(queries(1)[0], 5)
    assert found == exact_search(index, queries(1)[0], 5)
    approximate(index, None)
    check_state(index, ann)


def test_a_damaged_or_missing_file_is_named_with_the_way_out(index):
    searcher = approximate(index, "ivf")
    (index.folder / "nearest.faiss").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"nearest.faiss is missing or damaged.*--ann ivf"):
        searcher.search(queries(1)[0], 3)
    assert Searcher(index, exact=True).search(queries(1)[0], 3)[0]
    (index.folder / "nearest.json").write_text("{")
    with pytest.raises(UserError, match=r"nearest.json cannot be read"):
        Searcher(index)


def test_a_full_disk_leaves_the_old_file_and_says_so(index, monkeypatch):
    import faiss

    searcher = approximate(index, "ivf")
    before = (index.folder / "nearest.faiss").read_bytes()
    with writing(index) as writer:
        writer.put(entries_of(300, 4), vectors_of(4, seed=1))

    def no_room(*_):
        raise RuntimeError("write error in nearest.faiss: 10 != 20 (No space left on device)")

    monkeypatch.setattr(faiss, "write_index", no_room)
    with pytest.raises(UserError, match=r"nearest.faiss cannot be written.*the disk is full; make room"):
        approximate(index, None)
    assert (index.folder / "nearest.faiss").read_bytes() == before and read_record(index.folder).covered == 300
    index.refresh()
    assert searcher.search(queries(1)[0], 5)[0] == exact_search(index, queries(1)[0], 5)[0]


@pytest.mark.parametrize("uri", ["somewhere", "milvus.sqlite"])
def test_a_uri_that_is_none_is_refused(index, uri):
    with pytest.raises(UserError, match=f"--uri {uri}: give http://host:19530, or a file"):
        requested_record(index, None, uri)


def test_a_milvus_lite_file_in_the_index_is_remembered_by_its_name_alone(index, tmp_path):
    assert requested_record(index, None, str(index.folder / "milvus.db")) == AnnRecord("ivf", "milvus.db")
    assert requested_record(index, "hnsw", "http://host:19530") == AnnRecord("hnsw", "http://host:19530")
    assert requested_record(index, "flat", str(tmp_path / "x.db")) == AnnRecord("flat", str(tmp_path / "x.db"))
    with pytest.raises(UserError, match="is not in Milvus; put it there with: unifashion index"):
        Searcher(index, "http://host:19530")


def test_a_milvus_lite_file_that_another_process_has_open_is_said_to_be(index):
    from milvus_lite.db import MilvusLite

    other = MilvusLite(str(index.folder / "milvus.db"))
    try:
        with pytest.raises(UserError, match=r"milvus.db cannot be opened .* one process at a time: stop the other one"):
            approximate(index, "flat", "milvus")
    finally:
        other.close()
    assert read_record(index.folder) is None
    assert approximate(index, "flat", "milvus").search(queries(1)[0], 5) == exact_search(index, queries(1)[0], 5)


class Cluster:
    """A Milvus server on loopback that can go down and come back, with or without what it held."""

    def __init__(self, folder):
        self.folder, self.port, self.server = folder, 0, None

    def start(self):
        from milvus_lite.adapter.grpc.server import start_server_in_thread

        self.server, self.database, self.port = start_server_in_thread(str(self.folder), port=self.port)

    def stop(self):
        self.server.stop(grace=0).wait()
        self.database.close()


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "cluster")
    cluster.start()
    yield cluster
    cluster.stop()


def test_an_index_in_a_cluster_survives_that_it_goes_down(index, cluster, caplog, monkeypatch):
    uri = f"http://127.0.0.1:{cluster.port}"
    with writing(index):
        catch_up(index, requested_record(index, "flat", uri))
    searcher, query_D = Searcher(index), queries(1)[0]
    assert searcher.search(query_D, 5) == exact_search(index, query_D, 5)
    cluster.stop()
    down = f"Milvus at {uri} did not answer 3 times.*nothing is lost"
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=down):
        searcher.search(query_D, 5)
    assert caplog.text.count("trying again in") == 2
    with writing(index) as writer:
        writer.put(entries_of(300, 20), vectors_of(20, seed=1))
        with pytest.raises(UserError, match="did not answer"):
            catch_up(index, read_record(index.folder))
    assert len(index.refresh().ids) == 320 and read_record(index.folder).covered == 300
    cluster.start()
    monkeypatch.setattr(milvus_engine, "DELAYS", (0.5,) * 20)  # gRPC itself waits a second before it connects again
    assert searcher.search(query_D, 5) == exact_search(index, query_D, 5)
    with writing(index):
        assert catch_up(index, read_record(index.folder)).covered == 320
    late_D = vectors_of(20, seed=1)[3, 0]
    assert searcher.search(late_D, 5)[0] == exact_search(index, late_D, 5)[0]


def test_a_call_that_comes_back_in_time_is_not_told_to_the_user(index, cluster, monkeypatch):
    searcher = Searcher(index)
    with writing(index):
        catch_up(index, requested_record(index, "flat", f"http://127.0.0.1:{cluster.port}"))
    cluster.stop()
    monkeypatch.setattr(milvus_engine, "DELAYS", (0.5,) * 20)
    back = threading.Timer(0.6, cluster.start)
    back.start()
    assert searcher.search(queries(1)[0], 5) == exact_search(index, queries(1)[0], 5)
    back.join()


def test_a_collection_that_is_gone_is_said_and_written_again(index, cluster):
    uri = f"http://127.0.0.1:{cluster.port}"
    with writing(index):
        catch_up(index, requested_record(index, "flat", uri))
    MilvusEngine(uri, index.config, "flat").drop()
    searcher, query_D = Searcher(index), queries(1)[0]
    with pytest.raises(UserError, match=r"no longer has the collection unifashion_\w+; write it again with"):
        searcher.search(query_D, 5)
    with writing(index):
        catch_up(index, read_record(index.folder))
    assert searcher.search(query_D, 5) == exact_search(index, query_D, 5)


def test_writing_to_a_cluster_goes_on_where_it_was_stopped(index, cluster, monkeypatch):
    monkeypatch.setattr(MilvusEngine, "slots_per_commit", 100)
    upsert, calls = MilvusEngine._upsert, []

    def stopped(self, rows, client):
        calls.append(rows[0]["slot"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        upsert(self, rows, client)

    monkeypatch.setattr(MilvusEngine, "_upsert", stopped)
    wanted = requested_record(index, "flat", f"http://127.0.0.1:{cluster.port}")
    with writing(index), pytest.raises(KeyboardInterrupt):
        catch_up(index, wanted)
    assert json.loads((index.folder / "nearest.json").read_text())["covered"] == 100
    with writing(index):
        catch_up(index, read_record(index.folder))
    assert calls == [0, 100, 100, 200]
    query_D = queries(1)[0]
    assert Searcher(index).search(query_D, 5) == exact_search(index, query_D, 5)


def test_what_a_killed_faiss_writer_left_is_removed(index):
    child = subprocess.Popen(["true"])
    child.wait()
    leftover = index.folder / f".nearest.faiss.{child.pid}"
    leftover.write_bytes(b"half a file")
    approximate(index, "ivf")
    assert not leftover.exists() and (index.folder / "nearest.faiss").is_file()
