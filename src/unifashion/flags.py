"""Typed settings: a dataclass gives names, types, defaults and docs; a YAML file gives an experiment; flags have the last word.

    data, training = parse((DataSettings, TrainingSettings), argv, description="...")

One setting is one YAML key is one flag: ``batch_size: 64`` in the file is ``--batch-size 64`` (or ``--batch_size 64``) on
the command line. ``--config FILE`` names the YAML. Keys and flags that do not exist are errors that name the nearest one.

    index: str = argument("what unifashion index wrote")              given by its position, without a flag
    out: Path = setting(REQUIRED, "folder to write", short="-o")      --out DIR or -o DIR; for commands, which have no YAML
    batch_size: int = setting(32, "images at once", least=1, most=4096)      every number has a range; see ``Range``
    learning_rate: float = setting(2e-4, "...", above=0, most=10)     both ends are declared; UNLIMITED says there is no upper one
    precision: Literal["fp16", "fp32"] = setting("fp16", "...")       a closed set; names known at run time only: choices=NAMES
    overwrite: bool = setting(False, "...")                           --overwrite or --no-overwrite
    betas: tuple[float, float] = setting((0.9, 0.98), "...", below=1)        --betas 0.9 0.98
    source: tuple[Path, ...] = setting((), "...")                     --source A B: all words up to the next flag
    image: tuple[str, ...] = setting((), "...", repeat=True)          --image A --image B: a positional argument may follow

A text may be empty only where that is the default, or where the declaration says ``empty=True``. A path below the home folder may
begin with ``~/``, in files too. In a file everything except ``true``, ``false`` and ``null`` is text until its setting's type is
known, as on the command line: ``1e-4`` is a number for a number, ``no`` and ``1:30`` are words.
"""

import argparse
import os
import re
import stat
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NoReturn

import yaml

from unifashion.errors import UserError, nearest, one_line
from unifashion.io import atomic_write

