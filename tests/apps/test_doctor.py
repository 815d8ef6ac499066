"""What the doctor finds in a folder."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from unifashion.apps.doctor import as_json, examine, format_reports
from unifashion.apps.doctor.findings import SetReport
from unifashion.apps.doctor.leaks import word_overlap
from unifashion.apps.doctor.pictures import ALIKE, look_at, report_pictures
from unifashion.cli import main
from unifashion.data.image_files import PassedOver
from unifashion.data.own_catalogue import read_products
from unifashion.errors import UserError


def draw(path, seed, size=(60, 80)):
    """A picture of coarse random patches: no two seeds look alike."""
    patches = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    lines = ["image,text,split"]
    for number in range(10):
        draw(folder / f"{number}.png", number)
        lines.append(f"{number}.png,garment {number},{'val' if number > 6 else 'train'}")
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    return folder


def problems(folder, **options):
    (report,) = examine(folder, progress=False, **options)
    return [finding.text for finding in report.findings if finding.level == "problem"]


def test_a_sound_catalogue_has_no_problem(shop):
    (report,) = examine(shop, progress=False)
    assert not report.num_problems
    assert [(count.what, count.found) for count in report.counts][:2] == [
        ("train image-text pairs", 7),
        ("train products", 7),
    ]
    assert format_reports([report]).endswith("1 data set, no problems")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"not an image", "not an image"), (None, "truncated")]
)
def test_broken_images_are_named_with_the_reason(shop, content, reason):
    path = shop / "3.png"
    path.write_bytes(path.read_bytes()[:-400] if content is None else content)
    (report,) = examine(shop, progress=False)
    (finding,) = [finding for finding in report.findings if finding.level == "problem"]
    assert finding.text.startswith("1 images cannot be used") and finding.items[0].startswith(f"{path}: ")
    assert not problems(shop, quick=True)


def test_a_missing_image_is_counted(shop):
    (shop / "8.png").unlink()
    assert problems(shop) == ["1 of 3 images of val are listed but missing (33.3 %); fetch them"]


def test_markup_and_texts_of_several_products_are_counted(shop):
    rows = ["image,text,id,split"]
    texts = ("A red dress.", "a red dress", "Blue<br>hat &amp; scarf")
    rows += [f"{number}.png,{text},{number},train" for number, text in enumerate(texts, 1)]
    (shop / "catalogue.csv").write_text("\n".join(rows))
    (report,) = examine(shop, quick=True, progress=False)
    notes = {finding.text: finding.items for finding in report.findings if finding.level == "note"}
    assert notes["1 texts of train have markup, which is removed when they are read"] == (str(shop / "3.png"),)
    (shared_texts,) = [text for text in notes if "share their text" in text]
    assert shared_texts.startswith("2 of 3 products of train share their text with others")
    assert notes[shared_texts] == ("1, 2",)


def test_a_copy_in_both_splits_is_a_problem_and_a_copy_inside_one_is_not(shop):
    shutil.copy(shop / "1.png", shop / "2.png")
    assert not problems(shop)
    shutil.copy(shop / "1.png", shop / "8.png")
    assert problems(shop) == ["1 images are in both train and val, byte for byte; remove them from one"]


def test_a_photo_that_was_saved_again_is_noted(shop):
    with Image.open(shop / "1.png") as image:
        image.resize((45, 60)).save(shop / "8.png")
    (report,) = examine(shop, progress=False)
    (finding,) = report.findings
    assert finding.level == "note" and finding.items == (f"{shop / '1.png'} = {shop / '8.png'}",)


def test_alike_pictures_are_found_as_by_comparing_all(tmp_path):
    chance = random.Random(0)
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        draw(path, number % 30)
        if number >= 30:
            with Image.open(path) as image:
                image.rotate(chance.random() * 3, fillcolor=(128, 128, 128)).save(path)
    seen = {path: look_at(path) for path in paths}
    bits = {path: np.unpackbits(np.frombuffer(seen[path].look, np.uint8)) for path in paths}
    expected = {b for b in paths[20:] if min((bits[a] != bits[b]).sum() for a in paths[:20]) <= ALIKE}
    report = SetReport("shop", "", "")
    report_pictures(report, {"train": paths[:20], "val": paths[20:]}, seen)
    found = {item.split(" = ")[1] for finding in report.findings for item in finding.items}
    assert found == {str(path) for path in expected} and expected


def test_words_alone_find_a_caption_that_was_written_with_them():
    garments = [f"colour{n % 7} pattern{n % 5} shape{n % 3}" for n in range(800)]
    feedback = [f"make it word{n} and word{n + 1}" for n in range(100)]
    names = [str(n) for n in range(800)]
    honest = dict(zip(names, garments, strict=True))
    leaky = {**honest, **{str(n): f"{honest[str(n)]} {feedback[n]}" for n in range(100)}}
    assert not word_overlap(feedback, names[:100], honest).is_suspicious
    overlap = word_overlap(feedback, names[:100], leaky)
    assert overlap.is_suspicious and overlap.recall_at_10 == 100.0
    assert (overlap.num_queries, overlap.gallery) == (100, 800)


def test_ties_count_against_the_searcher():
    captions = {str(n): "the same words" for n in range(20)}
    overlap = word_overlap(["the same words"], ["3"], captions)
    assert overlap.recall_at_10 == 0.0 and overlap.recall_at_50 == 100.0
    assert word_overlap(["red"], ["absent"], captions) is None


def test_the_released_captions_leak_as_measured(shared):
    (report,) = examine(shared / "data" / "fashioniq_annotations", quick=True, progress=False)
    texts = [finding.text for finding in report.findings if finding.level == "problem"]
    assert sum("written with the query's own sentences" in text for text in texts) == 3
    reached = [float(text.split("reach R@10 ")[1].split()[0]) for text in texts if "words alone" in text]
    assert sum(reached) / 3 == pytest.approx(49.27, abs=0.05)
    (alone,) = examine(shared / "data" / "fashioniq_annotations" / "fashion_iq_cap", quick=True, progress=False)
    assert alone.num_problems == 6


def test_each_set_is_found_by_its_own_files(shared):
    for folder, names in {"cirr": ["cirr"], "circo": ["circo"], "real_photos": ["fashiongen", "fashioniq"]}.items():
        assert [report.name for report in examine(shared / "data" / folder, quick=True, progress=False)] == names


def test_sets_in_folders_of_other_names_are_found_below_a_data_root(shop, shared):
    (found,) = examine(shop.parent, progress=False)
    assert (found.name, found.folder) == ("catalogue", shop.as_posix())
    (shop / "1.png").unlink()
    assert problems(shop.parent) == problems(shop) != []
    folders = [report.folder for report in examine(shared / "data", True, False)]
    assert (shared / "data" / "fashioniq_annotations").as_posix() in folders and len(set(folders)) == len(folders)


def test_a_folder_of_photos_without_a_table_is_a_catalogue_and_what_is_passed_over_is_named(tmp_path):
    for number in range(3):
        draw(tmp_path / f"{number}.jpg", number)
        (tmp_path / f"{number}.txt").write_text(f"garment {number}")
    for name in ("notes.pdf", "._1.jpg", "phone.heic"):
        (tmp_path / name).write_text("x")
    (report,) = examine(tmp_path, progress=False)
    assert report.name == "catalogue" and report.counts[0].found == 3
    (finding,) = [finding for finding in report.findings if "passed over" in finding.text]
    assert finding.level == "note" and finding.text.startswith("3 files passed over: 1 .heic (convert them to JPEG")
    assert sorted(finding.items) == ["._1.jpg", "notes.pdf", "phone.heic"]
    (tmp_path / "1.txt").unlink()
    (tmp_path / "2.jpg").write_text("not an image")
    bare, broken = problems(tmp_path)
    assert bare.startswith("1 of 3 photos have no text") and broken.startswith("1 images cannot be used")


def test_photos_that_the_table_does_not_name_are_counted_but_not_those_of_other_sets_in_the_folder(shop):
    (shop / "photos").mkdir()
    for number in range(12):
        draw(shop / "photos" / f"{number}.png", number)
    (report,) = examine(shop, progress=False)
    (finding,) = report.findings  # the table names photos beside itself, so it may name them anywhere
    assert finding.text.startswith("12 files passed over: 12 not named in catalogue.csv, such as 'photos/0.png'")
    (shop / "catalogue.csv").write_text("image,text\nphotos/1.png,red\nphotos/2.png,blue\n")
    passed_over = PassedOver()
    assert len(read_products(shop, passed_over)) == 2
    (names,) = passed_over.names.values()
    assert len(names) == 10 and all(name.startswith("photos") for name in names)


def test_circo_without_cocos_photos_is_counted_and_named(shared):
    (report,) = examine(shared / "data" / "circo", quick=True, progress=False)
    assert [(count.what, count.found) for count in report.counts] == [("val queries", 220), ("test queries", 800)]
    assert report.num_problems == 1 and "submissions can be checked" in report.findings[0].text


def test_a_try_on_set_tells_which_maps_its_pairs_have(shared):
    (report,) = examine(shared / "data" / "vitonhd", progress=False)
    found = {count.what: count.found for count in report.counts}
    assert found["test pairs"] == 8 and "test pairs with densepose" not in found
    (text,) = [finding.text for finding in report.findings if "8 no agnostic mask, 8 no densepose" in finding.text]
    assert text.endswith(f"or let 'unifashion prepare tryon --source {report.folder}' make agnostic, agnostic mask")
    names = [report.name for report in examine(shared / "data" / "mgd", progress=False)]
    assert names == ["vitonhd", "dresscode"]


def test_maps_that_do_not_fit_the_photo_are_findings_of_their_own(tryon_root, tmp_path):
    home = tmp_path / "test"
    shutil.copytree(tryon_root / "vitonhd" / "test", home)
    assert not problems(tmp_path)
    first, second, third, fourth = sorted(path.stem for path in (home / "image").iterdir())
    mask = home / "agnostic-mask" / f"{first}_mask.png"
    with Image.open(mask) as image:
        Image.new("L", image.size).save(mask)
    shutil.copy(home / "agnostic-v3.2" / f"{third}.jpg", home / "agnostic-v3.2" / f"{first}.jpg")
    surface = home / "image-densepose" / f"{first}.jpg"
    with Image.open(surface) as image:
        image.resize((30, 30)).save(surface)
    labels = home / "image-parse-v3" / f"{second}.png"
    with Image.open(labels) as image:
        Image.new("L", image.size, 20).save(labels)
    (home / "openpose_json" / f"{third}_keypoints.json").write_text('{"people": []}')
    damaged = home / "agnostic-mask" / f"{fourth}_mask.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    found = problems(tmp_path)
    for path, fault in (
        (mask, "the mask is all black"),
        (surface, "do not fit the person's photo"),
        (labels, "labels are 0 to 19"),
        (home / "openpose_json" / f"{third}_keypoints.json", "no person was detected"),
    ):
        (text,) = [text for text in found if text.startswith(f"{path}: ")]
        assert fault in text
    assert len(found) == 5 and found[-1].startswith("1 images cannot be used")
    assert not problems(tmp_path, quick=True)
    shutil.copy(tryon_root / "vitonhd" / "test" / "agnostic-mask" / mask.name, mask)
    (text,) = [text for text in problems(tmp_path) if "agnostic-v3.2" in text]
    assert "it is of another photo" in text


def test_a_broken_tree_has_a_problem_for_every_break_and_nothing_is_hidden(tmp_path):
    for name, row in {"fashionGen/annotation_train.jsonl": '{"index": 1}\n', "catalogue.csv": "picture,text\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(row)
    (tmp_path / "fashion200K" / "labels").mkdir(parents=True)
    (tmp_path / "fashion200K" / "labels" / "dress_train_detect_all.txt").write_bytes("x\t1\té".encode("utf-16"))
    (tmp_path / "circo" / "annotations").mkdir(parents=True)
    (tmp_path / "circo" / "annotations" / "val.json").write_text("[" * 100_000)
    reports = {report.name: report for report in examine(tmp_path, progress=False)}
    found = {name: [f.text for f in report.findings if f.level == "problem"] for name, report in reports.items()}
    assert list(found) == ["fashiongen", "fashion200k", "circo", "catalogue"]
    for name, words in {
        "fashiongen": "row 1: no 'description'",
        "fashion200k": "is not UTF-8 text",
        "circo": "brackets nested too deeply",
        "catalogue": "no column 'image'",
    }.items():
        assert words in " ".join(found[name])


def test_the_command_tells_by_its_exit_code_and_writes_json(shop, tmp_path, capsys):
    main(["doctor", str(shop)])
    (shop / "8.png").unlink()
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(shop), "--json", str(tmp_path / "found.json")])
    assert left.value.code == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["problems"] == 1 and found["sets"][0]["findings"][0]["items"] == [str(shop / "8.png")]
    assert found == as_json(examine(shop, progress=False))
    assert "1 data set, 1 problem" in capsys.readouterr().out


def test_a_folder_without_data_and_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "phone.heic").write_text("x")
    with pytest.raises(UserError, match=r"holds none of fashiongen, .*, nor photos \(2 files passed over"):
        examine(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        examine(tmp_path / "file")
    with pytest.raises(UserError, match="is not a folder"):
        examine(tmp_path / "absent")
