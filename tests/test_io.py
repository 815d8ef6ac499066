"""Files that are there whole or not at all, also where a process is killed in the middle of writing."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kill
from small_disk import filled
from unifashion import io
from unifashion.errors import UserError
from unifashion.io import (
    atomic_write,
    claim,
    cut_torn_line,
    disk_errors,
    file_hash,
    file_stamp,
    lock,
    read_json,
    remove_leftovers,
    remove_leftovers_below,
    replacing,
    replacing_folder,
    restore_folder,
    write_csv,
    write_json,
    write_jsonl,
)

SRC = str(Path(io.__file__).parents[1])


@pytest.fixture
def killed_at():
    """Run code in another process until it prints a line, then kill it there with SIGKILL; returns its process id."""

    def run(code: str) -> int:
        child = start(code)
        assert child.stdout.readline() == b"here\n"
        child.kill()
        assert child.wait() == -signal.SIGKILL
        return child.pid

    return run


def start(code: str) -> subprocess.Popen:
    prelude = """
    import sys, time
    from pathlib import Path
    from unifashion import io
    def stop_here():
        print("here", flush=True)
        time.sleep(600)
    """
    text = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", text], env=os.environ | {"PYTHONPATH": SRC}, stdout=subprocess.PIPE)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# One file -------------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.txt"
    atomic_write(path, "first\r\né")
    assert path.read_bytes() == "first\r\né".encode()
    atomic_write(path, b"\x00second")
    assert path.read_bytes() == b"\x00second" and names(tmp_path) == ["a.txt"]


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_writer_that_is_killed_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path, killed_at):
    path = tmp_path / "a[1].txt"
    path.write_text("old")
    process = killed_at(f"""
    with io.replacing(Path({str(path)!r})) as unfinished:
        unfinished.write_text("half")
        stop_here()
    """)
    assert path.read_text() == "old" and names(tmp_path) == [f".a[1].txt.{process}", "a[1].txt"]
    living = tmp_path / f".a[1].txt.{os.getpid()}"
    living.write_text("still being written")
    others = [".a[1].txt.backup", ".a[1].txt.20261127210000", ".a[1].txt"]
    for name in others:
        (tmp_path / name).write_text("not ours")
    remove_leftovers(path)
    assert names(tmp_path) == sorted([living.name, *others, path.name])


def test_a_writer_that_is_killed_anywhere_leaves_the_old_file_or_the_new_one(tmp_path):
    path, found = tmp_path / "a.txt", []
    path.write_text("old")

    def write():
        atomic_write(path, "new" * 10, durable=True)

    for point in kill.points(kill.operations(write, tmp_path)):
        path.write_text("old")
        kill.killed_at(write, tmp_path, point)
        found.append(path.read_text())
        write()
        assert names(tmp_path) == ["a.txt"]
    assert {*found} == {"old", "new" * 10}


@pytest.mark.parametrize("durable", [False, True])
def test_durable_forces_the_file_to_the_disk_before_the_rename_and_its_name_after_it(tmp_path, monkeypatch, durable):
    path, steps = tmp_path / "a.txt", []
    path.write_text("old")
    monkeypatch.setattr(io, "to_disk", lambda forced: steps.append((forced.name, path.read_text())))
    atomic_write(path, "new", durable)
    assert steps == ([(f".a.txt.{os.getpid()}", "old"), (tmp_path.name, "new")] if durable else [])
    assert path.read_text() == "new"


def test_to_disk_forces_files_and_folders_and_closes_them(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    handles, forced = [], []
    monkeypatch.setattr(os, "fsync", lambda handle: (handles.append(handle), forced.append(os.fstat(handle).st_ino)))
    for path in (tmp_path / "a", tmp_path):
        io.to_disk(path)
    assert forced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
    for handle in handles:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)


# One folder -----------------------------------------------------------------------------------------------------------


def make_folder(folder, text):
    with replacing_folder(folder) as unfinished:
        (unfinished / "part").mkdir()
        (unfinished / "part" / "a.txt").write_text(text)


def test_a_folder_is_made_with_its_parents_and_replaced_whole(tmp_path):
    folder = tmp_path / "deep" / "run"
    make_folder(folder, "first")
    (folder / "more.txt").write_text("of the first")
    make_folder(folder, "second")
    assert names(folder) == ["part"] and (folder / "part" / "a.txt").read_text() == "second"
    assert names(folder.parent) == ["run"]


def test_an_exception_while_filling_leaves_the_old_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    make_folder(folder, "old")
    with pytest.raises(ZeroDivisionError), replacing_folder(folder) as unfinished:
        (unfinished / "b.txt").write_text("half")
        raise ZeroDivisionError
    assert (folder / "part" / "a.txt").read_text() == "old" and names(tmp_path) == ["run"]


def test_a_process_killed_anywhere_leaves_the_old_folder_or_the_new_one_and_the_next_one_tidies_up(tmp_path):
    folder = tmp_path / "run"

    def fill():
        with replacing_folder(folder, durable=True) as unfinished:
            (unfinished / "part").mkdir()
            (unfinished / "part" / "a.txt").write_text("new" * 10)
            (unfinished / "b.txt").write_text("new")

    make_folder(folder, "old")
    old = kill.contents(folder)
    operations = kill.operations(fill, tmp_path)
    new = kill.contents(folder)
    found = []
    for point in kill.points(operations):
        for mend in (lambda: restore_folder(folder), fill):
            make_folder(folder, "old")
            kill.killed_at(fill, tmp_path, point)
            mend()
            found.append(kill.contents(folder))
            assert found[-1] in (old, new) and names(tmp_path) == ["run"], point
        assert found[-1] == new
    assert old in found and new in found


def test_restoring_keeps_the_new_folder_and_what_living_processes_write(tmp_path):
    folder = tmp_path / "run"
    make_folder(folder, "new")
    make_folder(tmp_path / ".run.old", "old")
    living = tmp_path / f".run.{os.getpid()}"
    living.mkdir()
    restore_folder(folder)
    assert (folder / "part" / "a.txt").read_text() == "new" and names(tmp_path) == [living.name, "run"]


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    leftover = tmp_path / f".model.{os.getpid()}"
    leftover.mkdir()
    (leftover / "half.bin").write_bytes(b"half")
    with io.replacing_folder(tmp_path / "model") as unfinished:
        (unfinished / "whole.bin").write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole.bin"]


def test_restoring_where_there_is_nothing_does_nothing(tmp_path):
    restore_folder(tmp_path / "run")
    assert names(tmp_path) == []


def test_a_durable_folder_is_forced_to_the_disk_with_every_file_before_it_takes_its_place(tmp_path, monkeypatch):
    folder, steps = tmp_path / "run", []
    monkeypatch.setattr(io, "to_disk", lambda forced: steps.append((forced.name, folder.exists())))
    with replacing_folder(folder, durable=True) as unfinished:
        (unfinished / "part").mkdir()
        for name in ("b.txt", "part/a.txt"):
            (unfinished / name).write_text("x")
    own = f".run.{os.getpid()}"
    assert steps[-1] == (tmp_path.name, True)
    assert {("b.txt", False), ("a.txt", False), (own, False)} <= set(steps[:-1]) and not any(
        done for _, done in steps[:-1]
    )


# Contents -------------------------------------------------------------------------------------------------------------


def test_json_is_read_as_it_was_written(tmp_path):
    path, value = tmp_path / "a.json", {"name": "é", "list": [1, 2.5, None], "nested": {"x": True}}
    write_json(path, value)
    assert read_json(path) == value and path.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"score": float("nan")})
    assert read_json(path) == value and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"\xff\xfe"])
def test_json_that_is_not_there_or_damaged_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None


def test_rows_are_written_as_lines_and_tables(tmp_path):
    rows = [{"id": 1, "text": "é, two\nlines"}, {"id": 2, "text": 'say "x"'}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows
    write_csv(tmp_path / "a.csv", ["id", "text"], rows)
    assert (tmp_path / "a.csv").read_text() == 'id,text\n1,"é, two\nlines"\n2,"say ""x"""\n'
    with pytest.raises(ValueError, match="colour"):
        write_csv(tmp_path / "a.csv", ["id", "text"], [{"id": 3, "colour": "red"}])
    assert (tmp_path / "a.csv").read_text().startswith("id,text\n1,")


