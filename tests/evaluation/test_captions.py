"""Captioning scores: by hand, by brute force, against pycocoevalcap's own calls; files of every form; Java that misbehaves."""

import csv
import json
import math
import os
import random
import shutil
import stat
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from unifashion.errors import UserError
from unifashion.evaluation import caption_java
from unifashion.evaluation.caption_rows import read_captions
from unifashion.evaluation.captions import score_captions, score_files
from unifashion.io import write_jsonl

WORDS = "a red blue dress shirt with long short sleeves lace and collar".split()


@pytest.fixture
def no_meteor(monkeypatch, with_java):
    """METEOR takes seconds to start; most tests are about something else."""
    monkeypatch.setattr(caption_java, "meteor", lambda candidates, references: (0.5, [0.5] * len(candidates)))


@pytest.fixture
def with_java():
    if shutil.which("java") is None:
        pytest.skip("no Java on this machine")


def values(result) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.measurements}


def test_bleu_and_rouge_of_one_caption_are_those_computed_by_hand(no_meteor):
    result = values(score_captions({"1": "A red dress."}, {"1": ["A red dress with lace."]}))
    brevity = math.exp(1 - 5 / 3)  # 3 words against 5, every one of them right
    assert result["BLEU-1"] == pytest.approx(100 * brevity)
    assert result["BLEU-2"] == pytest.approx(100 * brevity)
    precision, recall, beta2 = 1.0, 3 / 5, 1.2**2
    assert result["ROUGE-L"] == pytest.approx(100 * (1 + beta2) * precision * recall / (recall + beta2 * precision))


def test_cider_of_two_right_captions_is_that_computed_by_hand(no_meteor):
    short = score_captions({"1": "red lace", "2": "blue wool"}, {"1": ["red lace"], "2": ["blue wool"]})
    assert values(short)["CIDEr"] == pytest.approx(100 * 10 * (1 + 1 + 0 + 0) / 4)  # no 3-grams and 4-grams to agree on
    texts = {"1": "red lace on the hem", "2": "blue wool with a zip"}
    assert values(score_captions(texts, {k: [v] for k, v in texts.items()}))["CIDEr"] == pytest.approx(1000)


