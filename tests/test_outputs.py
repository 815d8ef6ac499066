"""Where a program shall write is checked before it reads, loads or computes anything."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from unifashion.cli import main
from unifashion.errors import UserError
from unifashion.io import check_output

SRC = Path(__file__).resolve().parents[1] / "src"

# Words of every program up to the path that it writes. What it would read is not there, which it would notice later.
PROGRAMS = {
    "caption": ["absent.jpg", "--model", "absent", "-o"],
    "convert": ["absent"],
    "convert to lavis": ["absent", "--to", "lavis"],
    "doctor": ["absent", "--json"],
    "index": ["absent", "--model", "absent", "-o"],
    "prepare": ["catalogue", "--source", "absent", "--data-root"],
    "report": ["absent", "-o"],
    "report figures": ["absent", "--figures"],
    "search": ["absent", "words", "--sheet"],
    "blip_train.py": ["--data-root", "absent", "--output-dir"],
    "blip_train.py resume": ["--resume"],
    "blip_train.py cache": ["--data-root", "absent", "--feature-cache"],
    "blip_validate.py": ["--data-root", "absent", "--model-path", "absent", "--output-dir"],
    "metrics.py": ["--predictions", "absent", "--output-dir"],
    "metrics.py items": ["--predictions", "absent", "--per-item"],
    "UNIStableVITON/train.py": ["--data-root", "absent", "--output-dir"],
    "UNIStableVITON/inference.py": ["--data-root", "absent", "--output-dir"],
    "llava/LLaVA/inference.py": ["--dataset", "images", "--data-root", ".", "--model", "absent", "--output-dir"],
}


def start(program: str, words: list[str]) -> None:
    name = program.split()[0]
    if not name.endswith(".py"):
        main([name, *words])
        return
    spec = importlib.util.spec_from_file_location(f"started_{Path(name).stem}", SRC / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.main(words)


@pytest.mark.parametrize("path", ["", "a_file/x", "/proc/none", "n" * 300, "closed/x"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_output_that_cannot_be_written_is_reported_first(program, path, tmp_path, monkeypatch, capsys):
    if path.startswith("closed") and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    if program.endswith("resume") and path:
        pytest.skip("a run to resume exists, or that is the error")
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    Path("closed").mkdir(mode=0o555)
    Image.new("RGB", (8, 8)).save("photo.jpg")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        start(program, [*PROGRAMS[program], path])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    words = ("is empty",) if not path else ("cannot be written", "is not a folder")
    assert any(each in error for each in words) and path in error
    assert sorted(tmp_path.rglob("*")) == before


def test_what_can_be_written_passes_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("old").mkdir()
    for name in ("old", "new", "new/er/folder", ".", str(tmp_path / "new"), "n" * 200):
        check_output(Path(name), "--out")
    for name in ("new.csv", "old/new.csv", "new/er/file"):
        check_output(Path(name), "--out", is_file=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old"]


def test_an_output_of_the_other_kind_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, is_file, words in (
        ("file", False, "is a file; name a folder"),
        ("dangling", False, "is not a folder; name a folder"),
        ("pipe", False, "is not a folder; name a folder"),
        ("", True, "is a folder; name a file"),
        ("pipe", True, "is not a file; name a file"),
        ("dangling/x", False, "dangling is not a folder"),
    ):
        with pytest.raises(UserError, match=f"^--out .*{words}"):
            check_output(tmp_path / name, "--out", is_file)
    with pytest.raises(UserError, match=r"^--out /dev/null is not a file"):  # which a rename would replace
        check_output(Path("/dev/null"), "--out", is_file=True)


def test_a_folder_that_is_gone_is_no_place_to_write(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="--out new"):
        check_output(Path("new"), "--out")
