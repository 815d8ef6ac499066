"""The examples of a metric and of a protocol run as their first lines say, and what they compute is right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unifashion.config import DataSettings
from unifashion.data.images import load_image
from unifashion.data.splits import read_pairs
from unifashion.data.tryon import read_vitonhd
from unifashion.encoders.embedder import Embedder
from unifashion.evaluation.scores import read_scores

toy = pytest.importorskip("unifashion.apps.toy_catalogue")  # an app, which the core can do without

ROOT = Path(__file__).resolve().parents[2]


def run(example, *arguments):
    """Run in a process of its own: what an example registers must not be known to other tests."""
    done = subprocess.run(
        [sys.executable, f"examples/{example}", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_added_metric_is_scored_stored_and_shown(tmp_path):
    root, results = tmp_path / "vitonhd", tmp_path / "results"
    toy.write_tryon(root, toy.TryOnSizes(train=2, test=3, height=64), progress=False)
    results.mkdir()
    expected = []
    for shift, item in enumerate(read_vitonhd(root, "test", ("image",)).items):
        photo = load_image(item.maps["image"])
        brighter = photo.point(lambda value, shift=shift: min(value + 10 * shift, 255))
        brighter.save(results / f"{item.name}.png")
        error = np.asarray(photo, dtype=np.float64) - np.asarray(brighter, dtype=np.float64)
        expected.append(10 * np.log10(255**2 / (error**2).mean()) if shift else 100.0)
    table = run("add_a_metric.py", results, "--data-root", root, "--weights", tmp_path / "none")
    scores = {score.metric: score for score in read_scores(results)}
    assert list(scores) == ["SSIM", "PSNR"]
    assert scores["PSNR"].value == pytest.approx(np.mean(expected), abs=1e-3)
    assert (scores["PSNR"].protocol, scores["PSNR"].n) == ("tryon/catvton/paired", 3)
    assert f"{scores['SSIM'].value:.4f}  {scores['PSNR'].value:.2f}" in " ".join(table.split()).replace(" ", "  ")


def test_an_added_protocol_stands_beside_the_others(make_model, tmp_path):
    sizes = toy.Sizes(
        train_products=2, val_products=20, train_families=2, val_families=3, val_distractors=3,
        train_queries=9, val_queries=9, side=32,
    )  # fmt: skip
    root = toy.write_catalogue(tmp_path / "catalogue", sizes, progress=False)
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    run("add_a_protocol.py", "--dataset", "catalogue", "--data-root", root, "--model-path", tmp_path / "model")
    scores = read_scores(tmp_path / "model" / "validate" / "catalogue")
    protocols = list(dict.fromkeys(score.protocol for score in scores))
    assert protocols == ["catalogue/full", "catalogue/within-category"]

    pairs = read_pairs(DataSettings(data_root=str(root), dataset="catalogue"), "val").pairs
    embedder = Embedder(model, 8, progress=False)
    image, _ = embedder.images([pair.image for pair in pairs])
    texts = {pair.product: (pair.text, pair.subcategory) for pair in reversed(pairs)}
    hits = 0
    for product, (words, category) in texts.items():
        score = (image.double() @ embedder.texts([words])[0].double()).amax(1)
        own = max(score[row] for row, pair in enumerate(pairs) if pair.product == product)
        rivals = [pair.subcategory == category and pair.product != product for pair in pairs]
        hits += int((score[torch.tensor(rivals)] >= own).sum()) < 5
    found = {score.metric: score.value for score in scores if score.protocol == protocols[-1]}
    assert 0 < hits < len(texts) and found["t2i R@5"] == pytest.approx(100 * hits / len(texts))