def brute_force_cider(predictions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    def grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for words, refs in zip(predictions, references, strict=True):
        total = 0.0
        for n in range(1, 5):
            document_frequency = Counter(g for item in references for g in {g for ref in item for g in grams(ref, n)})

            def weights(text, n=n, df=document_frequency):
                return {g: c * math.log(len(references) / max(1, df[g])) for g, c in grams(text, n).items()}

            w = weights(words)
            for ref in refs:
                v = weights(ref)
                dot = sum(min(w[g], v.get(g, 0.0)) * v.get(g, 0.0) for g in w)
                norms = math.sqrt(sum(x * x for x in w.values())) * math.sqrt(sum(x * x for x in v.values()))
                gap = max(len(words) - 1, 0) - max(len(ref) - 1, 0)
                total += (dot / norms if norms else dot) * math.exp(-(gap**2) / (2 * 6.0**2)) / 4 / len(refs)
        scores.append(10 * total)
    return scores


def test_cider_of_many_items_and_references_is_that_of_brute_force(no_meteor):
    generator = random.Random(3)

    def text():
        return [generator.choice(WORDS) for _ in range(generator.randint(3, 12))]

    predictions, references = [text() for _ in range(15)], [[text() for _ in range(3)] for _ in range(15)]
    result = score_captions(
        {str(i): " ".join(words) for i, words in enumerate(predictions)},
        {str(i): [" ".join(words) for words in refs] for i, refs in enumerate(references)},
    )
    by_item = [item["CIDEr"] for item in result.items.values()]
    assert by_item == pytest.approx([100 * x for x in brute_force_cider(predictions, references)])
    assert values(result)["CIDEr"] == pytest.approx(sum(by_item) / 15)


def test_the_order_of_items_does_not_matter_and_profiles_swap_the_sides(no_meteor):
    given = {"1": "a red dress with lace", "2": "a shirt", "3": "blue wool sweater"}
    truth = {"1": ["the red dress"], "2": ["a long blue shirt"], "3": ["a blue wool sweater"]}
    forward = values(score_captions(given, truth))
    assert forward == pytest.approx(
        values(score_captions(dict(reversed(given.items())), dict(reversed(truth.items()))))
    )
    swapped = score_captions(given, truth, "unifashion-compat")
    assert {metric.protocol for metric in swapped.measurements} == {"captions/unifashion-compat"}
    turned = score_captions({k: v[0] for k, v in truth.items()}, {k: [v] for k, v in given.items()})
    assert values(swapped) == pytest.approx(values(turned)) and values(swapped) != pytest.approx(forward)
    tail = {k: [f"{v[0]:<100} with something else"] for k, v in truth.items()}
    assert values(score_captions(given, tail, "unifashion-compat")) == pytest.approx(values(swapped))
    assert values(score_captions(given, tail)) != pytest.approx(forward)


def test_an_empty_caption_scores_zero_and_spoils_no_other(no_meteor):
    result = score_captions({"1": "", "2": "...", "3": "red lace hem"}, {k: ["red lace hem"] for k in "123"})
    assert [result.items[k]["ROUGE-L"] for k in "123"] == pytest.approx([0, 0, 100])


def test_tokens_are_those_of_the_package_whatever_the_text(monkeypatch, with_java):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = ['A (red) dress -- it\'s "new"; 50% off!', "Naïve café, crème-coloured…", "", "a | b ||| c", "don't U.S.A."]
    rows = {str(i): [{"caption": text}] for i, text in enumerate(texts)}
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    theirs = [tokens[0] for tokens in PTBTokenizer().tokenize({**rows, "end": [{"caption": "end"}]}).values()][:-1]
    assert caption_java.tokenize(texts) == theirs
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("LANG", "C")
    assert caption_java.tokenize(texts) == theirs


def test_line_breaks_and_emoji_inside_a_caption_shift_no_other(with_java):
    texts = ["a\u2028b\x85c\rd\ne\x0bf", "second 🙂 one", "third"]
    assert caption_java.tokenize(texts) == ["a b c d e f", "second one", "third"]


def test_all_metrics_are_those_of_the_package_and_leave_nothing_behind(tmp_path, monkeypatch, with_java):
    """The numbers were printed by pycocoevalcap's own tokenizer and scorers (METEOR included) on these captions."""
    given = {"1": "A long red dress with lace sleeves.", "2": "The shirt is blue and striped.", "3": "A black top."}
    truth = {
        "1": ["A red dress with long sleeves.", "The dress is red, it has lace."],
        "2": ["A blue shirt with stripes.", "The striped shirt is blue."],
        "3": ["A red skirt.", "This is a black sleeveless top with a collar."],
    }
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = caption_java.jars()
    before = sorted(folder.rglob("*"))
    result = values(score_captions(given, truth))
    golden = json.loads((Path(__file__).parent / "caption_scores.json").read_text())
    assert {name: result[name] for name in golden} == pytest.approx(golden)
    assert sorted(folder.rglob("*")) == before and not list(tmp_path.iterdir())
    listing = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in listing if line.split()[0] == str(os.getpid()) and "meteor" in line]


# ---- files


FORMS = {
    "ours.jsonl": '{"id": "7", "image": "x/7.jpg", "caption": "a dress"}\n{"id": "8", "caption": "a shirt"}\n',
    "coco.json": '[{"image_id": 7, "id": 1, "caption": "a dress"}, {"image_id": 8, "id": 2, "caption": "a shirt"}]',
    "annotations.json": '{"annotations": [{"image_id": 7, "caption": "a dress"}, {"image_id": 8, "caption": "a shirt"}]}',
    "mapping.json": '{"7": "a dress", "8": ["a shirt"]}',
    "cap.json": '[{"image": "7", "caption": "\\na dress", "text_guidance": ""}, {"image": "8.png", "caption": "a shirt"}]',
    "fashiongen.jsonl": '{"index": "7", "description": "a dress"}\n\n{"index": 8, "description": "a  shirt"}\n',
    "fashion200k.jsonl": '{"image_path": "a/7.jpeg", "caption": "a dress"}\n{"image_path": "b/8.jpeg", "caption": "a shirt"}',
    "lines.json": '{"id": "7", "captions": ["a dress"]}\n{"id": "8", "captions": ["a shirt", "a shirt"]}\n',
    "bom.jsonl": '\ufeff{"id": "7", "caption": "a dress"}\n{"id": "8", "caption": "a shirt"}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_every_documented_form_is_read(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    assert read_captions(tmp_path / name).captions == {"7": ["a dress"], "8": ["a shirt"]}


def test_rows_of_one_id_are_several_references_and_guidance_is_noticed(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"id": "7", "caption": c} for c in ("one", "two", "one")])
    assert read_captions(tmp_path / "r.jsonl").captions == {"7": ["one", "two"]}
    write_jsonl(tmp_path / "g.jsonl", [{"image": "7", "caption": "x", "text_guidance": "is red"}])
    assert read_captions(tmp_path / "g.jsonl").guided
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.jsonl", "r.jsonl"]


