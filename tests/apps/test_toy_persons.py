"""The embedded persons: every map fits the photo, the agnostic picture hides the garment, the same seed draws the same bytes."""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unifashion.apps.toy_catalogue import write_catalogue
from unifashion.apps.toy_catalogue.drawing import draw, draw_mask
from unifashion.apps.toy_catalogue.garment import COLOURS, LENGTHS, NECKLINES, SLEEVES, Garment, draw_garment
from unifashion.apps.toy_catalogue.person import KEYPOINTS, PARSE, Figure, Wearer
from unifashion.apps.toy_catalogue.tryon import CATEGORIES, TryOnSizes, write_tryon
from unifashion.apps.toy_catalogue.words import LENGTH_WORDS
from unifashion.apps.toy_catalogue.write import Sizes
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError


def drawn(seed, height=64):
    garment = draw_garment(CATEGORIES[seed % 2], random.Random(seed))
    flat, mask = (make(garment, height, random.Random(seed)) for make in (draw, draw_mask))
    return Figure(Wearer.draw(random.Random(seed)), height * 3 // 4, height), flat, mask


def array(picture):
    return np.asarray(picture, dtype=np.float32)


def test_the_mask_of_a_garment_is_where_its_photo_differs_from_the_wall():
    num_seen = 0
    for seed in range(6):
        garment = draw_garment("shirt", random.Random(seed))
        mask = array(draw_mask(garment, 64, random.Random(seed))) > 127
        photo = array(draw(garment, 64, random.Random(seed)))
        wall = photo[2, 2]
        if np.abs(photo[mask] - wall).mean() < 40:
            continue  # white cloth on a white wall
        num_seen += 1
        assert np.abs(photo[mask] - wall).mean() > 2 * np.abs(photo[~mask] - wall).mean()
    assert num_seen >= 4


def test_the_agnostic_picture_shows_nothing_of_the_garment():
    """Two persons alike in different clothes have the same agnostic picture, but for hairs' breadths at hands and head."""
    for seed in range(8):
        figure, *_ = drawn(seed)
        _, flat, mask = drawn(seed + 100)
        _, flat2, mask2 = drawn(seed + 201)
        first, second = (figure.agnostic(figure.photo(*clothes)) for clothes in ((flat, mask), (flat2, mask2)))
        differs = np.abs(array(first) - array(second)).max(-1) > 8
        assert differs.mean() < 0.004


def test_the_worn_garment_lies_in_what_is_painted_and_where_its_mask_says():
    for seed in range(8):
        figure, _, mask = drawn(seed)
        worn, painted = array(figure.wear(mask)) > 127, array(figure.painted()) > 127
        assert worn.mean() > 0.05
        assert (worn & ~painted).sum() < 0.03 * worn.sum()
        parts = np.asarray(figure.parse(mask))
        assert ((parts == PARSE["upper"]) & worn).sum() > 0.9 * worn.sum()
        assert ((parts == PARSE["upper"]) & ~worn).sum() == 0


def test_pose_points_lie_on_the_body():
    figure, *_ = drawn(3)
    body = array(figure.small(figure.densepose())).max(-1) > 10
    values = np.array(figure.keypoints()["people"][0]["pose_keypoints_2d"]).reshape(25, 3)
    for number in KEYPOINTS:
        x, y, sure = values[number]
        assert sure == 1
        if 0 <= y < 64 and 0 <= x < 48:
            assert body[int(y), int(x)], number
    assert (values[[n for n in range(25) if n not in KEYPOINTS]] == 0).all()


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(tmp_path):
    roots = [
        write_tryon(tmp_path / str(n), TryOnSizes(2, 2, 32, seed), progress=False) for n, seed in enumerate((0, 0, 1))
    ]
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in roots]
    assert files[0] == files[1]
    assert files[0].keys() == files[2].keys()
    assert files[0] != files[2]


CHUNKS = re.compile(r"(\w+)(?: and (\w+) (\w+))? (\w+); (\S+) (\w+) (\w+); (\S+) (\w+) with a (.+)")


def told_by(chunks):
    """The garment that the three chunks of a caption state; fails where they contradict one another."""
    colour, second, pattern, category, sleeve, again, too, length, three, neckline = CHUNKS.fullmatch(
        "; ".join(chunks)
    ).groups(default="")
    assert again == colour and too == three == category
    (length,) = (name for name, word in LENGTH_WORDS[category].items() if word == length)
    return Garment(category, colour, second, pattern or "plain", sleeve, neckline, length)


def test_captions_are_true(tryon_root):
    """The garment that a caption states, drawn again, is like the photo; with any attribute changed it is less like it."""
    root = tryon_root / "vitonhd"
    captions = json.loads((root / "captions.json").read_text())
    assert len(captions) == 10
    choices = {"colour": COLOURS, "sleeve": SLEEVES, "length": LENGTHS}
    for number, chunks in captions.items():
        (path,) = root.glob(f"*/cloth/{number}_00.jpg")
        photo, garment = array(Image.open(path))[8:56], told_by(chunks)
        others = [
            replace(garment, **{name: value})
            for name, values in {**choices, "neckline": NECKLINES[garment.category]}.items()
            for value in values
            if value not in (getattr(garment, name), garment.second_colour)
        ]
        distances = []
        for each in (garment, *others):
            drawing = draw(each, 64, random.Random(f"0/tryon/photo/{int(number)}"))
            drawing = array(drawing.resize((48, 48), Image.Resampling.LANCZOS))
            distances.append(np.abs(photo - drawing).mean())
        assert distances[0] < min(distances[1:]) and len(others) >= 16, (number, garment)


def test_a_set_of_these_sizes_is_not_written_again_and_others_things_are_not_touched(tmp_path):
    root = write_tryon(tmp_path / "v", TryOnSizes(1, 2, 32), progress=False)
    (root / "train" / "image" / "00000_00.jpg").unlink()
    write_tryon(root, TryOnSizes(1, 2, 32), progress=False)
    assert not (root / "train" / "image" / "00000_00.jpg").exists()
    write_tryon(root, TryOnSizes(1, 3, 32), progress=False)
    assert len(list((root / "test" / "image").iterdir())) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="holds other things"):
        write_tryon(tmp_path / "mine", progress=False)


def test_the_rest_of_the_catalogue_can_be_written_around_the_try_on_set(tmp_path):
    root = tmp_path / "catalogue"
    write_tryon(root / "vitonhd", TryOnSizes(1, 1, 32), progress=False)
    sizes = Sizes(2, 1, 1, 1, 0, 2, 1, side=16)
    write_catalogue(root, sizes, progress=False)
    assert is_synthetic(root)
    write_tryon(root / "vitonhd", TryOnSizes(1, 1, 32), progress=False)
    assert is_synthetic(root / "vitonhd")
    assert Image.open(root / "vitonhd/test/image/00001_00.jpg").size == (24, 32)
