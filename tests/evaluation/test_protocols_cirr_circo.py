"""CIRR and CIRCO: by hand, against plain sorting on random scores with ties, and on the true annotations."""

import json
import random

import pytest
import torch

from unifashion.cli import main
from unifashion.data.circo import IMAGE_INFO, read_circo
from unifashion.data.cirr import read_cirr
from unifashion.data.records import ComposedQuery, ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.protocols import circo, cirr
from unifashion.evaluation.protocols.inputs import split_gallery, split_queries
from unifashion.evaluation.submissions import check_submission, write_submission

CIRR_KS, SET_KS = (1, 5, 10, 50), (1, 2, 3)


def everything_on_disk(split):
    return ComposedSplit(
        split.dataset, split.split, "", split.queries, split.gallery, dict.fromkeys(split.gallery, "x")
    )


def random_scores(split, num_levels=None, seed=0):
    """Scores of few levels have many ties."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(split_queries(split)), len(split_gallery(split))
    if num_levels is None:
        return torch.rand(shape, generator=generator)
    return torch.randint(num_levels, shape, generator=generator).float()


@pytest.fixture
def cirr_split():
    chance = random.Random(0)
    names = tuple(f"photo {n}" for n in range(90))
    queries = []
    for number in range(40):
        members = tuple(chance.sample(names, 6))
        queries.append(ComposedQuery(members[0], members[1 + number % 5], ("x",), str(number), members=members))
    return ComposedSplit("cirr", "val", "", tuple(queries), names, dict.fromkeys(names, "x"))


@pytest.fixture
def circo_split():
    chance = random.Random(1)
    names = tuple(map(str, range(100, 200)))
    queries = []
    for number in range(30):
        reference, *targets = chance.sample(names, 1 + chance.randint(1, 12))
        aspects = tuple(chance.sample(("background", "cardinality", "viewpoint"), chance.randint(0, 3)))
        queries.append(ComposedQuery(reference, targets[0], ("x",), str(number), tuple(targets), aspects=aspects))
    return ComposedSplit("circo", "val", "", tuple(queries), names, dict.fromkeys(names, "x"))


def by_name(metrics):
    return {(metric.name, metric.category): metric.value for metric in metrics}


def plain_rank(scores, target, left_out=()):
    """Place of a target in a sorted list, behind all that score the same."""
    rivals = [score for name, score in scores.items() if name != target and name not in left_out]
    return sum(score >= scores[target] for score in rivals)


@pytest.mark.parametrize("num_levels", [None, 4])
def test_cirr_equals_plain_sorting(cirr_split, num_levels):
    scores_QG = random_scores(cirr_split, num_levels)
    ranks, places = [], []
    for query, row in zip(cirr_split.queries, scores_QG.tolist(), strict=True):
        scores = dict(zip(cirr_split.gallery, row, strict=True))
        ranks.append(plain_rank(scores, query.target, {query.reference}))
        others = {name: scores[name] for name in query.members}
        places.append(plain_rank(others, query.target, {query.reference}))
    found = by_name(cirr.evaluate(cirr_split, scores_QG))
    expected = {f"R@{k}": 100 * sum(rank < k for rank in ranks) / len(ranks) for k in CIRR_KS}
    expected |= {f"Rs@{k}": 100 * sum(place < k for place in places) / len(places) for k in SET_KS}
    expected["mean"] = (expected["R@5"] + expected["Rs@1"]) / 2
    for name, value in expected.items():
        assert found[(name, "")] == pytest.approx(value), name


@pytest.mark.parametrize("num_levels", [None, 5])
def test_circo_equals_plain_average_precision(circo_split, num_levels):
    scores_QG = random_scores(circo_split, num_levels)
    precisions = {k: [] for k in circo.KS}
    for query, row in zip(circo_split.queries, scores_QG.tolist(), strict=True):
        # A right answer stands behind everything of the same score that is wrong.
        order = sorted(
            zip(circo_split.gallery, row, strict=True), key=lambda item: (-item[1], item[0] in query.targets)
        )
        hits = [name in query.targets for name, _ in order]
        for k, values in precisions.items():
            total = sum(sum(hits[: place + 1]) / (place + 1) for place in range(k) if hits[place])
            values.append(total / min(len(query.targets), k))
    found = by_name(circo.evaluate(circo_split, scores_QG))
    for k, values in precisions.items():
        assert found[(f"mAP@{k}", "")] == pytest.approx(100 * sum(values) / len(values))
    for aspect in ("background", "cardinality", "viewpoint"):
        chosen = [
            value for query, value in zip(circo_split.queries, precisions[10], strict=True) if aspect in query.aspects
        ]
        assert found[("mAP@10", aspect)] == pytest.approx(100 * sum(chosen) / len(chosen))


def test_average_precision_by_hand():
    names = ("a", "b", "c", "d", "e", "f")
    query = ComposedQuery("f", "a", ("x",), "0", ("a", "c"))
    split = ComposedSplit("circo", "val", "", (query,), names, dict.fromkeys(names, "x"))
    found = by_name(circo.evaluate(split, torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.0, 0.05]])))
    assert found[("mAP@5", "")] == pytest.approx(100 * (1 / 1 + 2 / 3) / 2)
    assert found[("R@5", "")] == 100.0


def test_the_order_of_the_gallery_changes_nothing(cirr_split):
    scores_QG = random_scores(cirr_split)
    order = torch.randperm(len(cirr_split.gallery), generator=torch.Generator().manual_seed(3))
    names = tuple(cirr_split.gallery[column] for column in order.tolist())
    turned = ComposedSplit("cirr", "val", "", cirr_split.queries, names, dict.fromkeys(names, "x"))
    assert cirr.evaluate(turned, scores_QG[:, order]) == cirr.evaluate(cirr_split, scores_QG)


def test_a_perfect_model_reaches_100_on_the_true_cirr(shared):
    split = everything_on_disk(read_cirr(shared / "data" / "cirr", "val"))
    column = {name: number for number, name in enumerate(split_gallery(split))}
    scores_QG = random_scores(split)
    rows = torch.arange(len(split.queries))
    targets = torch.tensor([column[query.target] for query in split.queries])
    scores_QG[rows, targets] = 2.0
    assert set(by_name(cirr.evaluate(split, scores_QG)).values()) == {100.0}
    scores_QG[rows, torch.tensor([column[query.reference] for query in split.queries])] = 3.0  # is left out
    assert set(by_name(cirr.evaluate(split, scores_QG)).values()) == {100.0}


def test_chance_on_the_true_cirr_is_what_counting_says(shared):
    split = everything_on_disk(read_cirr(shared / "data" / "cirr", "val"))
    found = by_name(cirr.evaluate(split, random_scores(split)))
    assert found[("R@50", "")] == pytest.approx(100 * 50 / (len(split.gallery) - 1), abs=0.8)
    assert found[("Rs@1", "")] == pytest.approx(20.0, abs=2.0)


@pytest.fixture
def test_splits(cirr_split, circo_split):
    hidden = []
    for split in (cirr_split, circo_split):
        queries = tuple(ComposedQuery(q.reference, None, q.feedback, q.id, members=q.members) for q in split.queries)
        hidden.append(ComposedSplit(split.dataset, "test", "", queries, split.gallery, split.images))
    return hidden


def test_submissions_are_written_checked_and_best_first(test_splits, tmp_path):
    written = {}
    for split in test_splits:
        for path in write_submission(tmp_path, split, random_scores(split)):
            written[path.name] = check_submission(path, split)
    assert list(written) == ["cirr_recall.json", "cirr_recall_subset.json", "circo.json"]
    assert "recall_subset: 40 queries" in written["cirr_recall_subset.json"] and "30 queries" in written["circo.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written), "nothing unfinished is left"
    lists = json.loads((tmp_path / "cirr_recall.json").read_text())
    split = test_splits[0]
    query, row = split.queries[3], random_scores(split)[3].tolist()
    order = sorted(zip(split.gallery, row, strict=True), key=lambda item: -item[1])
    assert lists[query.id] == [name for name, _ in order if name != query.reference][:50]
    subset = json.loads((tmp_path / "cirr_recall_subset.json").read_text())
    assert subset[query.id] == [name for name, _ in order if name in query.members and name != query.reference][:3]
    assert subset["version"] == "rc2" and subset["metric"] == "recall_subset"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("cirr_recall.json", lambda c: c.pop("7"), "query 7: it has no list; all 40 queries need one"),
        (
            "cirr_recall.json",
            lambda c: c.update({"99": []}),
            "query 99: CIRR test has no such query",
        ),
        ("cirr_recall.json", lambda c: c["3"].pop(), "query 3: 49 names, expected 50"),
        ("cirr_recall.json", lambda c: c["3"].__setitem__(0, "nobody"), "query 3: 'nobody' is not in"),
        ("cirr_recall.json", lambda c: c["3"].__setitem__(0, c["3"][1]), "is listed twice"),
        ("cirr_recall.json", lambda c: c.update(version="rc1"), "'version' must be 'rc2', found 'rc1'"),
        ("cirr_recall.json", lambda c: c.update(metric="map"), "'metric' must be 'recall' or 'recall_subset'"),
        ("cirr_recall_subset.json", lambda c: c["3"].__setitem__(0, "photo 89"), "query 3: "),
        ("circo.json", lambda c: c["5"].__setitem__(0, "103"), "query 5: '103' is not a number"),
        ("circo.json", lambda c: c["5"].__setitem__(0, 7), "query 5: 7 is not in COCO"),
        ("circo.json", lambda c: c.update({"5": "103"}), "query 5: expected a list of 50 numbers, found str"),
    ],
)
def test_what_a_server_would_refuse_is_named_with_file_and_query(test_splits, tmp_path, file, change, message):
    split = test_splits[file.startswith("circo")]
    write_submission(tmp_path, split, random_scores(split))
    content = json.loads((tmp_path / file).read_text())
    change(content)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        check_submission(tmp_path / file, split)
    assert file in str(caught.value)


def test_the_submission_examples_of_circo_pass(shared, tmp_path, capsys):
    source = shared / "data" / "circo"
    annotations = tmp_path / "circo" / "annotations"
    annotations.mkdir(parents=True)
    listed = set()
    for split in ("val", "test"):
        rows = json.loads((source / "annotations" / f"{split}.json").read_text())
        (annotations / f"{split}.json").write_text(json.dumps(rows))
        listed |= {row["reference_img_id"] for row in rows} | {n for row in rows for n in row.get("gt_img_ids", [])}
        example = json.loads((source / "submission_examples" / f"submission_{split}.json").read_text())
        listed |= {number for numbers in example.values() for number in numbers}
    (tmp_path / "circo" / IMAGE_INFO).parent.mkdir(parents=True)
    info = {"images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in sorted(listed)]}
    (tmp_path / "circo" / IMAGE_INFO).write_text(json.dumps(info))
    assert len(read_circo(tmp_path, "test").queries) == 800
    for split in ("val", "test"):
        file = source / "submission_examples" / f"submission_{split}.json"
        words = ["check-submission", str(file), "--dataset", "circo", "--data-root", str(tmp_path), "--split", split]
        main(words)
        assert "is valid" in capsys.readouterr().out


def test_a_submission_is_checked_without_cocos_list_of_images(shared, tmp_path, capsys):
    source = shared / "data" / "circo"
    words = ["--dataset", "circo", "--data-root", str(source.parent)]
    main(["check-submission", str(source / "submission_examples" / "submission_test.json"), *words])
    assert "800 queries" in (said := capsys.readouterr().out) and "were not checked" in said
    lists = json.loads((source / "submission_examples" / "submission_test.json").read_text())
    (tmp_path / "short.json").write_text(json.dumps({**lists, "3": lists["3"][:-1]}))
    with pytest.raises(SystemExit):
        main(["check-submission", str(tmp_path / "short.json"), *words])
    assert "query 3: 49 numbers, expected 50" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"0": [' + b"1" * 10_000 + b"]}", b'{"0": ["\xe9"]}', b"{", b""])
def test_a_submission_that_is_not_json_is_one_sentence(test_splits, tmp_path, content):
    (tmp_path / "circo.json").write_bytes(content)
    with pytest.raises(UserError, match=r"circo\.json"):
        check_submission(tmp_path / "circo.json", test_splits[1])
