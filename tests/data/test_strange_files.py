"""What else a folder or a name may hold besides files: pipes, devices, folders, circles of links, names in no encoding."""

import io
import os
import signal
import socket
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from damage import damaged, refused
from unifashion.apps.doctor.pictures import look_at
from unifashion.data import images
from unifashion.data.annotations import read_json_list, read_text
from unifashion.data.hdf5_images import open_hdf5
from unifashion.data.image_files import FORMATS, SUFFIXES, PassedOver, find_file, find_images, list_images
from unifashion.data.images import ImageError, ImageTransform, load_image, load_stored, open_image, read_info
from unifashion.data.own_catalogue import read_products
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError
from unifashion.io import file_hash, write_csv, write_json
from unifashion.llm.caption_file import find_files


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(mode="RGB", size=(12, 9)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA").convert(mode)


REAL = {
    "jpeg": encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "progressive": encoded(noise(), "JPEG", progressive=True),
    "cmyk": encoded(noise("CMYK"), "JPEG"),
    "mpo": encoded(noise(), "MPO", save_all=True, append_images=[noise()]),
    "png": encoded(noise("RGBA"), "PNG"),
    "palette": encoded(noise("P"), "PNG", transparency=b"\0\x80\xff"),
    "png16": encoded(Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600), "PNG"),
    "apng": encoded(noise(), "PNG", save_all=True, append_images=[noise("RGB").rotate(180)]),
    "webp": encoded(noise("RGBA"), "WEBP"),
    "tiff": encoded(noise(), "TIFF"),
    "lzw": encoded(noise(), "TIFF", compression="tiff_lzw"),
    "deflate": encoded(noise(), "TIFF", compression="tiff_deflate"),
    "tiff of jpeg": encoded(noise(), "TIFF", compression="jpeg"),
    "tiff of floats": encoded(noise("F"), "TIFF"),
    "gif": encoded(noise("P"), "GIF", save_all=True, append_images=[noise("P").rotate(180)]),
    "bmp": encoded(noise(), "BMP"),
    **({"avif": encoded(noise(), "AVIF")} if "AVIF" in images._formats() else {}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", REAL)
@given(data=st.data())
def test_any_damage_to_an_image_gives_pixels_or_one_sentence(tmp_path, kind, data):
    assert load_image(REAL[kind]).mode == "RGB"
    path = tmp_path / "image.jpg"
    path.write_bytes(data.draw(damaged(REAL[kind])))
    assert refused(lambda: ImageTransform(8)(load_image(path))) == refused(load_stored, path)
    refused(read_info, path)
    refused(lambda: open_image(Image.open(path)) if not refused(read_info, path) else None)


def png(*chunks):
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)), *chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content


@pytest.mark.parametrize("file_format", ["EPS", "PDF", "TGA", "PPM", "ICO", "PCX", "JPEG2000", "SGI", "XBM"])
def test_no_other_format_is_opened_whatever_its_name_says(tmp_path, file_format, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(noise("1" if file_format == "XBM" else "RGB", (16, 16)), file_format))
    for read in (load_image, load_stored, read_info, open_image):
        with pytest.raises(ImageError, match=rf"not an image; {', '.join(FORMATS)} can be read"):
            read(path)
    assert look_at(path).fault


def test_a_text_in_a_png_is_not_unpacked_without_limit():
    bomb = zlib.compress(bytes(2**21), 9)
    with pytest.raises(ImageError, match="damaged image"):
        load_image(png((b"zTXt", b"comment\0\0" + bomb), (b"IDAT", zlib.compress(bytes(13 * 4)))))


def make_strange(path, kind):
    """Put something that is not a file, or not one that can be read, at a path."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.symlink_to({"device": "/dev/zero", "dangling": "gone.jpg", "circle": path.name}[kind])


@pytest.fixture
def in_time():
    """End a test that waits for a pipe."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(20)
    yield
    signal.alarm(0)


STRANGE = ["pipe", "folder", "socket", "device", "dangling", "circle", "huge"]


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_is_refused_without_waiting(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = tmp_path / "x.jpg"
    make_strange(path if kind != "socket" else path.relative_to(tmp_path), kind)
    for read in (load_image, load_stored, read_text, open_hdf5):
        with pytest.raises(UserError, match=r"x\.jpg"):
            read(path)
    with pytest.raises(OSError):
        file_hash(path, 2**30)
    path.rename(tmp_path / "manifest.json")
    assert not is_synthetic(tmp_path)


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "x" * 5000, "a\0b.h5#1", "x.h5#" + "9" * 5000])
def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path, name):
    with pytest.raises(ImageError):
        load_image(tmp_path / name)
    with pytest.raises(UserError):
        read_text(tmp_path / name)
    assert find_file(tmp_path, name) == tmp_path / name


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(REAL["jpeg"])
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ImageError, match=r"x\.jpg: cannot be read \(Permission denied\)"):
        load_image(tmp_path / "x.jpg")
    with pytest.raises(UserError, match=r"x\.jpg cannot be read \(Permission denied\)"):
        read_json_list(tmp_path / "x.jpg", dict)


def test_a_lack_of_memory_is_not_called_damage(monkeypatch):
    def fail(_):
        raise MemoryError

    monkeypatch.setattr(images, "_decoded_rgb", fail)
    with pytest.raises(ImageError, match="not enough memory"):
        load_image(REAL["png"])


