"""A file of captions: continued after a kill, never mixed, written by one call at a time."""

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import kill
from small_disk import filled
from unifashion.data.images import ImageTransform
from unifashion.errors import UserError
from unifashion.llm.caption_file import Job, caption_files, name_images
from unifashion.models.generation import Decoding

MADE_WITH = {"model": "a model"}


@pytest.fixture
def shop(tmp_path):
    """Seven grey photos, one of them damaged."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (8, 8), (number, number, number)).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    return sorted(folder.iterdir())


def captions_of(pixels, decoding, instruction, seed):
    """Captions that differ where another batch, or another seed, would make other ones."""
    return [f"{image.float().mean():.0f} of {pixels.float().mean():.3f}, seed {seed}\u2028é" for image in pixels]


CAPTIONER = SimpleNamespace(transform=ImageTransform(8, "square"), caption_pixels=captions_of)


def caption(images, out, overwrite=False, made_with=MADE_WITH, captioner=CAPTIONER, **settings):
    job = replace(Job(images, out, Decoding(), batch_size=3, progress=False), **settings)
    return caption_files(captioner, job, made_with, overwrite)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


@pytest.mark.parametrize("begun", [0, 3])
def test_a_kill_anywhere_changes_nothing(shop, tmp_path, begun):
    before, out = tmp_path / "before", tmp_path / "out" / "captions.jsonl"
    before.mkdir()
    if begun:
        caption(shop[:begun], before / out.name)

    def write():
        caption(shop, out)

    def from_the_start():
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(before, out.parent)

    from_the_start()
    points = kill.points(kill.operations(write, out.parent))
    whole = kill.contents(out.parent)
    assert len(rows_of(out)) == 6 and len(points) > 30
    assert sorted(whole) == ["captions.jsonl", "captions.quarantine.csv", "captions.settings.json"]
    for point in points[begun::3]:
        from_the_start()
        kill.killed_at(write, out.parent, point)
        write()
        assert kill.contents(out.parent) == whole, point


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(shop, small_disk, tmp_path):
    out, disk = tmp_path / "captions.jsonl", small_disk(1)
    caption(shop * 30, out)
    kept = disk / "captions.jsonl"
    for leave in (0, 4, 8, 12, 16):
        with filled(disk, leave):
            with pytest.raises(
                UserError, match=r"captions\.(jsonl(\.part)?|settings\.json) cannot be written: the disk is"
            ):
                caption(shop * 30, kept)
            assert not list(disk.glob(".captions*"))
    caption(shop * 30, kept)
    assert kept.read_bytes() == out.read_bytes()


def test_a_second_call_is_refused_and_changes_nothing(shop, tmp_path):
    out = tmp_path / "captions.jsonl"
    entered, go_on = threading.Event(), threading.Event()

    def slow(*given):
        entered.set()
        assert go_on.wait(30)
        return captions_of(*given)

    first = threading.Thread(
        target=caption, args=(shop, out), kwargs={"captioner": SimpleNamespace(**{**vars(CAPTIONER), "caption_pixels": slow})}
    )  # fmt: skip
    first.start()
    assert entered.wait(30)
    before = kill.contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"captions\.jsonl: another call is writing it; wait until it ends"):
            caption(shop, out, overwrite)
    assert kill.contents(tmp_path) == before
    go_on.set()
    first.join()
    assert len(rows_of(out)) == 6


def test_damaged_rows_of_a_part_are_made_again(shop, tmp_path, caplog):
    caption(shop, tmp_path / "whole.jsonl")
    out = tmp_path / "captions.jsonl"
    caption(shop[:3], out)
    lines = out.read_bytes().split(b"\n")
    bad = [b"\0" * 40, b'{"id": 3}', b"[" * 5000, b"\xff", b"null", lines[0], lines[0]]
    out.with_name("captions.jsonl.part").write_bytes(b"\n".join([lines[1], *bad, b'{"id": "torn']))
    out.unlink()
    caption(shop, out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "5 damaged rows; their images are captioned again" in caplog.text


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.jsonl.part"])
def test_a_pipe_in_the_place_of_the_captions_is_one_sentence(shop, tmp_path, name):
    out = tmp_path / "captions.jsonl"
    caption(shop[:3], out)
    if name != out.name:
        out.unlink()
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"captions\.jsonl"):
        caption(shop, out)


@pytest.mark.parametrize("line", ["words", "3", '{"id": "1"}', '{"id": 1, "image": "a", "caption": "b"}', "\0\0"])
def test_a_finished_file_with_other_lines_is_left_alone(shop, tmp_path, line):
    out = tmp_path / "captions.jsonl"
    caption(shop[:3], out)
    with out.open("a") as file:
        file.write(line + "\n")
    before = kill.contents(tmp_path)
    with pytest.raises(UserError, match=r"captions\.jsonl, row 4: not a row of captions; remove it"):
        caption(shop, out)
    assert kill.contents(tmp_path) == before


def test_captions_of_other_settings_are_not_mixed(shop, tmp_path):
    out = tmp_path / "captions.jsonl"
    caption(shop, out)
    caption(shop, tmp_path / "captions.txt", made_with={"model": "another"})  # a file with the same stem
    with pytest.raises(UserError, match=r"made with model 'a model', now it is 'another'; name another file"):
        caption(shop, out, made_with={"model": "another"})
    (tmp_path / "captions.settings.json").write_text('{"mod')
    with pytest.raises(UserError, match="it already exists; name another file, or --overwrite it"):
        caption(shop, out)
    caption(shop, out, overwrite=True, made_with={"model": "another"})


def test_every_caption_has_an_id_of_its_own(shop, tmp_path):
    twin = tmp_path / "other" / "1.png"
    twin.parent.mkdir()
    Image.new("RGB", (8, 8)).save(twin)
    shop[1].with_suffix(".jpg").write_bytes(shop[1].read_bytes())
    assert name_images(shop[:2]) == ["0", "1"]
    assert name_images([shop[1], twin]) == [shop[1].with_suffix("").as_posix(), twin.with_suffix("").as_posix()]
    assert name_images([shop[1], shop[1].with_suffix(".jpg")]) == [f"{shop[1]}", f"{shop[1].with_suffix('.jpg')}"]
    out = tmp_path / "captions.jsonl"
    caption(shop[:3], out)
    for images in ([twin], [*shop, twin]):
        with pytest.raises(
            UserError, match=r"it holds .*shop/[01]\.png with the id '[01]', which these images would change"
        ):
            caption(images, out)
    caption(shop[:1], out)
    assert [row["id"] for row in rows_of(out)] == ["1", "2", "0"]  # those of other images stay, and come first


def test_a_name_that_is_not_utf8_is_kept(tmp_path):
    image = Path(f"{tmp_path}/\udcff.png")
    Image.new("RGB", (8, 8)).save(image)
    for _ in range(2):
        caption([image], tmp_path / "captions.jsonl")
    assert [row["image"] for row in rows_of(tmp_path / "captions.jsonl")] == [str(image)]


def test_an_image_to_which_the_model_gives_no_caption_is_left_out_and_asked_for_again(shop, tmp_path):
    def silent_for_two(pixels, *_):
        return ["" if image.float().mean().round() == 2 else "a dress" for image in pixels]

    out = tmp_path / "c.jsonl"
    skipped = caption(
        shop[:4], out, captioner=SimpleNamespace(transform=CAPTIONER.transform, caption_pixels=silent_for_two)
    )
    assert [row["id"] for row in rows_of(out)] == ["0", "1", "3"] and skipped.reasons == {
        shop[2]: "the model gave no caption"
    }
    assert len(caption(shop[:4], out)) == 0 and [row["id"] for row in rows_of(out)] == ["0", "1", "2", "3"]