@pytest.mark.parametrize(
    ("content", "kept"),
    [(b"", b""), (b"a\nb\n", b"a\nb\n"), (b"a\nb", b"a\n"), (b"half", b""), (b"a\n\n", b"a\n\n"), (b"a\n\xc3", b"a\n")],
)
def test_a_torn_last_line_is_cut_off(tmp_path, content, kept):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == kept


def test_where_there_is_no_file_no_line_is_cut(tmp_path):
    cut_torn_line(tmp_path / "a.jsonl")
    assert names(tmp_path) == []


def test_the_hash_of_a_file_is_that_of_its_content(tmp_path):
    for name, content in (("a", b"x" * 5_000_000), ("b", b"x" * 5_000_000), ("c", b"x" * 4_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"abc")
    assert file_stamp(tmp_path / "d") == [3, "cf4ab791c62b8d2b2109c90275287816"]  # BLAKE2b of RFC 7693, 16 bytes


# One writer, one run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_process_at_a_time_holds_a_lock_and_its_death_frees_it(tmp_path, kind):
    path = tmp_path / "lock" if kind == "file" else tmp_path
    child = start(f"""
    with io.lock(Path({str(path)!r}), "taken"):
        stop_here()
    """)
    assert child.stdout.readline() == b"here\n"
    entered = False
    with pytest.raises(UserError, match=r"^wait for the other one$"), lock(path, "wait for the other one"):
        entered = True
    assert not entered
    child.kill()
    child.wait()
    with lock(path, "wait for the other one"):
        entered = True
    assert entered


def test_a_lock_is_free_again_after_an_exception(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path, "taken"):
        raise ZeroDivisionError
    with lock(tmp_path, "taken"):
        pass


def test_on_a_disk_without_locks_everybody_is_let_in(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(io.fcntl, "flock", flock)
    with lock(tmp_path / "lock", "taken"), lock(tmp_path / "lock", "taken"):
        pass


def test_work_with_the_same_settings_is_claimed(tmp_path):
    record, settings = tmp_path / "run.json", {"seed": 1, "sizes": (3, 4)}
    assert not claim(record, settings, "--out x", "name another folder")
    write_json(record, settings)
    assert claim(record, settings, "--out x", "name another folder")  # though JSON has made a list of the tuple


@pytest.mark.parametrize(
    ("former", "sentence"),
    [
        ({"seed": 2, "size": 4}, "--out x: it was made with seed 2, now it is 1; name another folder"),
        ({"seed": 1}, "--out x: it was made with size None, now it is 4; name another folder"),
        (
            {"seed": 1, "size": 4, "pad": True},
            "--out x: it was made with pad True, now it is None; name another folder",
        ),
    ],
)
def test_work_with_other_settings_is_refused_with_the_first_that_differs(tmp_path, former, sentence):
    write_json(tmp_path / "run.json", former)
    with pytest.raises(UserError) as refused:
        claim(tmp_path / "run.json", {"seed": 1, "size": 4}, "--out x", "name another folder")
    assert str(refused.value) == sentence


@pytest.mark.parametrize("content", ["", "{", "[]", "3"])
def test_a_record_that_cannot_be_read_claims_nothing(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    assert not claim(tmp_path / "run.json", {"seed": 1}, "--out x", "name another folder")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "out/a cannot be written: the disk is full; make room and run the same command again"),
        (errno.EDQUOT, "out/a cannot be written: the disk is full; make room and run the same command again"),
        (errno.EROFS, "out/a cannot be written (Read-only file system); name another folder"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_sentence(number, sentence):
    with pytest.raises(UserError) as refused, disk_errors(Path("out/a")):
        raise OSError(number, os.strerror(number))
    assert str(refused.value) == sentence


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "x"), Exception("No space left on device (os error 28)")])
@pytest.mark.parametrize("replace", [replacing, replacing_folder])
def test_a_full_disk_is_one_sentence_from_whatever_library_it_comes(tmp_path, replace, fault):
    with pytest.raises(UserError, match=r"/a\.txt cannot be written: the disk is full; make room and run the same"):
        with replace(tmp_path / "a.txt") as unfinished:
            path = unfinished / "weights" if unfinished.is_dir() else unfinished
            path.write_text("half")
            raise fault
    assert not names(tmp_path)


