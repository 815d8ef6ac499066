import csv
import json
from dataclasses import asdict, replace

import pytest

from unifashion.data.skipped import check_missing
from unifashion.errors import UserError
from unifashion.evaluation import scores
from unifashion.evaluation.results import format_table
from unifashion.evaluation.scores import Measurement, Score, as_scores, comparable, read_scores, write_scores


def score(metric="i2t R@1", value=50.0, **changes):
    base = Score(
        dataset="fashiongen",
        protocol="fashiongen/sub100",
        split="val",
        category="",
        metric=metric,
        value=value,
        n=1000,
        gallery=101,
        missing=0.0,
        marks=("synthetic", "untrained"),
        model="runs/pretrain",
        std=0.25,
        seeds=(0, 1, 2),
        note="one, two",
    )
    return replace(base, **changes)


def test_scores_survive_writing_and_reading(tmp_path):
    rows = [score(), score("mean", 1 / 3, gallery=None, std=None, seeds=(), marks=(), category="mean")]
    write_scores(tmp_path / "new" / "run", rows)
    assert read_scores(tmp_path / "new" / "run") == rows
    assert read_scores(tmp_path / "new" / "run" / "scores.json") == rows


def test_csv_has_every_field_of_every_row(tmp_path):
    write_scores(tmp_path, [score(), score("mean", std=None)])
    with (tmp_path / "scores.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(asdict(score()))
    assert (first["metric"], first["value"], first["marks"]) == ("i2t R@1", "50.0", "synthetic untrained")
    assert (first["seeds"], first["std"], first["note"]) == ("0 1 2", "0.25", "one, two")
    assert (second["metric"], second["std"]) == ("mean", "")


def test_a_failed_write_leaves_the_old_files_whole_and_nothing_else(tmp_path, monkeypatch):
    write_scores(tmp_path, [score()])
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def broken(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(scores.Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_scores(tmp_path, [score(value=1.0)])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    assert set(before) == {"scores.json", "scores.csv"}


def test_reading_what_is_not_there_or_not_scores_says_so(tmp_path):
    with pytest.raises(UserError, match="cannot read scores"):
        read_scores(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot read scores"):
        read_scores(tmp_path)
    for text in ("{", "[1]", "3", '[{"value": 1}]', json.dumps([{**asdict(score()), "colour": "red"}])):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(UserError, match=r"scores\.json"):
            read_scores(tmp_path)


def test_a_score_must_be_a_finite_number_and_a_mark_one_word():
    with pytest.raises(ValueError, match="nan"):
        score(value=float("nan"))
    with pytest.raises(ValueError, match="one word"):
        score(marks=("not trained",))


def test_metrics_become_scores_of_a_run():
    measured = Measurement(
        "p/q", "R@1", 12.5, 40, 100, category="dress", std=1.0, seeds=(7,), marks=("short",), note="b"
    )
    (row,) = as_scores([measured], dataset="d", split="val", model="m", missing=2.5, marks=("leaky", "short"), note="a")
    assert row == Score(
        "d", "p/q", "val", "dress", "R@1", 12.5, 40, 100, 2.5, ("leaky", "short"), "m", 1.0, (7,), note="a; b"
    )


def test_only_scores_of_the_same_protocol_are_comparable():
    assert comparable(score(), score(value=1.0, model="other", marks=("synthetic", "leaky")))
    for change in (
        {"protocol": "fashiongen/blocks100"},
        {"protocol": "fashiongen/sub100-neg99"},
        {"split": "test"},
        {"dataset": "catalogue"},
        {"marks": ()},
    ):
        assert not comparable(score(), score(**change))


def test_the_sentence_about_used_queries():
    assert check_missing(2000, 2017, 1.0) == "used 2000 of 2017 queries"
    assert check_missing(2000, 2017, 1.0, gallery=(3800, 3817)) == "used 2000 of 2017 queries, gallery 3800 of 3817"
    assert check_missing(99, 100, 1.0, "dress queries") == "used 99 of 100 dress queries"


def test_too_many_missing_images_are_an_error_that_names_the_flag():
    with pytest.raises(UserError, match=r"^images missing: 100 % of the queries .*--max-missing$"):
        check_missing(0, 10, 1.0)
    with pytest.raises(UserError, match=r"images missing: 1\.01 % of the queries \(98 of 99 can be used\), limit 1 %"):
        check_missing(98, 99, 1.0)
    with pytest.raises(UserError, match=r"images missing: 2 % of the gallery images"):
        check_missing(100, 100, 1.0, gallery=(98, 100))
    assert check_missing(50, 100, 50.0) == "used 50 of 100 queries"


def test_no_limit_lets_an_empty_evaluation_pass():
    with pytest.raises(UserError, match="nothing to score"):
        check_missing(0, 10, 100.0)
    with pytest.raises(UserError, match="no queries are listed"):
        check_missing(0, 0, 100.0)


def test_table_by_hand():
    rows = [
        score("R@10", 12.345, protocol="fashioniq/original", category="dress", std=None, seeds=(), note="", n=2017),
        score("R@50", 60.0, protocol="fashioniq/original", category="dress", std=None, seeds=(), note="", n=2017),
        score("R@10", 7.0, protocol="fashioniq/original", category="mean", std=1.0, gallery=None, marks=(), note="x"),
        score("mean", 8.0, protocol="fashioniq/original", category="mean", std=None, gallery=None, marks=(), note="x"),
    ]
    assert format_table(rows).splitlines() == [
        "fashiongen val, model runs/pretrain",
        "protocol            category       R@10   R@50  mean     N  gallery  missing  marks",
        "fashioniq/original  dress         12.35  60.00     -  2017      101      0 %  synthetic untrained",
        "fashioniq/original  mean      7.00±1.00      -  8.00  1000        -      0 %  -",
        "ties: count against the target",
        "seeds of fashioniq/original: 0 1 2",
        "fashioniq/original: x",
    ]


def test_table_shows_the_sizes_of_both_directions_and_not_those_of_their_mean():
    rows = [
        score("i2t R@1", n=30, gallery=9),
        score("t2i R@1", n=9, gallery=30),
        score("mean", n=39, gallery=None),
    ]
    line = format_table(rows).splitlines()[2].split()
    assert line[-6:-2] == ["30/9", "9/30", "0", "%"]


def test_table_never_joins_data_sets_splits_or_models():
    rows = [score(), score(model="b"), score(dataset="catalogue"), score(split="test")]
    headings = [block.splitlines()[0] for block in format_table(rows).split("\n\n")]
    assert headings == [
        "fashiongen val, model runs/pretrain",
        "fashiongen val, model b",
        "catalogue val, model runs/pretrain",
        "fashiongen test, model runs/pretrain",
    ]


def test_table_refuses_two_values_for_one_cell():
    with pytest.raises(ValueError, match="appears twice"):
        format_table([score(), score(value=1.0)])
