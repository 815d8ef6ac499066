"""The Python of the README (lines after ``>>>``) runs as it stands, with a tiny model in the folders that it names."""

import doctest
from pathlib import Path

import pytest
from PIL import Image

from unifashion.serving.build import Options, build_index

README = Path(__file__).resolve().parents[1] / "README.md"
MODEL, INDEX, PHOTOS = "runs/my_shop", "runs/my_index", ("photo.jpg", "front.jpg", "back.jpg")


def failures_of(text: str) -> str:
    """Run the examples of a text in the current folder; return what went wrong."""
    example = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    return "".join(said)


@pytest.fixture
def shop(make_model, tmp_path, monkeypatch):
    """The current folder: ``my_shop`` with a model and an index of it, and three photos."""
    monkeypatch.chdir(tmp_path)
    model = make_model().eval()
    Path("my_shop").mkdir()
    rows = ["image,text,price"]
    for number, colour in enumerate(("red", "green", "blue", "black", "white", "pink")):
        Image.new("RGB", (40, 50), colour).save(f"my_shop/{number}.png")
        rows.append(f"{number}.png,a {colour} dress,{30 + number}.50")
    Path("my_shop/catalogue.csv").write_text("\n".join(rows))
    for number, name in enumerate(PHOTOS):
        Image.new("RGB", (30, 40 + number), "red").save(name)
    model.save_pretrained(Path(MODEL))
    build_index(Path("my_shop"), model, str(Path(MODEL).absolute()), Path(INDEX), Options(progress=False))


def test_the_python_of_the_readme_runs(shop):
    said = failures_of(README.read_text())
    assert not said, said


RIGHT = """
Words before it.

    >>> from unifashion import Captioner, Retriever, UniFashion
    >>> retriever = Retriever.from_index("runs/my_index")
    >>> for hit in retriever.search("blue linen shirt", k=3, filter="price < 50"):
    ...     print(hit.score, hit.id, hit.image, hit.metadata["price"])
    0...

Words after it.
"""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("no Python at all\n\n    unifashion search runs/my_index red\n", None),
        (RIGHT, None),
        (RIGHT.replace("0...", "1 2 3"), "Got:"),
        (RIGHT.replace("from_index", "of_index"), "AttributeError"),
        (RIGHT.replace("my_index", "no_index"), "no index at runs/no_index"),
        (RIGHT.replace("price <", "prize <"), "did you mean 'price'"),
    ],
    ids=["none", "right", "output", "name", "path", "field"],
)
def test_wrong_python_in_a_readme_is_found(shop, text, wrong):
    said = failures_of(text)
    assert (said == "") if wrong is None else wrong in said
