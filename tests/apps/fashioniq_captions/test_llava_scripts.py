"""``cd src/llava/LLaVA && python inference.py`` and ``cot.py``, as a user types them, also killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chat_server import ChatServer

FOLDER = Path(__file__).resolve().parents[3] / "src" / "llava" / "LLaVA"


def start(script: str, *flags: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "", "no_proxy": "*"}
    return subprocess.Popen(
        [sys.executable, script, *flags],
        cwd=FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == code, f"{out[-1000:]}\n{errors[-2000:]}"
    assert "Traceback" not in errors
    return out + errors


def captions(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("next_llava.*.json")) for row in json.loads(path.read_text())]


def test_two_model_copies_share_the_photos_and_one_process_answers_the_same(fashioniq, tiny_llava, tmp_path):
    flags = ["--model", str(tiny_llava), "--data-root", str(fashioniq), "--max-new-tokens", "8", "--no-edit"]
    two = finish(start("inference.py", *flags, "--num-processes", "2", "--output-dir", str(tmp_path / "two")))
    assert "used 9 of 9 photos" in two and two.count("captions are in") == 3
    assert len(list((tmp_path / "two/.journal/fashioniq.train").glob("*.jsonl"))) == 2
    finish(start("inference.py", *flags, "--output-dir", str(tmp_path / "one")))
    assert captions(tmp_path / "one") == captions(tmp_path / "two") and len(captions(tmp_path / "one")) == 9


def test_the_chain_of_thought_runs_from_its_folder(fashioniq, tiny_llava, tmp_path):
    photos = fashioniq / "fashionIQ_dataset" / "images"
    flags = ["--model", str(tiny_llava), "--dataset", "images", "--data-root", str(photos), "--max-new-tokens", "8"]
    finish(start("cot.py", *flags, "--output-dir", str(tmp_path / "out"), "--limit", "3", "--max-missing", "0"))
    found = [json.loads(line) for line in (tmp_path / "out/captions.jsonl").read_text().splitlines()]
    assert len(found) == 3 and all(row["caption"] and row["attributes"] for row in found)
    assert json.loads((tmp_path / "out/captioning.train.json").read_text())["chain"] is True


def test_a_killed_run_goes_on_without_losing_or_repeating_an_answer(fashioniq, tmp_path):
    with ChatServer(delay=0.3) as server:
        flags = ["--model", "parrot", "--endpoint", server.url, "--data-root", str(fashioniq), "--concurrency", "1"]
        process = start("inference.py", *flags, "--output-dir", str(tmp_path / "out"))
        journal = tmp_path / "out/.journal/fashioniq.train/0.jsonl"
        while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = journal.read_bytes().count(b"\n")
        assert not captions(tmp_path / "out")
        server.delay = 0.0
        before = len(server.bodies)
        said = finish(start("inference.py", *flags, "--output-dir", str(tmp_path / "out")))
    assert f"{kept} of 9 photos already have a caption" in said
    assert len(server.bodies) - before == 9 - kept and len(captions(tmp_path / "out")) == 9


def test_bad_flags_are_one_sentence(fashioniq):
    root = ["--data-root", str(fashioniq)]
    for flags, sentence in (
        (["--split", "dev"], "--split: 'dev' is not one of train"),
        (["--split", "val", "--guidance"], "--allow-leaky-captions"),
        (["--modle", "x"], "did you mean '--model'?"),
    ):
        assert sentence in finish(start("inference.py", *flags, *root), 2)
