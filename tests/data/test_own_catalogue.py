import hashlib
import os

import pytest

from unifashion.data.own_catalogue import read_own_catalogue, read_products, read_table
from unifashion.data.records import ImageText
from unifashion.errors import UserError

TABLE = (
    "image,text,id,subcategory,price,split\n"
    'photos/1.jpg,"A red dress, short.",17,dresses,49.90,train\n'
    "photos/2.jpg,A red dress from behind.,17,dresses,,train\n"
    "photos/3.gif,A blue shirt.,18,,12,train\n"
    "photos/4.jpg,A green hat.,19,hats,5,val\n"
)


@pytest.fixture
def folder(tmp_path):
    """A catalogue of four images of three products."""
    (tmp_path / "photos").mkdir()
    for name in ("1.jpg", "2.jpg", "3.gif", "4.jpg"):
        (tmp_path / "photos" / name).touch()
    (tmp_path / "catalogue.csv").write_text(TABLE)
    return tmp_path


def test_rows_become_pairs_and_one_id_is_one_product(folder):
    split = read_own_catalogue(folder, "train")
    assert (split.dataset, split.split, split.missing) == ("catalogue", "train", ())
    assert split.pairs == (
        ImageText(folder / "photos/1.jpg", "A red dress, short.", "17", "dresses"),
        ImageText(folder / "photos/2.jpg", "A red dress from behind.", "17", "dresses"),
        ImageText(folder / "photos/3.gif", "A blue shirt.", "18", ""),
    )
    assert [pair.product for pair in read_own_catalogue(folder, "val").pairs] == ["19"]


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("gone.csv")])
@pytest.mark.parametrize("read", [read_products, lambda folder: read_own_catalogue(folder, "train")])
def test_a_table_that_is_there_but_is_no_file_is_an_error_and_not_a_folder_without_a_table(folder, read, put):
    (folder / "catalogue.csv").unlink()
    put(folder / "catalogue.csv")
    with pytest.raises(UserError, match=r"catalogue\.csv"):
        read(folder)


