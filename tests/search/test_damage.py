"""Whatever happens to its files, an index answers as before or says a sentence; the next call repairs it or says what to do."""

import contextlib
import json
import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.conftest import QUICK, write_shop, write_table
from unifashion.errors import UserError
from unifashion.search import Retriever, ann
from unifashion.search import build as build_module
from unifashion.search.ann import catch_up, requested_record
from unifashion.search.build import Options, build_index
from unifashion.search.exact import exact_search
from unifashion.search.index import Index, IndexReplaced
from unifashion.search.writer import writing

FILES = ("index.json", "items.sqlite", "vectors.bin", "nearest.json", "nearest.faiss")
DAMAGES = {
    "cut": lambda content, other: content[: len(content) * 2 // 3],
    "empty": lambda content, other: b"",
    "missing": lambda content, other: None,
    "random": lambda content, other: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda content, other: bytes(len(content)),
    "another's": lambda content, other: other,
    "one bit": lambda content, other: content[:40] + bytes([content[40] ^ 64]) + content[41:],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ann, "EXACT_BELOW", 2)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@pytest.fixture(scope="module")
def still_shop(tmp_path_factory):
    """A shop that no test changes."""
    return write_shop(tmp_path_factory.mktemp("still") / "shop")


@pytest.fixture(scope="module")
def made(still_shop, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "index"
    build(still_shop, model, folder)
    return folder


@pytest.fixture(scope="module")
def other(other_shop, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other_made") / "index"
    build(other_shop, model, folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """An index of the shop that no test changes, with an approximate search."""
    return Path(shutil.copytree(made, tmp_path / "index"))


@pytest.fixture(scope="module")
def right(made, model):
    return answers(made, model)


@pytest.fixture(scope="module")
def other_shop(tmp_path_factory):
    """Twelve other photos under the same names."""
    folder = tmp_path_factory.mktemp("other")
    for number in range(12):
        Image.effect_noise((48, 64), 20 + 9 * number).convert("RGB").save(folder / f"g{number}.png")
    return folder


def build(shop, model, folder, kind="flat", **changes):
    result = build_index(shop, model, "model", folder, Options(**{**QUICK.__dict__, **changes}))
    index = Index.open(folder)
    with writing(index):
        wanted = requested_record(index, kind, None)
        if wanted:
            catch_up(index, wanted)
    return result


def answers(folder, model):
    """Every item with its score, for a few queries."""
    retriever = Retriever(Index.open(folder), model)
    return [
        [(hit.id, round(hit.score, 5), hit.metadata) for hit in retriever.search(words, k=k)]
        for words, k in (("a red dress", 4), ("a blue shirt", 12))
    ]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_never_a_wrong_answer_and_the_next_call_repairs_it_or_says_what_to_delete(
    still_shop, other, model, folder, right, file, damage
):
    content = DAMAGES[damage]((folder / file).read_bytes(), (other / file).read_bytes())
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)

    try:
        assert answers(folder, model) == right
    except UserError as error:
        assert str(folder) in str(error)
    try:
        build(still_shop, model, folder)
    except UserError as error:
        assert "delete" in str(error) or "was made by another model" in str(error)
    else:
        assert answers(folder, model) == right


def test_vectors_of_items_that_are_no_longer_listed_are_made_again_from_their_photos_or_the_items_are_deleted(
    shop, model, tmp_path, caplog
):
    folder = tmp_path / "index"
    build(shop, model, folder)
    right = answers(folder, model)
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (48, 64), "red").save(few / "new.png")
    (folder / "vectors.bin").unlink()
    (shop / "3.png").unlink()
    done = build(few, model, folder)
    assert (done.added, len(done.updated), done.deleted) == (["new"], 11, ["g3"])
    assert (
        "the vectors of 12 items are damaged" in caplog.text and "1 of the damaged items cannot be made" in caplog.text
    )
    found = [[hit for hit in hits if hit[0] != "new"] for hits in answers(folder, model)]
    assert found[1] == [hit for hit in right[1] if hit[0] != "g3"]


def test_one_wrong_number_is_found_by_the_search_that_would_return_it_and_repaired_alone(
    still_shop, model, folder, right
):
    vectors = np.memmap(folder / "vectors.bin", np.float32, "r+", shape=(12, 4, 12))
    vectors[5, 2, 3] = np.nan
    vectors.flush()
    with pytest.raises(
        UserError, match=r"does not hold the vectors of the item 'g5' any more; repair it with: unifashion"
    ):
        answers(folder, model)
    assert build(still_shop, model, folder).updated == ["g5"]
    assert answers(folder, model) == right


@pytest.mark.parametrize(
    "values", [{"width": 24}, {"num_vectors": 3}, {"precision": "fp16"}, {"width": -1}, {"width": "12"}]
)
def test_a_config_that_contradicts_the_vectors_is_one_sentence_or_repaired(still_shop, model, folder, right, values):
    config = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(config | values))
    with pytest.raises(
        UserError, match=r"index\.json says|index.json is damaged|is shorter than|does not hold the vectors"
    ):
        build_module.check_model(Index.open(folder), model, "model")
        answers(folder, model)
    if "precision" in values:
        assert len(build(still_shop, model, folder).updated) == 12
        # Of the query for all items: fp16 rounds the scores, so near ties may swap.
        found, expected = ({hit[0]: hit[1] for hit in hits[-1]} for hits in (answers(folder, model), right))
        assert found == pytest.approx(expected, abs=2e-3) and len(found) == 12


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE items SET metadata = 'x' WHERE slot = 3", "the metadata of the item 'g3' are damaged"),
        ("UPDATE items SET metadata = '[1]' WHERE slot = 3", "the metadata of the item 'g3' are damaged"),
        ("UPDATE items SET metadata = '{\"price\": null}' WHERE slot = 3", "the metadata of the item 'g3' are damaged"),
        ("UPDATE items SET slot = 99 WHERE slot = 3", "is shorter than items.sqlite says"),
        ("UPDATE items SET slot = -1 WHERE slot = 3", "an id twice, or a slot below 0"),
        ("DROP INDEX living; UPDATE items SET id = 'g1' WHERE slot = 3", "an id twice, or a slot below 0"),
        ("UPDATE items SET checksum = 'x' WHERE slot = 3", "holds a value of another type"),
        ("UPDATE items SET id = x'ff' WHERE slot = 3", "holds a value of another type"),
        ("UPDATE items SET image = x'ff' WHERE slot = 3", "holds a value of another type"),
        ("UPDATE items SET dead = 7 WHERE slot = 3", "holds a value of another type"),
        ("UPDATE items SET slot = 99 WHERE slot = 3; UPDATE items SET slot = 3 WHERE slot = 4", "'g4' any more"),
    ],
)
def test_a_table_that_contradicts_itself_or_the_vectors_is_one_sentence(
    still_shop, model, folder, right, statement, sentence
):
    ann.drop_ann(Index.open(folder))
    with contextlib.closing(sqlite3.connect(folder / "items.sqlite")) as database, database:
        database.executescript(statement)
    with (folder / "vectors.bin").open("r+b") as file:
        file.truncate(100 * 4 * 12 * 4 if "g4" in sentence else 12 * 4 * 12 * 4)
    with pytest.raises(UserError, match=sentence):
        answers(folder, model)
    try:
        build(still_shop, model, folder, kind=None)
        assert answers(folder, model) == right
    except UserError as error:
        assert "delete the folder" in str(error)


