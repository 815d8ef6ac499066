"""What try-on paints, from pose and labels: hand-made bodies, the embedded persons, and the real annotated ones."""

import json

import numpy as np
import pytest
from PIL import Image

from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.tryon.agnostic import Frame, agnostic_mask, agnostic_picture, grow
from unifashion.tryon.human_parsing import ATR, BODY_25, LIP, check_fit, read_body_25, read_coco_18, read_labels

POSE = {
    "neck": (100, 60), "right shoulder": (70, 62), "left shoulder": (130, 62), "right elbow": (60, 110), "left elbow": (140, 110),
    "right wrist": (55, 150), "left wrist": (145, 150), "right hip": (80, 160), "left hip": (120, 160),
    "right knee": (80, 220), "left knee": (120, 220), "right ankle": (80, 280), "left ankle": (120, 280),
}  # fmt: skip


def body(scheme):
    """Labels (300, 200) of a person that stands upright: head, neck, top, arms with hands, trousers, shoes."""
    labels = np.zeros((300, 200), np.uint8)
    labels[10:40, 85:115] = scheme.face
    labels[40:60, 92:108] = scheme.neck[0] if scheme.neck else scheme.face
    labels[60:165, 70:130] = scheme.upper[0]
    labels[165:270, 75:125] = scheme.lower[0]
    labels[270:290, 70:130] = scheme.held[0]
    left, right = scheme.arms
    labels[65:175, 48:64] = right
    labels[65:175, 136:152] = left
    return labels


def painted(labels, scheme, half, pose=POSE):
    return np.asarray(agnostic_mask(labels, pose, scheme, half)) == 255


@pytest.mark.parametrize("scheme", [LIP, ATR])
def test_an_upper_garment_takes_body_arms_and_neck_and_leaves_head_hands_and_trousers(scheme):
    labels = body(scheme)
    mask = painted(labels, scheme, "upper")
    assert mask[labels == scheme.upper[0]].all()
    assert mask[66:140, 50:62].all() and mask[66:140, 138:150].all()  # both arms
    assert not mask[165:175, 48:64].any() and not mask[165:175, 136:152].any()  # both hands
    assert not mask[10:40, 85:115].any()
    assert mask[52:60, 92:108].all()  # the neck
    assert not mask[(labels == scheme.lower[0]) | (labels == scheme.held[0])].any()
    assert not mask[:, :10].any() and not mask[200:].any()


def test_a_lower_garment_takes_the_legs_and_leaves_the_rest():
    labels = body(ATR)
    mask = painted(labels, ATR, "lower")
    assert mask[labels == ATR.lower[0]].all()
    assert not mask[np.isin(labels, [ATR.upper[0], ATR.face, *ATR.arms, ATR.held[0]])].any()
    assert mask[250, 100] and not mask[:130].any()


def test_a_dress_takes_all_but_head_hands_and_shoes():
    labels = body(ATR)
    mask = painted(labels, ATR, "dress")
    assert mask[np.isin(labels, [ATR.upper[0], ATR.lower[0]])].all()
    assert not mask[10:40, 85:115].any() and not mask[165:175, 48:64].any() and not mask[labels == ATR.held[0]].any()


def test_the_outline_of_what_was_worn_does_not_show():
    """Two tight tops, one with sleeves: the same mask but for a few pixels."""
    bare, sleeved = body(LIP), body(LIP)
    sleeved[65:120, 48:64] = sleeved[65:120, 136:152] = LIP.upper[0]
    differs = painted(bare, LIP, "upper") != painted(sleeved, LIP, "upper")
    assert differs.sum() <= 0.002 * painted(bare, LIP, "upper").sum()


def test_a_hand_before_the_body_is_kept_and_the_arm_that_leads_there_is_not():
    labels = body(LIP)
    labels[65:175, 136:152] = 0
    labels[100:112, 90:140] = LIP.arms[0]  # the left forearm across the chest
    pose = {**POSE, "left wrist": (105, 106)}
    mask = painted(labels, LIP, "upper", pose)
    assert not mask[100:112, 90:99].any()
    assert mask[100:112, 106:140].all()


@pytest.mark.parametrize(
    "lost",
    [["left shoulder"], ["right hip", "left hip"], ["left wrist", "left elbow"], ["neck"], ["left shoulder", "neck"]],
)
def test_points_that_were_not_found_are_guessed(lost):
    labels = body(LIP)
    mask = painted(labels, LIP, "upper", {name: point for name, point in POSE.items() if name not in lost})
    assert mask[labels == LIP.upper[0]].all() and not mask[labels == LIP.face].any()
    assert mask.mean() < 0.5


def test_a_person_seen_from_the_side_is_as_broad():
    side = {**POSE, "right shoulder": (98, 62), "left shoulder": (102, 62)}
    assert Frame(side).width > 0.8 * Frame(POSE).width


