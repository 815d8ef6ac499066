"""Drawn garments as queries for the true ones: recall by hand, the rows of a folder, and what is wrong in one sentence."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unifashion.cli import main
from unifashion.data.images import load_image, open_image
from unifashion.data.tryon import read_vitonhd
from unifashion.errors import UserError
from unifashion.evaluation import tryon_results
from unifashion.evaluation.cycle import cycle_scores
from unifashion.evaluation.image_inputs import painted_region
from unifashion.evaluation.scores import comparable, read_scores

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


class Colours:
    """An encoder of two vectors: the mean colour of a picture, and one that is the same for all."""

    name = "colours"

    def __init__(self, weights="0123456789abcdef"):
        self.weights, self.seen = weights, []

    def weights_hash(self):
        return self.weights

    def embed_images(self, images, batch_size=32):
        assert len(images) <= batch_size
        pixels = [np.asarray(open_image(image)) / 255 for image in images]
        self.seen += pixels
        means_G3 = torch.tensor(np.array([one.mean(axis=(0, 1)) for one in pixels])).float()
        colours_G4 = F.pad(F.normalize(means_G3, dim=1), (0, 1))
        return torch.stack([colours_G4, torch.tensor([0.0, 0, 0, 1]).expand_as(colours_G4)], dim=1)


def plain(colour):
    return Image.new("RGB", (8, 8), COLOURS.get(colour, colour))


@pytest.fixture
def gallery(tmp_path):
    for name in COLOURS:
        plain(name).save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in COLOURS}


def values(rows):
    found = {}
    for row in rows:
        found.setdefault(row.protocol, {})[row.name] = row.value
    return found


def test_what_all_pictures_share_says_nothing_about_which_garment_was_drawn(gallery):
    drawn = [plain(colour) for colour in ("red", (200, 60, 0), (0, 30, 220), "blue")]
    rows = cycle_scores(drawn, ["red", "yellow", "blue", "green"], gallery, Colours(), batch_size=3, progress=False)
    model, chance = values(rows).items()
    assert model == ("cycle/design+colours-01234567", {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0})
    assert chance == ("cycle/design+chance", {"R@1": 25.0, "R@5": 100.0, "R@10": 100.0})
    assert {(row.n, row.gallery) for row in rows} == {(4, 4)}
    assert rows[0].low < 50 < rows[0].high


def test_ranks_are_those_of_a_loop_over_all_vectors(make_model, tmp_path):
    rng, model, names = np.random.default_rng(0), make_model(), [str(number) for number in range(12)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    drawn = [Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in names]
    files = {name: tmp_path / f"{name}.png" for name in names}
    rows = values(cycle_scores(drawn, names, files, model, progress=False))
    garments, queries = model.embed_images(list(files.values())).double(), model.embed_images(drawn).double()
    ranks = []
    for row, vectors in enumerate(queries):
        scores = [np.mean([max(float(a @ b) for b in garment) for a in vectors]) for garment in garments]
        ranks.append(sum(score >= scores[row] for score in scores) - 1)
    assert next(iter(rows.values())) == {f"R@{k}": 100 * np.mean([rank < k for rank in ranks]) for k in (1, 5, 10)}
    assert 0 < next(iter(rows.values()))["R@5"] < 100, "or the comparison says nothing"


def test_a_model_that_maps_everything_to_one_vector_finds_nothing(gallery):
    grey = [plain((90, 90, 90))] * 2
    for name in gallery:
        grey[0].save(gallery[name])
    rows = values(cycle_scores(grey, ["red", "blue"], gallery, Colours(), photos=grey, progress=False))
    assert rows["cycle/design+colours-01234567"]["R@1"] == rows["cycle/design+photo+colours-01234567"]["R@1"] == 0


@pytest.mark.parametrize(
    ("drawn", "truth", "left", "sentence"),
    [
        ([], [], 4, "no picture of a garment"),
        (["red"], ["red"], 1, "at least two garments to choose from, and there is 1"),
        (["red"], ["black"], 4, "'black' should be drawn, and the 4 garments to choose from lack its photo"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(gallery, drawn, truth, left, sentence):
    some = dict(list(gallery.items())[:left])
    with pytest.raises(UserError, match=sentence):
        cycle_scores([plain(one) for one in drawn], truth, some, Colours(), progress=False)


# A folder of try-on results ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model):
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder / "retrieval")
    return folder / "retrieval"


@pytest.fixture
def photos(tryon_root, tmp_path):
    """Results that are the real photos."""
    for item in read_vitonhd(tryon_root, "test", ("image",)).items:
        load_image(item.maps["image"]).save(tmp_path / f"{item.name}.png")
    return tmp_path


def score(folder, root, model, *flags):
    main(["score-images", str(folder), "--data-root", str(root), "--weights", "none", "--cycle", str(model), *flags])
    return read_scores(folder / "scores.json")


def test_photos_as_results_score_what_photos_score(photos, tryon_root, model, capsys):
    rows = [row for row in score(photos, tryon_root, model, "--repaint") if row.protocol.startswith("cycle/")]
    said = capsys.readouterr().out
    drawn, real, chance = (rows[start : start + 3] for start in (0, 3, 6))
    assert [row.value for row in drawn] == [row.value for row in real]
    assert [row.value for row in chance] == [25.0, 100.0, 100.0]
    name = drawn[0].protocol.removeprefix("cycle/tryon/paired+repaint+")
    assert name.startswith("blip2_cir_cls-") and real[0].protocol == f"cycle/tryon/paired+photo+{name}"
    assert {(row.n, row.gallery, row.marks, row.ties) for row in rows} == {
        (4, 4, ("synthetic",), "count against the target")
    }
    assert f"used 4 of 4 pairs; searched by {model}" in said and "ties: count against the target" in said
    assert said.count("ties: ") == 1


def test_the_region_that_was_painted_is_the_query_and_the_garment_of_the_pair_the_answer(
    tryon_root, tmp_path, monkeypatch
):
    """Results show a plain garment of the right colour in the mask, and elsewhere the colour of another garment."""
    encoder = Colours()
    monkeypatch.setattr(tryon_results, "load_encoder", lambda name, device: encoder)
    items = read_vitonhd(tryon_root, "test", ("image", "garment", "agnostic_mask"), "unpaired").items
    colours = [np.asarray(load_image(item.maps["garment"])).mean(axis=(0, 1)) for item in items]
    for number, item in enumerate(items):
        mask = load_image(item.maps["agnostic_mask"]).convert("L")
        box, picture = mask.getbbox(), Image.new("RGB", mask.size, tuple(colours[number - 1].round().astype(int)))
        picture.paste(tuple(colours[number].round().astype(int)), box)
        picture.save(tmp_path / f"{item.name}.png")
    rows = score(tmp_path, tryon_root, "stub", "--pairs", "unpaired")
    assert [row.protocol for row in rows[::3]] == [
        "cycle/tryon/unpaired+colours-01234567",
        "cycle/tryon/unpaired+chance",
    ]
    squares = encoder.seen[len(items) :]
    assert all(square.shape[0] == square.shape[1] < 64 for square in squares), "the box, in a square, is what is seen"
    middles = [square[square.shape[0] // 2, square.shape[1] // 2] * 255 for square in squares]
    np.testing.assert_allclose(middles, colours, atol=1)
    assert {square[0, 0].min() for square in squares} == {1.0}, "and the rest of the square is white"


def test_numbers_of_two_retrieval_models_are_not_comparable(tryon_root, photos, monkeypatch):
    found = []
    for weights in ("aaaaaaaa", "bbbbbbbb"):
        monkeypatch.setattr(tryon_results, "load_encoder", lambda name, device, w=weights: Colours(w))
        found.append([row for row in score(photos, tryon_root, "stub") if row.metric == "R@1"])
    assert [comparable(*pair) for pair in zip(*found, strict=True)] == [False, False, True], "chance is chance"


def test_garments_without_a_result_stay_in_the_gallery(photos, tryon_root, model):
    next(photos.glob("*.png")).unlink()
    rows = score(photos, tryon_root, model, "--max-missing", "25")
    assert {(row.n, row.gallery) for row in rows if row.metric == "R@1"} == {(3, 4)}
    assert "incomplete" in rows[0].marks


def test_the_report_says_what_the_rows_are(photos, tryon_root, model, tmp_path):
    write_report = pytest.importorskip("unifashion.apps.report").write_report
    score(photos, tryon_root, model)
    page, _ = write_report([photos], tmp_path / "report.html")
    text = page.read_text()
    assert "What was painted is the query of a search for the true garment" in text
    assert "The search is by blip2_cir_cls, the retrieval model whose weights" in text
    assert "what a perfect result reaches" in text and "What guessing reaches." in text


def no_folder(name):
    return lambda root: shutil.rmtree(root / "vitonhd" / "test" / name)


def first_garment(change):
    return lambda root: change(min((root / "vitonhd" / "test" / "cloth").iterdir()))


BAD = {
    "no model": (None, "nowhere/at/all", "--cycle takes a retrieval model: no model at"),
    "a model of another kind": (None, "denoiser", "--cycle takes a retrieval model: "),
    "no masks": (no_folder("agnostic-mask"), "", "no images in agnostic-mask or agnostic_mask"),
    "no garments": (no_folder("cloth"), "", "no images in cloth (garment)"),
    "a garment missing": (first_garment(lambda path: path.unlink()), "", "3 of 4 can be used"),
    "a garment damaged": (first_garment(lambda path: path.write_bytes(b"x")), "", "not an image"),
    "one garment": ("one", "", "at least two garments to choose from, and there is 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_folder_that_cannot_be_measured_is_one_sentence(photos, tryon_root, model, tmp_path, capsys, what):
    change, name, sentence = BAD[what]
    root = tmp_path / "data"
    shutil.copytree(tryon_root, root)
    (tmp_path / "denoiser").mkdir()
    (tmp_path / "denoiser" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    flags = []
    if change == "one":
        first = min(photos.glob("*.png")).stem
        (tmp_path / "one.txt").write_text(f"{first}.jpg {first}.jpg\n")
        flags = ["--pairs", str(tmp_path / "one.txt")]
    elif change is not None:
        change(root)
    with pytest.raises(SystemExit) as left:
        score(photos, root, tmp_path / name if name else model, *flags)
    error = capsys.readouterr().err.splitlines()[-1]
    assert left.value.code == 2 and error.startswith("error: ") and sentence in error, error
    assert not (photos / "scores.json").exists()


def test_a_region_keeps_its_pixels_where_no_size_is_asked_for(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    mask = np.zeros((60, 40), np.uint8)
    mask[20:50, 10:30] = 255
    Image.fromarray(picture).save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    square = np.asarray(painted_region(tmp_path / "p.png", tmp_path / "m.png"))
    assert square.shape == (30, 30, 3)
    np.testing.assert_array_equal(square[:, 5:25], picture[20:50, 10:30])
