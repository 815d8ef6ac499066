"""``unifashion prepare tryon``: makes what is missing, keeps what was given, goes on where it stood, fails by file."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unifashion.apps.prepare.tryon import check_tryon, prepare_tryon
from unifashion.cli import main
from unifashion.data.dresscode import read_dresscode
from unifashion.data.images import ImageError, load_image
from unifashion.data.tryon import PERSON_MAPS, read_vitonhd
from unifashion.errors import UserError
from unifashion.tryon.densepose import colour_parts
from unifashion.tryon.maps import load_maps

NEEDS = (*PERSON_MAPS, "garment")
MADE = ("agnostic-v3.2", "agnostic-mask", "im_sketch", "im_sketch_unpaired")
ALL = 20  # with cloth_sketch, which the embedded set never has, for each of four persons


@pytest.fixture
def root(tryon_root, tmp_path):
    """Four test persons without what can be made."""
    home = tmp_path / "vitonhd" / "test"
    shutil.copytree(tryon_root / "vitonhd" / "test", home)
    shutil.copy(tryon_root / "vitonhd" / "test_pairs.txt", tmp_path / "vitonhd")
    for name in MADE:
        shutil.rmtree(home / name)
    return tmp_path


def prepare(root, **options):
    return prepare_tryon(root, num_threads=1, progress=False, **options)


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*g") if "sheet" not in str(path)}


def test_what_a_download_lacks_is_made_and_then_read(root):
    with pytest.raises(
        UserError, match=r"'unifashion prepare tryon --source .*' makes agnostic, agnostic_mask"
    ) as error:
        read_vitonhd(root, "test", NEEDS)
    suggested = Path(str(error.value).partition("--source ")[2].partition("'")[0])
    folder, done = prepare(suggested)
    assert (folder, done.made, done.kept, done.failed) == (root / "vitonhd", ALL, 0, ())
    split = read_vitonhd(root, "test", (*NEEDS, "sketch"))
    assert len(split.items) == 4 and not split.missing
    maps = load_maps(split.items[0], ("image", "agnostic", "keep", "sketch"), 64, 48)
    painted = maps["keep"][0] < 10
    assert (maps["agnostic"][:, painted].float() - 128).abs().mean() < 4
    kept = maps["keep"][0] > 245
    assert (maps["agnostic"].float() - maps["image"].float())[:, kept].abs().mean() < 6
    assert check_tryon(root) == []
    assert Image.open(folder / "contact_sheets" / "test.jpg").width > 1000


def test_the_mask_for_the_attention_loss_is_where_the_garment_is_worn(root, tryon_root):
    home = root / "vitonhd" / "test" / "gt_cloth_warped_mask"
    shutil.rmtree(home)
    prepare(root)
    for path in sorted((tryon_root / "vitonhd/test/gt_cloth_warped_mask").iterdir()):
        drawn = np.asarray(load_image(path).convert("L")) > 127
        made = np.asarray(load_image(home / f"{path.stem}.png").convert("L")) > 127
        assert (drawn & made).sum() / (drawn | made).sum() > 0.9


def overlap(first, second):
    """Intersection over union of the insides of two outlines."""
    boxes = [
        load_image(path).convert("L").point(lambda value: 255 * (value > 100)).getbbox() for path in (first, second)
    ]
    left, top, right, bottom = (
        side(pair) for side, pair in zip((max, max, min, min), zip(*boxes, strict=True), strict=True)
    )
    shared = max(right - left, 0) * max(bottom - top, 0)
    return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in boxes) - shared)


def test_both_kinds_of_sketch_are_made_for_unpaired_pairs_too(root, tryon_root):
    folder, _ = prepare(root)
    paired = read_vitonhd(root, "test", (*NEEDS, "sketch", "garment-sketch"))
    unpaired = read_vitonhd(root, "test", (*NEEDS, "sketch", "garment-sketch"), "unpaired")
    assert len(paired.items) == len(unpaired.items) == 4
    for item in unpaired.items:
        assert item.maps["garment-sketch"].name == f"{item.garment}.png"
        drawn = tryon_root / "vitonhd/test/im_sketch_unpaired" / f"{item.name}.png"
        assert overlap(item.maps["sketch"], drawn) > 0.4, "ours is as long as the worn garment, theirs as the other"
        mask = folder / f"test/cloth-mask/{item.garment}.jpg"
        assert overlap(item.maps["garment-sketch"], mask) > 0.85, "the outline is two pixels wide"


@pytest.mark.parametrize("given", ["test/cloth_sketch", "cloth_sketch/results/test"])
def test_given_sketches_stay_and_the_others_are_made_beside_them(root, given):
    home = root / "vitonhd" / given
    home.mkdir(parents=True)
    Image.new("L", (48, 64), 7).save(home / "00006_00.png")
    before = times(home)
    _, done = prepare(root)
    assert done.made == ALL - 1 and len(list(home.iterdir())) == 4 and times(home).items() >= before.items()


def test_a_second_call_makes_nothing_and_a_stopped_one_goes_on(root):
    folder, _ = prepare(root)
    before = times(folder)
    assert prepare(root)[1].made == 0 and times(folder) == before
    gone = folder / "test" / "im_sketch"
    (gone / "00006_00.png").unlink()
    (folder / "prepared.json").unlink()
    assert check_fails(root, "has no finished prepared.json")
    assert prepare(root)[1].made == 1 and check_tryon(root) == []


def check_fails(root, sentence):
    with pytest.raises(UserError, match=sentence):
        check_tryon(root)
    return True


def test_what_was_given_is_never_touched(root, tryon_root):
    given = root / "vitonhd" / "test" / "agnostic_mask"  # in StableVITON's spelling
    given.mkdir()
    shutil.copy(tryon_root / "vitonhd/test/agnostic-mask/00006_00_mask.png", given / "00006_00_mask.png")
    before = times(given)
    _, done = prepare(root)
    assert done.made == ALL - 1 and times(given).items() >= before.items()
    assert len(list(given.iterdir())) == 4  # the others lie beside it
    mask = np.asarray(load_image(given / "00006_00_mask.png").convert("L")) > 127
    grey = np.abs(np.asarray(load_image(root / "vitonhd/test/agnostic-v3.2/00006_00.jpg")).astype(int) - 128).max(-1)
    assert np.median(grey[mask]) < 4 and np.median(grey[~mask]) > 20  # the agnostic picture follows the given mask


class Edges(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 1 - pixels[:, :1]


def test_another_sketch_model_makes_our_sketches_anew_and_newer_labels_all(root, tmp_path):
    folder, _ = prepare(root)
    torch.jit.script(Edges()).save(tmp_path / "edges.pt")
    assert prepare(root, sketch_model=tmp_path / "edges.pt", trust_sketch_model=True)[1].made == 12
    labels = folder / "test" / "image-parse-v3" / "00006_00.png"
    shutil.copy(labels, tmp_path / "copy.png")
    labels.write_bytes((tmp_path / "copy.png").read_bytes())
    assert prepare(root, sketch_model=tmp_path / "edges.pt", trust_sketch_model=True)[1].made == 4


def test_a_changed_file_is_found(root):
    folder, _ = prepare(root)
    (folder / "test" / "im_sketch" / "00006_00.png").write_bytes(b"x")
    (folder / "test" / "agnostic-mask" / "00007_00_mask.png").unlink()
    assert check_tryon(root) == [
        "test/agnostic-mask/00007_00_mask.png is missing",
        "test/im_sketch/00006_00.png was changed",
    ]


def spoil(root):
    """One person without labels, one with damaged ones, one whom the pose has not found; the fourth is whole."""
    home = root / "vitonhd" / "test"
    (home / "image-parse-v3" / "00006_00.png").unlink()
    (home / "image-parse-v3" / "00007_00.png").write_bytes(b"not a picture")
    (home / "openpose_json" / "00008_00_keypoints.json").write_text(json.dumps({"people": []}))


def test_persons_that_cannot_be_prepared_are_named_and_the_others_are_made(root, capsys):
    spoil(root)
    folder, done = prepare(root)
    reasons = dict(done.failed)
    assert "image-parse-v3/00006_00.png: no such file" in reasons["test/agnostic-mask/00006_00_mask.png"]
    assert "not an image" in reasons["test/agnostic-v3.2/00007_00.jpg"]
    assert "no person was detected" in reasons["test/agnostic-mask/00008_00_mask.png"]
    assert done.made == 4 + 4 + 2  # of the whole person, of the garments, and the sketches of the third need no pose
    assert [item.name for item in read_vitonhd(root, "test", NEEDS).items] == ["00009_00"]
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "tryon", "--source", str(root), "--threads", "1"])
    assert stop.value.code == 1
    assert "10 failed, the reasons are in" in capsys.readouterr().out
    assert len((folder / "failed.csv").read_text().splitlines()) == 11
    assert not list(folder.rglob(".*"))


def test_the_command_prepares_checks_and_refuses(root, tmp_path, capsys):
    main(["prepare", "tryon", "--source", str(root), "--threads", "2"])
    assert "20 files made, 0 already there" in capsys.readouterr().out
    main(["prepare", "tryon", "--check", "--source", str(root)])
    assert "0 files differ from the manifest" in capsys.readouterr().out
    for words, sentence in (
        (["tryon", "--source", str(tmp_path / "none")], "neither VITON-HD"),
        (["tryon", "--source", str(root), "--sketch-model", "none.pt"], "none.pt does not exist"),
        (["catalogue", "--source", "a.csv", "--sketch-model", "none.pt"], "--sketch-model is for tryon"),
        (["tryom", "--source", "a"], "did you mean 'tryon'|known: .*tryon"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["prepare", *words])
        assert stop.value.code == 2
        captured = capsys.readouterr()
        assert re.search(sentence, captured.err + captured.out), (words, captured)


def test_a_grey_photo_and_one_with_alpha_are_prepared_too(root):
    for name, mode in (("00006_00", "L"), ("00007_00", "RGBA")):
        path = root / "vitonhd" / "test" / "image" / f"{name}.jpg"
        picture = load_image(path).convert(mode)
        path.unlink()
        picture.save(path.with_suffix(".png"))
    assert prepare(root)[1].made == ALL


def test_part_numbers_become_the_colours_of_densepose(tmp_path):
    Image.fromarray(np.array([[0, 1, 2, 24]], np.uint8)).save(tmp_path / "d.png")
    found = np.asarray(colour_parts(tmp_path / "d.png"))[0]
    assert found[0].tolist() == [0, 0, 0] and found[3].tolist() == [249, 251, 14]
    assert found[2][2] > found[2][0] + 80  # the torso is blue
    for picture, sentence in (
        (Image.new("L", (4, 4), 25), "holds the number 25"),
        (Image.new("RGB", (4, 4)), "this is RGB"),
    ):
        picture.save(tmp_path / "bad.png")
        with pytest.raises(ImageError, match=sentence):
            colour_parts(tmp_path / "bad.png")


def test_real_samples_of_dresscode_can_be_drawn_from_once_prepared(shared, tmp_path):
    shutil.copytree(shared / "data/mgd/dresscode/upper_body", tmp_path / "dresscode/upper_body")
    home = tmp_path / "dresscode/upper_body"
    (home / "dense").mkdir()
    body = np.asarray(Image.open(home / "label_maps" / "048462_4.png")) > 0  # its surface is not among the samples
    Image.fromarray(body.astype(np.uint8) * 2).save(home / "dense" / "048462_5.png")
    _, done = prepare(tmp_path)
    assert not list((home / "cloth_sketch").glob("*")), "the photos of the garments are not among the samples"
    assert sorted(path.relative_to(home).as_posix() for path in times(home) if path.parent.name not in (
        "images", "label_maps", "im_sketch_unpaired", "dense", "im_sketch", "gt_cloth_warped_mask",
    )) == ["agnostic-mask/048462_0_mask.png", "agnostic/048462_0.jpg", "image-densepose/048462_0.png"]  # fmt: skip
    assert done.failed == ()
    (item,) = read_dresscode(tmp_path, "test", (*PERSON_MAPS, "sketch", "warped_mask")).items
    assert load_maps(item, ("image", "agnostic", "keep", "densepose", "sketch"), 64, 48)["keep"].float().mean() < 240
