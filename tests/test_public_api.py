"""The names that ``import unifashion`` offers, and the examples in their docstrings."""

import doctest
import subprocess
import sys

import pytest
from PIL import Image

import unifashion
from unifashion.errors import UserError
from unifashion.models.losses import best_query_scores
from unifashion.serving.build import Options, build_index


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
    }


@pytest.mark.parametrize(
    "method",
    [
        unifashion.UniFashion.embed_images,
        unifashion.UniFashion.embed_texts,
        unifashion.UniFashion.embed_queries,
        unifashion.Retriever.search,
        unifashion.Captioner.caption,
    ],
    ids=lambda method: method.__qualname__,
)
def test_the_examples_in_docstrings_run(names, method):
    (example,) = doctest.DocTestFinder(recurse=False).find(method, method.__name__, globs=names)
    assert example.examples
    output = []
    failures = doctest.DocTestRunner().run(example, out=output.append).failed
    assert not failures, "".join(output)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, unifashion; print('torch' in sys.modules); unifashion.Retriever; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_name_is_there():
    assert set(unifashion.__all__) == set(unifashion._PLACES)
    for name in unifashion.__all__:
        assert getattr(unifashion, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Retriver'"):
        unifashion.Retriver  # noqa: B018


def test_queries_need_a_text_for_every_image(names):
    with pytest.raises(UserError, match="1 texts for 2 images"):
        names["model"].embed_queries(["is longer"], ["front.png", "back.png"])
