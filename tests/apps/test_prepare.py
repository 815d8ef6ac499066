"""Preparing data sets: whole or not at all, nothing twice, hostile archives and unreliable servers."""

import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

import kill
from damage import damaged, refused
from small_disk import filled
from unifashion.apps.prepare import Options, check, downloads, job_runner, prepare, sets
from unifashion.apps.prepare.job_runner import JobError
from unifashion.cli import main
from unifashion.data.fashiongen import read_fashiongen
from unifashion.data.own_catalogue import read_own_catalogue, read_products
from unifashion.errors import UserError


def photo(seed=0, size=(40, 60), kind="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def table(tmp_path):
    """A shop of six photos in a table."""
    shop = tmp_path / "shop"
    shop.mkdir()
    lines = ["image,text,price"]
    for number in range(6):
        (shop / f"{number}.png").write_bytes(photo(number))
        lines.append(f"{number}.png,garment {number},{number}.50")
    (shop / "products.csv").write_text("\n".join(lines) + "\n")
    return shop / "products.csv"


@pytest.fixture
def server():
    """A web server whose answers are as good as their names; counts the calls."""
    calls: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            calls[self.path] = calls.get(self.path, 0) + 1
            content = photo(1, kind="JPEG")
            if self.path == "/gone.jpg":
                self.send_error(404)
                return
            if self.path == "/moody.jpg" and calls[self.path] < 3:
                self.send_error(503)
                return
            self.send_response(200)
            if self.path == "/text.jpg":
                content = b"<html>not a photo</html>"
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:20] if self.path == "/short.jpg" else content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.calls = calls
    yield server
    server.shutdown()
    server.server_close()


def run(table, root, **options):
    return prepare("catalogue", [table], root, Options(**options), progress=False)


def test_a_table_becomes_a_catalogue_that_training_reads(table, tmp_path):
    folder, done = run(table, tmp_path / "data", max_side=30)
    assert (done.made, done.kept, done.failed) == (6, 0, ())
    pairs = read_own_catalogue(folder, "train").pairs
    assert sorted(pair.text for pair in pairs) == [f"garment {number}" for number in range(6)]
    assert {Image.open(pair.image).size for pair in pairs} == {(20, 30)}
    assert check("catalogue", tmp_path / "data") == []


def test_a_folder_of_photos_becomes_a_catalogue_and_what_is_no_photo_is_counted(table, tmp_path, caplog):
    shop = table.parent
    table.unlink()
    (shop / "._0.png").write_text("x")
    with pytest.raises(UserError, match=r"0\.png has no text: write 0\.txt beside it"):
        prepare("catalogue", [shop], tmp_path / "data", progress=False)
    for number in range(6):
        (shop / f"{number}.txt").write_text(f"garment {number}\n")
    with caplog.at_level("INFO"):
        folder, done = prepare("catalogue", [shop], tmp_path / "data", progress=False)
    assert done.made == 6 and "1 file passed over: 1 hidden, such as '._0.png'" in caplog.text
    assert sorted((row.text, row.product) for row in read_products(folder)) == [
        (f"garment {n}", f"{n}") for n in range(6)
    ]


