"""Make an index of a catalogue, to search it, or bring it up to date.

    unifashion index my_shop --model runs/pretrain -o runs/index         images, with or without a catalogue.csv
    unifashion index products.csv --model runs/pretrain -o runs/index
    unifashion index runs/index --delete 17 18                           items by their ids
    unifashion index runs/index --ann ivf                                search it approximately, with FAISS
    unifashion index runs/index --uri http://host:19530 --ann hnsw       the same with a Milvus cluster
    unifashion index runs/index --uri runs/index/milvus.db               the same with milvus-lite, in a file
    unifashion index runs/index --check                                  what the approximate search misses

A second call embeds only what is new or changed; one that was stopped continues. All columns of the table become
metadata, which a search can filter by. ``accelerate launch -m unifashion.cli index ...`` uses several GPUs.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.errors import UserError, require
from unifashion.flags import UNLIMITED, argument, setting

AnnChoice = Literal["ivf", "hnsw", "flat", "exact"]


@dataclass(frozen=True)
class Settings:
    """Index: of what, by which model, and how it is searched."""

    source: Path = argument("images or CSV to index; or an INDEX to change")
    out: Path | None = setting(None, "folder of the index", short="-o")
    model: str | None = setting(None, "a run, a saved model folder or a hub id [that of the index]")
    prune: bool = setting(False, "delete items that SOURCE no longer lists")
    delete: tuple[str, ...] = setting((), "delete items of the index SOURCE")
    ann: AnnChoice | None = setting(None, "search approximately from now on; exact: exactly again")
    uri: str | None = setting(None, "keep the approximate index in Milvus: http://host:19530, or a .db file [in FAISS]")
    check: bool = setting(False, "measure the recall of the approximate search")
    queries: int = setting(200, "how many for --check", least=1, most=UNLIMITED)
    precision: Literal["fp16", "fp32"] = setting("fp16", "of the vectors")
    batch_size: int = setting(32, "images per batch", least=1, most=4096)
    num_workers: int = setting(0, "processes that load images", most=256)
    device: str | None = setting(None, "as torch names it [the GPU if there is one]")


def run(settings: Settings) -> None:
    """Build or change the index and say what was done."""
    from unifashion.search.index import CONFIG

    if settings.uri:  # now, not after the catalogue was embedded, which may take hours
        require("pymilvus", "--uri")
    elif settings.ann not in (None, "exact"):
        require("faiss", f"--ann {settings.ann}")
    if settings.delete:
        sys.stdout.write(_delete(settings.source, settings.delete) + "\n")
        return
    is_index = (settings.source / CONFIG).is_file()
    if settings.out is None and not (is_index and (settings.ann or settings.uri or settings.check)):
        raise UserError(
            f"{settings.source} is an index: say what to change (--ann, --uri, --check, --delete)"
            if is_index
            else "-o is required: the folder of the index"
        )
    lines = [] if settings.out is None else _build(settings, settings.out)
    if settings.out is None or lines:  # with several GPUs, the other processes return no lines and are done
        folder = settings.out or settings.source
        lines += _approximate(folder, settings) + (_check(folder, settings) if settings.check else [])
        sys.stdout.write("".join(f"{line}\n" for line in lines))


def _delete(folder: Path, ids: tuple[str, ...]) -> str:
    from unifashion.search.index import Index
    from unifashion.search.writer import writing

    index = Index.open(folder)
    with writing(index) as writer:
        writer.delete(list(dict.fromkeys(ids)))
    return f"{len(set(ids))} items deleted; {folder} holds {len(index.refresh().ids):,}"


def _build(settings: Settings, out: Path) -> list[str]:
    """Return what was done; nothing except on the main process."""
    from accelerate import PartialState
    from transformers.utils import logging as transformers_logging

    from unifashion.distributed import join_processes
    from unifashion.encoders.unifashion import load_encoder
    from unifashion.io import check_output
    from unifashion.search.build import Options, build_index
    from unifashion.search.index import CONFIG, Index

    transformers_logging.set_verbosity_error()
    check_output(out, "--out")
    join_processes()
    name = settings.model
    if name is None:
        if not (out / CONFIG).is_file():
            raise UserError("--model is required for a new index: a run, a saved model folder or a hub id")
        name = Index.open(out).config.model
    state = PartialState()
    if not state.is_main_process:
        logging.disable(logging.WARNING)
    model = load_encoder(name, settings.device or state.device)
    name = str(Path(name).absolute()) if Path(name).exists() else name  # the index may be used from another folder
    options = Options(settings.precision, settings.batch_size, settings.num_workers, settings.prune)
    done = build_index(settings.source, model, name, out, options)
    if not state.is_main_process:
        return []
    parts = [f"{out} holds {len(Index.open(out)):,} items"]
    parts.append(f"{len(done.added):,} added, {len(done.updated):,} updated, {len(done.kept):,} unchanged")
    parts += [f"{len(done.renamed):,} renamed"] if done.renamed else []
    parts += [f"{len(done.deleted):,} deleted"] if done.deleted else []
    if done.duplicates:
        first, same = next(iter(done.duplicates.items()))
        count = f"{len(done.duplicates):,} not stored because the same image with the same metadata is already there"
        parts.append(f"{count} ({first} = {same})")
    return ["; ".join([*parts, done.skipped.summary()]), *filter(None, [done.passed_over.summary()])]


def _approximate(folder: Path, settings: Settings) -> list[str]:
    """Bring the approximate search up to date, if there is one or it is asked for."""
    from tqdm import tqdm

    from unifashion.search.ann import catch_up, drop_ann, requested_record
    from unifashion.search.index import Index
    from unifashion.search.writer import writing

    index = Index.open(folder)
    with writing(index):
        if settings.ann == "exact":
            drop_ann(index)
            return [f"{folder} is searched exactly"]
        wanted = requested_record(index, settings.ann, settings.uri)
        if wanted is None:
            return []
        with tqdm(desc="approximate search", unit=" items", delay=1) as bar:
            record = catch_up(index, wanted, bar.update)
    sentence = (
        f"{folder} is searched approximately ({record.ann}, {record.uri or 'FAISS'}); --check says what it misses"
    )
    return [sentence] if settings.ann or settings.uri else []


def _check(folder: Path, settings: Settings) -> list[str]:
    """Return the recall of the approximate search, for photos and for words."""
    from unifashion.search import Retriever
    from unifashion.search.ann import Searcher, read_record
    from unifashion.search.recall import measure_recall, photo_queries, word_queries

    if read_record(folder) is None:
        return [f"{folder} is searched exactly: recall 100 % by definition; --ann ivf makes it approximate"]
    retriever = Retriever.from_index(folder, settings.device, model=settings.model)
    index, searcher = retriever.index, Searcher(retriever.index)
    queries = {
        "photos of its items": photo_queries(index, settings.queries),
        "texts of its items": word_queries(index, retriever.model, settings.queries),
    }
    return [str(measure_recall(index, searcher, kind, rows, 10)) for kind, rows in queries.items() if rows]
