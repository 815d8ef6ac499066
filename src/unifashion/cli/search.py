"""``unifashion search``: find items of an index by words, by images, or by images and what should be different about them.

unifashion search runs/index "red floral dress"
unifashion search runs/index "longer and in blue" --image photo.jpg --sheet answers.png
unifashion search runs/index --image front.jpg --image back.jpg --filter "price < 50 and category == 'dress'" --json
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifashion.search import Hit


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("index", metavar="INDEX", help="what unifashion index wrote")
    parser.add_argument("text", metavar="TEXT", nargs="?", default="", help="words; with --image: what should change")
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="a reference; may be repeated")
    parser.add_argument("--k", metavar="N", type=int, default=10, help="how many items [%(default)s]")
    parser.add_argument("--filter", metavar="RULE", help="on metadata: price < 50 and category == 'dress'")
    parser.add_argument(
        "--rerank", metavar="N", type=int, default=0, help="let the matching head order the best N [off]"
    )
    parser.add_argument("--exact", action="store_true", help="search exactly also where there is an approximate index")
    parser.add_argument("--uri", metavar="URI", help="where Milvus is now [where it was for the index]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sheet", metavar="FILE", type=Path, help="also write a picture of query and answers (.png)")
    parser.add_argument("--model", metavar="PATH", help="where the model is now [where it was for the index]")
    parser.add_argument("--device", metavar="NAME", help="as torch names it [the GPU where there is one]")


def run(flags: argparse.Namespace) -> None:
    """Search and print."""
    from unifashion.search import Retriever
    from unifashion.search.sheet import write_sheet

    retriever = Retriever.from_index(flags.index, flags.device, flags.uri, flags.model, flags.exact)
    hits = retriever.search(flags.text, flags.image, flags.k, flags.filter, flags.rerank)
    if flags.sheet is not None:
        write_sheet(flags.sheet, flags.text, flags.image, hits)
    if flags.json:
        sys.stdout.write(json.dumps([_plain(hit) for hit in hits], indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{_line(number, hit)}\n" for number, hit in enumerate(hits, 1)) or "nothing fits\n")


def _plain(hit: "Hit") -> dict[str, Any]:
    return {**asdict(hit), "image": str(hit.image)}


def _line(number: int, hit: "Hit") -> str:
    facts = ", ".join(f"{name} {value}" for name, value in hit.metadata.items() if name != "id")
    return f"{number:3}  {hit.score:.3f}  {hit.id}  {hit.image}  {facts}".rstrip()