def test_other_columns_are_kept_as_metadata(folder):
    metadata = {row.image: row.metadata for row in read_products(folder)}
    assert len(metadata) == 4
    assert metadata[folder / "photos/1.jpg"] == {
        "id": "17",
        "subcategory": "dresses",
        "price": "49.90",
        "split": "train",
    }
    assert "price" not in metadata[folder / "photos/2.jpg"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_separator_line_ends_and_byte_order_mark_do_not_matter(folder, separator, line_end):
    before = read_own_catalogue(folder, "train")
    rows = ["Image| Text |ID|Subcategory|price|Split", 'photos/1.jpg|"A red dress, short."|17|dresses|49.90|Train']
    rows += ["", "photos/2.jpg|A red dress from behind.|17|dresses||train", "photos/3.gif|A blue shirt.|18|||train"]
    table = line_end.join(rows).replace("|", separator)
    (folder / "catalogue.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    assert read_own_catalogue(folder, "train") == before


def test_a_text_may_have_several_lines_and_odd_line_breaks(folder):
    (folder / "catalogue.csv").write_text(
        'image,text,split\nphotos/1.jpg,"A red\ndress",train\nphotos/2.jpg,a\x85b,train\n'
    )
    assert [pair.text for pair in read_own_catalogue(folder, "train").pairs] == ["A red\ndress", "a\x85b"]


def test_category_stands_in_for_subcategory_and_the_path_for_the_id(folder):
    (folder / "catalogue.csv").write_text("image,text,category,split\n./photos/1.jpg,Red.,dresses,train\n")
    (pair,) = read_own_catalogue(folder, "train").pairs
    assert (pair.product, pair.subcategory) == ("photos/1.jpg", "dresses")


def test_missing_images_are_named(folder):
    (folder / "photos/2.jpg").unlink()
    split = read_own_catalogue(folder, "train")
    assert split.missing == (str(folder / "photos/2.jpg"),)
    assert [pair.image.name for pair in split.pairs] == ["1.jpg", "3.gif"]


def test_without_a_split_column_a_tenth_of_the_products_is_validation(folder):
    names = [f"p{number}" for number in range(2000)]
    lines = [f"{name}-{view}.jpg,text,{name}" for name in names for view in (1, 2)]
    (folder / "catalogue.csv").write_text("\n".join(["image,text,id", *lines]))
    in_val = {path.split("/")[-1].split("-")[0] for path in read_own_catalogue(folder, "val").missing}
    in_train = {path.split("/")[-1].split("-")[0] for path in read_own_catalogue(folder, "train").missing}
    assert in_val | in_train == set(names) and not in_val & in_train
    assert 150 < len(in_val) < 250
    assert in_val == {n for n in names if int(hashlib.sha256(n.encode()).hexdigest()[:8], 16) % 10 == 0}


def test_a_products_split_does_not_depend_on_the_other_rows(folder):
    def val_of(numbers):
        (folder / "catalogue.csv").write_text("\n".join(["image,text", *[f"{n}.jpg,text" for n in numbers]]))
        return {os.path.basename(path) for path in read_own_catalogue(folder, "val").missing}  # noqa: PTH119

    few = val_of(range(100))
    assert few and few == {name for name in val_of(range(300)) if int(name[:-4]) < 100}


def test_without_a_table_the_texts_lie_beside_the_images(folder):
    (folder / "catalogue.csv").unlink()
    for number, name in enumerate(("1.jpg", "2.jpg", "3.gif", "4.jpg")):
        (folder / "photos" / name).with_suffix(".txt").write_text(f" Text  number\n{number}. \n")
    (folder / "photos/._1.jpg").touch()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails/1.jpg").touch()
    pairs = [pair for split in ("train", "val") for pair in _pairs_or_none(folder, split)]
    assert sorted((pair.image.name, pair.text, pair.product) for pair in pairs) == [
        ("1.jpg", "Text number 0.", "photos/1"),
        ("2.jpg", "Text number 1.", "photos/2"),
        ("3.gif", "Text number 2.", "photos/3"),
        ("4.jpg", "Text number 3.", "photos/4"),
    ]
    (folder / "photos/4.txt").unlink()
    with pytest.raises(UserError, match=r"photos/4\.jpg has no text: write 4\.txt beside it, or a catalogue\.csv"):
        read_own_catalogue(folder, "train")


def _pairs_or_none(folder, split):
    try:
        return read_own_catalogue(folder, split).pairs
    except UserError:
        return ()


def test_a_path_may_wander_inside_the_folder_but_not_leave_it(folder, monkeypatch):
    inside = f"image,text,split\nphotos/../photos/1.jpg,a,train\n{folder}/photos/2.jpg,b,train\n"
    (folder / "catalogue.csv").write_text(inside)
    expected = [folder / "photos/1.jpg", folder / "photos/2.jpg"]
    assert [pair.image for pair in read_own_catalogue(folder, "train").pairs] == expected
    monkeypatch.chdir(folder)
    assert [pair.image.name for pair in read_own_catalogue(type(folder)("."), "train").pairs] == ["1.jpg", "2.jpg"]


def test_photos_may_be_links_to_another_disk(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "5.jpg").touch()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "catalogue.csv").write_text("image,text,split\nlinked/5.jpg,A hat.,train\n")
    split = read_own_catalogue(folder, "train")
    assert [pair.image for pair in split.pairs] == [folder / "linked/5.jpg"] and split.missing == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"catalogue\.csv is empty"),
        ("image,text\n", r"catalogue\.csv has a header but no rows"),
        ("image,caption\n1.jpg,a\n", r"catalogue\.csv: no column 'text'; it has image, caption"),
        ("images,text\n1.jpg,a\n", r"catalogue\.csv: no column 'image' \(did you mean 'images'\?\)"),
        ("image,text,Text\n1.jpg,a,b\n", r"catalogue\.csv: more than one column 'text'"),
        ("image,text\n1.jpg,a\n,b\n", r"catalogue\.csv, line 3: image is empty"),
        ("image,text\n1.jpg\n", "line 2: text is empty"),
        (
            "image,text\n\n1.jpg,a\n2.jpg,b,c\n",
            "line 4: more values than columns; put texts with a separator in double",
        ),
        ("image,text\n1.jpg,a\n1.jpg,b\n", r"line 3: image 1\.jpg is already on line 2; list it once"),
        ("image,text\n1.jpg,a\n./1.jpg,b\n", "line 3: .* is already on line 2"),
        (
            "image,text,split\n1.jpg,a,valid\n",
            r"line 2: split 'valid' is neither train nor val \(did you mean 'val'\?\)",
        ),
        ("image,text,id,split\n1.jpg,a,7,train\n2.jpg,b,7,val\n", "line 3: product 7 is in both splits; give all its"),
        ('image,text\n1.jpg,"a\n2.jpg,b\n', r"line 2: not CSV \(.*\); check its double quotes"),
        ("image,text\n../secret.jpg,a\n", r"line 2: image \.\./secret\.jpg is outside"),
        ("image,text\nphotos/../../secret.jpg,a\n", "line 2: .* is outside .*; give paths relative to that folder"),
        ("image,text\n/etc/passwd,a\n", "line 2: image /etc/passwd is outside"),
    ],
)
def test_a_mistake_in_the_table_is_named_with_its_line(folder, table, message):
    (folder / "catalogue.csv").write_text(table)
    with pytest.raises(UserError, match=message) as caught:
        read_own_catalogue(folder, "train")
    assert "\n" not in str(caught.value)


