"""An index that is made again while the demo runs: every answer comes from one model, the new one once it is loaded."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from demo_shop import draw

from unifashion.apps.demo.errors import Busy
from unifashion.apps.demo.loading import Models, load_service
from unifashion.apps.demo.service import SearchQuery, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.search import Retriever
from unifashion.search.build import Options, build_index

QUICK = Options(precision="fp32", progress=False)
WORDS = SearchQuery("a red dress", k=8)


@pytest.fixture
def folders(tmp_path, make_model) -> dict[str, Path]:
    """A folder with the index of a model, and one with that of another model over the same photos."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for colour in ("red", "blue", "green", "black"):
        for kind in ("dress", "shirt"):
            draw(colour, kind).save(photos / f"{colour}-{kind}.png")
    folders = {}
    for seed, name in enumerate(("one", "other")):
        model = make_model("blip2_cir_cls")
        torch.manual_seed(seed)
        with torch.no_grad():
            model.text_proj.weight.add_(torch.randn_like(model.text_proj.weight))
        model.save_pretrained(tmp_path / f"model-{name}")
        folders[name] = tmp_path / f"index-{name}"
        build_index(photos, model, str(tmp_path / f"model-{name}"), folders[name], QUICK)
    return folders


def scores(hits) -> list[tuple[str, float]]:
    return [(hit.id, round(hit.score, 4)) for hit in hits]


def expected(folder: Path) -> list[tuple[str, float]]:
    return scores(Retriever.from_index(folder, device="cpu").search("a red dress", k=8))


def replace(folder: Path, by: Path) -> None:
    old = folder.with_name("old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.copytree(by, folder)


def opened(folder: Path, **models) -> Service:
    return load_service(Models(str(folder), device="cpu", **models), DemoSettings())


def test_an_index_of_another_model_is_loaded_with_that_model(folders):
    one, other = expected(folders["one"]), expected(folders["other"])
    assert one != other
    service = opened(folders["one"])
    captioner = service._loaded.captioner
    assert scores(service.search(WORDS)) == one
    replace(folders["one"], folders["other"])
    assert scores(service.search(WORDS)) == other
    assert captioner is not None and service._loaded.captioner.model is service._loaded.retriever.model


def test_an_index_of_another_model_than_the_named_one_is_said_and_not_searched(folders, tmp_path):
    service = opened(folders["one"], model=str(tmp_path / "model-one"))
    service.search(WORDS)
    replace(folders["one"], folders["other"])
    for _ in range(2):
        with pytest.raises(Busy, match="indexed again and cannot be loaded"):
            service.search(WORDS)
    shutil.rmtree(folders["one"])
    with pytest.raises(Busy):
        service.search(WORDS)


def test_no_answer_on_the_way_comes_from_both(folders, monkeypatch):
    monkeypatch.setattr("unifashion.apps.demo.service.REOPEN_EVERY", 0.0)
    right = [expected(folders["one"]), expected(folders["other"])]
    service, spare = opened(folders["one"]), folders["one"].with_name("spare")
    shutil.copytree(folders["one"], spare)
    answers: list = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.append(scores(service.search(WORDS)))
            except Busy:
                answers.append(None)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(4):
            while len(answers) < 12 * (turn + 1):
                pass
            replace(folders["one"], folders["other"] if turn % 2 == 0 else spare)
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert [answer for answer in answers if answer is not None and answer not in right] == []
    assert scores(service.search(WORDS)) == right[0]


def test_a_demo_that_is_stopped_leaves_no_file_behind(folders, tmp_path):
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-m", "unifashion.cli", "demo", str(folders["one"]), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, env=environment
    ) as demo:
        assert any("search at http" in line for line in demo.stdout or ())
        (private,) = (tmp_path / "temporary").glob("unifashion-demo-*")
        assert private.stat().st_mode & 0o777 == 0o700
        demo.terminate()
        assert demo.wait(20) == 128 + signal.SIGTERM
    assert list((tmp_path / "temporary").iterdir()) == []
