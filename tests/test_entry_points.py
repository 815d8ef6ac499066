"""Every command a user types, from its documented folder: help, a small real run, and one sentence for bad input."""

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unifashion.config import DataSettings, ModelSettings
from unifashion.evaluation.scores import read_scores
from unifashion.training.build import build_model

toy = pytest.importorskip("unifashion.apps.toy_catalogue")  # an app, which the core can do without

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "2", "UNIFASHION_DATA": ""}
SMALL = toy.Sizes(
    train_products=12,
    val_products=40,
    train_families=6,
    val_families=4,
    val_distractors=4,
    train_queries=40,
    val_queries=12,
    side=48,
)
FAST = ["--max-steps", "3", "--batch-size", "8", "--image-size", "32", "--num-queries", "20", "--num-draws", "2"]


def run(*command: str, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == code, (
        f"{command} left with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    )
    return done


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return toy.write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", SMALL, progress=False)


@pytest.fixture(scope="module")
def pretrained(catalogue):
    folder = catalogue.parent / "pretrain"
    config = "configs/quickstart/pretrain.yaml"
    run("bash", "pretrain.sh", "--config", config, "--data-root", str(catalogue), "--output-dir", str(folder), *FAST)
    return folder


@pytest.fixture(scope="module")
def lacking(catalogue):
    """The catalogue without half of its validation images, which a training needs after its first epoch."""
    root = catalogue.parent / "lacking"
    shutil.copytree(catalogue, root)
    for image in sorted((root / "fashionGen").rglob("*val*/*.jpg"))[::2]:
        image.unlink()
    return root


@pytest.fixture(scope="module")
def composed(catalogue, pretrained):
    folder = catalogue.parent / "cir_ft"
    command = ["bash", "cir_ft.sh", "--config", "configs/quickstart/cir_ft.yaml", "--data-root", str(catalogue)]
    run(*command, "--init-from", str(pretrained), "--output-dir", str(folder), *FAST)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_phase_1_keeps_its_run(pretrained):
    facts = json.loads((pretrained / "run.json").read_text())
    assert facts["state"] == "complete" and facts["steps"] == 3 and facts["rows"] > 0
    assert {"git", "machine", "versions", "data"} <= set(facts) and facts["data"]["fingerprint"]
    assert set(read_csv(pretrained / "train_metrics.csv")[0]) >= {"epoch", "itc", "itm", "lm", "loss"}
    protocols = {row["protocol"] for row in read_csv(pretrained / "validation_metrics.csv")}
    assert protocols == {"fashiongen/sub100", "fashiongen/full", "fashiongen/blocks100"}
    for checkpoint in ("best", "last"):
        assert (pretrained / checkpoint / "model.safetensors").is_file()
    assert [path.name for path in pretrained.iterdir() if path.name.startswith(".")] == [".lock"]


def test_phase_2_trains_on_captions_too(composed):
    assert set(read_csv(composed / "train_metrics.csv")[0]) >= {"itc", "itm", "ttc"}


def test_validation_prints_and_stores_scores_with_their_protocol(pretrained, catalogue):
    command = ["bash", "vail.sh", "--dataset", "fashiongen", "--blip-model-name", "blip2_cir_cls"]
    done = run(*command, "--model-path", str(pretrained), "--data-root", str(catalogue), "--num-queries", "20")
    scores = read_scores(pretrained / "validate" / "fashiongen")
    assert {score.protocol for score in scores} == {"fashiongen/sub100", "fashiongen/full", "fashiongen/blocks100"}
    assert all(score.marks == ("synthetic",) and score.n and score.model for score in scores)
    assert "fashiongen/sub100" in done.stdout and "synthetic" in done.stdout and "t2i R@10" in done.stdout


def test_composed_validation_reports_all_protocols_and_reranks_when_asked(composed, catalogue):
    command = [
        sys.executable,
        "src/blip_validate.py",
        "--dataset",
        "fashioniq",
        "--blip-model-name",
        "blip2_cir_rerank",
    ]
    run(*command, "--model-path", str(composed), "--data-root", str(catalogue))
    protocols = {score.protocol for score in read_scores(composed / "validate" / "fashioniq")}
    plain = {"fashioniq/original", "fashioniq/original-noref", "fashioniq/union"}
    assert protocols == plain | {f"{name}+captions" for name in plain}
    folder = composed / "reranked"
    run(
        *command,
        "--model-path",
        str(composed),
        "--data-root",
        str(catalogue),
        "--rerank",
        "5",
        "--output-dir",
        str(folder),
    )
    assert {score.protocol for score in read_scores(folder)} == {f"{name}+itm5" for name in plain}


def test_captions_that_know_the_query_are_refused_or_marked(composed, catalogue, tmp_path):
    root = tmp_path / "catalogue"
    shutil.copytree(catalogue, root)
    path = root / "fashionIQ_dataset/captions_llava/next_llava.val.dress.caption.json"
    rows = json.loads(path.read_text())
    rows[1]["text_guidance"] = "is shorter and red"
    path.write_text(json.dumps(rows))
    words = ["--dataset", "fashioniq", "--data-root", str(root), "--model-path", str(composed)]
    command = ["bash", "vail.sh", "--blip-model-name", "blip2_cir_rerank", *words]
    refused = run(*command, code=2)
    assert refused.stderr.startswith(f"error: {path}, row 2") and "--allow-leaky-captions" in refused.stderr
    run(*command, "--allow-leaky-captions")
    scores = read_scores(composed / "validate" / "fashioniq")
    assert {score.protocol for score in scores} >= {"fashioniq/original", "fashioniq/original+captions"}
    assert all("leaky" in score.marks for score in scores if score.protocol.endswith("+captions"))


def test_an_own_catalogue_trains_and_validates(catalogue, pretrained):
    arguments = ["--dataset", "catalogue", "--data-root", str(catalogue)]
    folder = catalogue.parent / "own"
    config = ["--config", "configs/quickstart/pretrain.yaml"]
    run("bash", "pretrain.sh", *config, *arguments, "--output-dir", str(folder), *FAST)
    command = ["bash", "vail.sh", *arguments, "--blip-model-name", "blip2_cir_cls", "--model-path", str(folder)]
    assert "catalogue/full" in run(*command).stdout


def test_the_same_seed_gives_the_same_losses(catalogue, pretrained):
    folder = catalogue.parent / "again"
    config = "configs/quickstart/pretrain.yaml"
    arguments = ["--data-root", str(catalogue), "--output-dir", str(folder), "--eval-every", "0", *FAST]
    run("bash", "pretrain.sh", "--config", config, *arguments)
    first, second = (read_csv(path / "train_metrics.csv")[0] for path in (pretrained, folder))
    assert first["loss"] == second["loss"]
    assert not (folder / "validation_metrics.csv").exists()


def test_an_interrupt_leaves_a_usable_checkpoint(catalogue):
    folder = catalogue.parent / "interrupted"
    command = [sys.executable, "src/blip_train.py", "--config", "configs/quickstart/pretrain.yaml", *FAST]
    command += [
        "--data-root",
        str(catalogue),
        "--output-dir",
        str(folder),
        "--max-steps",
        "100000",
        "--eval-every",
        "0",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "train_metrics.csv").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    run("bash", "vail.sh", "--data-root", str(catalogue), "--model-path", str(folder), "--num-queries", "9")


PRETRAIN = ["blip_train", "--config", "configs/quickstart/pretrain.yaml", *FAST]
CIR_FT = ["blip_train", "--config", "configs/quickstart/cir_ft.yaml", *FAST]
VALIDATE = ["blip_validate", "--dataset", "fashiongen"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*PRETRAIN, "--data-root", "absent"], "no FashionGen in absent"),
        ([*PRETRAIN, "--num-epoch", "3"], "did you mean '--num-epochs'"),
        ([*PRETRAIN, "--dataset", "fashionqi"], "(did you mean 'fashioniq'?)"),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--batch-size", "100000"], "lower --batch-size"),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--dataset", "fashioniq"], "not on fashioniq"),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--output-dir", "{catalogue}"], "holds files that are not a run"),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--output-dir", "{pretrained}"], "already holds a run"),
        (
            [*PRETRAIN, "--data-root", "{catalogue}", "--blip-model-name", "blip2_cir_full"],
            "blip2_cir_full needs a language model",
        ),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--freeze-vision"], "would stay random"),
        ([*CIR_FT, "--data-root", "{catalogue}", "--init-from", "absent/run"], "absent/run"),
        (
            [*CIR_FT, "--data-root", "{catalogue}", "--init-from", "{pretrained}", "--image-size", "48"],
            "--image-size 32",
        ),
        ([*PRETRAIN, "--betas", "0.9", "1.5"], "--betas: must be below 1, got '1.5'"),
        ([*PRETRAIN, "--image-size", "100000"], "--image-size: must be at most 1024"),
        ([*PRETRAIN, "--num-epochs", "0"], "--num-epochs: must be at least 1"),
        ([*PRETRAIN, "--init-from", ""], "--init-from: is empty"),
        ([*PRETRAIN, "--output-dir", ""], "--output-dir: is empty"),
        ([*PRETRAIN, "--output-dir", "/proc/none/run"], "--output-dir /proc/none/run cannot be written"),
        ([*PRETRAIN, "--output-dir", "{pretrained}/run.json/x"], "run.json is not a folder"),
        ([*PRETRAIN, "--feature-cache", "{pretrained}/run.json"], "run.json is a file; name a folder"),
        (
            [
                *PRETRAIN,
                "--data-root",
                "{catalogue}",
                "--architecture",
                "vitg",
                "--tokenizer",
                "train",
                "--image-size",
                "32",
            ],
            "the tower reads patches of 14 pixels; give a multiple, such as 42",
        ),
        ([*PRETRAIN, "--data-root", "{catalogue}", "--max-text-tokens", "65"], "the Q-Former reads at most 64"),
        ([*PRETRAIN, "--data-root", "{lacking}"], "(124 of 249 can be used)"),
        ([*VALIDATE], "--model-path is required"),
        ([*VALIDATE, "--model-path", "{pretrained}", "--output-dir", "/proc/none"], "/proc/none cannot be written"),
        ([*VALIDATE, "--model-path", "absent/run"], "absent/run"),
        ([*VALIDATE, "--model-path", "{pretrained}", "--data-root", "absent"], "no FashionGen in absent"),
        ([*VALIDATE, "--model-path", "{pretrained}", "--blip-model-name", "blip2_cir_rerank"], "holds a blip2_cir_cls"),
        (["blip_validate", "--dataset", "fashioniq", "--model-path", "{pretrained}"], "not evaluated on fashioniq"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    arguments, sentence, catalogue, pretrained, lacking, tmp_path, capsys, monkeypatch
):
    folders = {"catalogue": catalogue, "pretrained": pretrained, "lacking": lacking}
    script, *arguments = [word.format(**folders) for word in arguments]
    if "--output-dir" not in arguments:
        arguments += ["--output-dir", str(tmp_path / "out")]
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "src")
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(script).main(arguments)
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and sentence in errors
    assert errors.count("\n") == 1 and errors.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_bad_input_through_the_shell_leaves_with_2():
    done = run("bash", "pretrain.sh", "--data-root", "absent", code=2)
    assert done.stderr.startswith("error: no FashionGen in absent") and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["pretrain.sh", "cir_ft.sh", "vail.sh"])
