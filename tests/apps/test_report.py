"""The report: what it says, what it refuses, and how it looks to a real browser."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from PIL import Image

from unifashion.apps.report import write_report
from unifashion.apps.report.answer_sections import choose
from unifashion.apps.report.curves import recall_curve
from unifashion.apps.report.glossary import protocol_words
from unifashion.cli import main
from unifashion.errors import UserError
from unifashion.evaluation.ranked_lists import RankedItem, RankedList, write_ranked_lists
from unifashion.evaluation.scores import Score, write_scores

NASTY = "<script>document.title='hacked'</script> & \"quotes\""


def answer(rank, image="", text="is red", **changes):
    top = tuple(RankedItem(image, "", 1.0 - index / 10, index == rank) for index in range(5))
    values = {
        "protocol": "fashioniq/original",
        "direction": "composed",
        "category": "dress",
        "text": text,
        "image": image,
        "targets": (image,),
        "rank": rank,
        "gallery": 200,
        "top": top,
        "slices": {"colour": "red"},
    }
    return RankedList(**{**values, **changes})


@pytest.fixture
def run(tmp_path):
    """A finished run with one evaluation of ten queries."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    photo = tmp_path / "photo.png"
    Image.new("RGB", (300, 400), "crimson").save(photo)
    (folder / "run.json").write_text(json.dumps({"state": "complete", "git": "abcdef0123456", "machine": "2 cores"}))
    losses = [
        "epoch,step,itc,loss,learning_rate,seconds",
        *(f"{e},{10 * e},{3 / e},{4 / e},0.001,2.5" for e in (1, 2, 3)),
    ]
    (folder / "train_metrics.csv").write_text("\n".join(losses) + "\n")
    home = folder / "validate" / "fashioniq"
    score = Score(
        "fashioniq",
        "fashioniq/original",
        "val",
        "dress",
        "R@10",
        60.0,
        10,
        200,
        0.0,
        ("synthetic",),
        "m",
        low=30.0,
        high=90.0,
    )
    write_scores(home, [score])
    write_ranked_lists(home, [answer(rank, str(photo), NASTY) for rank in (0, 0, 1, 3, 7, 9, 30, 80, 120, 199)])
    return folder


def page_of(run, tmp_path):
    page, _ = write_report([run], tmp_path / "out" / "report.html", data_roots=[tmp_path])
    return page.read_text()


def test_a_report_holds_scores_with_their_protocol_sizes_marks_and_interval(run, tmp_path):
    page = page_of(run, tmp_path)
    for words in (
        "fashioniq/original",
        "60.0<small>30.0–90.0</small>",
        "<td>200</td>",
        "The pictures are drawn by a program",
        "abcdef0123",
    ):
        assert words in page
    assert "No published numbers are shown: papers measure on photos" in page and re.search(
        r"at rank <strong>(8|10|31|81|121|200)</strong> of 200", page
    )


def test_a_report_needs_nothing_else(run, tmp_path):
    page, figures = write_report([run], tmp_path / "report.html")
    text = page.read_text()
    assert (
        not re.search(r'(src|href)="(?!data:|#)', text)
        and "@import" not in text
        and "url(" not in text.replace("url(#", "")
    )
    assert sorted(path.name for path in figures) == sorted(
        path.name for path in (tmp_path / "report_figures").iterdir()
    )
    for path in figures:
        assert Image.open(path).size[0] > 1000


def test_words_from_outside_cannot_become_markup(run, tmp_path):
    page = page_of(run, tmp_path)
    assert "<script" not in page and "&lt;script&gt;" in page


