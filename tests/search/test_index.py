import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from search.conftest import QUICK, write_table
from unifashion.cli import main
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.search import Retriever
from unifashion.search import writer as writer_module
from unifashion.search.build import Options, build_index, check_model
from unifashion.search.index import Index
from unifashion.search.items import Entry
from unifashion.search.writer import writing


@pytest.fixture
def build(make_model, shop, tmp_path):
    """Bring the index of the shop up to date; returns what was done."""
    model = make_model().eval()
    model.save_pretrained(tmp_path / "model")

    def again(**changes):
        options = Options(**{**QUICK.__dict__, **changes})
        return build_index(shop, model, str(tmp_path / "model"), tmp_path / "index", options)

    return again


def rows_of(shop):
    import csv

    with (shop / "catalogue.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_second_call_embeds_nothing(build, monkeypatch):
    assert len(build().added) == 12
    embedded = []

    def images(self, paths):
        embedded.extend(paths)
        return torch.zeros(len(paths), 4, 12), dict.fromkeys(paths, "no")

    monkeypatch.setattr(Embedder, "images", images)
    again = build()
    assert (len(again.kept), again.added, again.updated) == (12, [], [])
    assert [path.name for path in embedded] == ["broken.png"]


def test_broken_images_are_reported_and_the_others_stored(build, tmp_path):
    done = build()
    assert [path.name for path in done.skipped.reasons] == ["broken.png"]
    assert "not an image" in (tmp_path / "index" / "quarantine.csv").read_text()
    assert len(Index.open(tmp_path / "index")) == 12


def test_the_same_image_with_the_same_metadata_is_stored_once(build, shop, tmp_path):
    (shop / "catalogue.csv").unlink()
    (shop / "copy.png").write_bytes((shop / "3.png").read_bytes())
    assert build().duplicates == {"copy": "3"}
    assert build().duplicates == {"copy": "3"}
    assert len(Index.open(tmp_path / "index")) == 12


def test_two_products_with_one_photo_stay_two(build, shop, tmp_path):
    (shop / "copy.png").write_bytes((shop / "3.png").read_bytes())
    more = [{"image": name, "id": name, "price": "7"} for name in ("copy.png", "3.png")]
    write_table(shop, [*rows_of(shop), *more])
    assert (len(build().added), build().duplicates) == (14, {})
    retriever = Retriever.from_index(tmp_path / "index", device="cpu")
    assert {hit.id for hit in retriever.search("a red dress", filter="price == 7")} == {"copy.png", "3.png"}


def test_photos_that_exchange_their_names_exchange_their_vectors(build, shop, tmp_path):
    build()
    index = Index.open(tmp_path / "index")
    before = {item: index.vectors(index.snapshot.slots[[row]]) for item, row in index.snapshot.row_of.items()}
    swapped = {"0.png": (shop / "1.png").read_bytes(), "1.png": (shop / "0.png").read_bytes()}
    for name, content in swapped.items():
        stat = (shop / name).stat()
        (shop / name).write_bytes(content)
        os.utime(shop / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert build().updated == ["g0", "g1"]
    snapshot = index.refresh()
    for now, then in (("g0", "g1"), ("g1", "g0"), ("g2", "g2")):
        torch.testing.assert_close(index.vectors(snapshot.slots[[snapshot.row_of[now]]]), before[then])


@pytest.mark.parametrize("prune", [False, True])
def test_renamed_photos_keep_their_vectors_and_leave_no_item_behind(build, shop, tmp_path, prune):
    (shop / "catalogue.csv").unlink()
    (shop / "broken.png").unlink()
    build()
    slots = Index.open(tmp_path / "index").snapshot.slots.tolist()
    for number in range(12):
        (shop / f"{number}.png").rename(shop / f"new{number}.png")
    done = build(prune=prune)
    assert (len(done.renamed), done.added, done.updated, done.deleted) == (12, [], [], [])
    snapshot = Index.open(tmp_path / "index").snapshot
    assert snapshot.slots.tolist() == slots and sorted(snapshot.ids) == sorted(f"new{n}" for n in range(12))
    assert all(snapshot.item(row).image.name == f"{item}.png" for item, row in snapshot.row_of.items())
    assert len(build(prune=prune).kept) == 12


def test_a_view_never_takes_the_id_of_another_product(build, shop, tmp_path):
    views = ("A", "A", "A#2", "A#2", "A#3", "A")
    write_table(shop, [{"image": f"{n}.png", "id": product} for n, product in enumerate(views)])
    assert build().added == ["A", "A#4", "A#2", "A#2#2", "A#3", "A#5"]
    again = build()
    assert (len(again.kept), again.updated, len(Index.open(tmp_path / "index"))) == (6, [], 6)


def test_changed_rows_and_pictures_are_updated_and_an_open_retriever_sees_it(build, shop, tmp_path):
    build()
    retriever = Retriever.from_index(tmp_path / "index", device="cpu")
    before = {hit.id: hit for hit in retriever.search("a red dress", k=12)}
    rows = rows_of(shop)
    rows[0]["price"] = "99"
    write_table(shop, rows)
    (shop / "1.png").write_bytes((shop / "2.png").read_bytes())
    (shop / "2.png").unlink()
    done = build()
    assert done.updated == ["g0", "g1"] and done.duplicates == {}
    after = {hit.id: hit for hit in retriever.search("a red dress", k=12)}
    assert after["g0"].metadata["price"] == 99 and after["g0"].score == before["g0"].score


def test_a_new_picture_of_an_item_replaces_the_old_one(build, shop, tmp_path):
    from PIL import Image

    build()
    Image.effect_noise((50, 60), 90).convert("RGB").save(shop / "5.png")
    assert build().updated == ["g5"]
    index = Index.open(tmp_path / "index")
    assert len(index) == 12
    slots = index.snapshot.slots[[index.snapshot.row_of["g5"]]]
    model = UniFashion.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(index.vectors(slots), model.embed_images([shop / "5.png"]))


def test_items_are_deleted_by_id_and_by_pruning(build, shop, tmp_path):
    build()
    index = Index.open(tmp_path / "index")
    with writing(index) as writer:
        writer.delete(["g0", "g7"])
        with pytest.raises(UserError, match="no item has the id 'g0'; nothing was deleted"):
            writer.delete(["g1", "g0"])
    assert len(index.refresh().ids) == 10 and "g1" in index.snapshot.row_of
    write_table(shop, rows_of(shop)[:6])
    assert build().deleted == []
    assert build(prune=True).deleted == ["g10", "g11", "g6", "g8", "g9"]
    assert sorted(index.refresh().ids) == ["g0", "g1", "g2", "g3", "g4", "g5"]


def test_half_precision_takes_half_the_room_and_changes_scores_little(build, tmp_path):
    build(precision="fp16")
    index = Index.open(tmp_path / "index")
    assert (tmp_path / "index" / "vectors.bin").stat().st_size == 12 * 4 * 12 * 2
    assert index.vectors(index.snapshot.slots).dtype == torch.float16


def test_an_index_of_another_model_is_refused(build, make_model, shop, tmp_path):
    build()
    other = make_model("blip2_cir_rerank").eval()
    with pytest.raises(UserError, match="was made by another model"):
        build_index(shop, other, "other", tmp_path / "index", QUICK)
    same = make_model().eval()
    with torch.no_grad():
        same.vision_proj.bias[0] += 1e-3
    with pytest.raises(UserError, match="was made by another model"):
        check_model(Index.open(tmp_path / "index"), same, "nearly the same")


def test_two_writers_at_once_are_refused(build, tmp_path):
    build()
    with writing(Index.open(tmp_path / "index")), pytest.raises(UserError, match="another process is writing"):
        build()


@pytest.mark.parametrize("what", ["vectors", "items"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(build, tmp_path, monkeypatch, what):
    calls = []

    def to_disk(path):
        calls.append(path)
        if len(calls) > 1:
            raise (
                OSError(errno.ENOSPC, "No space left on device")
                if what == "vectors"
                else sqlite3.OperationalError("database or disk is full")
            )

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "to_disk", to_disk)
        patch.setattr("unifashion.search.build.BATCHES_PER_COMMIT", 1)
        with pytest.raises(UserError, match="the disk is full; make room and run the same command again"):
            build()
    assert len(Index.open(tmp_path / "index")) == 4
    done = build()
    assert (len(done.kept), len(done.added)) == (4, 8)


def test_a_killed_call_goes_on_where_it_stood(build, shop, tmp_path, make_model):
    make_model().save_pretrained(tmp_path / "model")
    folder = tmp_path / "index"
    code = f"""
import time, unifashion.search.build as build, unifashion.search.writer as writer
from unifashion.cli import main
build.BATCHES_PER_COMMIT = 1
old = writer.Writer.put
def put(self, entries, rows):
    old(self, entries, rows)
    with (self.index.folder / "vectors.bin").open("ab") as file:
        file.write(b"torn")
    time.sleep(0 if len(self.index.refresh().ids) < 8 else 600)
writer.Writer.put = put
main(["index", {str(shop)!r}, "--model", {str(tmp_path / "model")!r}, "-o", {str(folder)!r}, "--batch-size", "4",
      "--precision", "fp32", "--device", "cpu"])
"""
    child = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path("src").absolute())})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if (folder / "index.json").is_file() and len(Index.open(folder)) == 8:
            break
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = build()
    assert (len(done.kept), len(done.added)) == (8, 4)
    index = Index.open(folder)
    model = UniFashion.from_pretrained(tmp_path / "model")
    paths = [index.get(item_id).image for item_id in index.snapshot.ids]
    torch.testing.assert_close(index.vectors(index.snapshot.slots), model.embed_images(paths), atol=1e-5, rtol=1e-5)


