"""A captioning run: leak guard, files, what happens after an interruption, bad input."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

import kill
from small_disk import filled
from unifashion.apps.fashioniq_captions import pipeline
from unifashion.apps.fashioniq_captions.journal import Entry, Journal, opened, read_entries
from unifashion.apps.fashioniq_captions.photos import read_photos
from unifashion.apps.fashioniq_captions.run import run_captioning
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings, PhotoSettings
from unifashion.apps.toy_catalogue.write import Sizes, write_catalogue
from unifashion.data.fashioniq import has_leaky_captions, read_fashioniq, read_fashioniq_cap
from unifashion.data.own_catalogue import read_own_catalogue
from unifashion.data.tryon import read_vitonhd
from unifashion.errors import UserError


def settings(root, split="train", **changes) -> PhotoSettings:
    return PhotoSettings(data_root=str(root), split=split, **changes)


def captioner(**changes) -> CaptionerSettings:
    return CaptionerSettings(model="parrot", **changes)


def rows(paths) -> list[dict]:
    return [row for path in paths for row in json.loads(path.read_text())]


# ---- the leak guard


def test_no_sentence_of_a_shopper_is_in_a_prompt_by_default(fashioniq, parrot):
    for split in ("train", "val", "test"):
        backend = parrot()
        paths = run_captioning(settings(fashioniq, split), captioner(), backend)
        assert backend.dialogues and not any("is like" in text for texts in backend.dialogues for text in texts)
        assert not any(row["text_guidance"] for row in rows(paths))
        assert not has_leaky_captions(fashioniq, split)


def test_train_photos_take_hints_unless_they_are_also_in_an_evaluation_gallery(fashioniq, parrot):
    backend = parrot()
    found = rows(run_captioning(settings(fashioniq, guidance=True), captioner(), backend))
    said = {row["image"]: row["text_guidance"] for row in found}
    assert said["D1"] == "Is like d1, has lace" and said["D0"] == "" and said["BOTH"] == ""
    asked = [texts[0] for texts in backend.dialogues]
    assert sum('"Is like d1, has lace"' in text for text in asked) == 1
    assert not any("both" in text for text in asked)
    assert read_fashioniq_cap(fashioniq, "train").pairs


@pytest.mark.parametrize("split", ["val", "test"])
def test_hints_for_an_evaluation_split_are_refused(fashioniq, parrot, split):
    with pytest.raises(UserError, match="--allow-leaky-captions and every score is marked leaky"):
        run_captioning(settings(fashioniq, split, guidance=True), captioner(), parrot())


def test_leaky_captions_say_so_and_the_reader_refuses_them(fashioniq, parrot):
    allowed = settings(fashioniq, "val", guidance=True, allow_leaky_captions=True)
    run_captioning(allowed, captioner(), parrot())
    assert has_leaky_captions(fashioniq, "val")
    assert json.loads((fashioniq / "fashionIQ_dataset/captions_llava/captioning.val.json").read_text())["marks"] == [
        "leaky"
    ]
    with pytest.raises(UserError, match="leak"):
        read_fashioniq(fashioniq, "dress", "val")
    assert read_fashioniq(fashioniq, "dress", "val", allow_leaky=True).captions["DV1"]
    run_captioning(settings(fashioniq, "val", overwrite=True), captioner(), parrot())
    assert read_fashioniq(fashioniq, "dress", "val").captions.keys() == {"DV0", "DV1", "BOTH"}


# ---- files


def test_captions_are_where_and_how_the_reader_wants_them(fashioniq, parrot):
    paths = run_captioning(settings(fashioniq), captioner(), parrot())
    assert [path.name for path in paths] == [f"next_llava.train.{c}.caption.json" for c in ("dress", "shirt", "toptee")]
    split = read_fashioniq(fashioniq, "dress", "train")
    assert split.captions == {
        name: f"The dress is {30 + n} wide." for n, name in enumerate(["D0", "D1", "D2", "D3"])
    } | {"BOTH": "The dress is 32 wide."}
    told = json.loads((paths[0].parent / "captioning.train.json").read_text())
    assert told["model"] == "parrot" and told["captions"] == told["photos"] == 9 and told["marks"] == []


def test_a_chain_asks_for_attributes_and_then_for_a_caption_made_of_them(fashioniq, parrot):
    backend = parrot()
    run_captioning(settings(fashioniq), captioner(chain=True), backend)
    firsts, seconds = ([d for d in backend.dialogues if len(d) == n] for n in (1, 3))
    assert len(firsts) == len(seconds) == 9 and all("- colour: " in d[0] for d in firsts)
    assert all(d[1].startswith("The dress is") and "caption" in d[2] for d in seconds)


def test_the_embedded_catalogue_is_captioned_in_all_its_layouts(tmp_path, parrot):
    small = Sizes(
        train_products=3,
        val_products=3,
        train_families=2,
        val_families=2,
        val_distractors=2,
        train_queries=4,
        val_queries=4,
    )
    root = write_catalogue(tmp_path / "catalogue", replace(small, side=32), progress=False)
    with pytest.raises(
        UserError, match=r"next_llava.val.dress.caption.json already exists, and is not from this program"
    ):
        run_captioning(settings(root, "val"), captioner(), parrot())
    out = str(tmp_path / "out")
    assert rows(run_captioning(settings(root, "val", output_dir=out), captioner(), parrot()))
    (path,) = run_captioning(settings(root, "val", dataset="fashiongen"), captioner(chain=True), parrot())
    row = json.loads(path.read_text().splitlines()[0])
    assert (root / "fashionGen" / row["image"]).is_file() and row["caption"] and row["attributes"]


def test_captions_of_viton_garments_have_the_form_that_the_try_on_reader_takes(tmp_path, parrot):
    home = tmp_path / "vitonhd"
    for folder in ("image", "cloth"):
        (home / "test" / folder).mkdir(parents=True)
        for name in ("00001_00", "00002_00"):
            Image.new("RGB", (30, 40), "red").save(home / "test" / folder / f"{name}.jpg")
    run_captioning(settings(tmp_path, "test", dataset="vitonhd"), captioner(chain=True), parrot())
    (home / "captions_llava/captions.test.json").replace(home / "captions.json")
    items = read_vitonhd(tmp_path, "test", ("garment",)).items
    assert [item.caption for item in items] == [("The dress is 30 wide.",)] * 2


def test_a_folder_of_photos_becomes_a_catalogue(fashioniq, parrot):
    photos = fashioniq / "fashionIQ_dataset" / "images"
    run_captioning(settings(photos, dataset="images"), captioner(), parrot())
    pairs = [pair for split in ("train", "val") for pair in read_own_catalogue(photos, split).pairs]
    assert len(pairs) == len(list(photos.glob("*.png"))) and all(pair.text.startswith("The dress is") for pair in pairs)
    with pytest.raises(UserError, match="it was made with max_new_tokens 256, now it is 8"):
        run_captioning(settings(photos, dataset="images"), captioner(max_new_tokens=8), parrot())


# ---- interruptions


def test_a_run_that_stops_goes_on_without_losing_or_repeating_a_photo(fashioniq, parrot):
    class Dying(parrot):
        def answer(self, images, dialogues):
            if len(self.dialogues) >= 4:
                raise KeyboardInterrupt
            return super().answer(images, dialogues)

    first, second = Dying(concurrency=1), parrot()
    with pytest.raises(KeyboardInterrupt):
        run_captioning(settings(fashioniq), captioner(), first)
    assert first.is_closed and not list((fashioniq / "fashionIQ_dataset/captions_llava").glob("*.json"))
    paths = run_captioning(settings(fashioniq), captioner(), second)
    assert (len(first.dialogues), len(second.dialogues)) == (4, 5)
    third = parrot()
    before = [path.read_bytes() for path in paths]
    assert run_captioning(settings(fashioniq), captioner(), third) == paths and not third.dialogues
    assert [path.read_bytes() for path in paths] == before


def test_limit_is_a_first_part_of_the_whole(fashioniq, parrot):
    first, second = parrot(), parrot()
    run_captioning(settings(fashioniq, limit=3), captioner(), first)
    assert len(rows(run_captioning(settings(fashioniq), captioner(), second))) == 9
    assert (len(first.dialogues), len(second.dialogues)) == (3, 6)


@pytest.mark.parametrize("tail", [b'{"key": "dress/D1", "te', b"\x00" * 40, b'{"key": "dress/D1", "te\nnonsense\n[]\n'])
def test_a_torn_journal_loses_only_the_torn_lines(tmp_path, tail):
    facts = {"model": "m"}
    with opened(tmp_path / "j", facts, [], False), Journal(tmp_path / "j") as journal:
        journal.add(Entry("dress/D0", "first", True))
    with (tmp_path / "j" / "0.jsonl").open("ab") as file:
        file.write(tail)
    with opened(tmp_path / "j", facts, [], False) as done, Journal(tmp_path / "j") as journal:
        assert list(done) == ["dress/D0"]
        journal.add(Entry("dress/D1", "second \u2028 line", True, "a\nb"))
    with Journal(tmp_path / "j", process=1) as journal:
        journal.add(Entry("dress/D2", "third", False))
    entries = read_entries(tmp_path / "j")
    assert entries["dress/D1"] == Entry("dress/D1", "second \u2028 line", True, "a\nb") and len(entries) == 3


def test_answers_whose_settings_cannot_be_read_are_not_thrown_away(tmp_path):
    folder = tmp_path / "out" / ".journal" / "j"
    with opened(folder, {"model": "m"}, [], False), Journal(folder) as journal:
        journal.add(Entry("dress/D0", "first", True))
    (folder / "facts.json").write_text("{")
    with pytest.raises(UserError, match=r"already exists, and is not from this program; .* --overwrite"):
        with opened(folder, {"model": "m"}, [], False):
            pass
    assert list(read_entries(folder)) == ["dress/D0"]


def test_two_runs_cannot_write_into_one_folder(tmp_path):
    with opened(tmp_path / "j", {}, [], False), pytest.raises(UserError, match="another run is writing"):
        with opened(tmp_path / "j", {}, [], False):
            pass


def test_another_model_may_not_continue_a_run_but_replace_it(fashioniq, parrot):
    run_captioning(settings(fashioniq), captioner(), parrot())
    other = CaptionerSettings(model="cockatoo")
    with pytest.raises(
        UserError, match="it was made with model 'parrot', now it is 'cockatoo'; choose another --output-dir"
    ):
        run_captioning(settings(fashioniq), other, parrot())
    backend = parrot()
    run_captioning(settings(fashioniq, overwrite=True), other, backend)
    assert len(backend.dialogues) == 9


# ---- bad input


def test_a_broken_photo_is_left_out_named_and_tried_again(fashioniq, parrot):
    images = fashioniq / "fashionIQ_dataset" / "images"
    whole = (images / "D2.png").read_bytes()
    (images / "D2.png").write_bytes(whole[:60])
    (images / "S1.png").unlink()
    with pytest.raises(UserError, match=r"22.2 % of the photos"):
        run_captioning(settings(fashioniq), captioner(), parrot())
    paths = run_captioning(settings(fashioniq, max_missing=30), captioner(), parrot())
    assert {row["image"] for row in rows(paths)} == {"D0", "D1", "D3", "BOTH", "S0", "T0", "T1"}
    report = (paths[0].parent / "left_out.train.csv").read_text()
    assert "D2.png" in report and "damaged image" in report
    (images / "D2.png").write_bytes(whole)
    backend = parrot()
    assert len(rows(run_captioning(settings(fashioniq, max_missing=30), captioner(), backend))) == 8
    assert len(backend.dialogues) == 1 and not (paths[0].parent / "left_out.train.csv").exists()


def test_what_the_model_refuses_is_left_out_and_many_in_a_row_stop_the_run(fashioniq, parrot, monkeypatch):
    run_captioning(settings(fashioniq, max_missing=60), captioner(), parrot(refuses=(31,)))
    report = (fashioniq / "fashionIQ_dataset/captions_llava/left_out.train.csv").read_text()
    assert report.count("it will not") == 3
    monkeypatch.setattr(pipeline, "MAX_REFUSED", 3)
    with pytest.raises(UserError, match="3 photos in a row got no caption, the last because it will not"):
        run_captioning(settings(fashioniq, "val"), captioner(), parrot(refuses=tuple(range(99))))


def test_bad_input_is_one_sentence(fashioniq, parrot, tmp_path):
    (tmp_path / "empty").mkdir()
    for image in (fashioniq / "fashionIQ_dataset" / "images").iterdir():
        image.unlink()
    for chosen, sentence in (
        (settings(fashioniq), "fashioniq train: no photo is in .*9 are listed.*fetch the images first"),
        (settings(tmp_path / "empty"), "no FashionIQ in"),
        (settings(tmp_path / "empty", dataset="fashiongen"), "no FashionGen in"),
        (settings(tmp_path / "empty", dataset="images"), "holds no photos"),
        (settings(tmp_path / "none", dataset="images"), "no such folder"),
        (settings(tmp_path / "empty", "val", dataset="vitonhd"), "splits train and test"),
        (settings(fashioniq, dataset="fashiongen", guidance=True), "only fashioniq has sentences"),
        (PhotoSettings(dataset="images"), "--dataset images needs --data-root"),
    ):
        with pytest.raises(UserError, match=sentence):
            run_captioning(chosen, captioner(), parrot())
    with pytest.raises(UserError, match="drop --prompt"):
        CaptionerSettings(prompt="x", chain=True)
    assert not (tmp_path / "empty" / ".journal").exists()


def test_real_viton_garments_are_listed_once(shared):
    found = read_photos(settings(shared / "data", "test", dataset="vitonhd", output_dir="unused"))
    names = [photo.name for photo in found.photos]
    assert names and len(names) == len(set(names)) and all(photo.image.is_file() for photo in found.photos)


def test_a_run_that_failed_before_its_first_answer_claims_nothing(fashioniq, parrot):
    class Absent(parrot):
        def answer(self, images, dialogues):
            raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        run_captioning(settings(fashioniq), captioner(), Absent())
    assert len(rows(run_captioning(settings(fashioniq), CaptionerSettings(model="cockatoo"), parrot()))) == 9


def test_a_kill_anywhere_changes_nothing(fashioniq, parrot, tmp_path):
    out = tmp_path / "out"

    def call():
        run_captioning(settings(fashioniq, output_dir=str(out)), captioner(), parrot(concurrency=1))

    out.mkdir()
    points = kill.points(kill.operations(call, out))
    whole = kill.contents(out)
    assert len(points) > 40
    for point in points[::9]:
        shutil.rmtree(out)
        out.mkdir()
        kill.killed_at(call, out, point)
        call()
        assert kill.contents(out) == whole, point


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(fashioniq, parrot, tmp_path, small_disk):
    disk = small_disk(1)
    for leave in (0, 4, 8):
        with filled(disk, leave):
            with pytest.raises(
                UserError, match="cannot be written: the disk is full; make room and run the same command"
            ):
                run_captioning(settings(fashioniq, output_dir=str(disk / "out")), captioner(), parrot())
    answers = [
        sorted(map(str, rows(run_captioning(settings(fashioniq, output_dir=str(out / "out")), captioner(), parrot()))))
        for out in (disk, tmp_path)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "line", ["3", '{"key": 3, "text": "x", "finished": true}', '{"key": [], "text": "x", "finished": true}', "[" * 9999]
)
def test_a_damaged_answer_is_asked_for_again(fashioniq, parrot, tmp_path, line):
    job = settings(fashioniq, output_dir=str(tmp_path / "out"))
    paths = run_captioning(job, captioner(), parrot())
    before = rows(paths)
    journal = tmp_path / "out" / ".journal" / "fashioniq.train" / "0.jsonl"
    _, *others = journal.read_text().splitlines()
    journal.write_text("\n".join([line, *others, ""]))
    backend = parrot()
    assert rows(run_captioning(job, captioner(), backend)) == before and len(backend.dialogues) == 1
