"""examples/add_a_loss.py: a loss is one function and one line of a task."""

import csv
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "--dataset catalogue --image-size 32 --architecture tiny --tokenizer train --no-freeze-vision --num-epochs 1 "
    "--warmup-epochs 0.5 --batch-size 4 --eval-every 0"
)


@pytest.mark.parametrize("chunk", ["0", "2"])
def test_the_example_trains_with_its_loss(tmp_path, chunk):
    """Also in chunks: the images' tower must be frozen there, so the loss is that of a random tower."""
    chance, lines = random.Random(0), ["image,text,split"]
    for index in range(8):
        Image.new("RGB", (40, 40), tuple(chance.randrange(256) for _ in range(3))).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,garment number {index},train")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, str(ROOT / "examples/add_a_loss.py"), *WORDS.split(), "--data-root", str(tmp_path)]
    run = tmp_path / "run"
    start = []
    if chunk != "0":
        subprocess.run([*command, "--output-dir", str(tmp_path / "start")], check=True)
        start = ["--freeze-vision", "--init-from", str(tmp_path / "start"), "--grad-cache-chunk", chunk]
    subprocess.run([*command, "--output-dir", str(run), *start], check=True)
    (row,) = csv.DictReader((run / "train_metrics.csv").open())
    assert float(row["uniformity"]) < 0
    parts = sum(float(row[name]) for name in ("itc", "itm", "lm", "uniformity"))
    assert float(row["loss"]) == pytest.approx(parts, rel=1e-5)


def test_the_loss_is_the_mean_over_all_pairs():
    scope = {"__file__": str(ROOT / "examples/add_a_loss.py"), "__name__": "example"}
    from unifashion.training.tasks import RETRIEVAL_TASKS

    before = dict(RETRIEVAL_TASKS)
    try:
        exec(compile((ROOT / "examples/add_a_loss.py").read_text(), "add_a_loss.py", "exec"), scope)
    finally:
        RETRIEVAL_TASKS.update(before)
    rows = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    terms = [
        math.exp(-2 * sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))) for a in rows for b in rows
    ]
    assert scope["uniformity_loss"](rows, rows).item() == pytest.approx(math.log(sum(terms) / 9), rel=1e-5)
