import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from unifashion.errors import UserError, exit_with_one_sentence, nearest, one_line, require, sentence


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise UserError("row 3 of a.json has no target; add it")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_is_one_sentence_and_exit_code_2_also_from_a_loader_process(workers, capsys):
    @exit_with_one_sentence
    def main(argv=None):
        list(DataLoader(Broken(), num_workers=workers))

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: row 3 of a.json has no target; add it\n"


def test_a_bug_keeps_its_traceback():
    @exit_with_one_sentence
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_the_nearest_name_is_suggested_and_a_far_one_is_not():
    assert nearest("fashonIQ", ["fashioniq", "cirr"]) == " (did you mean 'fashioniq'?)"
    assert nearest("xyz", ["fashioniq", "cirr"]) == ""


def test_a_package_of_an_extra_is_named_with_the_line_that_installs_it(monkeypatch, capsys):
    require("faiss", "--ann")  # it is installed here
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r"^--ann needs the package faiss: pip install 'unifashion\[search\]'$"):
        require("faiss", "--ann")

    @exit_with_one_sentence
    def main(argv):
        raise ModuleNotFoundError(f"No module named {argv[0]!r}", name=argv[0])

    with pytest.raises(SystemExit) as left:
        main(["gradio.themes"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: this command needs the package gradio: pip install 'unifashion[demo]'\n"
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):  # a bug of ours keeps its traceback
        main(["no_such_module"])


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("x is not a folder\nIf it is private, log in"), "x is not a folder If it is private, log in"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "Permission denied"),
        (RuntimeError("size mismatch\n\tfor a.weight:  (2, 3)\n"), "size mismatch for a.weight: (2, 3)"),
        (
            RuntimeError(
                "The following operation failed.\nTraceback of TorchScript (most recent call last):\n  File a\n"
                "RuntimeError: 3 channels expected, got 1\n"
            ),
            "3 channels expected, got 1",
        ),
        (RuntimeError("Caught KeyError in worker\nTraceback:\n  a\nKeyError: 'b'\n\nhint: none"), "'b'"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("Traceback"), "Traceback"),
        (RuntimeError("a" * 300), "a" * 197 + "..."),
    ],
)
def test_a_library_error_is_the_line_that_says_what_is_wrong(error, line):
    assert one_line(error) == line


def test_a_message_of_several_lines_is_shown_whole_and_cannot_move_the_cursor():
    assert sentence(UserError("first\n  second\n")) == "first second"
    worker = "Caught UserError in worker 0.\nTraceback:\n  File x\nunifashion.errors.UserError: row 3\nof a.json: no target\n"
    assert sentence(UserError(worker)) == "row 3 of a.json: no target"
    assert sentence(UserError("no \x1b[2Jfile")) == "no \\x1b[2Jfile"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "out/a cannot be written: the disk is full; make room and run the same command again"),
        (errno.EDQUOT, "out/a cannot be written: the disk is full"),
        (errno.EROFS, "out/a cannot be used (Read-only file system)"),
        (errno.EACCES, "out/a cannot be used (Permission denied)"),
        (errno.ENAMETOOLONG, "out/a cannot be used (File name too long)"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(number, words, capsys):
    @exit_with_one_sentence
    def main(argv=None):
        raise OSError(number, os.strerror(number), "out/a")

    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: {words}") and error.count("\n") == 1


def test_other_errors_of_files_are_bugs():
    for number in (errno.ENOENT, errno.EISDIR, errno.EPIPE, errno.EBADF):

        @exit_with_one_sentence
        def main(argv=None, number=number):
            raise OSError(number, os.strerror(number), "out/a")

        with pytest.raises(OSError, match="out/a"):
            main()


PROGRAM = """
import sys
from unifashion.errors import UserError, exit_with_one_sentence

@exit_with_one_sentence
def main(argv=None):
    {body}

main()
"""


def program(body: str, **options) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
        **options.pop("env", {}),
    }
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("body", ["print('x' * 100_000)", "print('x')", "print('x'); sys.exit(1)"])
def test_a_reader_that_has_gone_ends_the_program_without_a_word(body):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = program(body, stdout=closed)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_onto_a_full_disk_is_one_sentence():
    with Path("/dev/full").open("wb") as full:
        done = program("print('x')", stdout=full)
    assert done.returncode == 2 and done.stderr.startswith(b"error: the output cannot be written: the disk is full; ")
    assert done.stderr.count(b"\n") == 1


def test_a_terminal_without_unicode_shows_escapes():
    done = program("print('caf\\xe9 \\udcff')", env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"caf\\xe9 \\udcff\n")
    done = program("raise UserError('no caf\\xe9')", env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (2, b"error: no caf\\xe9\n")