def test_a_file_that_shrinks_while_it_is_read_is_damaged(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(noise(size=(600, 600)), "PNG"))
    monkeypatch.setattr(images, "_check_sides", lambda *_: os.truncate(path, 100_000))
    with pytest.raises(ImageError, match="damaged image"):
        load_image(path)


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_by_one_rule_and_what_is_passed_over_is_named(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("b/2.JPG", "a.png", "notes.txt", "._a.png", ".cache/c.png", "photo.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(REAL["png"])
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "gone.gif").symlink_to("nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a.png", "b/2.JPG", "gone.gif"]
    assert [path.name for path in list_images(tmp_path, below=False)] == ["a.png", "gone.gif"]
    assert "5 files passed over" in caplog.text and "2 hidden, such as '._a.png'" in caplog.text
    assert (
        find_files([str(tmp_path)], PassedOver())
        == list_images(tmp_path)
        == [row.image for row in read_products(tmp_path)]
    )


def test_every_suffix_is_one_of_a_format_that_is_opened(tmp_path):
    Image.init()
    for name, suffixes in FORMATS.items():
        assert {Image.EXTENSION.get(suffix, name) for suffix in suffixes} == {name}
        assert set(suffixes) <= set(SUFFIXES)


def test_a_name_that_is_not_utf_8_is_left_out_and_named(tmp_path, caplog):
    bad = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / bad).write_bytes(REAL["jpeg"])
    (tmp_path / os.fsdecode(b"s\xe9rie")).mkdir()
    (tmp_path / os.fsdecode(b"s\xe9rie") / "1.jpg").write_bytes(REAL["jpeg"])
    (tmp_path / "good.jpg").write_bytes(REAL["jpeg"])
    caplog.set_level("INFO")
    assert [path.name for path in list_images(tmp_path)] == ["good.jpg"]
    assert list(find_images(tmp_path)) == ["good"]
    assert r"2 with a name that is not UTF-8 (rename them), such as 'caf\udce9.jpg'" in caplog.text
    with pytest.raises(UserError, match=r"caf\\udce9\.jpg': the name is not UTF-8"):
        find_files([str(tmp_path / bad)], PassedOver())
    write_csv(tmp_path / "a.csv", ["image"], [{"image": bad}])
    write_json(tmp_path / "a.json", {"image": bad})
    assert r"caf\udce9.jpg" in read_text(tmp_path / "a.csv")


@pytest.mark.parametrize("stored", ["caf\u00e9/robe.jpg", "cafe\u0301/robe.jpg"])
@pytest.mark.parametrize(
    "listed", ["caf\u00e9/robe.jpg", "cafe\u0301/robe.jpg", "caf\u00e9\\robe.jpg", "cafe\u0301\\robe.jpg"]
)
def test_a_table_from_another_system_finds_its_images(tmp_path, stored, listed):
    (tmp_path / stored).parent.mkdir()
    (tmp_path / stored).write_bytes(REAL["jpeg"])
    (tmp_path / "catalogue.csv").write_text(f"image,text\n{listed},a dress\n", encoding="utf-8")
    assert [row.image for row in read_products(tmp_path)] == [tmp_path / stored]


def test_backslashes_do_not_lead_out_of_a_catalogue(tmp_path):
    (tmp_path / "x.jpg").write_bytes(REAL["jpeg"])
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/catalogue.csv").write_text("image\n..\\x.jpg\n")
    with pytest.raises(UserError, match="is outside"):
        read_products(tmp_path / "shop")


# Images that are open already -----------------------------------------------------------------------------------------


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(size=(12, 9)), "PNG", exif=exif)


def test_an_open_image_is_read_like_its_file_and_left_as_it_is():
    opened = Image.open(io.BytesIO(turned()))
    assert opened.mode == "RGB"
    upright = open_image(opened)
    assert upright.size == (9, 12) and upright.tobytes() == load_image(turned()).tobytes()
    assert opened.size == (12, 9)
    assert open_image(upright).tobytes() == upright.tobytes(), "it must not be turned again"


@pytest.mark.parametrize("kind", REAL)
def test_an_open_image_of_any_kind_is_read_like_its_file(kind):
    assert open_image(Image.open(io.BytesIO(REAL[kind]))).tobytes() == load_image(REAL[kind]).tobytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_open_image_of_a_truncated_file_is_one_sentence(mode):
    whole = encoded(noise(mode, (64, 64)), "PNG")
    with pytest.raises(ImageError, match="damaged image"):
        open_image(Image.open(io.BytesIO(whole[: len(whole) // 2])))


def test_files_that_are_passed_over_are_counted_by_kind_and_photos_of_phones_get_a_hint(tmp_path):
    for name in ("a.jpg", "a.txt", "b.HEIC", "c.heif", "._a.jpg", "d.jp2", "e", os.fsdecode(b"\xe9.jpg")):
        (tmp_path / name).touch()
    passed_over = PassedOver()
    assert list_images(tmp_path, passed_over=passed_over) == [tmp_path / "a.jpg"]
    sentence = passed_over.summary()
    assert sentence.startswith("6 files passed over: 2 .heic (convert them to JPEG first")
    assert "; 1 .jp2, such as 'd.jp2'; 1 hidden, such as '._a.jpg'; 1 with a name that is not UTF-8" in sentence
    assert PassedOver().summary() == ""
    (tmp_path / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(300))
    with pytest.raises(ImageError, match=r"not an image; .*convert them to JPEG first"):
        load_image(tmp_path / "b.HEIC")