BAD_FILES = {
    "not json": ("p.json", b"[{]", "p.json, line 1: not JSON"),
    "not utf-8": ("p.jsonl", '{"id": "1", "caption": "é"}'.encode("latin-1"), "not UTF-8"),
    "no id": ("p.jsonl", b'{"caption": "x"}', "row 1: no id"),
    "no caption": ("p.jsonl", b'{"id": "1", "words": "x"}', "row 1: no caption"),
    "caption of another type": ("p.jsonl", b'{"id": "1", "caption": 1.5}', "'caption' must be text"),
    "not rows": ("p.json", b'["a", "b"]', "row 1: expected an object"),
    "a number": ("p.json", b"3", "expected a list"),
    "empty": ("p.jsonl", b" ", "empty"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_row(tmp_path, case):
    name, content, sentence = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_captions(tmp_path / name)


def files(tmp_path, given, truth):
    write_jsonl(tmp_path / "p.jsonl", given)
    write_jsonl(tmp_path / "r.jsonl", truth)
    return tmp_path / "p.jsonl", tmp_path / "r.jsonl"


def rows(*names, caption="a red dress"):
    return [{"id": name, "caption": caption} for name in names]


BAD_PAIRS = {
    "nothing in common": (rows("a", "b"), rows("c"), "no id of .* is in .*: the first are a, b and c"),
    "missing predictions": (
        rows("a"),
        rows(*"abcdef"),
        r"5 of 6 references .* \(b, c, d, ...\).*--max-missing 84",
    ),
    "unknown predictions": (rows("a", "x"), rows("a"), r"1 of 2 predictions have no reference \(x\)"),
    "two captions": ([*rows("a"), *rows("a", caption="other")], rows("a"), "a has 2 different captions"),
    "empty reference": (rows("a"), rows("a", caption=" "), "every reference of a is empty"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_files_that_do_not_match_say_how_many_and_which(tmp_path, case):
    given, truth, sentence = BAD_PAIRS[case]
    with pytest.raises(UserError, match=sentence):
        score_files(*files(tmp_path, given, truth))


def test_allowed_gaps_mark_the_scores_and_items_go_to_a_table(tmp_path, no_meteor):
    given, truth = files(tmp_path, [*rows("a"), {"id": "b", "caption": "", "text_guidance": "x"}], rows(*"abc"))
    scores = score_files(given, truth, max_missing=40, per_item=tmp_path / "out" / "items.csv", dataset="d", model="m")
    assert {score.marks for score in scores} == {("incomplete", "leaky")} and {score.n for score in scores} == {2}
    assert scores[0].protocol == "captions/standard" and scores[0].missing == pytest.approx(100 / 3)
    with (tmp_path / "out" / "items.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["id"] for row in table] == ["a", "b"] and float(table[0]["ROUGE-L"]) == 100
    assert table[0]["prediction"] == "a red dress" and [row["ROUGE-L"] for row in table][1] == "0.0000"


def test_several_references_cannot_be_swapped():
    with pytest.raises(UserError, match="one reference per item; 1 has 2"):
        score_captions({"1": "a"}, {"1": ["b", "c"]}, "unifashion-compat")


# ---- Java


def fake_java(tmp_path, monkeypatch, script: str):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text("#!/usr/bin/env python3\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))


def test_without_java_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(UserError, match=r"need Java .* default-jre-headless"):
        score_captions({"1": "a"}, {"1": ["a"]})


@pytest.mark.parametrize(
    "script",
    ["import sys; sys.stderr.write('no memory\\n'); sys.exit(1)", "import sys; print(sys.stdin.readline() and '')"],
)
def test_a_meteor_that_dies_is_an_error_not_a_hang(tmp_path, monkeypatch, script):
    fake_java(tmp_path, monkeypatch, script)
    with pytest.raises(UserError, match=r"METEOR failed: (no memory|it ended without a message)"):
        caption_java.meteor(["a"] * 3, [["a"]] * 3)


def test_a_meteor_that_falls_silent_is_ended(tmp_path, monkeypatch):
    fake_java(
        tmp_path, monkeypatch, f"import os, time; open('{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    monkeypatch.setattr(caption_java, "TIMEOUT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(UserError, match="METEOR failed"):
        caption_java.meteor(["a"], [["a"]])
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_tokenizer_that_loses_lines_is_an_error(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, "print('only one line')")
    with pytest.raises(UserError, match="PTB tokenizer failed"):
        caption_java.tokenize(["a", "b", "c"])


def test_texts_without_words_score_as_in_the_package_in_whatever_order_references_are(with_java):
    from pycocoevalcap.meteor.meteor import Meteor

    given = ["", "a red dress", "", "a dress", "shoes", ""]
    truth = [["a red dress"], ["a red dress", ""], ["a dress", ""], ["a long dress", "", ""], ["a dress", ""], [""]]
    by_id = {str(row): refs for row, refs in enumerate(truth)}
    theirs = Meteor()
    score, items = theirs.compute_score(by_id, {str(row): [text] for row, text in enumerate(given)})
    for pipe in (theirs.meteor_p.stdout, theirs.meteor_p.stderr):
        pipe.close()  # its destructor ends the process, but leaves these open
    assert items[0] == items[2] == 0 < items[1]
    for references in (truth, [refs[::-1] for refs in truth]):
        own, own_items = caption_java.meteor(given, references)
        assert [own, *own_items] == pytest.approx([score, *items])


@pytest.mark.parametrize(
    ("variable", "options"),
    [
        (
            "JAVA_TOOL_OPTIONS",
            "-Duser.language=it -Duser.country=IT -Duser.language.format=de -Duser.country.format=DE",
        ),
        ("_JAVA_OPTIONS", "-Duser.language=tr -Duser.language.format=tr -Dfile.encoding=US-ASCII"),
    ],
)
def test_a_machine_with_a_decimal_comma_gives_the_same_numbers(monkeypatch, with_java, variable, options):
    monkeypatch.setenv(variable, options)
    assert caption_java.tokenize(["A STRIPED SHIRT, crème"]) == ["a striped shirt crème"]
    score, items = caption_java.meteor(["a dress"], [["a red dress"]])
    assert score == pytest.approx(0.2442748091603053) and items == [score]


LAST_WORDS = {
    "no room": (
        "stdout",
        "Error occurred during initialization of VM\nCould not reserve enough space for 2097152KB object heap\n",
        r"failed: Could not reserve enough space for 2097152KB object heap \(free some memory",
    ),
    "old Java": (
        "stderr",
        "Error: A JNI error has occurred, please check your installation and try again\n"
        'Exception in thread "main" java.lang.UnsupportedClassVersionError: Meteor : Unsupported major.minor version 52.0\n'
        "\tat java.lang.ClassLoader.defineClass1(Native Method)\n",
        r"version 52.0 \(this Java is too old",
    ),
    "bad flag": (
        "stderr",
        "Picked up JAVA_TOOL_OPTIONS: -Xmx2Q\nInvalid maximum heap size: -Xmx2Q\n"
        "Error: Could not create the Java Virtual Machine.\nError: A fatal exception has occurred. Program will exit.\n",
        "failed: Invalid maximum heap size: -Xmx2Q ",
    ),
    "damaged program": ("stderr", "Error: Invalid or corrupt jarfile meteor-1.5.jar\n", "force-reinstall"),
    "an exception": ("stderr", "java.io.IOException: no dictionary\n\tat Meteor.main(Meteor.java:1)\n", "dictionary$"),
}


@pytest.mark.parametrize("case", LAST_WORDS)
@pytest.mark.parametrize("program", ["meteor", "tokenize"])
def test_javas_own_reason_is_shown_in_one_line(tmp_path, monkeypatch, case, program):
    stream, words, sentence = LAST_WORDS[case]
    fake_java(tmp_path, monkeypatch, f"import sys; sys.{stream}.write({words!r}); sys.exit(1)")
    with pytest.raises(UserError, match=sentence):
        caption_java.meteor(["a"] * 3, [["a"]] * 3) if program == "meteor" else caption_java.tokenize(["a", "b"])


def test_spice_is_left_out_with_a_note_until_its_files_are_there(tmp_path, monkeypatch):
    """The stand-in for Java answers in the form that SPICE writes; SPICE itself is a download that no test makes."""
    library = tmp_path / "jars" / "spice" / "lib"
    library.mkdir(parents=True)
    monkeypatch.setattr(caption_java, "jars", lambda: tmp_path / "jars")
    assert "get_stanford_models" in caption_java.spice_lacks()
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (library / name).touch()
    assert caption_java.spice_lacks() == ""
    fake_java(
        tmp_path,
        monkeypatch,
        "import json, sys\n"
        "rows = json.load(open(sys.argv[sys.argv.index('-jar') + 2]))\n"
        "answer = [{'image_id': r['image_id'], 'scores': {'All': {'f': 1.0 if r['test'] in r['refs'] else None}}}\n"
        "          for r in rows]\n"
        "json.dump(answer[::-1], open(sys.argv[sys.argv.index('-out') + 1], 'w'))\n",
    )
    score, items = caption_java.spice(["a", "b"], [["a"], ["x", "y"]])
    assert score == 1.0 and items[0] == 1.0 and math.isnan(items[1])