def test_a_folder_without_a_table_and_a_table_of_any_name_can_be_indexed(make_model, shop, tmp_path):
    (shop / "catalogue.csv").rename(shop / "products.csv")
    model = make_model().eval()
    build_index(shop, model, "m", tmp_path / "of_folder", QUICK)
    build_index(shop / "products.csv", model, "m", tmp_path / "of_table", QUICK)
    of_folder, of_table = Index.open(tmp_path / "of_folder"), Index.open(tmp_path / "of_table")
    assert (len(of_folder), of_folder.fields) == (12, {})
    assert (len(of_table), of_table.fields["price"]) == (12, "number")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["index", "shop", "-o", "new"], "--model is required for a new index"),
        (["index", "shop", "--model", "model"], "-o is required"),
        (["index", "nowhere", "--model", "model", "-o", "new"], "no catalogue at nowhere"),
        (["index", "shop", "--model", "model", "-o", "shop"], "is not empty and not an index"),
        (["index", "index", "--delete", "g99"], "no item has the id 'g99'"),
        (["search", "nowhere", "red"], "no index at nowhere"),
        (["search", "index"], "nothing to search for"),
        (["search", "index", "red", "--filter", "colour == 'red'"], "no item has a field 'colour'"),
        (["search", "index", "--image", "nothing.png"], "no such file"),
        (["search", "index", "red", "--sheet", "index/index.json/a.png"], "index.json is not a folder"),
        (["search", "index", "red", "--sheet", "a.doc"], "no picture has this ending"),
        (["search", "index", "red", "--model", "other"], "was made by another model"),
    ],
)
def test_bad_input_is_one_sentence(build, make_model, tmp_path, monkeypatch, capsys, words, sentence):
    build()
    make_model("blip2_cir_rerank").save_pretrained(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as raised:
        main(words)
    error = capsys.readouterr().err.splitlines()[-1]
    assert raised.value.code == 2 and error.startswith("error: ") and sentence in error


def test_the_two_commands_index_and_search(build, shop, tmp_path, monkeypatch, capsys):
    build()
    monkeypatch.chdir(tmp_path)
    main(["index", "shop", "--model", "model", "-o", "by_command", "--device", "cpu"])
    assert "by_command holds 12 items; 12 added, 0 updated, 0 unchanged; 1 image left out" in capsys.readouterr().out
    main(["index", "by_command", "--delete", "g0"])
    assert "1 items deleted; by_command holds 11" in capsys.readouterr().out
    main(["search", "by_command", "a red dress", "--image", "shop/2.png", "--k", "3", "--json", "--sheet", "a.png"])
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 3 and set(found[0]) == {"id", "score", "image", "metadata"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    main(["search", "by_command", "a red dress", "--filter", "price > 1000"])
    assert capsys.readouterr().out == "no item matches\n"


def test_an_index_of_the_first_format_opens_is_searched_and_goes_on(build, make_model, tmp_path):
    """Written out by hand, as every version must read it: column names, file names, the layout of the vectors."""
    build()
    folder, made = tmp_path / "first", Index.open(tmp_path / "index")
    folder.mkdir()
    config = {
        "model": str(tmp_path / "model"),
        "model_name": "blip2_cir_cls",
        "fingerprint": make_model().weights_hash(),
    }
    config |= {"num_vectors": 4, "width": 12, "precision": "fp32", "name": "a" * 32, "format": 1}
    (folder / "index.json").write_text(json.dumps(config, indent=1))
    with contextlib.closing(sqlite3.connect(folder / "items.sqlite")) as database, database:
        database.executescript(
            "CREATE TABLE items (slot INTEGER PRIMARY KEY, id TEXT NOT NULL, image TEXT NOT NULL, digest TEXT NOT NULL,"
            "metadata TEXT NOT NULL, revision INTEGER NOT NULL, dead INTEGER NOT NULL DEFAULT 0);"
            "CREATE UNIQUE INDEX living ON items (id) WHERE NOT dead; CREATE INDEX changed ON items (revision);"
        )
        with contextlib.closing(sqlite3.connect(tmp_path / "index" / "items.sqlite")) as other:
            columns = "slot, id, image, digest, metadata, revision, dead"
            rows = other.execute(f"SELECT {columns} FROM items WHERE slot < 10").fetchall()
        database.executemany(f"INSERT INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        database.execute("UPDATE items SET dead = 1, revision = 9 WHERE slot = 1")
    vectors = made.vectors(made.snapshot.slots).numpy()
    (folder / "vectors.bin").write_bytes(vectors[:10].astype("<f4").tobytes() + b"torn")

    hits = Retriever.from_index(folder, device="cpu").search("a red dress", k=12)
    scores = {
        hit.id: hit.score for hit in Retriever.from_index(tmp_path / "index", device="cpu").search("a red dress", k=12)
    }
    assert {hit.id: hit.score for hit in hits} == {f"g{n}": scores[f"g{n}"] for n in (0, *range(2, 10))}
    index = Index.open(folder)
    with writing(index) as writer:
        writer.put([Entry("new", Path("new.png"), "digest", {})], torch.from_numpy(vectors[11:]))
        writer.delete(["g0"])
    assert index.refresh().ids[-1] == "new" and len(index) == 9
    assert torch.equal(index.vectors(index.snapshot.slots[-1:]), torch.from_numpy(vectors[11:]))


def test_an_index_of_another_version_and_a_damaged_one_are_named(build, tmp_path):
    build()
    file = tmp_path / "index" / "index.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"format": 2, "more": 1}))
    with pytest.raises(UserError, match="is an index of another version; delete it and make it again"):
        Index.open(tmp_path / "index")
    for text in ("{", "[]", json.dumps({"format": 1}), json.dumps(config | {"more": 1})):
        file.write_text(text)
        with pytest.raises(UserError, match=r"holds no readable index .*make it again"):
            Index.open(tmp_path / "index")
    file.write_text(json.dumps(config))
    (tmp_path / "index" / "items.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"holds no readable index .*not a database.*make it again"):
        Index.open(tmp_path / "index")


def test_an_index_that_may_not_be_written_is_one_sentence(build, tmp_path, monkeypatch):
    build()
    index = Index.open(tmp_path / "index")

    def locked(*_, **__):
        raise sqlite3.OperationalError("database is locked")

    with writing(index) as writer:
        monkeypatch.setattr(index, "connect", locked)
        with pytest.raises(
            UserError, match=r"index cannot be written \(items.sqlite: database is locked\); make it writ"
        ):
            writer.delete(["g0"])
