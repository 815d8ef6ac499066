"""Files for the servers that score the test splits of CIRR and CIRCO: written, and checked before they are uploaded.

cirr_recall.json          {"version": "rc2", "metric": "recall", "12063": [50 names of photos, best first], ...}
cirr_recall_subset.json   {"version": "rc2", "metric": "recall_subset", "12063": [3 names of the reference's set], ...}
circo.json                {"0": [50 image ids of COCO, best first], ...}
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unifashion.data.annotations import json_fault, read_text
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.protocols import circo, cirr
from unifashion.io import replacing

CIRR_VERSION = "rc2"
CIRR_MAX_BYTES = 5_000_000

Lists = Mapping[str, Sequence[str | int]]


@dataclass(frozen=True)
class _Rules:
    """What the list of one query must be; ``allowed`` is empty where the images are not known."""

    length: int
    allowed: Collection[str | int]
    source: str  # of the allowed ones, for messages
    reference: str | None = None  # which must not be listed


def write_submission(folder: Path, split: ComposedSplit, scores_QG: Tensor) -> list[Path]:
    """Write the files for the server of the split's set, each complete and correct, or not at all.

    Args:
        folder: made if needed.
        split: CIRR or CIRCO, targets hidden or not.
        scores_QG: rows are ``split_queries(split)``, columns ``split_gallery(split)``.

    Raises:
        UserError: the server would refuse a file, because a query has no readable images.
    """
    if split.dataset == "cirr":
        recall, subset = cirr.ranked_names(split, scores_QG)
        files: dict[str, dict[str, Any]] = {
            f"cirr_{metric}.json": {"version": CIRR_VERSION, "metric": metric, **lists}
            for metric, lists in (("recall", recall), ("recall_subset", subset))
        }
    else:
        ranked = circo.ranked_names(split, scores_QG)
        files = {"circo.json": {id_: [int(name) for name in names] for id_, names in ranked.items()}}
    return [_write(folder / name, content, split) for name, content in files.items()]


def _write(path: Path, content: Mapping[str, Any], split: ComposedSplit) -> Path:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        check_submission(unfinished, split, name=path)  # before the rename: a wrong file never gets the right name
    return path


def check_submission(path: Path, split: ComposedSplit, name: Path | None = None) -> str:
    """Check one file against the annotations of the split it answers, and return a summary of what it holds.

    ``name`` is what messages call the file (default: its path). A split with fewer photos than a list is long, as in tests,
    must be listed in full.

    Raises:
        UserError: what the server would refuse or score wrongly; names the file and the query.
    """
    name = name or path
    content = _read(path, name)
    size = f"{path.stat().st_size / 1e6:.2f} MB"
    if split.dataset == "circo":
        _check_lists(name, content, split, "")
        unknown = "" if split.gallery else "; COCO's list of images is missing, so the image ids were not checked"
        return f"CIRCO {split.split}: {len(content)} queries, {size}{unknown}"
    version, metric = content.pop("version", None), content.pop("metric", None)
    if version != CIRR_VERSION:
        raise UserError(f"{name}: 'version' must be {CIRR_VERSION!r}, found {version!r}")
    if metric not in ("recall", "recall_subset"):
        raise UserError(f"{name}: 'metric' must be 'recall' or 'recall_subset', found {metric!r}")
    if path.stat().st_size > CIRR_MAX_BYTES:
        raise UserError(
            f"{name} is {size}, and the server accepts at most {CIRR_MAX_BYTES / 1e6:g} MB; write it without spaces"
        )
    _check_lists(name, content, split, metric)
    return f"CIRR {split.split}, {metric}: {len(content)} queries, {size}"


def _read(path: Path, name: Path) -> dict[str, Any]:
    """Return the object of a JSON file; a repeated key, which JSON allows, is an error."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in content if keys.count(key) > 1)
            raise UserError(f"{name}, query {repeated}: it appears twice; keep one of its lists")
        return content

    try:
        content = json.loads(read_text(path), object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}, line {error.lineno}: not JSON ({error.msg})") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not JSON that can be read ({json_fault(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{name}: expected an object with one list per query, found a {type(content).__name__}")
    return content


def _check_lists(name: Path, lists: Mapping[str, Any], split: ComposedSplit, metric: str) -> None:
    title = f"{split.dataset.upper()} {split.split}"
    queries = {query.id: query for query in split.queries}
    unknown = [id_ for id_ in lists if id_ not in queries]
    if unknown:
        raise UserError(f"{name}, query {unknown[0]}: {title} has no such query{_others(unknown)}; check the split")
    absent = [id_ for id_ in queries if id_ not in lists]
    if absent:
        raise UserError(
            f"{name}, query {absent[0]}: it has no list{_others(absent)}; all {len(queries)} queries need one"
        )
    kind = int if split.dataset == "circo" else str  # CIRCO's server identifies images by COCO's numbers
    gallery = frozenset[str | int](map(kind, split.gallery))
    for id_, listed in lists.items():
        _check_list(f"{name}, query {id_}", listed, _rules(queries[id_], gallery, metric, title), kind)


def _others(ids: Sequence[str]) -> str:
    return f" (nor have {len(ids) - 1} others)" if len(ids) > 1 else ""


def _rules(query: ComposedQuery, gallery: frozenset[str | int], metric: str, title: str) -> _Rules:
    if metric == "recall_subset":
        others = [name for name in query.members if name != query.reference]
        return _Rules(min(cirr.SUBSET_LENGTH, len(others)), query.members, "the reference's set", query.reference)
    if metric == "recall":
        return _Rules(min(cirr.LIST_LENGTH, len(gallery) - 1), gallery, title, query.reference)
    return _Rules(
        min(circo.LIST_LENGTH, len(gallery) or circo.LIST_LENGTH), gallery, "COCO's list of unlabelled images"
    )


def _check_list(where: str, listed: object, rules: _Rules, kind: type) -> None:
    what = "numbers" if kind is int else "names"
    if not isinstance(listed, list):
        raise UserError(f"{where}: expected a list of {rules.length} {what}, found {type(listed).__name__}")
    if len(listed) != rules.length:
        raise UserError(f"{where}: {len(listed)} {what}, expected {rules.length}")
    for item in listed:
        if type(item) is not kind:
            raise UserError(f"{where}: {item!r} is not {'a number' if kind is int else 'a name'}; write {what} only")
        if item == rules.reference:
            raise UserError(
                f"{where}: it lists its own reference {item!r}; leave it out, as the server does not score it"
            )
        if rules.allowed and item not in rules.allowed:
            raise UserError(f"{where}: {item!r} is not in {rules.source}")
    if len(set(listed)) < len(listed):
        repeated = next(item for item in listed if listed.count(item) > 1)
        raise UserError(f"{where}: {repeated!r} is listed twice")
