"""The examples run: a data set is one file and one row."""

import csv
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unifashion.evaluation.scores import read_scores

ROOT = Path(__file__).resolve().parents[1]
COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 40, 200), "black": (20, 20, 20)}
TINY = ("--image-size", "32", "--max-steps", "2", "--batch-size", "4", "--no-augment")


def example(*words, code=0):
    command = [sys.executable, "examples/add_a_dataset.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, f"{words} exited with {done.returncode}:\n{done.stdout}\n{done.stderr[-3000:]}"
    return done


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("photo", "product", "text"), *rows])


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """Eight shoes to train on, and four to validate on."""
    root = tmp_path_factory.mktemp("my_data")
    (root / "shoes" / "photos").mkdir(parents=True)
    rows = []
    for index in range(12):
        colour = list(COLOURS)[index % 4]
        pixels = np.random.default_rng(index).integers(0, 40, (48, 48, 3)) + np.array(COLOURS[colour])
        Image.fromarray(pixels.astype(np.uint8)).save(root / "shoes" / "photos" / f"{index}.png")
        rows.append((f"photos/{index}.png", index, f"a {colour} boot with {index} laces"))
    write_table(root / "shoes" / "train.csv", rows[:8])
    write_table(root / "shoes" / "val.csv", rows[8:])
    return root


@pytest.fixture(scope="module")
def trained(data_root):
    run = data_root / "run"
    config = ("--config", "configs/quickstart/pretrain.yaml")
    example("train", *config, "--dataset", "shoes", "--data-root", data_root, "--output-dir", run, *TINY)
    return run


def test_the_new_set_trains_and_its_headline_picks_the_best_checkpoint(trained):
    assert (trained / "best" / "model.safetensors").is_file()
    with (trained / "validation_metrics.csv").open(newline="", encoding="utf-8") as file:
        assert {row["protocol"] for row in csv.DictReader(file)} == {"shoes/full"}


def test_the_new_set_is_validated_by_its_protocol(trained, data_root):
    done = example("validate", "--dataset", "shoes", "--data-root", data_root, "--model-path", trained)
    scores = read_scores(trained / "validate" / "shoes")
    assert {(score.dataset, score.protocol) for score in scores} == {("shoes", "shoes/full")}
    assert {score.n for score in scores} == {4, 8}  # images, texts; the mean is over both
    assert "shoes/full" in done.stdout


def test_its_name_is_among_the_choices_of_a_mixture_and_in_the_help(data_root):
    words = ("train", "--dataset", "shoes:2+fashionqi", "--data-root", data_root)
    assert "is not one of fashiongen, fashion200k, fashioniq-cap, catalogue, shoes" in example(*words, code=2).stderr
    help_text = " ".join(example("train", "--help").stdout.split())
    assert "data set to use: fashiongen, fashion200k, fashioniq-cap, catalogue, shoes" in help_text


def test_doctor_and_prepare_know_it_too(data_root, tmp_path):
    for app in ("doctor", "prepare"):
        pytest.importorskip(f"unifashion.apps.{app}")
    done = example("unifashion", "doctor", data_root)
    assert done.stdout.startswith("shoes ") and "train image-text pairs  8" in done.stdout
    with zipfile.ZipFile(tmp_path / "shoes.zip", "w") as archive:
        for path in sorted((data_root / "shoes").rglob("*.*")):
            archive.write(path, path.relative_to(data_root))
    example("unifashion", "prepare", "shoes", "--source", tmp_path / "shoes.zip", "--data-root", tmp_path / "data")
    (tmp_path / "data" / "shoes" / "photos" / "3.png").unlink()
    done = example("unifashion", "doctor", tmp_path / "data", code=1)
    assert "1 of 8 images of train are listed but missing" in done.stdout


def test_another_program_is_one_sentence():
    assert example("test", code=2).stderr.startswith("error: the first word must be one of train, validate")
