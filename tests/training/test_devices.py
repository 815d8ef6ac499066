"""Training and writing in bf16, on the CPU and, with ``-m gpu``, on a GPU: close to fp32, and the same whenever it is done again.

python -m pytest -m gpu                  what only a GPU can show
"""

import csv
import dataclasses
import random
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from unifashion.config import TrainingSettings
from unifashion.distributed import _Gather
from unifashion.llm.captioner import Captioner
from unifashion.models.generation import Decoding
from unifashion.seeding import only_deterministic
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position
from unifashion.training.trainer import Trainer

SOURCE = Path(__file__).resolve().parents[2] / "src"
MODELS = ("blip2_cir_cls", "blip2_cir_rerank")
TEXTS = ["a red dress with short sleeves", "a blue striped shirt", "is longer and has dots", "a green floral top"]
GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
on_devices = pytest.mark.parametrize("device", ["cpu", GPU])
on_gpus = pytest.mark.parametrize("device", [GPU])


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Every run chooses its own precision; operations are those of other tests again afterwards."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    only_deterministic(False)


def step(model, device, precision):
    """Return the losses of one batch and the gradient of their sum, on the CPU."""
    settings = dataclasses.replace(TrainingSettings(), itm_negatives="unifashion")
    task = RETRIEVAL_TASKS[model.config.model_name](model.to(device), settings)
    ids, mask = model.tokenize(TEXTS)
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {"text_ids": ids, "text_mask": mask, "product": torch.arange(4), "text": torch.arange(4)}
    if model.config.model_name == "blip2_cir_cls":
        batch |= {"image": image}
    else:
        batch |= {"reference": image, "target": image.flip(0), "caption_ids": ids.flip(0), "caption_mask": mask.flip(0)}
    model.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        losses = task(task.prepare(batch, Position(0, 0, 0, 0)))
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return {name: loss.item() for name, loss in losses.items()}, gradient


@on_devices
@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_bf16_is_close_to_one_in_fp32(make_model, name, device):
    exact, exact_gradient = step(make_model(name), device, "fp32")
    losses, gradient = step(make_model(name), device, "bf16")
    assert losses == pytest.approx(exact, rel=0.03)
    assert torch.isfinite(gradient).all()
    assert torch.cosine_similarity(gradient, exact_gradient, dim=0) > 0.98


@on_gpus
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_computes_what_a_cpu_computes(make_model, name, device):
    expected, expected_gradient = step(make_model(name), "cpu", "fp32")
    losses, gradient = step(make_model(name), device, "fp32")
    assert losses == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


@on_gpus
def test_rows_and_their_gradients_are_gathered_on_the_device(device, tmp_path):
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        rows = torch.randn(3, 5, device=device, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.randn(5, 3, device=device, dtype=torch.bfloat16).T
        gathered = _Gather.apply(rows)
        (gathered * weight).sum().backward()
        assert torch.equal(gathered, rows)
        assert torch.equal(rows.grad, weight)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def blip_train():
    sys.path.insert(0, str(SOURCE))
    import blip_train

    return blip_train


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Two epochs of five steps in bf16, on twenty garments."""
    folder, chance = tmp_path_factory.mktemp("shop"), random.Random(0)
    lines = ["image,text,split"]
    for number in range(20):
        Image.new("RGB", (40, 40), tuple(chance.randrange(256) for _ in range(3))).save(folder / f"{number}.png")
        lines.append(f"{number}.png,garment number {number},train")
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    words = "--dataset catalogue --image-size 32 --architecture tiny --tokenizer train --num-epochs 2 --batch-size 4"
    return [*words.split(), "--precision", "bf16", "--eval-every", "0", "--save-steps", "2", "--data-root", str(folder)]


def read_losses(run):
    with (run / "train_metrics.csv").open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def require(device):
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("accelerate takes the GPU")


@on_devices
def test_a_run_in_bf16_that_was_stopped_goes_on_bit_for_bit(blip_train, flags, device, tmp_path, monkeypatch):
    require(device)
    flags = [*flags, "--no-freeze-vision", "--augment"]
    blip_train.main([*flags, "--output-dir", str(tmp_path / "whole")])
    blip_train.main([*flags, "--output-dir", str(tmp_path / "again")])
    steps, train_batch = iter(range(100)), Trainer._train_batch

    def dies(*arguments):
        if next(steps) == 7:
            raise MemoryError
        return train_batch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "_train_batch", dies)
        blip_train.main([*flags, "--output-dir", str(tmp_path / "stopped")])
    blip_train.main(["--resume", str(tmp_path / "stopped")])
    expected = load_file(tmp_path / "whole" / "last" / "model.safetensors")
    for name in ("again", "stopped"):
        assert read_losses(tmp_path / name) == read_losses(tmp_path / "whole")
        weights = load_file(tmp_path / name / "last" / "model.safetensors")
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name


@on_devices
def test_a_feature_cache_changes_losses_by_no_more_than_fp16(blip_train, flags, device, tmp_path):
    require(device)
    start = str(tmp_path / "start")
    blip_train.main([*flags, "--no-freeze-vision", "--max-steps", "1", "--output-dir", start])
    flags = [*flags, "--freeze-vision", "--no-augment", "--init-from", start]
    blip_train.main([*flags, "--output-dir", str(tmp_path / "plain")])
    blip_train.main([*flags, "--output-dir", str(tmp_path / "cached"), "--feature-cache", str(tmp_path / "features")])
    for ours, expected in zip(read_losses(tmp_path / "cached"), read_losses(tmp_path / "plain"), strict=True):
        assert ours == pytest.approx(expected, rel=0.01)


@on_devices
def test_sampled_captions_follow_the_seed_and_leave_other_chance_alone(make_model, device):
    captioner = Captioner(make_model().eval().to(device))
    photos = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    decoding = Decoding(sample=True, top_p=1.0, max_new_tokens=12)
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    torch.manual_seed(5)
    texts = [captioner.caption(photos, decoding, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.rand(3, device=device), expected)
