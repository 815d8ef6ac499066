"""A small shop for the demo's tests: an index and a tiny model of the real classes, and a server that runs beside the test."""

import contextlib
import csv
import html
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from unifashion.apps.demo.server import listen, make_server
from unifashion.apps.demo.service import Service
from unifashion.data.markup import MAX_ESCAPED
from unifashion.models.unifashion import UniFashionModel
from unifashion.search import Retriever
from unifashion.search.build import Options, build_index
from unifashion.search.index import Index

COLOURS = {
    "red": "#b03a3a",
    "blue": "#3a5ab0",
    "green": "#3d8a57",
    "black": "#2a2a2a",
    "yellow": "#d9b13a",
    "pink": "#d88aa6",
}
KINDS = {"dress": 70, "shirt": 40, "skirt": 80, "coat": 55}  # half the width of the hem, pixels
NASTY = (
    "<script>window.cracked=1</script><img src=x onerror='window.cracked=2'> `${window.cracked=3}` {{7*7}} \"quoted\""
)


def escaped(text: str) -> str:
    """Escape a text as often as the reader of catalogues undoes it, so that markup reaches the page."""
    for _ in range(MAX_ESCAPED):
        text = html.escape(text, quote=False)
    return text


def draw(colour: str, kind: str, paper: str = "#f1eee9") -> Image.Image:
    """A garment of 240 x 320 pixels."""
    picture = Image.new("RGB", (240, 320), paper)
    hem = KINDS[kind]
    corners = [(85, 60), (155, 60), (120 + hem, 280), (120 - hem, 280)]
    ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[colour])
    return picture


class Shop(Retriever):
    """A retriever that notes what it is asked; ``delay`` seconds for every call; ``broken`` raises."""

    delay, broken, num_calls = 0.0, None, 0

    def search_all(self, queries):
        self.asked = {**vars(queries[-1]), "text": queries[-1].text or None, "images": list(queries[-1].images)}
        self.num_calls += 1
        time.sleep(self.delay)
        if self.broken is not None:
            raise self.broken
        return super().search_all(queries)


def open_shop(folder: Path, model: UniFashionModel) -> Shop:
    """24 garments in six colours and four shapes; the first has a name that attacks the page, the last a second photo."""
    rows: list[dict[str, Any]] = []
    for colour in COLOURS:
        for kind in KINDS:
            index = len(rows)
            draw(colour, kind).save(folder / f"{index}.png")
            metadata = {"id": f"{kind}/{index}", "price": f"{20 + 5 * index}.00", "category": kind, "colour": colour}
            text = f"{colour.capitalize()} {kind} in cotton" if index else escaped(NASTY)
            rows.append({"image": f"{index}.png", "text": text, **metadata})
    draw("pink", "coat", paper="#888888").save(folder / "again.png")
    rows.append({**rows[-1], "image": "again.png"})
    with (folder / "catalogue.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    build_index(folder, model, "tiny", folder / "index", Options(precision="fp32", progress=False))
    return Shop(Index.open(folder / "index"), model)


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    """Serve on a free port of this machine, and give the address."""
    with listen("127.0.0.1", 0) as listener:
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
