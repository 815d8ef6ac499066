"""A small shop for the demo's tests: real pictures and metadata behind a retriever whose answers are easy to predict."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageDraw

from unifashion.errors import UserError

COLOURS = {
    "red": "#b03a3a",
    "blue": "#3a5ab0",
    "green": "#3d8a57",
    "black": "#2a2a2a",
    "yellow": "#d9b13a",
    "pink": "#d88aa6",
}
KINDS = ("dress", "shirt", "skirt", "coat")
NASTY = (
    "<script>window.cracked=1</script><img src=x onerror='window.cracked=2'> `${window.cracked=3}` {{7*7}} \"quoted\""
)


@dataclass(frozen=True)
class Product:
    id: str
    image: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float = 0.0


def draw_products(folder: Path) -> list[Product]:
    """24 garments in six colours and four shapes; the first of them has a name that attacks the page."""
    products = []
    for colour, code in COLOURS.items():
        for kind in KINDS:
            number = len(products)
            picture = Image.new("RGB", (240, 320), "#f1eee9")
            pen = ImageDraw.Draw(picture)
            flare = {"dress": 70, "shirt": 40, "skirt": 80, "coat": 55}[kind]
            pen.polygon([(85, 60), (155, 60), (120 + flare, 280), (120 - flare, 280)], fill=code)
            file = folder / f"{number}.png"
            picture.save(file)
            title = NASTY if number == 0 else f"{colour.capitalize()} {kind} in cotton, cut {number}"
            facts = {"title": title, "price": 20.0 + 5 * number, "category": kind, "colour": colour}
            products.append(Product(f"{kind}/{number}", file, facts))
    return products


class Index:
    def __init__(self, products: list[Product]) -> None:
        self.fields = {"price": "number", "category": "text", "colour": "text"}
        self.products = {product.id: product for product in products}

    def __len__(self) -> int:
        return len(self.products)

    def get(self, item_id: str) -> Product:
        return self.products[item_id]


class Shop:
    """Finds products by how many of the words their facts hold; ``delay`` seconds a search; ``broken`` raises."""

    def __init__(self, folder: Path) -> None:
        self.index = Index(draw_products(folder))
        self.model = SimpleNamespace(config=SimpleNamespace(model_name="blip2_cir_rerank"))
        self.delay, self.broken = 0.0, None
        self.asked: list[dict[str, Any]] = []

    def search(self, text=None, images=(), k=10, filter=None, rerank=0):
        self.asked.append({"text": text, "images": list(images), "k": k, "filter": filter, "rerank": rerank})
        time.sleep(self.delay)
        if self.broken is not None:
            raise self.broken
        if filter is not None and "price" not in filter:
            raise UserError(f"filter {filter!r}: unknown field; known: price, category, colour")
        limit = float(filter.rpartition("<")[2]) if filter else float("inf")
        words = (text or "").lower().split()
        rows = [product for product in self.index.products.values() if product.metadata["price"] < limit]
        scores = {p.id: sum(w in (p.metadata["colour"], p.metadata["category"]) for w in words) / 2 for p in rows}
        best = sorted(rows, key=lambda product: -scores[product.id])[:k]
        return [Product(p.id, p.image, p.metadata, scores[p.id]) for p in best]


class Writer:
    def caption(self, images):
        return [f"a garment of {image.width} by {image.height} <b>pixels</b>" for image in images]


class Tailor:
    def dress(self, person, garment, words, maps, progress):
        for step in range(3):
            progress(step + 1, 3)
        return person