def test_a_table_in_another_encoding_is_refused(folder):
    (folder / "catalogue.csv").write_bytes("image,text\n1.jpg,Ärmel\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"catalogue\.csv is not UTF-8 text \(byte 17\); save it again as UTF-8"):
        read_own_catalogue(folder, "train")


def test_a_split_without_products_says_how_to_get_one(folder):
    (folder / "catalogue.csv").write_text("image,text,split\n1.jpg,a,train\n2.jpg,b,train\n")
    with pytest.raises(UserError, match="none of its 2 images is in split val; add a column 'split'"):
        read_own_catalogue(folder, "val")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("absent", "train", "no catalogue at .*absent: name a folder of images with a catalogue.csv"),
        ("empty", "train", "has neither catalogue.csv nor images"),
        (".", "valid", r"unknown catalogue split 'valid' \(did you mean 'val'\?\); known: train, val"),
    ],
)
def test_a_folder_or_split_that_is_not_there_is_named(folder, name, split, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_own_catalogue(folder / name, split)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,text,id,ID\nphotos/1.jpg,a,1,2", "more than one column 'id'"),
        ('image,text\n"photos/1.jpg,a', "line 2: not CSV"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(folder, table, message):
    (folder / "catalogue.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        read_products(folder)


def test_blank_rows_and_columns_without_a_name_do_not_matter(folder):
    (folder / "catalogue.csv").write_text("image,text,,\nphotos/1.jpg,a,,\n\n\n")
    assert [row.image.name for row in read_products(folder)] == ["1.jpg"]


@pytest.mark.parametrize("end", [";;\n", ";;;;\n", " ; ;\t\n", "\n\n", "  \n;;\n"])
def test_blank_rows_and_blank_cells_beyond_the_columns_are_passed_over(tmp_path, end):
    table = tmp_path / "catalogue.csv"
    table.write_text(f"image;text;price\n0.jpg;a;1;;\n;;\n1.jpg;b;2\n{end}")
    rows = [values for _, values in read_table(table)]
    assert rows == [{"image": "0.jpg", "text": "a", "price": "1"}, {"image": "1.jpg", "text": "b", "price": "2"}]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path):
    table = tmp_path / "catalogue.csv"
    table.write_text(f'image,text\n0.jpg,"{"x" * 200_000}"\n')
    assert [len(values["text"]) for _, values in read_table(table)] == [200_000]


def test_markup_in_texts_is_removed_and_said_and_other_texts_keep_their_bytes(folder):
    (folder / "catalogue.csv").write_text(
        'image,text,id,split\nphotos/1.jpg,"A <b>red</b> dress<br>R&amp;D",1,train\nphotos/2.jpg,"R&D  < 5",2,train\n'
    )
    split = read_own_catalogue(folder, "train")
    assert [pair.text for pair in split.pairs] == ["A red dress R&D", "R&D  < 5"]
    assert split.cleaned == (str(folder / "photos/1.jpg"),)
    assert [row.text for row in read_products(folder)] == ["A red dress R&D", "R&D  < 5"]
    (folder / "catalogue.csv").write_text("image,text\nphotos/1.jpg,<br>\n")
    with pytest.raises(UserError, match="line 2: the text is markup without words; write a text"):
        read_own_catalogue(folder, "train")
    assert [row.text for row in read_products(folder)] == [""]