def test_help_reads_well(command):
    shown = run("bash", command, "--help").stdout
    assert shown.startswith("usage: ") and "--data-root" in shown and max(map(len, shown.splitlines())) <= 112


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.sh")))
def test_shell_scripts_parse_and_say_what_they_are_for(script):
    run("bash", "-n", script)
    text = (ROOT / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ") and "set -euo pipefail" in text


@pytest.mark.parametrize("script", ["quickstart.sh", "tests/run.sh"])
def test_a_machine_without_a_fitting_python_is_told_so(script, tmp_path):
    environment = {**ENVIRONMENT, "UNIFASHION_PYTHON": "false", "UNIFASHION_VENV": str(tmp_path / "venv")}
    done = subprocess.run(["bash", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: Python 3.10 or newer is needed")
    assert not (tmp_path / "venv").exists()


def test_a_mixture_with_the_validation_split_trains_and_marks_every_later_score(catalogue):
    folder = catalogue.parent / "mixed"
    config = ["--config", "configs/quickstart/pretrain.yaml", "--data-root", str(catalogue), "--eval-every", "0"]
    mixture = ["--dataset", "fashiongen:0.5+fashion200k+fashioniq-cap:2", "--include-val"]
    run("bash", "pretrain.sh", *config, *mixture, "--output-dir", str(folder), *FAST)
    words = ["--blip-model-name", "blip2_cir_cls", "--data-root", str(catalogue), "--num-queries", "20"]
    run("bash", "vail.sh", "--dataset", "fashiongen", *words, "--model-path", str(folder))
    assert {score.marks for score in read_scores(folder / "validate" / "fashiongen")} == {
        ("trained-on-val", "synthetic")
    }
    model = ModelSettings(blip_model_name="blip2_cir_rerank", architecture="tiny", init_from=str(folder))
    data = DataSettings(data_root=str(catalogue), dataset="fashioniq", image_size=32)
    assert build_model(model, data, lambda: [], 0).config.marks == ("trained-on-val",)


def test_a_set_that_only_trains_is_trained_without_validation(catalogue):
    folder = catalogue.parent / "captions_only"
    config = ["--config", "configs/quickstart/pretrain.yaml", "--data-root", str(catalogue)]
    done = run("bash", "pretrain.sh", *config, "--dataset", "fashioniq-cap", "--output-dir", str(folder), *FAST)
    assert "runs without validation" in done.stderr and (folder / "last" / "model.safetensors").is_file()


def test_all_is_for_validation_and_needs_no_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFASHION_DATA", str(tmp_path / "none"))
    for script, words, sentence in (
        ("blip_validate.py", ["--model-path", str(tmp_path / "no")], "no model at"),
        ("blip_validate.py", ["--model-path", "x", "--split", "test"], "--dataset all takes neither --split test nor"),
        ("blip_train.py", ["--output-dir", str(tmp_path / "run")], "all is for validation (vail.sh)"),
    ):
        done = run(sys.executable, f"src/{script}", "--dataset", "all", *words, code=2)
        assert sentence in done.stderr, done.stderr