def test_no_word_of_a_run_folder_can_become_markup(run, tmp_path):
    home = run / "validate" / "fashioniq"
    (run / "run.json").write_text(json.dumps({"state": NASTY, "machine": NASTY, "versions": {NASTY: NASTY}}))
    (run / "config.yaml").write_text(json.dumps({"architecture": NASTY, "init_from": NASTY}))
    (run / "train_metrics.csv").write_text('epoch,step,"' + NASTY.replace('"', '""') + '"\n1,10,2\n2,20,1\n')
    rows = json.loads((home / "scores.json").read_text())
    row = {
        **rows[0],
        **dict.fromkeys(("dataset", "protocol", "split", "category", "metric", "model", "ties", "note"), NASTY),
    }
    (home / "scores.json").write_text(json.dumps([{**row, "marks": ["<script>mark</script>"]}]))
    photo = str(tmp_path / f"{NASTY.replace('/', '')}.png")
    shutil.copy(tmp_path / "photo.png", photo)
    slices = {NASTY: NASTY, "aspect <script>": "yes"}
    asked = {"protocol": NASTY, "category": NASTY + r" $\formula$", "slices": slices}
    answers = [answer(rank, photo, NASTY, **asked) for rank in (0, 9)]
    answers += [answer(9, photo, "", **{**asked, "slices": {NASTY: "b"}})]
    answers += [answer(9, photo, "", protocol=NASTY, direction="i2t", targets=(NASTY,))]
    write_ranked_lists(home, answers)
    other = run.with_name("<script>other<")
    shutil.copytree(run, other)
    page, figures = write_report([run, other], tmp_path / "report.html", data_roots=[tmp_path])
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page.read_text())
    assert page.read_text().count("&lt;script&gt;") > 50
    assert "svg" in dict(tags) and "script" not in dict(tags)
    assert all(re.fullmatch(r"[a-z:-]+\d?", name, re.I) for _, attributes in tags for name in attributes)
    assert all(re.fullmatch(r"[\w-]+\.png", path.name) for path in figures)


def test_no_template_switches_escaping_off():
    templates = list((files("unifashion.apps.report") / "templates").iterdir())
    assert len(templates) > 3
    for template in templates:
        assert template.name.endswith(".html") and not re.search(r"\|\s*safe\b|autoescape", template.read_text())


def test_runs_whose_names_are_the_same_in_an_address_get_anchors_of_their_own(run, tmp_path):
    others = [run.with_name("run_1"), run.with_name("run-1")]
    for other in others:
        shutil.copytree(run, other)
    page, figures = write_report(others, tmp_path / "report.html")
    ids = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids)) and len(figures) == len(set(figures))


def test_recall_curves_count_ranks_below_k():
    curve = dict(recall_curve([answer(rank) for rank in (0, 4, 9, 99)]))
    assert (curve[1], curve[5], curve[9], curve[10], curve[99], curve[100]) == (25.0, 50.0, 50.0, 75.0, 75.0, 100.0)


def test_examples_are_drawn_by_chance_and_always_the_same():
    answers = [answer(rank) for rank in range(100)]
    hits, misses = choose(answers)
    assert choose(answers) == (hits, misses) and len(hits) == len(misses) == 4
    assert all(one.rank < 5 for one in hits) and [one.rank for one in misses] == sorted(one.rank for one in misses)
    assert misses[0].rank > 5 or misses[-1].rank > 8


def test_published_rows_stand_beside_a_whole_benchmark_only(run, tmp_path):
    home = run / "validate" / "fashioniq"
    sizes = {"dress": 3817, "shirt": 6346, "toptee": 5373}
    write_scores(
        home,
        [Score("fashioniq", "fashioniq/original", "val", c, "R@10", 50, 2000, g, 0, (), "m") for c, g in sizes.items()],
    )
    page = page_of(run, tmp_path)
    assert "SPRC" in page and "55.64" in page and "this model" in page


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ((0, 1, 2), "+0.0 points of recall at 10, no difference at all"),
        ((20, 30, 40), "-100.0 points of recall at 10, the same for every query"),
        (
            (0, 1, 40),
            "-33.3 points of recall at 10 (95 % interval -100.0 to +0.0, over the same queries), the difference may",
        ),
    ],
)
def test_runs_that_answered_the_same_queries_are_compared_query_by_query(run, tmp_path, ranks, words):
    other = run.with_name("two")
    shutil.copytree(run, other)
    for folder, own in ((run, (0, 1, 2)), (other, ranks)):
        asked = [answer(rank, text=f"query {index}") for index, rank in enumerate(own)]
        write_ranked_lists(folder / "validate" / "fashioniq", asked)
    page, _ = write_report([run, other], tmp_path / "report.html")
    assert words in page.read_text()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", "not finished, or it was stopped by force"),
        ("interrupted", "--resume continues it"),
        ("failed", "stopped with an error"),
    ],
)
def test_an_unfinished_run_is_reported_as_such(run, tmp_path, state, words):
    (run / "run.json").write_text(json.dumps({"state": state}))
    shutil.rmtree(run / "validate")
    page = page_of(run, tmp_path)
    assert words in page and "has not been validated yet" in page


def test_scores_written_before_intervals_and_answers_are_shown(run, tmp_path):
    home = run / "validate" / "fashioniq"
    (home / "answers.jsonl").unlink()
    rows = json.loads((home / "scores.json").read_text())
    for row in rows:
        row.pop("low"), row.pop("high")
    (home / "scores.json").write_text(json.dumps(rows))
    page = page_of(run, tmp_path)
    assert "60.0</td>" in page and "answers to individual queries were not kept" in page


