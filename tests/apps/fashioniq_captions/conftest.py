"""Fixtures of captioning: tiny models, a small FashionIQ, and a backend that needs no model."""

import json
import threading
from pathlib import Path

import pytest
from PIL import Image
from tiny_llava import write_tiny_llava

from unifashion.apps.fashioniq_captions.backend import Refusal, Reply


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("llava") / "next")


@pytest.fixture(scope="session")
def tiny_llava_15(tmp_path_factory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("llava") / "v15", "1.5")


NAMES = {
    "dress": {"train": ["D0", "D1", "D2", "D3", "BOTH"], "val": ["DV0", "DV1", "BOTH"], "test": ["DT0", "DT1"]},
    "shirt": {"train": ["S0", "S1"], "val": ["SV0", "SV1"], "test": ["ST0", "ST1"]},
    "toptee": {"train": ["T0", "T1"], "val": ["TV0", "TV1"], "test": ["TT0", "TT1"]},
}


@pytest.fixture
def fashioniq(tmp_path) -> Path:
    """A data root with a FashionIQ of 19 photos; every image after the first is the target of a query."""
    home = tmp_path / "data" / "fashionIQ_dataset"
    for folder in ("captions", "image_splits", "images"):
        (home / folder).mkdir(parents=True)
    for category, splits in NAMES.items():
        for split, names in splits.items():
            queries = [
                {"candidate": names[0], "captions": [f"is like {name}", "has lace"]}
                | ({} if split == "test" else {"target": name})
                for name in names[1:]
            ]
            (home / "captions" / f"cap.{category}.{split}.json").write_text(json.dumps(queries))
            (home / "image_splits" / f"split.{category}.{split}.json").write_text(json.dumps(names))
            for number, name in enumerate(names):
                Image.new("RGB", (30 + number, 40), (number * 40, 90, 160)).save(home / "images" / f"{name}.png")
    return home.parent


class Parrot:
    """A backend that says which question and which size of photo it got; refuses photos of the widths it is told to."""

    def __init__(self, batch_size: int = 2, concurrency: int = 2, refuses: tuple[int, ...] = ()) -> None:
        self.batch_size, self.concurrency, self.refuses = batch_size, concurrency, refuses
        self.dialogues: list[tuple[str, ...]] = []
        self.lock = threading.Lock()
        self.is_closed = False

    def answer(self, images, dialogues):
        assert len(images) == len(dialogues) <= self.batch_size and not self.is_closed
        with self.lock:
            self.dialogues += dialogues
        return [
            Refusal("it will not") if image.width in self.refuses else Reply(f"The dress is {image.width} wide.", True)
            for image in images
        ]

    def close(self):
        self.is_closed = True


@pytest.fixture
def parrot():
    return Parrot
