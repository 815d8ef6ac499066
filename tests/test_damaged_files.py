"""Files that this program writes and reads again, and those beside a data set, after a disk or a hand has damaged them."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from damage import damaged, damaged_json, refused
from unifashion.apps.doctor import examine
from unifashion.apps.fashioniq_captions.journal import read_entries
from unifashion.apps.prepare import check
from unifashion.apps.prepare.job_runner import read_manifest
from unifashion.config import drawing_shape
from unifashion.data.settings import DataSettings
from unifashion.evaluation.caption_rows import read_captions
from unifashion.evaluation.results import results_table
from unifashion.evaluation.scores import read_scores
from unifashion.io import claim, read_json
from unifashion.llm.caption_file import _read_part
from unifashion.llm.heads import Heads, read_heads, rebuild_language_model
from unifashion.llm.tiny import tiny_llama, train_tokenizer
from unifashion.models.presets import build_config
from unifashion.models.pretrained import read_config
from unifashion.tryon.human_parsing import read_body_25, read_coco_18
from unifashion.tryon.results import read_record

ANSWERS = [{"key": f"dress/{name}", "text": "A dress.", "finished": True, "attributes": ""} for name in "ABC"]
CAPTIONS = [{"id": name, "image": f"shop/{name}.jpg", "caption": f"dress {name}"} for name in "ABC"]
SCORE = {
    **{"dataset": "cirr", "protocol": "cirr/standard", "split": "val", "category": "", "metric": "R@1", "value": 5.5},
    **{
        "n": 7,
        "gallery": 9,
        "missing": 0.0,
        "marks": ["synthetic"],
        "model": "x",
        "std": None,
        "seeds": [1],
        "ties": "",
    },
    **{"note": "", "low": 1.5, "high": 9.0},
}
RUN = {"started": "2026-01-02T03:04:05Z", "machine": "m", "git": "0" * 40, "seconds": 60.0, "data": {"used": "all"}}
MANIFEST = {"set": "cirr", "sources": [["a", 1, 2]], "settings": {}, "failed": 0, "files": {"x": [1, "0"]}}


def _prompt_and_size(heads):
    before, after = heads.template.split("<queries>")
    return f"{before}{after} {drawing_shape(heads.drawing_size)}"


MODEL = {"model_type": "unifashion", **asdict(build_config("blip2_cir_cls", "tiny", 99, 98, DataSettings()))}
HEADS = asdict(Heads("tiny", "whole", "full", "<queries>", "describe it", 16))
FILES = {  # name: (content, one value a line, reader of the folder)
    "captions.json": (CAPTIONS, False, lambda folder: read_captions(folder / "captions.json")),
    "captions.jsonl": (CAPTIONS, True, lambda folder: read_captions(folder / "captions.jsonl")),
    "out.jsonl.part": (CAPTIONS, True, lambda folder: _read_part(folder / "out.jsonl.part")),
    "coco.json": ({"annotations": CAPTIONS}, False, lambda folder: read_captions(folder / "coco.json")),
    "by_id.json": ({"A": "red", "B": ["blue", "long"]}, False, lambda folder: read_captions(folder / "by_id.json")),
    "0.jsonl": (ANSWERS, True, read_entries),
    "scores.json": ([SCORE, SCORE], False, lambda folder: [f"{s.value:.2f} {s.row()}" for s in read_scores(folder)]),
    "run.json": (RUN, False, lambda folder: results_table([folder])),
    "config.json": (MODEL, False, lambda folder: read_config(folder / "config.json")),
    "heads.json": (HEADS, False, lambda folder: _prompt_and_size(read_heads(folder))),
    "inference.json": ({"settings": {"repaint": True}, "marks": ["repaint"]}, False, read_record),
    "manifest.json": (MANIFEST, False, lambda folder: (check("cirr", folder.parent), read_manifest(folder)["failed"])),
    "keypoints.json": (
        {"people": [{"pose_keypoints_2d": [10.0, 10.0, 0.9] * 25}]},
        False,
        lambda folder: read_body_25(folder / "keypoints.json", (48, 64)),
    ),
    "2.json": (
        {"keypoints": [[10.0, 10.0, 1.0, 0.0]] * 18},
        False,
        lambda folder: read_coco_18(folder / "2.json", (48, 64)),
    ),
    "settings.json": (
        {"seed": 1},
        False,
        lambda folder: claim(folder / "settings.json", {"seed": 1}, "-o", "rename it"),
    ),
}


def write(path, content, lines):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in content) if lines else json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """A folder with a run whose scores are whole."""
    folder = tmp_path / "cirr_dataset"
    (folder / "validate/cirr").mkdir(parents=True)
    (folder / "validate/cirr/scores.json").write_text(json.dumps([SCORE]))
    return folder


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_any_damage_to_a_file_gives_a_result_or_one_sentence(folder, name, data):
    content, lines, read = FILES[name]
    write(folder / name, content, lines)
    assert not refused(read, folder)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(data.draw(damaged_json(content, lines) | damaged(whole)))
    refused(read, folder)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "1" * 5000, "nul", '{"a": 1', "\xff"])
def test_what_is_not_json_is_nothing(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("marks", [["a", 1], "ab", {}, None])
def test_a_record_of_the_wrong_types_is_damaged(tmp_path, marks):
    (tmp_path / "inference.json").write_text(json.dumps({"settings": {}, "marks": marks}))
    assert refused(read_record, tmp_path) == (marks != ["a", 1])


@given(content=damaged_json([{"image": "B1", "caption": "a red dress", "text_guidance": ""}]))
def test_the_doctor_reports_damaged_captions(tmp_path, content):
    for name in ("captions", "captions_llava", "image_splits"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "captions/cap.dress.val.json").write_bytes(content)
    (tmp_path / "captions_llava/next_llava.val.dress.caption.json").write_bytes(content)
    assert examine(tmp_path, progress=False)[0].name == "fashioniq"


def test_a_kept_language_model_without_its_end_of_text_token_is_damaged(tmp_path):
    tokenizer = train_tokenizer(["a red dress"])
    tiny_llama(tokenizer).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    assert not refused(rebuild_language_model, Heads(**HEADS), tmp_path, 16)
    (tmp_path / "llm/tokenizer_config.json").unlink()
    assert refused(rebuild_language_model, Heads(**HEADS), tmp_path, 16)
