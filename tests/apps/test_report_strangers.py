"""The report about runs of strangers, and about damaged ones: no picture of this machine, and one sentence or a page."""

import copy
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unifashion.apps.report import write_report
from unifashion.apps.report.load_runs import read_runs
from unifashion.apps.report.pictures import Photos
from unifashion.cli import main
from unifashion.errors import UserError

SCORE = {
    "dataset": "fashioniq",
    "protocol": "fashioniq/original",
    "split": "val",
    "category": "dress",
    "metric": "R@10",
    "value": 60.0,
    "n": 10,
    "gallery": 200,
    "missing": 0.0,
    "marks": ["synthetic"],
    "model": "m",
    "std": None,
    "seeds": [1],
    "ties": "",
    "note": "",
    "low": 30.0,
    "high": 90.0,
}


def answer(image, rank=0):
    top = [{"image": image, "text": "", "score": 1.0 - n / 10, "hit": n == rank} for n in range(5)]
    return {
        "protocol": "fashioniq/original",
        "direction": "composed",
        "category": "dress",
        "text": "is red",
        "image": image,
        "targets": [image],
        "rank": rank,
        "gallery": 200,
        "top": top,
        "slices": {"colour": "red"},
    }


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 50), 90).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Write a run whose answers name these pictures."""

    def make(*images):
        run = tmp_path_factory.mktemp("run")
        home = run / "validate" / "fashioniq"
        home.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"state": "complete"}))
        (run / "config.yaml").write_text("data_root: /\n")
        (home / "scores.json").write_text(json.dumps([SCORE]))
        rows = [answer(str(image), rank) for image in images for rank in (0, 9)]
        (home / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run

    return make


def page_of(run, **options):
    page, _ = write_report([run], run / "report.html", **options)
    return page.read_text(encoding="utf-8")


# Pictures -------------------------------------------------------------------------------------------------------------


def test_pictures_of_the_run_and_of_the_named_data_folder_are_shown(make_run, tmp_path):
    data = photo(tmp_path / "data" / "a.png")
    run = make_run(data)
    assert page_of(run, data_roots=[tmp_path / "data"]).count("data:image") > 5
    own = make_run()
    inside = photo(own / "pictures" / "b.png")
    (own / "validate" / "fashioniq" / "answers.jsonl").write_text(json.dumps(answer(str(inside))))
    page = page_of(own)
    assert page.count("data:image") > 5 and "--data-root" not in page


def test_no_other_picture_of_this_machine_is_shown_and_the_page_says_so(make_run, tmp_path):
    secret = photo(tmp_path / "private" / "me.png")
    data = tmp_path / "data"
    data.mkdir()
    run = make_run(secret, data / ".." / "private" / "me.png", os.path.relpath(secret), "/etc/passwd")
    (run / "link.png").symlink_to(secret)
    (run / "folder").symlink_to(secret.parent)
    with (run / "validate" / "fashioniq" / "answers.jsonl").open("a") as file:
        for path in (run / "link.png", run / "folder" / "me.png", run / "folder" / ".." / "me.png"):
            file.write(json.dumps(answer(str(path))) + "\n")
    page = page_of(run, data_roots=[data])
    assert "data:image" not in page and "--data-root" in page and str(secret.parent) in page


def test_sheets_and_grids_that_lead_out_of_the_run_are_not_shown(make_run, tmp_path):
    secret = photo(tmp_path / "me.png")
    run = make_run()
    (run / "validation").mkdir()
    (run / "validation" / "step-1.png").symlink_to(secret)
    home = run / "validate" / "fashioniq"
    (home / "scores.json").write_text(json.dumps([{**SCORE, "protocol": "tryon/catvton/paired", "metric": "SSIM"}]))
    (run / "examples.png").symlink_to(secret)
    assert "data:image" not in page_of(run)


def test_what_a_data_folder_links_to_is_its_owners_word(tmp_path):
    elsewhere = photo(tmp_path / "disk" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(elsewhere.parent)
    photos = Photos(tmp_path / "run", [tmp_path / "data"])
    assert photos.address(tmp_path / "data" / "set" / "a.png") and not photos.outside
    assert photos.address(elsewhere) is None and list(photos.outside) == [str(elsewhere.parent)]


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop", ".", "pipe", ""])
def test_names_of_no_picture_leave_a_gap(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert Photos(tmp_path, [tmp_path]).address(f"{tmp_path}/{name}") is None


def test_the_data_folder_is_a_flag(make_run, tmp_path, monkeypatch, capsys):
    run = make_run(photo(tmp_path / "dataset" / "a.png"))
    out = tmp_path / "report.html"
    for folder, flags in ((tmp_path, []), (run, ["--data-root", str(tmp_path / "dataset")])):
        monkeypatch.chdir(folder)
        main(["report", str(run), "-o", str(out), *flags])
        assert "data:image" in out.read_text()
    main(["report", str(run), "-o", str(out)])
    assert "data:image" not in out.read_text()
    capsys.readouterr()


# Damage ---------------------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=6) | st.sampled_from(["\ud800", "\0", "epoch", "step", "x" * 500, "9" * 5000])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
QUICK = settings(
    max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reported(run) -> None:
    """A page, or a sentence that names a file."""
    try:
        page_of(run)
    except UserError as error:
        assert str(run) in str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def damaged(make_run):
    """A function that writes one file of a run anew and makes the report; the other files are whole."""
    run = make_run()
    home = run / "validate" / "fashioniq"

    def report(file: str, content: bytes) -> None:
        path = (home if file in ("scores.json", "answers.jsonl") else run) / file
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        try:
            reported(run)
        finally:
            path.unlink()
            if before is not None:
                path.write_bytes(before)

    return report


@QUICK
@given(field=st.sampled_from(sorted(SCORE)), value=VALUES)
def test_a_score_with_any_value_is_a_page_or_a_sentence(damaged, field, value):
    damaged("scores.json", json.dumps([SCORE, {**SCORE, field: value}]).encode())


@QUICK
@given(field=st.sampled_from(sorted(answer(""))), value=VALUES, inside=st.booleans())
def test_an_answer_with_any_value_is_a_page_or_a_sentence(damaged, field, value, inside):
    rows = [answer("a.png"), copy.deepcopy(answer("b.png", 7))]
    if inside and field in ("image", "text"):
        rows[1]["top"][2][field] = value
    else:
        rows[1][field] = value
    damaged("answers.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


@QUICK
@given(
    metadata=st.dictionaries(
        st.sampled_from(
            ["state", "data", "versions", "best", "git", "epochs", "steps", "seconds", "started", "validation"]
        ),
        VALUES | st.fixed_dictionaries({"value": VALUES, "ssim": VALUES, "epoch": VALUES}),
        max_size=4,
    )
)
def test_a_run_that_says_anything_is_a_page_or_a_sentence(damaged, metadata):
    damaged("run.json", json.dumps(metadata).encode())


CELLS = st.sampled_from(
    ["1", "2.5", "nan", "inf", "-1e308", "1e308", "1e-300", "", "x", "\0", "é", '"', "epoch", "loss"]
)


@QUICK
@given(
    file=st.sampled_from(["train_metrics.csv", "validation_metrics.csv"]),
    header=st.lists(
        st.sampled_from(["epoch", "step", "loss", "learning_rate", "metric", "category", "protocol", "value", "", "é"]),
        min_size=1,
        max_size=5,
    ),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=5),
    tail=st.sampled_from(["", "1,", "\0" * 40, '"']),
)
def test_any_table_is_a_page_or_a_sentence(damaged, file, header, rows, tail):
    lines = [",".join(header), *(",".join((row * 5)[: len(header)]) for row in rows), tail]
    damaged(file, "\n".join(lines).encode())


@QUICK
@given(
    file=st.sampled_from(
        ["run.json", "config.yaml", "scores.json", "answers.jsonl", "train_metrics.csv", "validation_metrics.csv"]
    ),
    content=st.binary(max_size=30)
    | st.sampled_from([b"[" * 100_000, b"{" * 9000, b"- " * 5000, b"? a: b", b"!!python/name:os.system"]),
)
def test_any_bytes_are_a_page_or_a_sentence(damaged, file, content):
    damaged(file, content)


def test_rows_that_a_power_cut_left_empty_are_not_read(make_run):
    run = make_run()
    (run / "train_metrics.csv").write_bytes(b"epoch,step,loss\n1,10,3\n2,20,2\n3,2" + b"\0" * 100)
    assert "from epoch 1 to 2" in page_of(run)


def test_a_bomb_of_aliases_is_a_sentence(make_run):
    run = make_run()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (run / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"config\.yaml: not a readable YAML file"):
        page_of(run)


@pytest.mark.parametrize("value", [10**400, float("nan"), "60", True, None, [60.0]])
def test_a_score_that_is_no_number_is_a_sentence(make_run, value):
    run = make_run()
    (run / "validate" / "fashioniq" / "scores.json").write_text(json.dumps([{**SCORE, "value": value}]))
    with pytest.raises(UserError, match=r"scores\.json"):
        page_of(run)


@pytest.mark.parametrize(
    "change", [{"direction": "sideways"}, {"rank": -1}, {"rank": "0"}, {"gallery": None}, {"top": [1]}]
)
def test_an_answer_that_no_evaluation_writes_is_a_sentence(make_run, change):
    run = make_run()
    file = run / "validate" / "fashioniq" / "answers.jsonl"
    file.write_text(json.dumps({**answer("a.png"), **change}))
    with pytest.raises(UserError, match=r"answers\.jsonl, row 1"):
        page_of(run)


def test_a_best_checkpoint_at_an_epoch_of_hundreds_of_digits_is_not_drawn(make_run):
    run = make_run()
    (run / "run.json").write_text(json.dumps({"best": {"epoch": 10**400, "value": 10**400}}))
    (run / "validation_metrics.csv").write_text("epoch,ssim\n1,0.5\n2,0.6\n")
    assert "Validation. At the end: ssim 0.6." in page_of(run)


def test_what_no_evaluation_writes_is_not_drawn_for_hours(make_run):
    run = make_run()
    home = run / "validate" / "fashioniq"
    rows = [{**answer("a.png"), "protocol": f"p{n}"} for n in range(61)]
    (home / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="more than 60 protocols"):
        page_of(run)
    (home / "answers.jsonl").write_text("")
    (run / "train_metrics.csv").write_text(",".join(["epoch", *(f"c{n}" for n in range(300))]))
    with pytest.raises(UserError, match="more than 200"):
        page_of(run)


def test_a_file_with_several_data_sets_has_a_section_for_each_with_the_answers_beside(tmp_path):
    home = tmp_path / "run" / "validate" / "all"
    (home / "fashioniq").mkdir(parents=True)
    rows = [{**SCORE, "dataset": name, "protocol": f"{name}/full"} for name in ("fashioniq", "..")]
    (home / "scores.json").write_text(json.dumps(rows))
    for folder in (home / "fashioniq", home.parent):
        (folder / "answers.jsonl").write_text(json.dumps(answer("a.png")) + "\n")
    (run,) = read_runs([tmp_path / "run"])
    assert [(one.scores[0].dataset, len(one.answers)) for one in run.evaluations] == [("fashioniq", 1), ("..", 0)]
