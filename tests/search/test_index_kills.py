"""An index whose writer is killed at any point goes on with the same call, and is what it would have been."""

import contextlib
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

import kill
from search.conftest import QUICK, write_shop, write_table
from search.test_damage import answers
from small_disk import filled
from unifashion.errors import UserError
from unifashion.search import ann
from unifashion.search.ann import catch_up, drop_ann, requested_record
from unifashion.search.build import Options, build_index
from unifashion.search.index import Index
from unifashion.search.writer import writing

SAMPLE = int(os.environ.get("UNIFASHION_KILLS", "2"))  # points of each writer; 0 = all of them


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ann, "EXACT_BELOW", 2)
    monkeypatch.setattr("unifashion.search.build.BATCHES_PER_COMMIT", 1)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@pytest.fixture(scope="module")
def still_shop(tmp_path_factory):
    return write_shop(tmp_path_factory.mktemp("still") / "shop")


@pytest.fixture(scope="module")
def start(still_shop, model, tmp_path_factory):
    """A folder with an index of eight of the twelve garments, searched with FAISS."""
    folder = tmp_path_factory.mktemp("start")
    shop = folder / "shop"
    shutil.copytree(still_shop, shop)
    write_table(shop, [{"image": f"{n}.png", "id": f"g{n}", "category": "old"} for n in range(8)])
    build_index(shop, model, "model", folder / "index", QUICK)
    change_ann(folder / "index", "flat")
    shutil.rmtree(shop)
    return folder


@pytest.mark.parametrize("leave", [0, 4, 8, 16, 40])
def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(start, still_shop, model, small_disk, leave):
    disk = small_disk(4)
    shutil.copytree(start, disk, dirs_exist_ok=True)
    for action, index in ((update, "index"), (lambda *at: change_ann(disk / "index", "hnsw"), "index"), (first, "new")):
        with filled(disk, leave), contextlib.suppress(UserError):
            action(disk, still_shop, model)
        action(disk, still_shop, model)
        assert len(Index.open(disk / index)) == 12 and len(answers(disk / index, model)[1]) == 12
    assert not [path.name for path in (disk / "index").iterdir() if path.name.startswith(".")]


def change_ann(folder, kind):
    index = Index.open(folder)
    with writing(index):
        if kind == "exact":
            drop_ann(index)
        elif requested_record(index, kind, None):
            catch_up(index, requested_record(index, kind, None))


def state(folder, model):
    """What an index is, whatever order and slots it was written in."""
    index = Index.open(folder)
    with closing(sqlite3.connect(folder / "items.sqlite")) as database:
        rows = database.execute("SELECT id, image, digest, metadata, checksum FROM items WHERE NOT dead ORDER BY id")
        items = rows.fetchall()
    record = json.loads((folder / "nearest.json").read_text()) if (folder / "nearest.json").exists() else {}
    files = sorted(path.name for path in folder.iterdir())
    covered = record.get("covered", 0) > int(index.snapshot.slots[-1]) if record else None
    return items, record.get("ann"), covered, files, answers(folder, model)


def first(folder, shop, model):
    build_index(shop, model, "model", folder / "new", QUICK)


def update(folder, shop, model):
    build_index(shop, model, "model", folder / "index", QUICK)
    change_ann(folder / "index", None)


def prune(folder, shop, model):
    options = Options(**{**QUICK.__dict__, "prune": True})
    few = shop / "few.csv"
    few.write_text("image,id\n" + "".join(f"{n}.png,g{n}\n" for n in range(6, 12)))
    build_index(few, model, "model", folder / "index", options)


ACTIONS = {
    "a first build": first,
    "an update": update,
    "a prune": prune,
    "a repair": update,
    "from flat to ivf": lambda folder, shop, model: change_ann(folder / "index", "ivf"),
    "from flat to hnsw": lambda folder, shop, model: change_ann(folder / "index", "hnsw"),
    "from flat to exact": lambda folder, shop, model: change_ann(folder / "index", "exact"),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_the_same_call_goes_on_after_a_kill_at_any_point(start, still_shop, model, tmp_path, name):
    folder = tmp_path / "work"
    index = folder / ("new" if name == "a first build" else "index")

    def action():
        ACTIONS[name](folder, still_shop, model)

    def again():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        if name == "a repair":
            os.truncate(folder / "index" / "vectors.bin", 100)

    again()
    names = kill.operations(action, folder)
    again()
    action()
    whole = state(index, model)
    points = kill.points(names)
    for point in random.Random(0).sample(points, min(SAMPLE, len(points)) or len(points)):
        again()
        kill.killed_at(action, folder, point)
        if (index / "index.json").exists() and name != "a repair":
            answers(index, model)  # what is there can be searched
        action()
        assert state(index, model) == whole, str(point)
