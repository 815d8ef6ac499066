"""``blip_train.py --blip-model-name blip2_cir_full`` and ``unifashion caption``, end to end."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_heads import write_diffusion, write_llm

import kill
from unifashion.cli import main as unifashion
from unifashion.llm.captioner import Captioner
from unifashion.training.trainer import Trainer

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def blip_train():
    sys.path.insert(0, str(SOURCE))
    import blip_train

    return blip_train


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Sixteen one-coloured photos, four of them for validation."""
    folder = tmp_path_factory.mktemp("shop")
    colours = ["red", "blue", "green", "white"]
    lines = ["image,text,split"]
    for number in range(16):
        Image.new("RGB", (40, 40), colours[number % 4]).save(folder / f"{number}.png")
        lines.append(f"{number}.png,A {colours[number % 4]} dress.,{'val' if number > 11 else 'train'}")
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def start(blip_train, shop, tmp_path_factory):
    """A phase-1 run of one epoch."""
    run = tmp_path_factory.mktemp("phase1") / "run"
    words = "--architecture tiny --tokenizer train --no-freeze-vision --num-epochs 1 --batch-size 4 --eval-every 0"
    common = ["--dataset", "catalogue", "--data-root", str(shop), "--image-size", "32"]
    blip_train.main([*common, *words.split(), "--output-dir", str(run)])
    full = ["--blip-model-name", "blip2_cir_full", "--init-from", str(run), "--batch-size", "4", "--schedule", "cosine"]
    return run, [*common, *full, "--betas", "0.9", "0.99", "--weight-decay", "0"]


def losses(run):
    with (run / "train_metrics.csv").open(newline="") as file:
        return [{name: row[name] for name in row if name != "seconds"} for row in csv.DictReader(file)]


def test_a_language_model_made_on_the_spot_learns_the_captions(blip_train, start, shop, tmp_path):
    _, flags = start
    words = "--llm tiny --trainable qformer+adapters+llm --num-epochs 12 --learning-rate 5e-3 --eval-every 12"
    blip_train.main([*flags, *words.split(), "--output-dir", str(tmp_path / "run")])
    rows = losses(tmp_path / "run")
    assert float(rows[-1]["itg"]) < 0.5 * float(rows[0]["itg"])
    captions = Captioner.from_pretrained(tmp_path / "run").caption([shop / f"{n}.png" for n in range(12, 16)])
    assert all(text.startswith("A ") and text.endswith("dress.") for text in captions), captions


HEADS = {
    "LoRA and a U-Net": ("--llm {llm} --lora-r 4 --lora-alpha 8 --diffusion-model {sd} --drawing-size 16", "itg q2i"),
    "everything, made on the spot": (
        "--losses itc+itm+lm+itg+q2i --llm tiny --diffusion-model tiny --drawing-size 24x18 "
        "--trainable qformer+adapters+llm+diffusion --eval-every 2 --num-queries 2 --num-draws 1",
        "itc itm lm itg q2i",
    ),
}


@pytest.mark.parametrize("heads", HEADS)
def test_heads_train_and_a_stopped_run_takes_the_same_steps(blip_train, start, tmp_path, monkeypatch, heads):
    _, flags = start
    words, names = HEADS[heads]
    words = words.format(llm=write_llm(tmp_path / "llm"), sd=write_diffusion(tmp_path / "sd"))
    flags = [*flags, *words.split(), "--num-epochs", "2"]
    flags += ["--learning-rate", "1e-3", "--save-steps", "2", "--warmup-epochs", "0.5"]
    blip_train.main([*flags, "--output-dir", str(tmp_path / "whole")])
    rows = losses(tmp_path / "whole")
    assert len(rows) == 2 and all(float(row[name]) > 0 for row in rows for name in names.split())
    real, calls = Trainer._train_batch, iter(range(100))

    def stops(self, *given):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", stops)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            blip_train.main([*flags, "--output-dir", str(tmp_path / "run")])
    blip_train.main([*flags, "--resume", str(tmp_path / "run")])
    assert losses(tmp_path / "run") == rows
    whole = tmp_path / "whole" / "last"
    files = [path.relative_to(whole.resolve()) for path in whole.resolve().rglob("*.safetensors")]
    assert len(files) >= 3
    for name in files:
        ours, theirs = (load_file(tmp_path / run / "last" / name) for run in ("run", "whole"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_captions_of_phase_1_survive_a_kill_without_loss_or_repetition(start, shop, tmp_path):
    run, _ = start
    out = tmp_path / "captions" / "captions.jsonl"
    command = ["caption", str(shop), "--model", str(run), "-o", str(out), "--batch-size", "5", "--sample"]
    out.parent.mkdir()
    points = kill.points(kill.operations(lambda: unifashion(command), out.parent))
    whole = kill.contents(out.parent)
    for point in points[:: len(points) // 4]:
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        kill.killed_at(lambda: unifashion(command), out.parent, point)
        unifashion(command)
        assert kill.contents(out.parent) == whole, point
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == sorted(map(str, shop.glob("*.png")))


def test_the_size_of_a_batch_does_not_change_captions(start, shop, tmp_path):
    rows = []
    for size in ("1", "16"):
        out = tmp_path / f"{size}.jsonl"
        command = ["caption", str(shop), "--model", str(start[0]), "-o", str(out), "--num-beams", "2"]
        unifashion([*command, "--batch-size", size])
        rows.append(out.read_text())
    assert rows[0] == rows[1] and rows[0].count("\n") == 16


def test_bad_input_of_caption_is_one_sentence(start, shop, tmp_path, capsys):
    run, _ = start
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    model = ["--model", str(run), "-o", str(tmp_path / "c.jsonl")]
    for given, sentence in (
        ([str(tmp_path / "none.jpg"), *model], "no such file or folder"),
        ([str(tmp_path / "empty"), *model], "no images in this folder"),
        ([str(tmp_path / "broken.jpg"), *model], "none of the 1 images got a caption"),
        ([*model], "name images or folders of images"),
        ([str(shop), *model, "--instruction", "x"], "--instruction is for a blip2_cir_full"),
        ([str(shop), "--model", str(tmp_path / "empty")], "no model in"),
        ([str(shop), *model, "--num-beams", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as left:
            unifashion(["caption", *given])
        assert left.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl").exists()
