"""A folder of try-on results becomes score rows, a grid, and a part of the report; what is wrong with it is one sentence."""

import json
import shutil

import pytest
from PIL import Image, ImageFilter

from unifashion.cli import main
from unifashion.data.images import load_image
from unifashion.data.tryon import read_vitonhd
from unifashion.evaluation.scores import read_scores


@pytest.fixture(scope="module")
def root(tmp_path_factory, toy):
    folder = tmp_path_factory.mktemp("data")
    toy.write_tryon(folder / "vitonhd", toy.TryOnSizes(train=2, test=4, height=64), progress=False)
    return folder


@pytest.fixture
def results(root, tmp_path):
    """Paired results that are the truth itself, slightly blurred."""
    folder = tmp_path / "results"
    folder.mkdir()
    for item in read_vitonhd(root, "test", ("image",)).items:
        load_image(item.maps["image"]).filter(ImageFilter.GaussianBlur(1)).save(folder / f"{item.name}.png")
    return folder


def score(folder, root, *flags, code=None):
    words = ["score-images", str(folder), "--data-root", str(root), "--weights", str(folder / "none"), *flags]
    if code is None:
        main(words)
        return read_scores(folder / "scores.json")
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == code
    return []


def test_results_of_another_program_are_scored_by_several_profiles(results, root, capsys):
    rows = score(results, root, "--profile", "catvton", "hrviton", "--model", "theirs", "--repaint")
    said = capsys.readouterr().out
    assert [(row.protocol, row.metric) for row in rows] == [
        ("tryon/catvton/paired+repaint", "SSIM"),
        ("tryon/hrviton/paired+repaint", "SSIM"),
    ]
    assert all(0.5 < row.value < 1 for row in rows)
    assert {(row.model, row.n, row.marks) for row in rows} == {("theirs", 4, ("synthetic",))}
    assert "left out: LPIPS (squeeze) cannot be computed without squeezenet1_1-b8a52dc0.pth: fetch it from" in said
    assert said.count("left out: ") == 3, "one for each network, not for each metric"


def test_the_truth_scores_one_and_the_hidden_garment_less(results, root):
    found = []
    for name in ("image", "agnostic"):
        for item in read_vitonhd(root, "test", ("image", "agnostic")).items:
            shutil.copy(item.maps[name], results / f"{item.name}.jpg")
            (results / f"{item.name}.png").unlink(missing_ok=True)
        found += score(results, root)
    assert [row.protocol for row in found] == ["tryon/catvton/paired+jpg"] * 2
    assert found[0].value == pytest.approx(1, abs=1e-4)
    assert found[1].value < 0.95


def test_what_our_inference_wrote_travels_with_the_scores(results, root):
    facts = {
        "settings": {"pairs": "paired", "split": "test", "repaint": True, "model_path": "runs/m"},
        "marks": ["synthetic", "repaint", "ground-truth-start"],
    }
    (results / "inference.json").write_text(json.dumps(facts))
    (row,) = score(results, root)
    assert (row.protocol, row.model) == ("tryon/catvton/paired+repaint", "runs/m")
    assert row.marks == ("synthetic", "ground-truth-start")


def test_missing_results_are_refused_or_told(results, root, capsys):
    next(results.glob("*.png")).unlink()
    score(results, root, code=2)
    assert "--max-missing" in capsys.readouterr().err
    assert not (results / "scores.json").exists()
    (row,) = score(results, root, "--max-missing", "25")
    assert (row.n, row.missing, row.marks) == (3, 25.0, ("synthetic", "incomplete"))


def test_the_report_shows_the_scores_and_the_grid(results, root, tmp_path):
    write_report = pytest.importorskip("unifashion.apps.report").write_report
    score(results, root)
    assert Image.open(results / "examples.png").width > 8 * 160
    page, _ = write_report([results], tmp_path / "report.html")
    page = page.read_text()
    assert "tryon/catvton/paired" in page
    assert "The first results: person, garment, result, truth, in turn." in page
    assert "in percent" not in page.split("tryon/catvton/paired")[0].rsplit("<caption", 1)[-1]
    assert "The answers to individual queries" not in page
    assert "Ties" not in page.split("<footer")[0], "nothing was ranked"
    (results / "examples.png").unlink()
    page, _ = write_report([results], tmp_path / "report.html")
    assert "There is no examples.png beside these scores" in page.read_text()


BAD = {
    "unpaired without networks": (lambda folder: None, ["--pairs", "unpaired"], "holds no result of the test split"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], [], "check --dataset, --split"),
    "no folder": (shutil.rmtree, [], "is not a folder"),
    "two files for one": (
        lambda folder: [shutil.copy(path, path.with_suffix(".webp")) for path in list(folder.iterdir())[:1]],
        [],
        "keep one of them",
    ),
    "damaged facts": (lambda folder: (folder / "inference.json").write_text("{"), [], "inference.json is damaged"),
    "only metrics that lack their network": (lambda folder: None, ["--profile", "mgd"], "inception-2015-12-05.pt"),
    "a file that is no picture": (
        lambda folder: next(iter(sorted(folder.iterdir()))).write_bytes(b"x"),
        [],
        "not an image",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_folder_that_cannot_be_scored_is_one_sentence(results, root, capsys, what):
    change, flags, sentence = BAD[what]
    change(results)
    score(results, root, *flags, code=2)
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert sentence in error.splitlines()[-1]
    assert not (results / "scores.json").exists()


def test_real_photos_are_scored_beside_one_another(shared, tmp_path, capsys):
    """The garment of the photo, hidden by grey, scores less than the photo and more than another person."""
    items = read_vitonhd(shared / "data", "test", ("image",)).items[:4]
    photos = [load_image(item.maps["image"]).resize((192, 256)) for item in items]
    values = []
    for change in (lambda number: photos[number], hide_middle(photos), lambda number: photos[number - 1]):
        for number, item in enumerate(items):
            change(number).save(tmp_path / f"{item.name}.png")
        rows = score(tmp_path, shared / "data", "--profile", "catvton", "hrviton", "--max-missing", "99")
        values.append([row.value for row in rows])
        assert len(rows) == 2
    for best, hidden, other in zip(*values, strict=True):
        assert best > hidden > other


def hide_middle(photos):
    def change(number):
        picture = photos[number].copy()
        picture.paste((128, 128, 128), (48, 64, 144, 192))
        return picture

    return change
