"""Typed settings: a dataclass gives names, defaults and docs; a YAML file gives an experiment; flags have the last word.

    data, training = parse((DataSettings, TrainingSettings), argv, description="...")

One setting is one YAML key is one flag: ``batch_size: 64`` in the file is ``--batch-size 64`` (or ``--batch_size 64``) on
the command line. ``--config FILE`` names the YAML. Keys and flags that do not exist are errors that name the nearest one.
"""

import argparse
import os
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from unifashion.errors import UserError, nearest


def setting(default: Any, doc: str, least: int = 0) -> Any:
    """Declare one setting with its default, a one-line doc that ``--help`` shows, and the least value of a number."""
    return field(default=default, metadata={"doc": doc, "least": least})


def resolve(groups: Sequence[type], values: dict[str, Any]) -> tuple[Any, ...]:
    """Build one instance of each dataclass in ``groups`` from one flat dict.

    Raises:
        UserError: an unknown key (names the nearest known one) or a value of the wrong type.
    """
    known = {f.name: f for group in groups for f in fields(group)}
    for name in values:
        if name not in known:
            raise UserError(f"unknown setting {name!r}{nearest(name, list(known))}")
    return tuple(
        group(**{f.name: _typed(f, values[f.name]) for f in fields(group) if f.name in values}) for group in groups
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read an experiment file.

    Raises:
        UserError: no such file, not YAML, or not a mapping of settings.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file; experiment files lie in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected lines of 'setting: value'")
    return values


def parse(groups: Sequence[type], argv: Sequence[str] | None, description: str, **defaults: object) -> tuple[Any, ...]:
    """Merge dataclass defaults, ``defaults``, the ``--config`` file and flags, in rising priority.

    Returns one instance per group. Prints help and leaves on ``--help``.
    """
    parser = _Parser(
        description=description,
        usage="%(prog)s [-h] [--config FILE] [--SETTING VALUE ...]",
        allow_abbrev=False,
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file with settings; flags override it")
    shown = {**defaults}
    for group in groups:
        title, _, rest = (group.__doc__ or group.__name__).partition(": ")
        section = parser.add_argument_group(title, rest.strip())
        for f in fields(group):
            _add_flag(section, f, shown.get(f.name, _default(f)))
    flags = vars(parser.parse_args(argv))
    path = flags.pop("config", None)
    try:
        from_file = read_yaml(path) if path else {}
        resolve(groups, from_file)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("--config") else f"--config {path}: {error}") from None
    return resolve(groups, {**defaults, **from_file, **flags})


def parse_from_src(
    groups: Sequence[type], argv: Sequence[str] | None, description: str, src: Path, **defaults: object
) -> tuple[Any, ...]:
    """``parse`` for programs that users start inside ``src``: moves to the folder above it first, and ``--help`` says so."""
    if Path.cwd().is_relative_to(src):
        os.chdir(src.parent)
    note = "Called from inside src/, paths are those of the project's top folder."
    return parse(groups, argv, f"{description} {note}", **defaults)


def write_yaml(path: Path, groups: Sequence[Any]) -> None:
    """Write the resolved settings, in a form that ``--config`` reads back."""
    lines = []
    for group in groups:
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(group).items()}
        lines.append(f"# {(group.__doc__ or '').strip()}\n{yaml.safe_dump(values, sort_keys=False)}")
    path.write_text("\n".join(lines), encoding="utf-8")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


class _Parser(argparse.ArgumentParser):
    """argparse whose unknown flags name the nearest known one."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        values, rest = self.parse_known_args([_dashed(word) for word in given], namespace)
        if rest:
            known = [option for action in self._actions for option in action.option_strings]
            flag = rest[0].split("=")[0]
            if flag.startswith("-"):
                self.error(f"unknown flag {flag}{nearest(flag, known)}")
            self.error(f"unexpected argument {flag!r}")
        return values

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def _dashed(word: str) -> str:
    """Return ``--num_epochs=3`` as ``--num-epochs=3``; leave everything that is not a flag alone."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _default(f: Field[Any]) -> Any:
    return f.default if f.default is not MISSING else None


def _add_flag(section: argparse._ArgumentGroup, f: Field[Any], default: object) -> None:
    flag = "--" + f.name.replace("_", "-")
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    if isinstance(shown, bool):
        shown = "on" if shown else "off"
    doc = f.metadata["doc"] if shown is None else f"{f.metadata['doc']} [{shown}]"
    doc = doc.replace("%", "%%")
    if f.type is bool:
        section.add_argument(flag, action=argparse.BooleanOptionalAction, help=doc)
    elif typing.get_origin(f.type) is tuple:
        section.add_argument(flag, nargs=len(typing.get_args(f.type)), metavar="X", help=doc)
    elif typing.get_origin(f.type) is Literal:
        section.add_argument(flag, choices=typing.get_args(f.type), help=doc)
    else:
        section.add_argument(flag, metavar=_base_type(f.type).__name__.upper(), help=doc)


def _base_type(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    return annotation


def _typed(f: Field[Any], value: Any) -> Any:
    """Return ``value`` as the field's type, or say what the field wants."""
    annotation = f.type
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            hint = nearest(str(value), [str(c) for c in choices])
            raise UserError(f"{f.name}: {value!r} is not one of {', '.join(map(str, choices))}{hint}")
        return value
    if typing.get_origin(annotation) is tuple:
        kinds = typing.get_args(annotation)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise UserError(f"{f.name}: expected {len(kinds)} numbers, got {value!r}")
        return tuple(read_number(f.name, kind, item) for kind, item in zip(kinds, value, strict=True))
    kind = _base_type(annotation)
    if value is None and kind is not annotation:
        return None
    if kind is bool:
        if not isinstance(value, bool):
            raise UserError(f"{f.name}: expected true or false, got {value!r}")
        return value
    if kind in (int, float):
        return read_number(f.name, kind, value, f.metadata.get("least", 0))
    if not isinstance(value, str):
        raise UserError(f"{f.name}: expected text, got {value!r}")
    return value


def read_number(name: str, kind: type, value: Any, least: int = 0) -> Any:
    """Return ``value`` as an int or a float.

    Raises:
        UserError: it is none, or below ``least``; the sentence starts with ``name``.
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