def test_a_line_separator_in_a_text_does_not_break_the_answers(run, tmp_path):
    home = run / "validate" / "fashioniq"
    write_ranked_lists(home, [answer(0, str(tmp_path / "photo.png"), "is red\u2028and\x85long")])
    assert "is red\u2028and" in page_of(run, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("answers.jsonl", b"\xb5\xff", "is not UTF-8"),
        ("answers.jsonl", b'{"protocol": 3}', "row 1: not a ranked list"),
        ("answers.jsonl", b"[1]", "row 1: expected an object"),
        ("scores.json", b"[", "is not a scores.json"),
        ("scores.json", b"[]", "holds no score"),
    ],
)
def test_damaged_scores_and_answers_are_one_sentence(run, tmp_path, file, content, words):
    home = run / "validate" / "fashioniq"
    (home / file).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        write_report([home], tmp_path / "report.html")
    assert file in str(caught.value) and not (tmp_path / "report.html").exists()


def test_a_photo_that_is_gone_leaves_a_gap(run, tmp_path):
    (tmp_path / "photo.png").unlink()
    assert "photo missing" in page_of(run, tmp_path)


def test_bad_input_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, words in {
        tmp_path / "absent": "is not a folder",
        tmp_path / "empty": "holds no run and no scores",
    }.items():
        with pytest.raises(SystemExit) as left:
            main(["report", str(folder)])
        assert left.value.code == 2 and words in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*cannot be written .*make it writable, or name another"):
        write_report([run], tmp_path / "file" / "report.html")
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_real_browser_shows_it_without_overflow_broken_images_or_network(browser, run, tmp_path, width):
    page, _ = write_report([run], tmp_path / "report.html", data_roots=[tmp_path])
    with browser.page(page.as_uri(), width=width) as shown:
        assert shown.sideways() <= 0 and not shown.errors and not shown.left_loopback()
        asked = [url for url in shown.requests if not url.startswith("data:")]
        assert asked == [page.as_uri()]
        assert shown.run("document.images.length") > 10
        assert shown.run("Promise.all([...document.images].map((image) => image.decode())).then(() => true)")
        assert (
            shown.run("document.querySelectorAll('img:not([alt]), svg:not([aria-label], [aria-hidden=true])').length")
            == 0
        )
        assert shown.run("document.title").startswith("UniFashion report")
        headings = shown.run("[...document.querySelectorAll('h1, h2, h3, h4, h5')].map((h) => +h.tagName[1])")
    assert headings[0] == 1
    assert all(later - former <= 1 for former, later in itertools.pairwise(headings))


def test_words_stay_whole_and_bars_begin_below_each_other(browser, run, tmp_path):
    photo = str(tmp_path / "photo.png")
    words = ("sleeveless", "short-sleeved", "long-sleeved")
    asked = [answer(9 * (n % 4), photo, slices={kind: words[n % 3] for kind in "abc"}) for n in range(30)]
    asked += [answer(0, photo, slices=dict.fromkeys("abc", "burgundy"))] * 10
    write_ranked_lists(run / "validate" / "fashioniq", asked)
    page, _ = write_report([run], tmp_path / "report.html", data_roots=[tmp_path])
    with browser.page(page.as_uri(), width=390) as shown:
        for media, width in (("screen", 390), ("screen", 1280), ("print", 690)):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            shown.call("Emulation.setDeviceMetricsOverride", **metrics)
            shown.call("Emulation.setEmulatedMedia", media=media)
            lines = shown.run(
                "[...document.querySelectorAll('.tables tbody th')].map((th) =>"
                " th.clientHeight / parseFloat(getComputedStyle(th).fontSize))"
            )
            assert len(lines) == 12 and max(lines) < 5, media
            edges = shown.run(
                "[...document.querySelectorAll('.tables table')].map((t) =>"
                " new Set([...t.querySelectorAll('.bar')].map((b) => Math.round(b.getBoundingClientRect().x))).size)"
            )
            assert edges == [1, 1, 1], media


def test_sentences_about_retrieval_protocols_are_those_of_their_rows():
    assert protocol_words("cirr/standard+itm2img50").endswith(
        "The best 50 are re-ranked by the matching head, which reads reference and target at once."
    )
    assert protocol_words("cirr/standard+itm50") == (
        "The full gallery without the reference; Rs@k among the five others of the reference's set. "
        "The best 50 are re-ranked by the matching head."
    )
    assert protocol_words("somebody's/full").startswith("All images of the split against all its texts")
