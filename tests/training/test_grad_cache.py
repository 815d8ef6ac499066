"""Gradient caching: chunk by chunk the losses and gradients of the whole batch, on one process and on two."""

import dataclasses
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator

from unifashion.config import TrainingSettings
from unifashion.errors import UserError
from unifashion.seeding import seed_everything
from unifashion.training.grad_cache import GradCache
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position, Task

SETTINGS = dataclasses.replace(TrainingSettings(), itm_negatives="unifashion")
WEIGHTS = {"itc": 1.0, "itm": 0.5, "lm": 2.0, "ttc": 3.0}
TEXTS = ["a red dress", "a blue striped shirt with dots", "a green top", "is longer and has short sleeves", "a red top"]
HERE = Position(0, 0, 0, 0)


def make_batch(model, num_rows=5):
    ids, mask = model.tokenize(TEXTS[:num_rows])
    image = torch.randn(num_rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    same = {"product": torch.tensor([0, 1, 2, 3, 0])[:num_rows], "text": torch.arange(num_rows)}
    if model.config.model_name == "blip2_cir_cls":
        return {"image": image, "text_ids": ids, "text_mask": mask, **same}
    captions = {"caption_ids": ids.flip(0), "caption_mask": mask.flip(0)}
    return {"reference": image, "target": -image, "text_ids": ids, "text_mask": mask, **captions, **same}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def whole(model, batch):
    model.zero_grad()
    task = RETRIEVAL_TASKS[model.config.model_name](model, SETTINGS)
    batch = task.prepare(dict(batch), HERE)
    seed_everything(*HERE)
    losses = task(batch)
    sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, gradients(model)


def chunked(model, batch, chunk):
    model.zero_grad()
    task = RETRIEVAL_TASKS[model.config.model_name](model, SETTINGS)
    task.weights = WEIGHTS
    cache = GradCache(task, chunk, Accelerator(cpu=True), is_sharded=False)
    losses = cache.backward(task.prepare(dict(batch), HERE), HERE)
    cache.share_gradients()
    return {name: loss.detach() for name, loss in losses.items()}, gradients(model)


def assert_same_gradients(found, expected):
    """To the rounding of float32, which a temperature of 0.07 magnifies."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 2e-4 * gradient.norm() + 2e-5, name


@pytest.mark.parametrize("name", ["blip2_cir_cls", "blip2_cir_rerank"])
@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("frozen", [True, False])
def test_losses_and_gradients_are_those_of_the_whole_batch(make_model, name, chunk, frozen):
    model = make_model(name).train()
    if frozen:
        model.vision.freeze()
    else:
        model.vision.encoder = torch.nn.Identity()
        model.vision.forward = lambda pixels: pixels.unflatten(-1, (2, 16)).flatten(1, 3)
    batch = make_batch(model)
    expected, expected_gradients = whole(model, batch)
    losses, found = chunked(model, batch, chunk)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(found, expected_gradients)


def one_rank(rank, model, port, results):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank)
    )
    os.environ["ACCELERATE_USE_CPU"] = "true"
    dist.init_process_group("gloo", rank=rank, world_size=2)
    batch = {name: value[2 * rank : 2 * rank + 2] for name, value in make_batch(model, 4).items()}
    losses, found = chunked(model, batch, 1)
    for value in losses.values():
        dist.all_reduce(value)
    if rank == 0:
        torch.save(({name: value / 2 for name, value in losses.items()}, found), results)
    dist.destroy_process_group()


@pytest.mark.parametrize(("name", "port"), [("blip2_cir_cls", 29621), ("blip2_cir_rerank", 29622)])
def test_two_processes_have_the_gradients_of_one(make_model, name, port, tmp_path):
    model = make_model(name).train()
    model.vision.freeze()
    expected, expected_gradients = whole(model, make_batch(model, 4))
    model.zero_grad()
    mp.spawn(one_rank, (model, port, tmp_path / "found"), nprocs=2)
    losses, found = torch.load(tmp_path / "found")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert_same_gradients(found, expected_gradients)


def test_dropout_is_the_same_in_both_passes(make_model):
    """With dropout the vectors of the second pass must be those that were compared; else gradients are of another loss."""
    model = make_model("blip2_cir_cls").train()
    model.vision.freeze()
    for module in [model.qformer, *model.qformer.modules()]:
        if hasattr(module, "dropout"):
            module.dropout = 0.3
    model.qformer.config = dataclasses.replace(model.qformer.config, dropout=0.3)
    task = RETRIEVAL_TASKS["blip2_cir_cls"](model, SETTINGS)
    seen = []
    encode = task.encode
    task.encode = lambda *a: seen.append(encode(*a)) or seen[-1]
    cache = GradCache(task, 2, Accelerator(cpu=True), is_sharded=False)
    cache.backward(task.prepare(make_batch(model), HERE), HERE)
    first, second = seen[:3], seen[3:]
    assert all(torch.equal(a.vectors["image"], b.vectors["image"]) for a, b in zip(first, second, strict=True))
    without = task.eval().encode(task.prepare(make_batch(model, 2), HERE))
    assert not torch.equal(first[0].vectors["image"], without.vectors["image"])


class OtherTask(Task):
    losses = ()


def test_what_cannot_be_taken_apart_is_refused(make_model):
    task = RETRIEVAL_TASKS["blip2_cir_cls"](make_model(), SETTINGS)
    with pytest.raises(UserError, match="normalises over the batch"):
        GradCache(task, 2, Accelerator(cpu=True), is_sharded=False)
    task.model.vision.freeze()
    with pytest.raises(UserError, match="FSDP"):
        GradCache(task, 2, Accelerator(cpu=True), is_sharded=True)
    with pytest.raises(UserError, match="has no effect"):
        GradCache(OtherTask(make_model(), {}), 2, Accelerator(cpu=True), is_sharded=False)
