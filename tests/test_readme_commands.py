"""Every command that the documentation shows is one: its script exists, and its flags parse with the program's own parser.

Commands are looked for in README.md, CONTRIBUTING.md and dataset/README.md (blocks and `spans`), in the docstrings of the
programs and in the headers of the shell scripts. None is run: a program ends as soon as its command line is parsed.
"""

import ast
import importlib
import importlib.util
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from unifashion import cli, flags
from unifashion.training import resume

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "dataset" / "README.md"]
PROGRAMS = sorted([*ROOT.glob("src/*.py"), *ROOT.glob("src/UNIStableVITON/*.py"), *ROOT.glob("src/llava/LLaVA/*.py")])
SCRIPTS = sorted([*ROOT.glob("*.sh"), *ROOT.glob("src/**/*.sh"), *ROOT.glob("tests/*.sh")])
FIRST = ("bash", "cd", "pip", "python", "source", "unifashion")
VARIABLE = re.compile(r"[A-Z_]+=\S*$")


class ParsedError(Exception):
    """The command line is right; ``groups`` are the settings it was parsed into."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups


def texts_of(path: Path) -> list[str]:
    """The lines and `spans` of a page, of a program's docstring, or of a script's header."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    if path.suffix == ".sh":
        text = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))
    return [*(line.strip() for line in text.splitlines()), *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)]


def commands_in(path: Path) -> list[str]:
    """The commands among them, without explanations, which stand behind two spaces or more."""
    found = []
    for text in texts_of(path):
        command = re.split(r"\s{2,}", text)[0].removesuffix(" ...")
        words = [word for word in command.split() if not VARIABLE.match(word)]
        is_prose = command.endswith((":", ".", ",")) or "`" in command
        if len(words) > 1 and words[0] in FIRST and not is_prose:
            found.append(command)
    return list(dict.fromkeys(found))


def docs() -> list[Path]:
    return [*PAGES, *PROGRAMS, *sorted((ROOT / "src/unifashion/cli").glob("*.py")), *SCRIPTS]


COMMANDS = [(path, command) for path in docs() for command in commands_in(path)]


@pytest.fixture
def only_parse(monkeypatch):
    """Make every program end where its command line is parsed."""
    real = flags.parse

    def parse(groups, argv, *rest, **defaults):
        try:
            real(groups, argv, *rest, **defaults)
        except SystemExit as left:
            assert left.code == 0, "--help"
        raise ParsedError(groups)

    for module in (flags, cli, resume):
        monkeypatch.setattr(module, "parse", parse)
    return parse


def program(path: Path):
    """Import a program by its path: two of them are called inference.py."""
    assert path.is_file(), f"{path} is not there"
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_words(main, words: list[str]) -> None:
    try:
        main(words)
    except ParsedError:
        return
    except SystemExit as left:
        assert left.code == 0, "the command line is refused"
        return
    pytest.fail("the program did not parse its command line")


def check_script(script: Path, words: list[str]) -> None:
    """Check a call of a shell script: the program that it launches, if it does, takes the words."""
    assert script.is_file(), f"{script} is not there"
    launch = re.search(r'^exec bash src/launch\.sh (\S+)(.*) "\$@"$', script.read_text(), re.MULTILINE)
    if launch:
        os.chdir(ROOT)
        check_words(program(ROOT / launch[1]).main, [*launch[2].split(), *words])


def check_python(path: Path, words: list[str]) -> None:
    """Check a call of a Python file; those that are no programs of the project only have to be there."""
    assert path.is_file(), f"{path} is not there"
    if path in PROGRAMS:
        check_words(program(path).main, words)


def check_module(name: str, words: list[str]) -> None:
    assert importlib.util.find_spec(name), f"no module {name}"
    if name == "unifashion.cli" and words:
        check_words(cli.main, words)


def check_unifashion(words: list[str]) -> None:
    if len(words) > 1 or words[0].startswith("-"):
        check_words(cli.main, words)
    assert words[0] in (*cli.COMMANDS, "--help"), f"no command {words[0]}"  # `unifashion index` only speaks of it


def check(words: list[str], folder: Path) -> None:
    first, *rest = (word for word in words if not VARIABLE.match(word))
    if first == "unifashion":
        check_unifashion(rest)
    elif first == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif first == "source":
        assert rest[0].startswith(".venv/") or (folder / rest[0]).is_file(), f"{rest[0]} is not there"
    elif first in ("bash", "python"):
        (check_script if first == "bash" else check_python)((folder / rest[0]).resolve(), rest[1:])


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[f"{p.relative_to(ROOT)}: {c}" for p, c in COMMANDS])
def test_a_documented_command_is_one(path, command, only_parse, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    for config in re.findall(r"configs/[\w/]+\.yaml", command):
        assert (ROOT / config).is_file(), config
    parts = [shlex.split(part, comments=True) for part in command.split(" && ")]
    target = next(word for word in parts[0] if not VARIABLE.match(word) and word not in FIRST)
    folder = (
        ROOT if path in PAGES or (ROOT / target).exists() else path.parent
    )  # programs show how to call them from there
    for words in parts:
        if words[0] == "cd":
            folder /= words[1]
            assert folder.is_dir(), f"{folder} is not there"
            continue
        monkeypatch.chdir(folder)
        check(words, folder)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_paths_and_flags_that_a_page_names_exist(path, only_parse, monkeypatch, capsys):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), f"{path.name} names {config}"
    known = {"--help", "--config"}
    monkeypatch.chdir(ROOT)
    for main, words in [(program(p).main, ["--help"]) for p in PROGRAMS] + [
        (cli.main, [c, "--help"]) for c in cli.COMMANDS
    ]:
        with pytest.raises(ParsedError) as parsed:
            main(words)
        known |= {f"--{field.name.replace('_', '-')}" for group in parsed.value.groups for field in fields(group)}
    named = {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", span)}
    assert named <= known | {flag.replace("--", "--no-", 1) for flag in known}


def test_the_commands_are_found():
    """The three pages show more than a handful of commands; a pattern that matches nothing would let everything pass."""
    counts = {path.name: sum(place == path for place, _ in COMMANDS) for path in PAGES[:2]}
    assert counts["README.md"] >= 30 and counts["CONTRIBUTING.md"] >= 4
    assert sum(path == PAGES[2] for path, _ in COMMANDS) >= 10
    assert {path.name for path, _ in COMMANDS} >= {"blip_train.py", "cot.py", "train.sh", "index.py", "quickstart.sh"}
