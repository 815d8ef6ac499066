"""Typed settings: a dataclass gives names, types, defaults and docs; a YAML file gives an experiment; flags have the last word.

    data, training = parse((DataSettings, TrainingSettings), argv, description="...")

One setting is one YAML key is one flag: ``batch_size: 64`` in the file is ``--batch-size 64`` (or ``--batch_size 64``) on
the command line. ``--config FILE`` names the YAML. Keys and flags that do not exist are errors that name the nearest one.

    index: str = argument("what unifashion index wrote")              given by its position, without a flag
    out: Path = setting(REQUIRED, "folder to write", short="-o")      --out DIR or -o DIR; for commands, which have no YAML
    batch_size: int = setting(32, "images at once", least=1)          numbers are never negative
    precision: Literal["fp16", "fp32"] = setting("fp16", "...")       a closed set; names known at run time only: choices=NAMES
    overwrite: bool = setting(False, "...")                           --overwrite or --no-overwrite
    betas: tuple[float, float] = setting((0.9, 0.98), "...")          --betas 0.9 0.98
    source: tuple[Path, ...] = setting((), "...")                     --source A B: all words up to the next flag
    image: tuple[str, ...] = setting((), "...", repeat=True)          --image A --image B: a positional argument may follow
"""

import argparse
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, field, fields
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NoReturn

import yaml

from unifashion.errors import UserError, nearest
from unifashion.io import atomic_write

REQUIRED: Any = MISSING
WIDTH = 110  # of --help, characters


def setting(
    default: Any, doc: str, least: int = 0, short: str = "", choices: Sequence[str] = (), repeat: bool = False
) -> Any:
    """Declare one setting, as above: its default, or ``REQUIRED``, and a line for ``--help``, which adds the default."""
    return field(default=default, metadata=dict(doc=doc, least=least, short=short, choices=choices, repeat=repeat))


def argument(doc: str, default: Any = REQUIRED, name: str = "") -> Any:
    """Declare a positional argument, which ``--help`` calls ``name``; a tuple takes all remaining words."""
    return field(default=default, metadata=dict(doc=doc, least=0, choices=(), position=name))


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Read an experiment file.

    Raises:
        UserError: no such file, not YAML, or not a mapping of settings.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; experiment files are in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected lines of 'setting: value'")
    return values


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
        from_file = read_yaml(Path(path)) if path else {}
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


def read_number(name: str, kind: type, value: Any, least: int = 0) -> Any:
    """Return ``value`` as an int or a float.

    Raises:
        UserError: it is not a number, or below ``least``; the message starts with ``name``.
    """
    noun = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or (kind is int and isinstance(value, float)):
        raise UserError(f"{name}: expected {noun}, got {value!r}")
    try:
        number = kind(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected {noun}, got {value!r}") from None
    if number < 0 or number != number:
        raise UserError(f"{name}: must not be negative, got {value!r}")
    if number < least:
        raise UserError(f"{name}: must be at least {least}, got {value!r}")
    return number


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
            raise UserError(f"{label}: expected {wanted}, got {value!r}")
        return tuple(self._typed_one(label, item) for item in value)

    def _typed_one(self, label: str, value: Any) -> Any:
        if self.choices:
            if value not in self.choices:
                hint = nearest(str(value), self.choices)
                raise UserError(f"{label}: {value!r} is not one of {', '.join(self.choices)}{hint}")
            return value
        if self.kind in (int, float):
            return read_number(label, self.kind, value, self.form["least"])
        wanted, accepted = ("true or false", bool) if self.kind is bool else ("text", (str, self.kind))
        if not isinstance(value, accepted):
            raise UserError(f"{label}: expected {wanted}, got {value!r}")
        return self.kind(value)

    def add_to(self, section: argparse._ArgumentGroup, default: object) -> None:
        """Add the flag. All values stay text, and nothing is required here: ``resolve`` has the better messages."""
        options: dict[str, Any] = {"metavar": self.metavar, "help": self.doc.replace("%", "%%")}
        if self.is_positional:
            section.add_argument(self.name, nargs="*" if self.items else "?", **options)
            return
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        if shown not in (None, ""):
            options["help"] += " [required]" if shown is MISSING else f" [{shown}]"
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
            raise UserError(f"unknown setting {name!r}{nearest(name, list(known))}")
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
