"""Bring an index up to date with a catalogue: embed images that are new or changed, update metadata that changed.

    result = build_index(Path("my_shop"), model, "runs/pretrain", Path("runs/index"))

An image is known by the hash of its file, so a second call embeds only what is new, and a call that was killed continues where
it stopped. The same image with the same metadata is stored once; products that differ in anything else stay apart. A renamed
image keeps its vectors. Other items that the catalogue no longer lists stay, unless ``prune`` is set. Items whose vectors are
damaged are embedded again, or deleted where their image is gone. With several processes (``accelerate launch``)
every process embeds its share and the first one writes.
"""

import logging
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from unifashion.data.image_files import PassedOver, is_there
from unifashion.data.images import MAX_BYTES
from unifashion.data.own_catalogue import read_products
from unifashion.data.skipped import SkippedImages
from unifashion.distributed import is_main_process, merge_dicts
from unifashion.encoders.protocol import Encoder
from unifashion.errors import UserError
from unifashion.io import file_hash
from unifashion.search.index import CONFIG, SKIPPED, Index, IndexConfig, Precision, check_free, index_errors
from unifashion.search.items import Entry
from unifashion.search.writer import Writer, locked, opened_writer

log = logging.getLogger(__name__)
BATCHES_PER_COMMIT = 8  # what a call that is killed has to do again
NOT_FINITE = "the model's vectors of it are not finite numbers"


