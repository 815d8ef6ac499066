"""Archives of unknown origin: bombs, links, names that lead elsewhere, and any damage."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zipfile
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damage import damaged, refused
from unifashion.apps.prepare import archives, prepare
from unifashion.apps.prepare.archives import measure, unpack_jobs
from unifashion.errors import UserError

HARD_LINK, LINK, PIPE = "126"  # types of a tar archive's members


def make_zip(members):
    """A zip archive of (name, content); a content may be a function that changes the entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def make_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content.encode(), "/etc/passwd"
                file.addfile(entry)
    return buffer.getvalue()


MEMBERS = [("cap.json", b"[1, 2, 3]" * 9), ("train/0/a.png", bytes(range(256))), ("train/0/b.png", b"b" * 700)]
WHOLE = {
    "zip": make_zip(MEMBERS),
    "tar": make_tar(MEMBERS),
    "tar.gz": gzip.compress(make_tar(MEMBERS)),
    "tar.bz2": bz2.compress(make_tar(MEMBERS)),
    "tar.xz": lzma.compress(make_tar(MEMBERS)),
}


def unpack(path, tmp_path):
    return prepare("cirr", [path], tmp_path / "root", progress=False)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_archive_is_measured_and_unpacked(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(WHOLE[kind])
    assert measure(path) == archives.Size(3, 81 + 256 + 700)
    folder, done = unpack(path, tmp_path)
    assert done.made == 3 and not done.failed
    assert (folder / "train/0/b.png").read_bytes() == b"b" * 700


@pytest.mark.parametrize("kind", WHOLE)
@given(data=st.data())
def test_any_damage_to_an_archive_gives_files_below_the_folder_or_one_sentence(tmp_path, kind, data):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data.draw(damaged(WHOLE[kind])))
    shutil.rmtree(tmp_path / "root", ignore_errors=True)
    refused(unpack, path, tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "root"}


def bomb(kind, size=30 * 2**20):
    """An archive of one file of zeros that is a thousand times as large."""
    if kind == "zip":
        return make_zip([("zeros", bytes(size))])
    entry = tarfile.TarInfo("zeros")
    entry.size = size
    return gzip.compress(entry.tobuf()) + gzip.compress(bytes(size))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_decompression_bomb_is_refused_before_anything_is_written(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MAX_RATIO", 20)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(bomb(kind))
    with pytest.raises(UserError, match=r"would become 1 files of 0\.0 GiB and more, .* decompression bomb"):
        unpack(path, tmp_path)
    assert not (tmp_path / "root").exists()


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    (tmp_path / "a.zip").write_bytes(WHOLE["zip"])
    with pytest.raises(UserError, match="would become 3 files"):
        unpack(tmp_path / "a.zip", tmp_path)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"a\.tar is not an archive, or is cut short \(a header of 8589934592 bytes\)"):
        measure(tmp_path / "a.tar")


def test_archives_that_do_not_fit_on_the_disk_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(WHOLE["zip"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(UserError, match=r"takes 0\.0 GiB, and 0\.0 GiB are free; make room"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert not (tmp_path / "root/cirr_dataset").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1037))
    folder, _ = unpack(tmp_path / "a.zip", tmp_path)
    (folder / "manifest.json").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(0))
    assert unpack(tmp_path / "a.zip", tmp_path)[1].kept == 3  # what is there already needs no room


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "C:/x", "..\\x", "\\x", "a\\..\\..\\x"])
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path, make, name):
    path = tmp_path / ("a.zip" if make is make_zip else "a.tar")
    path.write_bytes(make([("good", b"1"), (name, b"2")]))
    with pytest.raises(UserError, match="leads out of its folder"):
        unpack(path, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([path.name, "root"])


@pytest.mark.parametrize(
    ("members", "failed"),
    [
        ([("a.png", b"1"), ("a.png", b"2")], {"a.png": "the archive also holds a.png"}),
        ([("a.png", b"1"), ("A.PNG", b"2")], {"A.PNG": "the archive also holds a.png"}),
        ([("caf\u00e9", b"1"), ("cafe\u0301", b"2")], {"cafe\u0301": "the archive also holds caf\u00e9"}),
        ([("a", b"1"), ("a/b", b"2")], {"a/b": "a file has the name of a folder"}),
        ([("a/b", b"1"), ("a", b"2")], {"a": "a file has the name of a folder"}),
        ([("x", b"1"), ("l", LINK)], {"l": "a link or a device, not a file"}),
        ([("x", b"1"), ("l", HARD_LINK)], {"l": "a link or a device, not a file"}),
        ([("x", b"1"), ("l", PIPE)], {"l": "a link or a device, not a file"}),
        ([("x", b"1"), ("y" * 300, b"2")], {"y" * 300: "its name is too long"}),
        ([("x", b"1"), (os.fsdecode(b"caf\xe9"), b"2")], {r"caf\udce9": "its name cannot be used"}),
    ],
)
def test_a_member_that_cannot_be_used_is_named_and_the_others_are_unpacked(tmp_path, members, failed):
    (tmp_path / "a.tar").write_bytes(make_tar(members))
    folder, done = unpack(tmp_path / "a.tar", tmp_path)
    assert dict(done.failed) == failed and done.made == 1
    assert (folder / members[0][0]).read_bytes() == b"1"


def test_a_link_in_a_zip_is_no_file(tmp_path):
    entry = zipfile.ZipInfo("link.png")
    entry.external_attr = 0o120777 << 16
    (tmp_path / "a.zip").write_bytes(make_zip([("a.png", b"1"), (entry, b"/etc/passwd")]))
    _, done = unpack(tmp_path / "a.zip", tmp_path)
    assert done.failed == (("link.png", "a link, not a file"),) and done.made == 1


def test_hidden_files_such_as_macos_adds_are_passed_over(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip([("a.png", b"1"), ("__MACOSX/._a.png", b"2"), ("b/.DS_Store", b"3")]))
    assert [job.name for job in unpack_jobs(tmp_path / "a.zip")] == ["a.png"]
