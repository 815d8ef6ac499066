"""A shop of twelve garments, one of them broken, and a tiny model that indexes it."""

import csv

import pytest
import torch
from PIL import Image

from unifashion.search import Retriever
from unifashion.search.build import Options, build_index

torch.set_num_threads(1)
COLOURS = ("red", "blue", "green", "black", "white", "pink")
QUICK = Options(precision="fp32", batch_size=4, progress=False)


def write_table(folder, rows):
    with (folder / "catalogue.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "text", "id", "category", "price", "brand"])
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def shop(tmp_path):
    """A folder with 12 photos, a table, and a row whose photo is broken."""
    return write_shop(tmp_path / "shop")


def write_shop(folder):
    folder.mkdir()
    rows = []
    for number in range(12):
        colour, category = COLOURS[number % 6], "dress" if number < 6 else "shirt"
        noise = Image.effect_noise((48, 64), 30 + 10 * number).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, colour), 0.7).save(folder / f"{number}.png")
        price = "" if number == 11 else f"{10 + number}.50"
        rows.append(
            {
                "image": f"{number}.png",
                "text": f"a {colour} {category}",
                "id": f"g{number}",
                "category": category,
                "price": price,
            }
        )
    (folder / "broken.png").write_bytes(b"no image")
    rows.append({"image": "broken.png", "text": "gone", "id": "broken", "category": "dress", "price": "1"})
    write_table(folder, rows)
    return folder


@pytest.fixture
def make_retriever(make_model, shop, tmp_path):
    """Index the shop with a tiny model of a named preset and open the index."""

    def make(model_name="blip2_cir_cls", **options):
        model = make_model(model_name)
        home = tmp_path / f"model_{model_name}"
        if not home.is_dir():
            model.save_pretrained(home)
        folder = tmp_path / f"index_{model_name}"
        build_index(shop, model, str(home), folder, QUICK)
        return Retriever.from_index(folder, device="cpu")

    return make