def test_a_mask_grows_by_as_many_pixels_as_it_should():
    mask = np.zeros((20, 20), bool)
    mask[10, 10] = True
    assert np.argwhere(grow(mask, 3)).min(0).tolist() == [7, 7] and grow(mask, 3).sum() == 49


def test_the_picture_is_grey_where_it_is_painted_and_else_untouched():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8))
    mask = np.zeros((4, 3), np.uint8)
    mask[1] = 200
    found = np.asarray(agnostic_picture(photo, Image.fromarray(mask)))
    assert (found[2:4] == 128).all()
    assert (found[[0, 1, 4, 5, 6, 7]] == np.asarray(photo)[[0, 1, 4, 5, 6, 7]]).all()


def test_masks_of_the_embedded_persons_are_like_the_ones_they_come_with(tryon_root):
    """But for the trousers, of which theirs also paint the part that the longest hem could reach."""
    home = tryon_root / "vitonhd" / "train"
    overlaps = []
    for path in sorted((home / "image").iterdir()):
        size = load_image(path).size
        labels = read_labels(home / "image-parse-v3" / f"{path.stem}.png", LIP, size)
        pose = read_body_25(home / "openpose_json" / f"{path.stem}_keypoints.json", labels.shape[::-1])
        ours = np.asarray(agnostic_mask(labels, pose, LIP)) > 0
        given = np.asarray(load_image(home / "agnostic-mask" / f"{path.stem}_mask.png"))[..., 0] > 127
        either = (ours | given) & ~np.isin(labels, LIP.lower)
        overlaps.append((ours & given & either).sum() / either.sum())
        right, left = np.argwhere(labels == LIP.arms[1]), np.argwhere(labels == LIP.arms[0])
        assert right[:, 1].mean() < left[:, 1].mean()  # their right is on our left
    assert min(overlaps) > 0.7


# Real persons -------------------------------------------------------------------------------------------------------------


def test_real_persons_of_vitonhd_lose_the_garment_and_keep_face_hands_and_lower_clothes(shared):
    home = shared / "data/vitonhd/test"
    paths = sorted((home / "image-parse-v3").iterdir())
    assert len(paths) == 8
    for path in paths:
        labels = read_labels(path, LIP, load_image(home / "image" / f"{path.stem}.jpg").size)
        pose = read_body_25(home / "openpose_json" / f"{path.stem}_keypoints.json", labels.shape[::-1])
        check_fit(path, labels, pose, LIP)
        mask = painted(labels, LIP, "upper", pose)
        assert mask[np.isin(labels, LIP.upper + LIP.neck)].all()
        assert not mask[np.isin(labels, LIP.head + LIP.lower + LIP.legs)].any()
        arms = np.isin(labels, LIP.arms)
        assert mask[arms].mean() < 1 or "wrist" not in " ".join(pose)  # hands
        for side, number in (("left", 14), ("right", 15)):
            if f"{side} elbow" in pose and f"{side} shoulder" in pose:  # the upper arm
                x, y = np.mean([pose[f"{side} elbow"], pose[f"{side} shoulder"]], axis=0)
                assert mask[int(y), int(x)], (path.stem, side, number)
        assert 0.15 < mask.mean() < 0.5


@pytest.mark.parametrize(("category", "half"), [("dresses", "dress"), ("lower_body", "lower"), ("upper_body", "upper")])
def test_real_persons_of_dresscode_lose_their_garment_alone(shared, category, half):
    home = shared / "data/mgd/dresscode" / category
    worn = {"dress": ATR.dress, "lower": ATR.lower, "upper": (4,)}[half]
    for path in sorted((home / "label_maps").iterdir()):
        labels = read_labels(path, ATR, (768, 1024))
        pose = read_coco_18(home / "keypoints" / f"{path.stem.removesuffix('_4')}_2.json", (768, 1024))
        check_fit(path, labels, pose, ATR)
        mask = painted(labels, ATR, half, pose)
        assert mask[np.isin(labels, worn)].all()
        assert not mask[np.isin(labels, (1, 2, 3, 9, 10, 16))].any()  # head and what is held
        if half == "lower":
            assert not mask[np.isin(labels, (4, 11, 14, 15))].any()
        if half == "upper":
            assert not mask[np.isin(labels, (5, 6, 12, 13))].any()
        assert 0.05 < mask.mean() < 0.5


# Bad input ----------------------------------------------------------------------------------------------------------------

BAD_POSES = {
    "nobody": ({"people": []}, "no person was detected"),
    "no people": ({"version": 1}, "no list 'people'"),
    "too few points": ({"people": [{"pose_keypoints_2d": [1, 2, 3]}]}, "expected 25 points"),
    "words": ({"people": [{"pose_keypoints_2d": ["x"] * 75}]}, "expected 25 points"),
    "a person as a number": ({"people": [3]}, "expected 25 points"),
    "no shoulder": ({"people": [{"pose_keypoints_2d": [0] * 75}]}, "no shoulder among the points"),
    "not finite": ({"people": [{"pose_keypoints_2d": [float("nan")] * 75}]}, "expected 25 points"),
}