def test_an_image_whose_vectors_are_not_finite_is_left_out_with_the_reason(shop, model, tmp_path, monkeypatch):
    embed = type(model).embed_files

    def overflowing(self, paths, *args):
        vectors, broken = embed(self, paths, *args)
        vectors[[path.name == "3.png" for path in paths], 1, 1] = float("inf")
        return vectors, broken

    monkeypatch.setattr(type(model), "embed_files", overflowing)
    done = build_index(shop, model, "model", tmp_path / "index", QUICK)
    assert done.skipped.reasons[shop / "3.png"] == build_module.NOT_FINITE
    assert "g3" not in Index.open(tmp_path / "index").snapshot.ids


def test_the_index_of_a_catalogue_whose_items_changed_their_names_is_complete_after_one_call_with_prune(
    shop, model, tmp_path
):
    build(shop, model, tmp_path / "index")
    write_table(shop, [{"image": f"{number}.png", "id": f"new{number}"} for number in range(12)])
    done = build(shop, model, tmp_path / "index", prune=True)
    assert (len(done.renamed), len(done.deleted), len(done.duplicates)) == (12, 0, 0)
    assert sorted(Index.open(tmp_path / "index").snapshot.ids) == sorted(f"new{number}" for number in range(12))


# Another index in the same folder -------------------------------------------------------------------------------------


def test_an_open_index_that_was_made_again_is_noticed(shop, other_shop, model, make_model, tmp_path):
    folder = tmp_path / "index"
    build(shop, model, folder)
    retriever, index = Retriever(Index.open(folder), model), Index.open(folder)
    retriever.search("a red dress", k=3)
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(IndexReplaced, match="was deleted while it was open"):
            retriever.search("a red dress", k=3)
    build(other_shop, model, folder, kind="ivf")
    with pytest.raises(IndexReplaced, match="another index is in"):
        index.refresh()
    assert {hit.image.parent for hit in retriever.search("a red dress", k=12)} == {other_shop}
    shutil.rmtree(folder)
    build(shop, make_model("blip2_cir_rerank").eval(), folder)
    for _ in range(2):
        with pytest.raises(IndexReplaced, match=r"made again by another model \(blip2_cir_rerank at model\)"):
            retriever.search("a red dress", k=3)


# Two at once ----------------------------------------------------------------------------------------------------------


def test_two_first_calls_at_once_leave_one_whole_index(shop, model, tmp_path):
    refused, start = [], threading.Barrier(2)

    def work():
        start.wait()
        try:
            build_index(shop, model, "model", tmp_path / "index", QUICK)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another process is writing" in text for text in refused) and len(refused) < 2
    assert build_index(shop, model, "model", tmp_path / "index", QUICK).kept == [f"g{number}" for number in range(12)]


def test_a_folder_that_is_no_index_stays_as_it_is(shop, model):
    before = sorted(shop.iterdir())
    with pytest.raises(UserError, match="is not empty and not an index"):
        build_index(shop, model, "model", shop, QUICK)
    assert sorted(shop.iterdir()) == before


def test_searches_at_once_leave_torch_its_threads(folder):
    index = Index.open(folder)
    threads_before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)

    def search():
        for _ in range(30):
            exact_search(index, torch.ones(12), 3)
            seen.append(torch.get_num_threads() in (1, 3))

    try:
        workers = [threading.Thread(target=search) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert torch.get_num_threads() == 3 and all(seen)
        fresh = []
        later = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert fresh == [3]
    finally:
        torch.set_num_threads(threads_before)