def test_a_fault_inside_an_unfinished_folder_names_the_folder_that_is_wanted(tmp_path):
    sentence = r"/model cannot be written: the disk is full; make room and continue with --resume"
    with pytest.raises(UserError, match=sentence), replacing_folder(tmp_path / "model", again="continue with --resume"):
        with replacing(tmp_path / names(tmp_path)[0] / "config.json"):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_in_the_way_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"/out/new/a\.txt cannot be written \(Not a directory\); make it writable"):
        atomic_write(tmp_path / "out" / "new" / "a.txt", "text")


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOENT, "gone", "photo.jpg"), OSError("cannot identify image"), OSError(errno.ECONNREFUSED, "x")],
)
def test_a_fault_of_another_file_is_not_one_of_the_written_file(tmp_path, fault):
    with pytest.raises(OSError, match=re.escape(str(fault))) as caught, replacing(tmp_path / "a.txt"):
        raise fault
    assert caught.value is fault and not names(tmp_path)


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    (tmp_path / ".a.txt.999999999").write_text("half")
    (tmp_path / f".a.txt.{os.getpid()}").write_text("of a killed process with the same number")
    atomic_write(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == ["a.txt"]


def test_leftovers_of_a_whole_tree_are_removed(tmp_path):
    living = f".a.txt.{os.getpid()}"
    (tmp_path / "b" / ".c.999999999").mkdir(parents=True)
    for name in (living, ".hidden", ".hidden.txt", "b/.a.jpg.999999999", "b/.c.999999999/d", "b/c.99999999"):
        (tmp_path / name).write_text("")
    remove_leftovers_below(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        [living, ".hidden", ".hidden.txt", "b", "c.99999999"]
    )


def test_a_file_is_locked_beside_it_while_it_is_replaced_and_the_lock_goes_away(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with io.lock_beside(path, "at work"):
        atomic_write(path, "text")
        with pytest.raises(UserError, match=r"^at work$"), io.lock_beside(path, "at work"):
            pass
        assert path.read_text() == "text"
    assert names(path.parent) == ["a.txt"]


def test_who_opened_a_lock_that_its_owner_then_removed_does_not_hold_it(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", io.fcntl.flock

    def owner_ends(handle, how):
        path.unlink()
        flock(handle, how)

    monkeypatch.setattr(io.fcntl, "flock", owner_ends)
    with pytest.raises(UserError, match=r"^at work$"), lock(path, "at work"):
        pass


def test_a_folder_that_is_locked_and_stays_empty_is_removed(tmp_path):
    for name in ("empty", "full"):
        with io.lock_folder(tmp_path / name / "new", "at work"):
            if name == "full":
                (tmp_path / name / "new" / "a").write_text("")
    assert names(tmp_path) == ["full"]


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(UserError, match=r"^own sentence$"), disk_errors(tmp_path):
        raise UserError("own sentence")


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(small_disk):
    disk = small_disk(1)
    path = disk / "a.txt"
    atomic_write(path, "old")
    for leave in (0, 8):
        with filled(disk, leave):
            with pytest.raises(UserError, match="the disk is full"), disk_errors(path):
                atomic_write(path, "new" * 10_000, durable=True)
            assert path.read_text() == "old" and names(disk) == [".filler", "a.txt"]
    atomic_write(path, "new" * 10_000)
    assert names(disk) == ["a.txt"]
