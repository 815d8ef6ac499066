"""Find items of an index by words, by images, or by images and what should be different about them.

unifashion search runs/index "red floral dress"
unifashion search runs/index "longer and in blue" --image photo.jpg --sheet answers.png
unifashion search runs/index --image front.jpg --image back.jpg --filter "price < 50 and category == 'dress'" --json
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from unifashion.flags import UNLIMITED, argument, setting


@dataclass(frozen=True)
class Settings:
    """Search: for what, among what, and how the answer is given."""

    index: str = argument("what unifashion index wrote")
    text: str = argument("words; with --image: what should change", "")
    image: tuple[str, ...] = setting((), "a reference; may be repeated", repeat=True)
    k: int = setting(10, "how many items", least=1, most=UNLIMITED)
    filter: str | None = setting(None, "on metadata: price < 50 and category == 'dress'")
    rerank: int = setting(0, "let the matching head order the best N; 0 = off", most=UNLIMITED)
    exact: bool = setting(False, "search exactly even if there is an approximate index")
    uri: str | None = setting(None, "where Milvus is now [where it was for the index]")
    json: bool = setting(False, "print JSON")
    sheet: Path | None = setting(None, "also write a picture of query and answers (.png)")
    model: str | None = setting(None, "where the model is now [where it was for the index]")
    device: str | None = setting(None, "as torch names it [the GPU if there is one]")


def run(settings: Settings) -> None:
    """Search and print."""
    from unifashion.io import check_output
    from unifashion.search import Retriever
    from unifashion.search.sheet import write_sheet

    if settings.sheet is not None:
        check_output(settings.sheet, "--sheet", is_file=True)
    where = settings.device, settings.uri, settings.model
    retriever = Retriever.from_index(settings.index, *where, settings.exact)
    hits = retriever.search(settings.text, settings.image, settings.k, settings.filter, settings.rerank)
    if settings.sheet is not None:
        write_sheet(settings.sheet, settings.text, settings.image, hits)
    if settings.json:
        rows = [{**asdict(hit), "image": str(hit.image)} for hit in hits]
        sys.stdout.write(json.dumps(rows, indent=1, ensure_ascii=sys.stdout.encoding.lower() != "utf-8") + "\n")
        return
    for rank, hit in enumerate(hits, 1):
        metadata = ", ".join(f"{name} {value}" for name, value in hit.metadata.items() if name != "id")
        sys.stdout.write(f"{rank:3}  {hit.score:.3f}  {hit.id}  {hit.image}  {metadata}".rstrip() + "\n")
    if not hits:
        sys.stdout.write("no item matches\n")
