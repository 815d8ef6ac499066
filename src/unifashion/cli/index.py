"""``unifashion index``: make an index of a catalogue, or bring it up to date.

unifashion index my_shop --model runs/quickstart/pretrain -o runs/index      a folder of images, with or without a catalogue.csv
unifashion index products.csv --model runs/quickstart/pretrain -o runs/index
unifashion index runs/index --delete 17 18                                  items by their ids
unifashion index runs/index --ann ivf                                       search it approximately, with FAISS
unifashion index runs/index --uri http://host:19530 --ann hnsw              the same with a Milvus cluster
unifashion index runs/index --uri runs/index/milvus.db                      the same with milvus-lite, in a file
unifashion index runs/index --check                                         what the approximate search misses

A second call embeds only what is new or changed; one that was stopped goes on where it stood. All columns of the table become
metadata, which a search can filter by. ``accelerate launch -m unifashion.cli index ...`` uses several GPUs.
"""

import argparse
import logging
import sys
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="images or CSV to index; or an INDEX to change")
    parser.add_argument("-o", "--out", metavar="INDEX", type=Path, help="folder of the index")
    parser.add_argument("--model", metavar="PATH", help="a run, a saved model folder or a hub id [that of the index]")
    parser.add_argument("--prune", action="store_true", help="delete items that SOURCE lists no more")
    parser.add_argument("--delete", metavar="ID", nargs="+", help="delete items of the index SOURCE")
    parser.add_argument(
        "--ann", choices=("ivf", "hnsw", "flat", "exact"), help="search approximately from now on; exact: no longer"
    )
    parser.add_argument("--uri", metavar="URI", help="keep that in Milvus: http://host:19530, or a .db file [in FAISS]")
    parser.add_argument("--check", action="store_true", help="measure the recall of the approximate search")
    parser.add_argument("--queries", metavar="N", type=int, default=200, help="how many for --check [%(default)s]")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="of the vectors [%(default)s]")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="images at once [%(default)s]")
    parser.add_argument(
        "--num-workers", metavar="N", type=int, default=0, help="processes that load images [%(default)s]"
    )
    parser.add_argument("--device", metavar="NAME", help="as torch names it [the GPU where there is one]")


def run(flags: argparse.Namespace) -> None:
    """Do it and say what was done."""
    from unifashion.errors import UserError
    from unifashion.search.index import CONFIG

    if flags.delete:
        sys.stdout.write(_delete(flags) + "\n")
        return
    if flags.batch_size < 1 or flags.num_workers < 0 or flags.queries < 1:
        raise UserError("--batch-size and --queries must be at least 1, --num-workers must not be negative")
    is_index = (flags.source / CONFIG).is_file()
    if flags.out is None and not (is_index and (flags.ann or flags.uri or flags.check)):
        raise UserError(
            f"{flags.source} is an index: say what to change (--ann, --uri, --check, --delete)"
            if is_index
            else "-o is required: the folder of the index"
        )
    said = _build(flags) if flags.out is not None else [""]
    if said:  # on the main process
        said += _approximate(flags) + (_check(flags) if flags.check else [])
        sys.stdout.write("".join(f"{line}\n" for line in said if line))


def _approximate(flags: argparse.Namespace) -> list[str]:
    from tqdm import tqdm

    from unifashion.search.ann import catch_up, drop_ann, requested_record
    from unifashion.search.index import Index
    from unifashion.search.writer import writing

    index = Index.open(flags.out or flags.source)
    with writing(index):
        if flags.ann == "exact":
            drop_ann(index)
            return [f"{index.folder} is searched exactly"]
        wanted = requested_record(index, flags.ann, flags.uri)
        if wanted is None:
            return []
        with tqdm(desc="approximate search", unit=" items", delay=1) as bar:
            record = catch_up(index, wanted, bar.update)
    if not (flags.ann or flags.uri):
        return []
    return [
        f"{index.folder} is searched approximately ({record.ann}, {record.uri or 'FAISS'}); --check says what it misses"
    ]


def _check(flags: argparse.Namespace) -> list[str]:
    from unifashion.search import Retriever
    from unifashion.search.ann import Searcher, read_record
    from unifashion.search.recall import measure_recall, photo_queries, word_queries

    folder = flags.out or flags.source
    record = read_record(folder)
    if record is None:
        return [f"{folder} is searched exactly: recall 100 % by definition; --ann ivf makes it approximate"]
    retriever = Retriever.from_index(folder, flags.device, model=flags.model)
    index, searcher = retriever.index, Searcher(retriever.index)
    queries = {
        "photos of its items": photo_queries(index, flags.queries),
        "texts of its items": word_queries(index, retriever.model, flags.queries),
    }
    return [str(measure_recall(index, searcher, kind, some, 10)) for kind, some in queries.items() if some]


def _delete(flags: argparse.Namespace) -> str:
    from unifashion.search.index import Index
    from unifashion.search.writer import writing

    index = Index.open(flags.source)
    with writing(index) as writer:
        writer.delete(list(dict.fromkeys(flags.delete)))
    return f"{len(set(flags.delete))} items deleted; {flags.source} holds {len(index.refresh().ids):,}"


def _build(flags: argparse.Namespace) -> list[str]:
    """Return what was done; nothing on other processes than the main one."""
    from accelerate import PartialState
    from transformers.utils import logging as transformers_logging

    from unifashion.encoders.unifashion import load_encoder
    from unifashion.errors import UserError
    from unifashion.search.build import Options, build_index
    from unifashion.search.index import CONFIG, Index

    transformers_logging.set_verbosity_error()
    name = flags.model
    if name is None:
        if not (flags.out / CONFIG).is_file():
            raise UserError("--model is required for a new index: a run, a saved model folder or a hub id")
        name = Index.open(flags.out).config.model
    state = PartialState()
    if not state.is_main_process:
        logging.disable(logging.WARNING)
    model = load_encoder(name, flags.device or state.device)
    name = str(Path(name).absolute()) if Path(name).exists() else name
    options = Options(flags.precision, flags.batch_size, flags.num_workers, flags.prune)
    done = build_index(flags.source, model, name, flags.out, options)
    if not state.is_main_process:
        return []
    parts = [f"{flags.out} holds {len(Index.open(flags.out)):,} items"]
    parts.append(f"{len(done.added):,} added, {len(done.updated):,} updated, {len(done.kept):,} as they were")
    parts += [f"{len(done.deleted):,} deleted"] if done.deleted else []
    if done.duplicates:
        first, same = next(iter(done.duplicates.items()))
        parts.append(f"{len(done.duplicates):,} not stored because the same image is there already ({first} = {same})")
    return ["; ".join([*parts, done.skipped.summary()])]