@pytest.mark.parametrize("what", BAD_POSES)
def test_a_pose_that_is_none_is_one_sentence(tmp_path, what):
    content, sentence = BAD_POSES[what]
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        read_body_25(tmp_path / "p.json", (200, 300))


def openpose(*people, **more):
    rows = []
    for place in people:
        points = np.zeros((25, 3))
        for name, (x, y) in place.items():
            points[BODY_25[name]] = x, y, 0.9
        rows.append({"pose_keypoints_2d": points.ravel().tolist()})
    return json.dumps({"people": rows, **more})


def test_points_come_as_pixels_as_shares_or_of_a_canvas_and_of_the_largest_person(tmp_path):
    path, size = tmp_path / "p.json", (200, 300)
    forms = {
        "pixels": openpose(POSE),
        "after a small person in the background": openpose(
            {name: (x / 5, y / 5) for name, (x, y) in POSE.items()}, POSE
        ),
        "0 to 1": openpose({name: (x / 200, y / 300) for name, (x, y) in POSE.items()}),
        "-1 to 1": openpose({name: (x / 100 - 1, y / 150 - 1) for name, (x, y) in POSE.items()}),
        "of a canvas": openpose(
            {name: (x * 2, y * 2) for name, (x, y) in POSE.items()}, canvas_width=400, canvas_height=600
        ),
    }
    for what, text in forms.items():
        path.write_text(text)
        pose = read_body_25(path, size)
        assert pose.keys() == POSE.keys(), what
        for name, place in pose.items():
            np.testing.assert_allclose(place, POSE[name], atol=1e-9, err_msg=what)
    path.write_text(openpose({name: (x * 2, y * 2) for name, (x, y) in POSE.items()}))
    with pytest.raises(UserError, match=r"points reach to .*, but the photo has 200 x 300 pixels"):
        read_body_25(path, size)


@pytest.mark.parametrize(("scheme", "other"), [(LIP, ATR), (ATR, LIP)])
def test_labels_of_other_numbers_or_of_another_photo_do_not_fit_the_pose(tmp_path, scheme, other):
    pose = {**POSE, "nose": (100, 30)}
    check_fit(tmp_path, body(scheme), pose, scheme)
    with pytest.raises(ImageError, match=f"by the numbers of {other.name}, not by those of {scheme.name}"):
        check_fit(tmp_path, body(other), pose, scheme)
    with pytest.raises(ImageError, match="of the pose's points lie on the body it shows"):
        check_fit(tmp_path, np.roll(body(scheme), 90, axis=1), pose, scheme)


def test_points_of_dresscode_are_scaled_to_the_photo(tmp_path):
    rows = [[0, 0, 0, n] for n in range(18)]
    rows[2], rows[5] = [10, 20, 0.9, 2], [30, 20, 0.9, 5]
    (tmp_path / "p.json").write_text(json.dumps({"keypoints": rows}))
    assert read_coco_18(tmp_path / "p.json", (768, 1024)) == {"right shoulder": (20, 40), "left shoulder": (60, 40)}
    (tmp_path / "p.json").write_text('{"keypoints": "none"}')
    with pytest.raises(UserError, match="expected 18 points"):
        read_coco_18(tmp_path / "p.json", (768, 1024))


BAD_LABELS = {
    "colours": (Image.new("RGB", (6, 8)), "a label map holds one number per pixel"),
    "other numbers": (Image.new("L", (6, 8), 77), "holds the number 77; labels are 0 to 19"),
    "another shape": (Image.new("L", (8, 8), 5), "do not fit the photo of 6 x 8"),
    "nobody": (Image.new("P", (6, 8)), "all pixels are background"),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_a_label_map_that_is_none_is_one_sentence(tmp_path, what):
    picture, sentence = BAD_LABELS[what]
    picture.save(tmp_path / "l.png")
    with pytest.raises(ImageError, match=sentence):
        read_labels(tmp_path / "l.png", LIP, (6, 8))


def test_a_damaged_label_map_is_one_sentence_and_one_of_another_size_is_scaled(tmp_path):
    Image.new("L", (60, 80), 5).save(tmp_path / "l.png")
    assert read_labels(tmp_path / "l.png", LIP, (6, 8)).shape == (8, 6)
    (tmp_path / "l.png").write_bytes((tmp_path / "l.png").read_bytes()[:60])
    with pytest.raises(ImageError, match="damaged image"):
        read_labels(tmp_path / "l.png", LIP, (6, 8))