def test_a_finished_set_is_left_alone_and_another_size_is_made_anew(table, tmp_path):
    folder, _ = run(table, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run(table, tmp_path)[1] is None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert run(table, tmp_path, max_side=9)[1].made == 6
    assert {Image.open(path).size for path in (folder / "photos").iterdir()} == {(6, 9)}
    assert check("catalogue", tmp_path) == []


def test_a_table_that_changed_is_prepared_again_and_what_it_dropped_is_removed(table, tmp_path):
    folder, _ = run(table, tmp_path)
    table.write_text("image,text\n0.png;1.png,a pair\n5.png,the last\n")
    _, done = run(table, tmp_path)
    assert (done.made, done.kept) == (2, 1)  # the first photo stays where it was
    pairs = read_own_catalogue(folder, "train").pairs
    assert [(pair.text, pair.product) for pair in pairs if pair.text == "a pair"] == [("a pair", pairs[0].product)] * 2
    assert len(list((folder / "photos").iterdir())) == 3 and check("catalogue", tmp_path) == []


def test_a_source_that_is_newer_than_its_copy_is_copied_again(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    (source / "B000000001.png").write_bytes(photo(1))
    (source / "cap.dress.val.json").write_text("[]")
    folder, done = prepare("fashioniq", [source], tmp_path / "data", progress=False)
    assert done.made == 2 and (folder / "captions" / "cap.dress.val.json").read_text() == "[]"
    (source / "B000000001.png").write_bytes(photo(2))
    later = (folder / "images" / "B000000001.png").stat().st_mtime + 5
    os.utime(source / "B000000001.png", (later, later))
    _, done = prepare("fashioniq", [source], tmp_path / "data", progress=False)
    assert (done.made, done.kept) == (1, 1) and (folder / "images" / "B000000001.png").read_bytes() == photo(2)


def test_a_photo_that_two_sources_have_is_taken_from_the_first(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "B000000001.png").write_bytes(photo(seed))
        (tmp_path / name / "deep" / "B000000001.png").write_bytes(photo(9))
    (tmp_path / "list.txt").write_text("B000000001 http://127.0.0.1:9/absent.jpg\n")
    sources = [tmp_path / "one", tmp_path / "two", tmp_path / "list.txt"]
    folder, done = prepare("fashioniq", sources, tmp_path / "data", progress=False)
    assert done.made == 1 and (folder / "images" / "B000000001.png").read_bytes() == photo(1)


def test_a_kill_anywhere_changes_nothing(table, tmp_path):
    home = tmp_path / "data"

    def call():
        run(table, home, num_threads=1)

    home.mkdir()
    points = kill.points(kill.operations(call, home))
    whole = kill.contents(home)
    assert len(whole) == 8 and len(points) > 60
    for point in points[::9]:
        shutil.rmtree(home)
        home.mkdir()
        kill.killed_at(call, home, point)
        call()
        assert kill.contents(home) == whole, point


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(table, tmp_path, small_disk):
    run(table, tmp_path / "whole")
    disk = small_disk(1)
    for leave in (0, 4, 8):
        with filled(disk, leave):
            with pytest.raises(
                UserError, match=r"my_catalogue/.* cannot be written: the disk is full; make room and run"
            ):
                run(table, disk)
            assert [path.name for path in disk.rglob(".*")] == [".filler"]
    run(table, disk)
    assert kill.contents(disk) == kill.contents(tmp_path / "whole")


def test_the_tables_and_the_manifest_are_written_under_the_lock(table, tmp_path, monkeypatch):
    write, refused = sets.write_manifest, []

    def meanwhile(*given):
        with pytest.raises(UserError, match="is being prepared by another call"):
            run(table, tmp_path, max_side=9)
        refused.append(True)
        return write(*given)

    monkeypatch.setattr(sets, "write_manifest", meanwhile)
    run(table, tmp_path)
    assert refused


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3, "set": 1}', '{"files": {}, "set": 1}', '{"fil'])
def test_a_damaged_manifest_is_that_of_a_set_that_is_not_finished(table, tmp_path, content):
    folder, _ = run(table, tmp_path)
    whole = kill.contents(tmp_path)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="no finished manifest"):
        check("catalogue", tmp_path)
    assert run(table, tmp_path)[1].kept == 6 and kill.contents(tmp_path) == whole


def test_a_second_call_at_the_same_time_is_told_to_wait(table, tmp_path, monkeypatch):
    do, said = job_runner._do, []

    def meanwhile(folder, job):
        if not said:
            said.append("")
            with pytest.raises(UserError, match="is being prepared by another call") as caught:
                run(table, tmp_path)
            said[0] = str(caught.value)
        return do(folder, job)

    monkeypatch.setattr(job_runner, "_do", meanwhile)
    folder, done = run(table, tmp_path, num_threads=1)
    assert done.made == 6 and str(folder) in said[0]


def test_what_fails_is_named_left_out_and_tried_again(table, tmp_path):
    (table.parent / "2.png").write_bytes(b"no photo")
    folder, done = run(table, tmp_path)
    ((name, _),) = done.failed
    assert name.startswith("photos/000002_2_") and name in (folder / "failed.csv").read_text()
    assert "garment 2" not in (folder / "catalogue.csv").read_text()
    (table.parent / "2.png").write_bytes(photo(2))
    _, done = run(table, tmp_path)
    assert (done.made, done.kept) == (1, 5) and not (folder / "failed.csv").exists()


def test_a_changed_file_is_found(table, tmp_path, capsys):
    folder, _ = run(table, tmp_path)
    photos = sorted((folder / "photos").iterdir())
    photos[1].write_bytes(b"changed")
    photos[3].unlink()
    with pytest.raises(SystemExit) as left:
        main(["prepare", "catalogue", "--check", "--data-root", str(tmp_path)])
    assert left.value.code == 1
    out = capsys.readouterr().out
    assert f"photos/{photos[1].name} was changed" in out and f"photos/{photos[3].name} is missing" in out


def test_photos_come_from_the_web_and_failing_servers_are_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setattr(downloads.fetch, "__defaults__", (4, 5.0, 0.01))
    base = f"http://127.0.0.1:{server.server_port}"
    lines = [f"B00000000{n} \t {base}/{name}.jpg" for n, name in enumerate(["good", "gone", "moody", "short", "text"])]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    folder, done = prepare("fashioniq", [tmp_path / "urls.txt"], tmp_path / "data", progress=False)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["B000000000.jpg", "B000000002.jpg"]
    reasons = dict(done.failed)
    assert "404" in reasons["images/B000000001.jpg"] and server.calls["/gone.jpg"] == 1
    assert "no complete answer" in reasons["images/B000000003.jpg"] and server.calls["/short.jpg"] == 4
    assert "no image" in reasons["images/B000000004.jpg"]


@pytest.mark.parametrize(
    "address", ["http://[bad/1.jpg", "http://127.0.0.1:port/1.jpg", "http://a b/1.jpg", "http://\x00/"]
)
def test_an_address_that_is_none_fails_alone(tmp_path, address):
    with pytest.raises(JobError):
        downloads.fetch(address, tmp_path / "copy", tries=1, timeout=1.0)
    assert not (tmp_path / "copy").exists()


def test_addresses_may_hold_letters_of_any_language(server, tmp_path):
    downloads.fetch(f"http://127.0.0.1:{server.server_port}/robe d'été.jpg", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == photo(1, kind="JPEG")
    assert list(server.calls) == ["/robe%20d'%C3%A9t%C3%A9.jpg"]


def test_only_web_addresses_are_fetched(tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(JobError, match="not a web address"):
        downloads.fetch((tmp_path / "secret").as_uri(), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_without_their_outer_folder(tmp_path, kind):
    archive = tmp_path / f"cirr.{kind}"
    files = {"cirr_dataset/cirr/captions/cap.rc2.val.json": b"[]", "dev/dev-0.png": photo()}
    pack(archive, files)
    folder, done = prepare("cirr", [archive], tmp_path / "data", progress=False)
    assert done.made == 2
    assert (folder / "cirr" / "captions" / "cap.rc2.val.json").read_bytes() == b"[]"
    assert (folder / "dev" / "dev-0.png").read_bytes() == photo()


@pytest.mark.parametrize(
    ("name", "files", "places"),
    [
        (
            "circo",
            ["CIRCO-main/annotations/val.json", "CIRCO-main/README.md"],
            ["circo/annotations/val.json", "circo/CIRCO-main/README.md"],
        ),
        (
            "circo",
            ["annotations/image_info_unlabeled2017.json", "unlabeled2017/000000000008.jpg"],
            [
                "circo/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json",
                "circo/COCO2017_unlabeled/unlabeled2017/000000000008.jpg",
            ],
        ),
        (
            "cirr",
            [
                "CIRR-x/captions/cap.rc2.val.json",
                "CIRR-x/image_splits/split.rc2.val.json",
                "images/train/34/train-1.png",
            ],
            [
                "cirr_dataset/cirr/captions/cap.rc2.val.json",
                "cirr_dataset/cirr/image_splits/split.rc2.val.json",
                "cirr_dataset/train/34/train-1.png",
            ],
        ),
        (
            "cirr",
            ["cirr_dataset/cirr/captions/cap.rc2.val.json", "dev/dev-1.png"],
            ["cirr_dataset/cirr/captions/cap.rc2.val.json", "cirr_dataset/dev/dev-1.png"],
        ),
        (
            "fashion200k",
            ["fashion200k/women/dresses/a/7/7_0.jpeg", "x/labels/dress_train_detect_all.txt"],
            ["fashion200K/women/dresses/a/7/7_0.jpeg", "fashion200K/labels/dress_train_detect_all.txt"],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_original_downloads_go_where_the_readers_look(tmp_path, kind, name, files, places):
    source = tmp_path / ("download.zip" if kind == "zip" else "download")
    if kind == "zip":
        pack(source, dict.fromkeys(files, b"x"))
    else:
        for file in [*files, ".git/config"]:
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes(b"x")
    prepare(name, [source], tmp_path / "data", progress=False)
    found = [
        path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()
    ]
    assert sorted(path for path in found if not path.endswith("manifest.json")) == sorted(places)
    assert prepare(name, [source], tmp_path / "data", progress=False)[1] is None


def pack(archive, files):
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for name, content in files.items():
                file.writestr(name, content)
        return
    with tarfile.open(archive, "w:gz") as file:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt"])
def test_an_archive_that_leads_outside_is_refused(tmp_path, kind, name):
    archive = tmp_path / f"cirr.{kind}"
    pack(archive, {name: b"x"})
    with pytest.raises(UserError, match="leads out of its folder"):
        prepare("cirr", [archive], tmp_path / "data", progress=False)
    assert not [*tmp_path.rglob("evil.txt")]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_is_cut_short_is_refused_before_anything_is_written(tmp_path, kind):
    archive = tmp_path / f"cirr.{kind}"
    pack(archive, {f"dev/{n}.png": photo(n) for n in range(4)})
    archive.write_bytes(archive.read_bytes()[:-3000])
    with pytest.raises(UserError, match="cut short"):
        prepare("cirr", [archive], tmp_path / "data", progress=False)
    assert not (tmp_path / "data").exists()


def test_a_damaged_member_of_a_zip_is_named_and_the_others_are_unpacked(tmp_path):
    archive = tmp_path / "circo.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"annotations/{number}.json", photo(number))
        place = file.getinfo("annotations/1.json").header_offset + 200
    content = bytearray(archive.read_bytes())
    content[place : place + 40] = b"\xff" * 40
    archive.write_bytes(content)
    folder, done = prepare("circo", [archive], tmp_path / "data", progress=False)
    ((name, reason),) = done.failed
    assert name == "annotations/1.json" and "damaged" in reason and done.made == 2
    assert sorted(path.name for path in (folder / "annotations").iterdir()) == ["0.json", "2.json"]


def test_links_in_archives_are_left_out(tmp_path):
    archive = tmp_path / "cirr.tar"
    with tarfile.open(archive, "w") as file:
        link = tarfile.TarInfo("dev/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        entry = tarfile.TarInfo("dev/0.png")
        entry.size = 3
        file.addfile(entry, io.BytesIO(b"abc"))
    folder, done = prepare("cirr", [archive], tmp_path / "data", progress=False)
    assert done.made == 1 and not (folder / "dev" / "link.png").exists()


def test_fashiongen_hdf5_becomes_the_jsonl_form_with_the_same_records(tmp_path):
    source = tmp_path / "fashiongen_256_256_validation.h5"
    with h5py.File(source, "w") as file:
        file["input_image"] = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
        file["input_description"] = np.array([[b"red"], [b"red"], [b"caf\xe9"], [b"blue"]])
        file["input_productID"] = np.array([[1], [1], [2], [3]])
        file["input_subcategory"] = np.array([[b"A"]] * 4)
        file["input_category"] = np.array([[b"A"]] * 4)
        file["index"] = np.array([[0], [1], [2], [3]])
    folder, done = prepare("fashiongen", [source], tmp_path / "data", progress=False)
    assert done.made == 4
    written, original = read_fashiongen(folder, "val"), read_fashiongen_h5(source)
    assert [(p.text, p.product, p.subcategory) for p in written.pairs] == original
    assert json.loads((folder / "annotation_val_object.jsonl").read_text().splitlines()[0])["index"] == "[0, 1]"


def test_two_files_of_one_split_are_refused(tmp_path):
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["input_image"] = np.zeros((1, 8, 8, 3), np.uint8)
            file["input_description"] = file["input_productID"] = np.array([[b"1"]])
    with pytest.raises(UserError, match="second file of the train split"):
        prepare("fashiongen", [tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "data", progress=False)


def read_fashiongen_h5(source):
    from unifashion.data.fashiongen_hdf5 import read_fashiongen_hdf5

    return [(pair.text, pair.product, pair.subcategory) for pair in read_fashiongen_hdf5(source, "val").pairs]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cir", "--source", "TABLE"], "unknown data set 'cir' (did you mean 'cirr'?)"),
        (["catalogue", "--source", "absent.csv"], "absent.csv does not exist; catalogue is prepared from one table"),
        (["catalogue"], "--source is required"),
        (["cirr", "--source", "TABLE"], "expected zip or tar archives"),
        (["catalogue", "--check"], "has no finished manifest"),
        (["catalogue", "--source", "TABLE", "--threads", "0"], "--threads: must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(table, tmp_path, capsys, words, message):
    words = [str(table) if word == "TABLE" else word for word in words]
    with pytest.raises(SystemExit) as left:
        main(["prepare", *words, "--data-root", str(tmp_path / "data")])
    assert left.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("picture,text\na,b\n", "no column 'image'"),
        ("image,text\n", "has a header but no rows"),
        ("image,text\n1.png,a,b\n", "line 2: more values than columns"),
        ("image,text\n ,a\n", "line 2: image is empty"),
        ("image,text\n1.png,\n", "line 2: text is empty"),
        ('image,text\n1.png,"a\n', "not CSV"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare("catalogue", [tmp_path / "t.csv"], tmp_path / "data", progress=False)


@given(content=damaged(b"image,text\n0.png,red\n1.png;2.png,blue\nhttp://127.0.0.1:9/x.jpg,green\n"))
def test_any_damage_to_a_table_gives_a_catalogue_or_one_sentence(table, tmp_path, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unifashion.apps.prepare.catalogue.fetch", lambda *_: (tmp_path / "no answer").write_bytes(b""))
        table.write_bytes(content)
        refused(lambda: run(table, tmp_path, num_threads=1))
