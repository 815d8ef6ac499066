"""The names that ``import unifashion`` offers, and the examples in their docstrings and in the README."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import unifashion
from unifashion.config import LanguageModelSettings
from unifashion.data.tryon import PERSON_MAPS, read_vitonhd
from unifashion.errors import UserError
from unifashion.llm.build import Learned, add_heads
from unifashion.models.losses import best_query_scores
from unifashion.search.build import Options, build_index
from unifashion.tryon.loading import save_pipeline
from unifashion.tryon.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def names(make_model, tmp_path, monkeypatch):
    """What the examples speak of: a tiny model, two photos in the current folder, an index, a captioner."""
    monkeypatch.chdir(tmp_path)
    model = make_model().eval()
    (tmp_path / "shop").mkdir()
    rows = ["image,category"]
    for number, colour in enumerate(("red", "green", "blue", "black", "white", "pink")):
        Image.new("RGB", (40, 50), colour).save(tmp_path / "shop" / f"{number}.png")
        rows.append(f"{number}.png,{'shirt' if number % 2 else 'dress'}")
    (tmp_path / "shop" / "catalogue.csv").write_text("\n".join(rows))
    for number, view in enumerate(("front", "back")):
        Image.new("RGB", (30, 40 + number), "red").save(f"{view}.png")
    model.save_pretrained(tmp_path / "model")
    build_index(tmp_path / "shop", model, str(tmp_path / "model"), tmp_path / "index", Options(progress=False))
    return {
        "model": model,
        "best_query_scores": best_query_scores,
        "retriever": unifashion.Retriever.from_index(tmp_path / "index", device="cpu"),
        "captioner": unifashion.Captioner(model),
        "designer": unifashion.Designer(drawing_model(make_model)),
    }


@pytest.mark.parametrize(
    "method",
    [
        unifashion.UniFashion.embed_images,
        unifashion.UniFashion.embed_texts,
        unifashion.UniFashion.embed_queries,
        unifashion.UniFashion.match,
        unifashion.Retriever.search,
        unifashion.Captioner.caption,
        unifashion.Designer.design,
    ],
    ids=lambda method: method.__qualname__,
)
def test_the_examples_in_docstrings_run(names, method):
    (example,) = doctest.DocTestFinder(recurse=False).find(method, method.__name__, globs=names)
    assert example.examples
    output = []
    failures = doctest.DocTestRunner().run(example, out=output.append).failed
    assert not failures, "".join(output)


def drawing_model(make_model, **sizes):
    """An untrained blip2_cir_full that draws 48 x 36 pixels."""
    settings = LanguageModelSettings(diffusion_model="tiny", drawing_size="48x36")
    learned = Learned(lambda: ["a red dress"], lambda: torch.rand(8, 3, 48, 36) * 2 - 1)
    return add_heads(make_model("blip2_cir_full", **sizes), settings, "", learned, None, ("q2i",)).eval()


@pytest.fixture
def place_of_the_readme(make_model, tmp_path, monkeypatch, toy):
    """The runs and pictures that the README speaks of, small and untrained, below the current folder."""
    monkeypatch.chdir(tmp_path)
    runs, shop = tmp_path / "runs/quickstart", tmp_path / "shop"
    sizes = {"num_queries": 8, "embed_dim": 128}
    make_model(**sizes).save_pretrained(runs / "pretrain")
    composed = make_model("blip2_cir_rerank", **sizes).eval()
    composed.save_pretrained(runs / "cir_ft")
    drawing_model(make_model, **sizes).save_pretrained(runs / "unified_cir_ft")
    shop.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 50), colour).save(shop / f"{number}.png")
    (shop / "catalogue.csv").write_text("image,price\n0.png,20\n1.png,60\n2.png,30\n3.png,40\n")
    build_index(shop, composed, str(runs / "cir_ft"), runs / "index", Options(progress=False))
    save_pipeline(tiny_pipeline(["red striped shirt"], image_size=(36, 24)), runs / "tryon" / "last")
    toy.write_tryon(tmp_path / "vitonhd", toy.TryOnSizes(train=1, test=2, height=64), progress=False)
    maps = read_vitonhd(tmp_path, "test", (*PERSON_MAPS, "garment")).items[0].maps
    names = {"image": "person.jpg", "agnostic_mask": "person_mask.png", "densepose": "person_densepose.jpg"}
    for name, file in {**names, "garment": "garment.jpg"}.items():
        shutil.copy(maps[name], file)
    Image.new("RGB", (30, 40), "green").save("photo.jpg")
    return tmp_path


def readme_examples(text):
    """The Python examples of a README as one doctest."""
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", None, 0)


def test_the_examples_of_the_readme_run(place_of_the_readme):
    example = readme_examples((ROOT / "README.md").read_text())
    assert len(example.examples) >= 8
    output = []
    failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=output.append).failed
    assert not failures, "".join(output)
    with Image.open("result.png") as picture:
        assert picture.size == (48, 64)


def test_an_example_that_is_wrong_is_found():
    example = readme_examples("words\n```python\n>>> 1 + 1\n3\n\n```\n")
    assert doctest.DocTestRunner().run(example, out=lambda text: None).failed == 1


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, unifashion; print('torch' in sys.modules); unifashion.Retriever; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_name_is_there():
    assert set(unifashion.__all__) == set(unifashion._MODULES)
    for name in unifashion.__all__:
        assert getattr(unifashion, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Retriver'"):
        unifashion.Retriver  # noqa: B018


def test_queries_need_a_text_for_every_image(names):
    with pytest.raises(UserError, match="1 texts for 2 images"):
        names["model"].embed_queries(["is longer"], ["front.png", "back.png"])
