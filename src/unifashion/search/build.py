"""Bring an index up to date with a catalogue: embed what is new or changed, describe anew what is described otherwise.

    done = build_index(Path("my_shop"), "runs/pretrain", Path("runs/index"))

An image is known by the hash of its file, so a second call embeds only what is new, the same image twice is stored once, and a
call that was killed goes on where it stood. Items that the catalogue no longer lists stay, unless ``prune`` is set. With several
processes (``accelerate launch``) every process embeds its share and the first one writes.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from unifashion.data.own_catalogue import read_products
from unifashion.data.skipped import SkippedImages
from unifashion.distributed import is_main_process
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.search.index import QUARANTINE, About, Index, Precision, disk_errors
from unifashion.search.items import Entry
from unifashion.search.writer import Writer, writing

log = logging.getLogger(__name__)
BATCHES_A_STEP = 8  # how often what is embedded is stored


@dataclass
class Done:
    """What a call did: ids by what became of them, and the images that could not be used."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    repeated: dict[str, str] = field(default_factory=dict)  # id -> id of the item that has the same image
    quarantine: SkippedImages = field(default_factory=SkippedImages)


@dataclass(frozen=True)
class Options:
    """How an index is built."""

    precision: Precision = "fp16"
    batch_size: int = 32
    num_workers: int = 0
    prune: bool = False
    progress: bool = True


def fingerprint(model: nn.Module) -> str:
    """Return a hash of every weight of a model and of its name and shape."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_model(index: Index, model: UniFashion, name: str) -> None:
    """See that an index was made by this model.

    Raises:
        UserError: it was made by another one.
    """
    about = index.about
    if fingerprint(model) != about.fingerprint:
        raise UserError(
            f"{index.folder} was made by another model ({about.model_name} at {about.model}) than {name}: its vectors cannot be "
            "compared; give the right --model, or make a new index with another -o"
        )


def build_index(source: Path, model: UniFashion, name: str, folder: Path, options: Options | None = None) -> Done:
    """Make an index of a catalogue, or bring it up to date.

    Args:
        source: a folder of images, a folder with a catalogue.csv, or a CSV file (data/own_catalogue.py).
        model: makes the vectors, on its device.
        name: where that model is, so that a search finds it again.
        folder: the index.
        options: precision, batches, and whether items that are listed no more are deleted.

    Raises:
        UserError: a catalogue that cannot be read, an index of another model, a full disk; what is stored is kept.
    """
    options = options or Options()
    listed = read_entries(source)
    index = open_or_create(folder, model, name, options.precision)
    with writing(index) if is_main_process() else nullcontext(Writer(index)) as writer:
        done = _bring_up_to_date(writer, listed, model, options)
        if is_main_process():
            with disk_errors(folder):
                done.quarantine.write(folder / QUARANTINE)
    index.refresh()
    return done


def open_or_create(folder: Path, model: UniFashion, name: str, precision: Precision) -> Index:
    """Return the index of this model in ``folder``; raises ``UserError`` if it is that of another one."""
    if (folder / "index.json").is_file():
        index = Index.open(folder)
        check_model(index, model, name)
        return index
    config = model.config
    about = About(name, config.model_name, fingerprint(model), config.num_queries, config.embed_dim, precision)
    return Index.create(folder, about)


def read_entries(source: Path) -> list[Entry]:
    """Return what a catalogue lists, hashed; further views of a product with the id ``17`` are ``17#2``, ``17#3``, ..."""
    rows = read_products(source)
    views: dict[str, int] = {}
    entries = []
    for row, digest in zip(rows, _digests([row.image for row in rows]), strict=True):
        views[row.product] = number = views.get(row.product, 0) + 1
        item_id = row.product if number == 1 else f"{row.product}#{number}"
        metadata = {**row.metadata, **({"text": row.text} if row.text else {})}
        entries.append(Entry(item_id, row.image.absolute(), digest, metadata))
    return entries


def _digests(paths: Sequence[Path]) -> Iterable[str]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""  # the embedder says what is wrong with it


def _bring_up_to_date(writer: Writer, listed: Sequence[Entry], model: UniFashion, options: Options) -> Done:
    stored = writer.stored()
    done = Done()
    known = {entry.digest: entry.id for entry in stored.values()}
    embed, describe = [], []
    for entry in listed:
        before = stored.get(entry.id)
        if before is not None and before.digest == entry.digest:
            same = before.metadata == entry.metadata and before.image == str(entry.image)
            (done.kept if same else done.updated).append(entry.id)
            if not same:
                describe.append(entry)
        elif entry.digest and known.get(entry.digest, entry.id) != entry.id:
            done.repeated[entry.id] = known[entry.digest]
        else:
            embed.append(entry)
            if entry.digest:
                known[entry.digest] = entry.id
    gone = sorted(set(stored) - {entry.id for entry in listed}) if options.prune else []
    if is_main_process():
        if describe:
            writer.describe(describe)
        if gone:
            writer.delete(gone)
    done.deleted = gone
    _embed(writer, embed, set(stored), model, options, done)
    return done


def _embed(
    writer: Writer, entries: Sequence[Entry], before: set[str], model: UniFashion, options: Options, done: Done
) -> None:
    embedder = Embedder(model, options.batch_size, options.num_workers, progress=False)
    step = BATCHES_A_STEP * options.batch_size
    bar = tqdm(total=len(entries), desc="embedding images", disable=not (options.progress and is_main_process()))
    with bar:
        for start in range(0, len(entries), step):
            part = entries[start : start + step]
            image_BQD, broken = embedder.images([entry.image for entry in part])
            for path, reason in broken.items():
                done.quarantine.add(path, reason)
            rows = [row for row, entry in enumerate(part) if entry.image not in broken]
            good = [part[row] for row in rows]
            if good and is_main_process():
                writer.put(good, image_BQD[rows])
            for entry in good:
                (done.updated if entry.id in before else done.added).append(entry.id)
            bar.update(len(part))
