"""``unifashion index --ann --uri --check`` and ``unifashion search --exact --uri``, from the shell."""

import json
from pathlib import Path

import pytest

from unifashion.cli import main
from unifashion.search import ann


@pytest.fixture
def folder(make_retriever, monkeypatch):
    monkeypatch.setattr(ann, "EXACT_BELOW", 2)
    return str(make_retriever().index.folder)


def said(capsys, *words):
    main(list(words))
    return capsys.readouterr().out


@pytest.mark.parametrize("engine", ["FAISS", "milvus.db"])
def test_an_index_becomes_approximate_is_checked_and_becomes_exact_again(folder, capsys, engine):
    assert "searched exactly: recall 100 %" in said(capsys, "index", folder, "--check")
    exact = said(capsys, "search", folder, "a red dress", "--json")
    uri = [] if engine == "FAISS" else ["--uri", f"{folder}/{engine}"]
    done = said(capsys, "index", folder, "--ann", "flat", *uri, "--check", "--queries", "5")
    assert f"searched approximately (flat, {engine})" in done
    assert "5 photos of its items (seed 0): 100.0 %" in done and "5 texts of its items (seed 0): 100.0 %" in done
    again = json.loads(said(capsys, "search", folder, "a red dress", "--json", *uri))
    assert [hit["id"] for hit in again] == [hit["id"] for hit in json.loads(exact)]
    assert said(capsys, "search", folder, "a red dress", "--json", "--exact") == exact
    assert "is searched exactly" in said(capsys, "index", folder, "--ann", "exact")
    assert said(capsys, "search", folder, "a red dress", "--json") == exact


def test_a_later_call_brings_the_approximate_search_up_to_date(folder, shop, capsys):
    said(capsys, "index", folder, "--ann", "flat")
    (shop / "broken.png").write_bytes((shop / "3.png").read_bytes() + b"more")
    assert "1 added" in said(capsys, "index", str(shop), "-o", folder)
    assert ann.read_record(Path(folder)).covered == 13


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "is an index: say what to change (--ann, --uri, --check, --delete)"),
        (["--uri", "milvus"], "--uri milvus: give http://host:19530"),
        (["--ann", "tree"], "--ann: 'tree' is not one of"),
        (["--check", "--queries", "0"], "--queries: must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(folder, capsys, words, sentence):
    with pytest.raises(SystemExit) as left:
        main(["index", folder, *words])
    error = capsys.readouterr().err
    assert left.value.code == 2 and sentence in error and error.count("\n") == 1
