"""Read annotation files so that every mistake in them is one sentence with file and row."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unifashion.errors import UserError
from unifashion.io import open_file

HELP = "see dataset/README.md for where to get it and how to arrange its folder"


class NoSplit(UserError):
    """A data set, or a split of it, that is not on this machine, or that the set does not have."""


class NoSet(NoSplit):
    """A data set of which nothing is on this machine."""


def find_folder(data_root: Path, title: str, names: Sequence[str], patterns: Sequence[str], expected: str) -> Path:
    """Return the folder of a data set: the first of its usual names below a data root that holds one of its files.

    Args:
        data_root: the folder that holds the set's folder, or that folder itself (the name ".").
        title: of the set, for the message.
        names: of the folder, in the order in which they are tried.
        patterns: globs of files, one of which must exist; one that ends with "/" means a folder.
        expected: what should be there, for the message.

    Raises:
        NoSet: no such folder.
    """
    for folder in (data_root / name for name in names):
        if any(_matches(folder, pattern) for pattern in patterns):
            return folder
    raise NoSet(f"no {title} in {data_root}: expected {expected} there; {HELP}")


def _matches(folder: Path, pattern: str) -> bool:
    is_kind = Path.is_dir if pattern.endswith("/") else Path.is_file
    return any(map(is_kind, folder.glob(pattern.rstrip("/"))))


def read_text(path: Path) -> str:
    """Read a UTF-8 file (a byte-order mark is tolerated).

    Raises:
        UserError: missing, unreadable, empty, or in another encoding.
    """
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; {HELP}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it again as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if not text.strip():
        raise UserError(f"{path} is empty; write or fetch it again")
    return text


def read_json_list(path: Path, kind: type) -> list[Any]:
    """Read a JSON file that must hold a list of ``kind`` (dict or str).

    Raises:
        UserError: not JSON (names the line), not a list, or a row of another type.
    """
    rows = _read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list, found a {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, kind):
            raise UserError(f"{path}, row {number}: expected a {kind.__name__}, found {_short(row)}")
    return rows


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold one object.

    Raises:
        UserError: not JSON (names the line), or not an object.
    """
    value = _read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found a {type(value).__name__}")
    return value


def _read_json(path: Path) -> Any:
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """Return the value of the JSON text of a file.

    Raises:
        UserError: not JSON (names the line), or not such that it can be read.
    """
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON that can be read ({json_fault(error)})") from None


def _parse(text: str) -> Any:
    """Return the value of a JSON text; ``ValueError`` also for an escaped lone surrogate, which is not valid in any text."""
    value = json.loads(text)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def json_fault(error: Exception) -> str:
    """Return in a few words why JSON could not be read."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    if isinstance(error, UnicodeEncodeError):
        return "an escape that is only half of a character"
    return "brackets nested too deeply" if isinstance(error, RecursionError) else "a number that is too long"


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for every line of a JSON-lines file; ``where`` is "FILE, row N", for messages.

    Raises:
        UserError: a line that is not a JSON object.
    """
    for number, line in enumerate(io.StringIO(read_text(path)), 1):  # splitlines would also cut at U+0085 and U+2028
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        try:
            row = _parse(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({json_fault(error)})") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: expected an object, found {_short(row)}")
        yield where, row


def text_of(row: Mapping[str, Any], key: str, where: str, default: str | None = None, blank: bool = False) -> str:
    """Return ``row[key]``, a text (a whole number counts as one), or ``default`` where it is absent or blank.

    Args:
        row: one row of an annotation file.
        key: its key.
        where: "FILE, row N", for messages.
        default: used for an absent or blank value; None = the value is required.
        blank: return a blank value as it is.

    Raises:
        UserError: the value is absent or blank and may not be, or of another type.
    """
    value = row.get(key)
    if value is None:
        if default is not None:
            return default
        raise UserError(f"{where}: no {key!r}; it has {', '.join(map(repr, row)) or 'no keys'}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {key!r} must be text, found {_short(value)}")
    text = str(value)
    if blank or text.strip():
        return text
    if default is None:
        raise UserError(f"{where}: {key!r} is empty")
    return default


def texts_of(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return ``row[key]``, a list of texts, which may be empty.

    Raises:
        UserError: the key is absent, or its value is of another type.
    """
    if key not in row:
        raise UserError(f"{where}: no {key!r}; it has {', '.join(map(repr, row)) or 'no keys'}")
    value = row[key]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{where}: {key!r} must be a list of texts, found {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