@dataclass
class BuildResult:
    """What a call did: the ids by outcome, and the images that could not be used."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)  # id -> the id that the item had before
    duplicates: dict[str, str] = field(default_factory=dict)  # id -> id of the item with the same image and metadata
    skipped: SkippedImages = field(default_factory=SkippedImages)
    passed_over: PassedOver = field(default_factory=PassedOver)


@dataclass(frozen=True)
class Options:
    """How an index is built."""

    precision: Precision = "fp16"
    batch_size: int = 32
    num_workers: int = 0
    prune: bool = False
    progress: bool = True


def check_model(index: Index, model: Encoder, name: str) -> None:
    """Check that an index was made by this model.

    Raises:
        UserError: it was made by another one.
    """
    config = index.config
    if model.weights_hash() != config.fingerprint:
        raise UserError(
            f"{index.folder} was made by another model ({config.model_name} at {config.model}) than {name}: its vectors cannot "
            "be compared; give the right --model, or make a new index with another -o"
        )
    if (model.num_vectors, model.width) != (config.num_vectors, config.width):
        raise UserError(
            f"{index.folder / CONFIG} says {config.num_vectors} vectors of width {config.width}, but its model makes "
            f"{model.num_vectors} of {model.width}; correct it, or delete the folder and make the index again"
        )


def build_index(source: Path, model: Encoder, name: str, folder: Path, options: Options | None = None) -> BuildResult:
    """Make an index of a catalogue, or bring it up to date.

    Args:
        source: a folder of images, a folder with a catalogue.csv, or a CSV file (data/own_catalogue.py).
        model: makes the vectors, on its device.
        name: where that model is, so that a search finds it again.
        folder: the index.
        options: precision, batches, and whether items that are no longer listed are deleted.

    Raises:
        UserError: a catalogue that cannot be read, an index of another model, a full disk; what is stored is kept.
    """
    options = options or Options()
    passed_over = PassedOver()
    listed = read_entries(source, passed_over)
    if is_main_process() and not (folder / CONFIG).is_file():
        check_free(folder)  # before a lock is put into it
    with locked(folder) if is_main_process() else nullcontext():
        made = open_or_create(folder, model, name, options.precision) if is_main_process() else None
        merge_dicts({})  # the other processes wait for it
        index = Index.open(folder) if made is None else made
        writer = opened_writer(index) if is_main_process() else Writer(index)
        result = _bring_up_to_date(writer, listed, model, options)
        result.passed_over = passed_over
        if is_main_process():
            with index_errors(folder):
                result.skipped.write(folder / SKIPPED)
        index.refresh()
    return result


def open_or_create(folder: Path, model: Encoder, name: str, precision: Precision) -> Index:
    """Return the index of this model in ``folder``; raises ``UserError`` if another model made it."""
    if (folder / CONFIG).is_file():
        index = Index.open(folder)
        check_model(index, model, name)
        return index
    config = IndexConfig(name, model.name, model.weights_hash(), model.num_vectors, model.width, precision)
    return Index.create(folder, config)


def read_entries(source: Path, passed_over: PassedOver | None = None) -> list[Entry]:
    """Return what a catalogue lists, hashed; ``passed_over`` as in ``read_products``.

    Further views of a product with the id ``17`` are ``17#2``, ``17#3``, ..., without those that are the id of another product.
    """
    rows = read_products(source, passed_over)
    products = {row.product for row in rows}
    views: dict[str, int] = {}
    entries = []
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(_digest, [row.image for row in rows]))
    for row, digest in zip(rows, digests, strict=True):
        view = views.get(row.product, 0) + 1
        while view > 1 and f"{row.product}#{view}" in products:
            view += 1
        views[row.product] = view
        item_id = row.product if view == 1 else f"{row.product}#{view}"
        metadata = {**row.metadata, **({"text": row.text} if row.text else {})}
        entries.append(Entry(item_id, row.image.absolute(), digest, metadata))
    return entries


def _digest(path: Path) -> str:
    try:
        return file_hash(path, MAX_BYTES)
    except OSError:
        return ""  # the encoder says what is wrong with it


def _bring_up_to_date(writer: Writer, listed: Sequence[Entry], model: Encoder, options: Options) -> BuildResult:
    stored, damaged = _state(writer)
    result = BuildResult()
    listed_ids = {entry.id for entry in listed}
    result.renamed = _renamed(listed, stored, damaged, options.prune)
    for item_id, before in result.renamed.items():
        stored[item_id] = replace(stored.pop(before), id=item_id)
    if options.prune:
        result.deleted = sorted(set(stored) - listed_ids)
    # Not listed, so that only the index knows them: they are made again from where their images were.
    unlisted = [_as_it_is_now(stored[item]) for item in damaged if item not in listed_ids and not options.prune]
    leaving = {*result.deleted, *(entry.id for entry in unlisted)}
    staying = {item_id: entry for item_id, entry in stored.items() if item_id not in leaving}
    embed, describe = _compare(listed, staying, damaged, result)
    if is_main_process():
        if result.renamed:
            writer.rename(result.renamed)
        if describe:
            writer.describe(describe)
        if result.deleted:
            writer.delete(result.deleted)
    _embed(writer, unlisted + embed, set(stored), model, options, result)
    lost = sorted(set(damaged) - set(result.updated) - set(result.deleted))
    if lost and is_main_process():
        log.warning("%s: %d of the damaged items cannot be made again and are deleted", writer.index.folder, len(lost))
        writer.delete(lost)
    result.deleted += lost
    return result


def _renamed(
    listed: Sequence[Entry], stored: Mapping[str, Entry], damaged: Container[str], prune: bool
) -> dict[str, str]:
    """Return new ids whose image belongs to an item that is not listed any more, and whose file is gone or that is pruned."""
    listed_ids = {entry.id for entry in listed}
    gone: dict[str, list[str]] = {}
    for entry in stored.values():
        unlisted = entry.id not in listed_ids and entry.id not in damaged
        if unlisted and (prune or not is_there(entry.image)):
            gone.setdefault(entry.digest, []).append(entry.id)
    new = (entry for entry in listed if entry.id not in stored and gone.get(entry.digest))
    return {entry.id: gone[entry.digest].pop(0) for entry in new if gone[entry.digest]}


def _compare(
    listed: Sequence[Entry], stored: Mapping[str, Entry], damaged: Container[str], result: BuildResult
) -> tuple[list[Entry], list[Entry]]:
    """Return which listed items must be embedded, and of which only the metadata changed; notes the others in ``result``."""
    current = {**stored, **{entry.id: entry for entry in listed if entry.id in stored}}
    twins = {_content(entry): entry.id for entry in current.values()}
    embed, describe = [], []
    for entry in listed:
        before = stored.get(entry.id)
        if before is not None and before.digest == entry.digest and entry.id not in damaged:
            same = before.metadata == entry.metadata and before.image == entry.image
            if not same:
                describe.append(entry)
            if entry.id not in result.renamed:
                (result.kept if same else result.updated).append(entry.id)
        elif before is None and entry.digest and _content(entry) in twins:
            result.duplicates[entry.id] = twins[_content(entry)]
        else:
            embed.append(entry)
            twins.setdefault(_content(entry), entry.id)
    return embed, describe


def _content(entry: Entry) -> tuple[str, frozenset[tuple[str, str]]]:
    return entry.digest, frozenset(entry.metadata.items())


def _state(writer: Writer) -> tuple[dict[str, Entry], dict[str, None]]:
    """Return the stored items, and the ids of those whose vectors are damaged, on all processes as the first one read them."""
    stored, damaged = (writer.stored(), writer.damaged()) if is_main_process() else ({}, [])
    if damaged:
        log.warning("%s: the vectors of %d items are damaged and are made again", writer.index.folder, len(damaged))
    return merge_dicts(stored), merge_dicts(dict.fromkeys(damaged))


def _as_it_is_now(entry: Entry) -> Entry:
    return replace(entry, digest=_digest(entry.image))


def _embed(
    writer: Writer, entries: Sequence[Entry], before: set[str], model: Encoder, options: Options, result: BuildResult
) -> None:
    step = BATCHES_PER_COMMIT * options.batch_size
    bar = tqdm(total=len(entries), desc="embedding images", disable=not (options.progress and is_main_process()))
    with bar:
        for start in range(0, len(entries), step):
            part = entries[start : start + step]
            paths = [entry.image for entry in part]
            image_BQD, broken = model.embed_files(paths, options.batch_size, options.num_workers)
            broken = {**{paths[row]: NOT_FINITE for row in _not_finite(image_BQD)}, **broken}
            for path, reason in broken.items():
                result.skipped.add(path, reason)
            rows = [row for row, path in enumerate(paths) if path not in broken]
            good = [part[row] for row in rows]
            if good and is_main_process():
                writer.put(good, image_BQD[rows])
            for entry in good:
                (result.updated if entry.id in before else result.added).append(entry.id)
            bar.update(len(part))


def _not_finite(image_BQD: Tensor) -> list[int]:
    return torch.nonzero(~image_BQD.isfinite().flatten(1).all(dim=1)).flatten().tolist()