REQUIRED: Any = MISSING
WIDTH = 110  # of --help, characters
UNLIMITED = 10**9  # upper end of a number that the machine, not the setting, limits
SEEDS = 2**63  # below: what every generator takes
MAX_YAML_BYTES, MAX_YAML_DEPTH = 100_000, 10

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_HOME = re.compile(r"~$|~[^\s/]*/")


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes; an end that it excludes is ``above`` or ``below``, and takes precedence."""

    least: float = 0
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def fault(self, number: float) -> str:
        """Return what is wrong with a number, or an empty string."""
        if self.above is not None and not number > self.above:
            return f"must be above {self.above}"
        if self.above is None and not number >= self.least:
            return f"must be at least {self.least}"
        if self.below is not None and not number < self.below:
            return f"must be below {self.below}"
        if self.below is None and self.most is not None and not number <= self.most:
            return f"must be at most {self.most}"
        return ""

    def __str__(self) -> str:
        low = f"{self.least}" if self.above is None else f"above {self.above}"
        if self.below is not None:
            return "" if self.below == SEEDS else f"{low} to below {self.below}"
        return "" if self.most in (None, UNLIMITED) else f"{low} to {self.most}"


def setting(
    default: Any,
    doc: str,
    *,
    least: float = 0,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    short: str = "",
    choices: Sequence[str] = (),
    repeat: bool = False,
    empty: bool = False,
) -> Any:
    """Declare one setting, as above: its default, or ``REQUIRED``, and a line for ``--help``, which adds default and range."""
    form = dict(doc=doc, range=Range(least, most, above, below), short=short, choices=choices, repeat=repeat)
    return field(default=default, metadata={**form, "empty": empty or default == ""})


def argument(doc: str, default: Any = REQUIRED, name: str = "") -> Any:
    """Declare a positional argument, which ``--help`` calls ``name``; a tuple takes all remaining words."""
    return field(default=default, metadata=dict(doc=doc, choices=(), position=name, empty=default == ""))


def resolve(groups: Sequence[type], values: dict[str, Any]) -> tuple[Any, ...]:
    """Build one instance of each dataclass in ``groups`` from one flat dict.

    Raises:
        UserError: an unknown key (names the nearest known one), a value of the wrong type, or none where one is required.
    """
    typed = _check(groups, values)
    for item in _settings(groups).values():
        if item.default is MISSING and item.name not in typed:
            raise UserError(f"{item.flag} is required: {item.doc}")
    return tuple(group(**{f.name: typed[f.name] for f in fields(group) if f.name in typed}) for group in groups)


def read_yaml(path: Path, flag: str = "--config ") -> dict[str, Any]:
    """Read a file of settings; its values are text, True, False, None, or lists of these.

    Raises:
        UserError: no such file, not YAML, or not a mapping of settings; the message starts with ``flag`` and the path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{flag}{path}: not a file; experiment files are in configs/")
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
        if len(content) > MAX_YAML_BYTES:
            raise UserError(f"{flag}{path}: larger than {MAX_YAML_BYTES:,} bytes, so not a file of settings")
        # ValueError: PyYAML does not check the escapes and directives that it passes to int() and chr().
        values = yaml.load(content.decode("utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise UserError(f"{flag}{path}: no such file; experiment files are in configs/") from None
    except UnicodeDecodeError:
        raise UserError(f"{flag}{path}: not a readable YAML file (it is not in UTF-8)") from None
    except (OSError, yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{flag}{path}: not a readable YAML file ({_reason(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{flag}{path}: expected lines of 'setting: value'")
    return values


def _reason(error: Exception) -> str:
    """Return what is wrong with a file, without the copy of its lines that PyYAML adds."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return one_line(error)


class _Loader(yaml.SafeLoader):
    """YAML as people read it: words are text, keys occur once, and nothing is a reference to something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (numbers, dates, yes and no stay text)
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        special = "an alias" if isinstance(event, yaml.AliasEvent) else "an anchor" if event.anchor else ""
        special = special or ("a tag" if event.tag else "")
        if special:
            raise yaml.MarkedYAMLError(problem=f"{special} is not a value", problem_mark=event.start_mark)
        if self.depth == MAX_YAML_DEPTH:
            raise yaml.MarkedYAMLError(problem="too deeply nested", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            problem = "" if isinstance(key, yaml.ScalarNode) else "the name of a setting must be a word"
            if not problem and key.value in names:
                problem = f"{key.value!r} is there twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            names.add(key.value)
            key.tag = self.DEFAULT_SCALAR_TAG  # a key called true is a word
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|TRUE|false|False|FALSE)$"), [*"tTfF"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|Null|NULL|~|)$"), ["~", "n", "N", ""])


def parse(
    groups: Sequence[type], argv: Sequence[str] | None, description: str, command: str = "", **defaults: Any
) -> tuple[Any, ...]:
    """Merge dataclass defaults, ``defaults``, the ``--config`` file and flags, in rising priority.

    Returns one instance per group; ``--help`` shows each group under its docstring ("Title: what it is about"), and exits.
    ``command`` is the full name of a ``unifashion`` command, which has no ``--config``.

    Raises:
        UserError: as ``resolve``, and for flags and arguments that do not exist.
    """
    parser = _Parser(groups, description, command, defaults)
    flags = vars(parser.parse_args(sys.argv[1:] if argv is None else argv))
    path = flags.pop("config", None)
    try:
        from_file = read_yaml(Path(read_text("--config", path))) if path is not None else {}
        if from_file:
            resolve(groups, from_file)  # on its own first, so that its errors name the file
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("--config") else f"--config {path}: {error}") from None
    return resolve(groups, {**defaults, **from_file, **_check(groups, flags, typed_by_hand=True)})


def parse_from_src(
    groups: Sequence[type], argv: Sequence[str] | None, description: str, src: Path, **defaults: Any
) -> tuple[Any, ...]:
    """``parse`` for programs that users start inside ``src``: changes to the folder above it first, and ``--help`` says so."""
    if Path.cwd().is_relative_to(src):
        os.chdir(src.parent)
    note = "When started inside src/, paths are relative to the project's top folder."
    return parse(groups, argv, f"{description} {note}", **defaults)


def write_yaml(path: Path, groups: Sequence[Any]) -> None:
    """Write the resolved settings, in a form that ``--config`` reads back."""
    lines = []
    for group in groups:
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(group).items()}
        lines.append(f"# {(group.__doc__ or '').strip()}\n{yaml.safe_dump(values, sort_keys=False)}")
    atomic_write(path, "\n".join(lines))


def read_number(name: str, kind: type, value: Any, within: Range) -> Any:
    """Return ``value``, a number or its digits, as an int or a float.

    Raises:
        UserError: it is not a number, or not one of the range; the message starts with ``name``.
    """
    noun = "a whole number" if kind is int else "a number"
    is_number = isinstance(value, int | kind) and not isinstance(value, bool)
    try:
        if not is_number and not (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
            raise ValueError("words that int() or float() would take, such as inf, 1_000 and nan")
        number = kind(value)
        if number != number:
            raise ValueError("nan")
    except (ValueError, OverflowError):  # an int of very many digits
        raise UserError(f"{name}: expected {noun}, got {_shown(value)}") from None
    if fault := within.fault(number):
        raise UserError(f"{name}: {fault}, got {_shown(value)}")
    return number


def read_text(name: str, value: Any, empty: bool = False) -> str:
    """Return ``value``, with ``~/`` at its beginning replaced by the home folder.

    Raises:
        UserError: it is not text, or text that no file name holds; it is empty and may not be. The message starts with ``name``.
    """
    if not isinstance(value, str | Path):
        raise UserError(f"{name}: expected text, got {_shown(value)}")
    text = str(value)
    if not text.strip() and not empty:
        raise UserError(f"{name}: is empty; give a value or leave it out")
    if "\0" in text or (not text.isascii() and text.encode("utf-8", "replace").decode() != text):
        raise UserError(f"{name}: expected text in UTF-8 without zero bytes, got {_shown(text)}")
    if not _HOME.match(text):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111 (a Path would drop the // of what is no path)
    if expanded == text:
        raise UserError(
            f"{name}: there is no home folder {text.partition('/')[0]}; write ./{text} for a file of that name"
        )
    return expanded


def _shown(value: object) -> str:
    words = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return words if len(words) <= 80 else f"{words[:60]}... ({len(words):,} characters)"


class _Setting:
    """A dataclass field with its type taken apart. For a tuple, ``kind`` and ``choices`` are those of its items."""

    def __init__(self, f: Field[Any]) -> None:
        self.name, self.default, self.doc, self.form = f.name, f.default, str(f.metadata["doc"]), f.metadata
        self.is_optional = typing.get_origin(f.type) in (types.UnionType, typing.Union)
        kind: Any = typing.get_args(f.type)[0] if self.is_optional else f.type
        self.items = typing.get_args(kind) if typing.get_origin(kind) is tuple else ()
        self.takes_any_number = bool(self.items) and self.items[-1] is Ellipsis
        self.kind = self.items[0] if self.items else kind
        is_closed = typing.get_origin(self.kind) is Literal
        self.choices = typing.get_args(self.kind) if is_closed else tuple(self.form["choices"])
        if self.kind in (int, float) and self.form["range"].most is self.form["range"].below is None:
            raise TypeError(f"{f.name}: declare the upper end of its range, or most=UNLIMITED")
        self.is_positional = "position" in self.form
        name = {int: "N", float: "X", Path: "PATH"}.get(self.kind) or f.name.rpartition("_")[2].upper()
        self.metavar: str = "{" + ",".join(self.choices) + "}" if self.choices else name
        self.flag = "--" + f.name.replace("_", "-")
        if self.is_positional:
            self.flag = self.metavar = self.form["position"] or f.name.upper()

    def typed(self, label: str, value: Any) -> Any:
        """Return ``value`` as the field's type, or raise ``UserError``."""
        if value is None and self.is_optional:
            return None
        if not self.items:
            return self._typed_one(label, value)
        if not isinstance(value, list | tuple) or not (self.takes_any_number or len(value) == len(self.items)):
            wanted = "a list" if self.takes_any_number else f"{len(self.items)} values"
            raise UserError(f"{label}: expected {wanted}, got {_shown(value)}")
        return tuple(self._typed_one(label, item) for item in value)

    def _typed_one(self, label: str, value: Any) -> Any:
        if self.choices:
            if value not in self.choices:
                hint = nearest(str(value)[:60], self.choices)
                raise UserError(f"{label}: {_shown(value)} is not one of {', '.join(self.choices)}{hint}")
            return value
        if self.kind in (int, float):
            return read_number(label, self.kind, value, self.form["range"])
        if self.kind is not bool:
            return self.kind(read_text(label, value, self.form["empty"]))
        if not isinstance(value, bool):
            raise UserError(f"{label}: expected true or false, got {_shown(value)}")
        return value

    def add_to(self, section: argparse._ArgumentGroup, default: object) -> None:
        """Add the flag. All values stay text, and nothing is required here: ``resolve`` has the better messages."""
        options: dict[str, Any] = {"metavar": self.metavar, "help": self.doc.replace("%", "%%")}
        if self.is_positional:
            section.add_argument(self.name, nargs="*" if self.items else "?", **options)
            return
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        notes = [] if shown in (None, "") else ["required" if shown is MISSING else str(shown)]
        notes += [str(self.form["range"])] if self.kind in (int, float) and str(self.form["range"]) else []
        if notes:
            options["help"] += f" [{'; '.join(notes)}]"
        if self.kind is bool:
            options = {"help": options["help"], "action": argparse.BooleanOptionalAction}
        elif self.form["repeat"]:
            options["action"] = "append"
        elif self.items:
            options |= {"action": "extend", "nargs": "+"} if self.takes_any_number else {"nargs": len(self.items)}
        section.add_argument(self.flag, *filter(None, [self.form["short"]]), dest=self.name, **options)


def _settings(groups: Sequence[type]) -> dict[str, _Setting]:
    return {f.name: _Setting(f) for group in groups for f in fields(group)}


def _check(groups: Sequence[type], values: dict[str, Any], typed_by_hand: bool = False) -> dict[str, Any]:
    """Return the values as their settings' types; errors name the flag if it was typed by hand, else the key."""
    known = _settings(groups)
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {_shown(name)}{nearest(name[:60], list(known))}")
    return {
        name: known[name].typed(known[name].flag if typed_by_hand else name, value) for name, value in values.items()
    }


class _Parser(argparse.ArgumentParser):
    """argparse that suggests the nearest known flag for an unknown one, and allows positional arguments between flags."""

    def __init__(self, groups: Sequence[type], description: str, command: str, defaults: dict[str, object]) -> None:
        usage = ["%(prog)s", "[-h]", *(() if command else ("[--config FILE]",))]
        for item in _settings(groups).values():
            if item.is_positional:
                name = f"{item.metavar} ..." if item.items else item.metavar
                usage.append(name if item.default is MISSING else f"[{name}]")
        super().__init__(
            prog=command or None,
            description=description if "\n" in description else fill(description, WIDTH),
            usage=" ".join([*usage, "[--SETTING VALUE ...]"]),
            allow_abbrev=False,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32, width=WIDTH),
            argument_default=argparse.SUPPRESS,  # what is not given is absent: a file or a default may still set it
        )
        if not command:
            self.add_argument("--config", metavar="FILE", help="YAML file with settings; flags override it")
        for group in groups:
            title, _, rest = (group.__doc__ or group.__name__).partition(": ")
            section = self.add_argument_group(title, rest.strip())
            for item in _settings([group]).values():
                item.add_to(section, defaults.get(item.name, item.default))

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        words = [re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in args]  # --num_epochs=3
        # "Intermixed", because argparse otherwise considers an optional positional absent once a flag precedes it.
        values, rest = self.parse_known_intermixed_args(words, namespace)
        if rest:
            known = [option for action in self._actions for option in action.option_strings]
            flag = rest[0].split("=")[0]
            if flag.startswith("-"):
                self.error(f"unknown flag {flag}{nearest(flag, known)}")
            self.error(f"unexpected argument {flag!r}")
        return values

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")
