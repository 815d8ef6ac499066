"""``cd src && python metrics.py``, as a user types it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unifashion.evaluation.scores import read_scores
from unifashion.io import write_jsonl

SRC = Path(__file__).resolve().parents[1] / "src"


def metrics(*flags: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "metrics.py", *flags],
        cwd=SRC,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, f"{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    return done


def test_scores_are_printed_and_stored(tmp_path):
    if shutil.which("java") is None:
        pytest.skip("no Java on this machine")
    write_jsonl(tmp_path / "p.jsonl", [{"id": n, "image": f"{n}.jpg", "caption": "a long red dress"} for n in "ab"])
    write_jsonl(tmp_path / "r.jsonl", [{"id": n, "captions": ["a long red dress with lace"]} for n in "ba"])
    flags = [
        "--predictions",
        str(tmp_path / "p.jsonl"),
        "--references",
        str(tmp_path / "r.jsonl"),
        "--profile",
        "unifashion-compat",
    ]
    done = metrics(*flags, "--per-item", str(tmp_path / "items.csv"), "--model", "m", "--dataset", "d")
    scores = {(score.protocol, score.metric): score for score in read_scores(tmp_path / "scores")}
    one = scores["captions/unifashion-compat", "METEOR"]
    assert (one.dataset, one.model, one.n, one.gallery, one.marks) == ("d", "m", 2, None, ())
    assert {metric for _, metric in scores} >= {
        "BLEU-1",
        "BLEU-4",
        "METEOR",
        "ROUGE-L",
        "CIDEr",
    } and 0 < one.value < 100
    assert "captions/unifashion-compat" in done.stdout and "BLEU-4" in done.stdout
    assert len((tmp_path / "items.csv").read_text().splitlines()) == 3 and done.stderr == ""


def test_without_arguments_it_looks_for_the_captions_of_the_quickstart():
    assert "runs/quickstart/captions/predictions.jsonl" in metrics("--help").stdout
    if not (SRC.parent / "runs/quickstart/captions/predictions.jsonl").is_file():
        assert "error: runs/quickstart/captions/predictions.jsonl does not exist" in metrics(code=2).stderr


@pytest.mark.parametrize(
    ("given", "flags", "sentence"),
    [
        ([{"id": "x", "caption": "c"}], [], "no id of"),
        ([{"caption": "c"}], [], "row 1: no id"),
        ([{"id": "a", "caption": "c"}], ["--profile", "other"], "--profile: 'other' is not one of standard"),
        (
            [{"id": "a", "caption": "c"}],
            ["--reference", "x"],
            "unknown flag --reference (did you mean '--references'?)",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, given, flags, sentence):
    write_jsonl(tmp_path / "p.jsonl", given)
    (tmp_path / "r.json").write_text(json.dumps({"a": ["a dress"]}))
    done = metrics("--predictions", str(tmp_path / "p.jsonl"), "--references", str(tmp_path / "r.json"), *flags, code=2)
    assert sentence in done.stderr and not (tmp_path / "scores").exists()
