"""Sketches of garments: with an edge network, without one, and next to the ones that MGD gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.data.images import load_image
from unifashion.errors import UserError
from unifashion.tryon.agnostic import grow
from unifashion.tryon.human_parsing import ATR, LIP, read_labels
from unifashion.tryon.masks import read_mask
from unifashion.tryon.sketch import Sketcher, difference_lines, place, product_region


def shirt(colour, stripe=None):
    """A garment of one colour on a person, with a stripe; photo and mask."""
    photo, garment = np.full((256, 192, 3), 220, np.uint8), np.zeros((256, 192), bool)
    garment[60:180, 40:150] = True
    photo[garment] = colour
    if stripe is not None:
        photo[110:126, 40:150] = stripe
    return Image.fromarray(photo), garment


@pytest.mark.parametrize("colour", [0, 90, 255])
def test_cloth_of_one_colour_is_its_outline_alone(colour):
    photo, garment = shirt(colour)
    found = np.asarray(Sketcher()(photo, garment))
    edge = grow(garment, 3) & grow(~garment, 3)
    assert found[60, 100] > 200 and found[120, 40] > 200
    assert (found[~edge] < 20).all()


@pytest.mark.parametrize(("colour", "stripe"), [(0, 80), (255, 180)])
def test_a_stripe_is_two_lines_weaker_than_the_outline_on_black_and_on_white(colour, stripe):
    found = np.asarray(Sketcher()(*shirt(colour, stripe)))[100:136, 95]
    assert 60 < found[6:14].max() < 200 and 60 < found[22:30].max() < 200
    assert found[0] < 20 and found[18] < 30


def test_an_even_picture_has_no_lines():
    assert difference_lines(torch.full((30, 20), 0.4), 2.0).max() == 0


class Edges(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(pixels[:, :1]), (1 - pixels[:, :1])]


class Small(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :1, ::2]


def test_the_last_map_of_a_network_is_the_sketch_and_what_is_beside_the_garment_does_not_count(tmp_path):
    torch.jit.script(Edges()).save(tmp_path / "edges.pt")
    sketcher = Sketcher(tmp_path / "edges.pt", trusted=True)
    photo, garment = shirt(0)
    found = np.asarray(sketcher(photo, garment))
    assert (found[garment] == 255).all() and (found[~grow(garment, 3)] == 0).all()
    assert sketcher.name.startswith("edges.pt ")


def test_a_network_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Sketcher(tmp_path / "none.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="is not a TorchScript file"):
        Sketcher(tmp_path / "weights.pth", trusted=True)
    torch.jit.script(Small()).save(tmp_path / "small.pt")
    with pytest.raises(UserError, match="must return one map of"):
        Sketcher(tmp_path / "small.pt", trusted=True)(*shirt(0))


def test_a_product_is_what_stands_out_from_the_edge_of_its_photo_also_with_a_hole_of_the_same_colour():
    photo, garment = shirt(90)
    photo.paste((220, 220, 220), (80, 100, 100, 120))  # as light as the background, but inside
    assert (product_region(photo) == garment).mean() > 0.995
    assert np.array_equal(np.asarray(Sketcher()(photo)), np.asarray(Sketcher()(photo, product_region(photo))))


def test_the_regions_of_real_garments_are_those_of_their_masks(shared):
    home = shared / "data/vitonhd/test"
    shares = []
    for path in sorted((home / "cloth-mask").iterdir()):
        photo = load_image(home / "cloth" / path.name)
        given, found = np.asarray(read_mask(path).resize(photo.size)) >= 128, product_region(photo)
        shares.append((given & found).sum() / (given | found).sum())
    assert len(shares) > 10 and min(shares) > 0.94, shares


def test_a_garment_is_stretched_to_the_box_of_the_worn_one():
    photo, garment = shirt(0)
    worn = np.zeros((100, 80), bool)
    worn[20:60, 10:50] = True
    placed, mask = place(photo, garment, worn)
    assert placed.size == (80, 100) and np.array_equal(mask, worn)
    assert (np.asarray(placed)[mask] == 0).all() and (np.asarray(placed)[~mask] == 255).all()
    with pytest.raises(UserError, match="must both show a garment"):
        place(photo, garment, worn & False)


def close_to(lines, others, pixels):
    """Share of lines that lie within some pixels of the others."""
    return (grow(others > 100, pixels) & (lines > 100)).sum() / (lines > 100).sum()


def test_outlines_lie_where_those_of_mgd_lie(shared):
    vitonhd, dresscode = shared / "data/vitonhd/test", shared / "data/mgd/dresscode"
    cases = [
        (
            vitonhd / f"image/{name}.jpg",
            vitonhd / f"image-parse-v3/{name}.png",
            vitonhd / f"im_sketch/{name}.png",
            LIP,
            LIP.upper,
        )
        for name in ("03191_00", "12419_00")
    ]
    for path in sorted(dresscode.glob("*/im_sketch/*_1.png")):
        number, home = path.stem.removesuffix("_1"), path.parents[1]
        worn = {"dresses": ATR.dress, "lower_body": ATR.lower, "upper_body": (4,)}[home.name]
        cases.append((home / f"images/{number}_0.jpg", home / f"label_maps/{number}_4.png", path, ATR, worn))
    assert len(cases) > 2
    for photo_path, labels_path, sketch_path, scheme, worn in cases:
        photo = load_image(photo_path)
        labels = read_labels(labels_path, scheme, photo.size)
        ours, theirs = np.asarray(Sketcher()(photo, np.isin(labels, worn))), np.asarray(Image.open(sketch_path))
        assert close_to(theirs, ours, 16) > 0.85, sketch_path
        assert close_to(ours, theirs, 16) > 0.97, sketch_path
