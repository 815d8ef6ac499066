"""Two processes with B rows each compute what one process computes on 2B rows (gloo, on the CPU)."""

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unifashion.config import TrainingSettings
from unifashion.distributed import choose_device, join_processes
from unifashion.errors import UserError
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position

SETTINGS = dataclasses.replace(TrainingSettings(), itm_negatives="unifashion")
TEXTS = ["a red dress", "a blue striped shirt with dots", "a green top", "is longer and has short sleeves"]


def losses_and_gradients(model, rows):
    """Losses of the rows of this process, and the gradient of their sum."""
    ids, mask = model.tokenize(TEXTS)
    keep = mask[rows].sum(1).max()
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = {"text_ids": ids[rows, :keep], "text_mask": mask[rows, :keep]}
    same = {"product": torch.arange(4)[rows], "text": torch.arange(4)[rows]}
    is_cls = model.config.model_name == "blip2_cir_cls"
    images = {"image": image[rows]} if is_cls else {"reference": image[rows], "target": -image[rows]}
    task = RETRIEVAL_TASKS[model.config.model_name](model, SETTINGS)
    losses = task(task.prepare({**images, **texts, **same}, Position(0, 0, 0, 0)))
    model.zero_grad()
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return torch.stack([losses[name].detach() for name in sorted(losses)]), gradient


def one_rank(rank, model, port, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    values, gradient = losses_and_gradients(model, slice(2 * rank, 2 * rank + 2))
    for tensor in (values, gradient):
        dist.all_reduce(tensor)
    if rank == 0:
        torch.save((values / 2, gradient / 2), results)
    dist.destroy_process_group()


def test_two_ranks_equal_one_rank_of_the_same_rows(make_model, tmp_path):
    for port, name in ((29611, "blip2_cir_cls"), (29612, "blip2_cir_rerank")):
        model = make_model(name).eval()
        mp.spawn(one_rank, (model, port, tmp_path / name), nprocs=2)
        values, gradient = torch.load(tmp_path / name)
        expected_values, expected_gradient = losses_and_gradients(model, slice(0, 4))
        torch.testing.assert_close(values, expected_values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


def test_a_device_is_one_that_is_there(monkeypatch):
    assert choose_device() == choose_device("") == choose_device("cpu") == torch.device("cpu")
    for name in (
        "cuda",
        "cuda:99",
        "mps",
        "CUDA",
        "xyz",
        "meta",
        "cuda:-1",
        "cuda:x",
        "cpu:1",
        "cuda:99999999999999999999",
    ):
        with pytest.raises(UserError, match=f"^--device {name}: "):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == choose_device("cuda") == torch.device("cuda") and choose_device("cuda:1").index == 1
    with pytest.raises(UserError, match=r"--device cuda:2: there is no such device here \(torch finds 2 GPUs\)"):
        choose_device("cuda:2")


GROUP = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_processes_that_any_launcher_starts_on_cpus_know_of_one_another():
    code = "from unifashion.distributed import *; join_processes(); print(rank(), world_size())"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    group = {**kept, **GROUP, "WORLD_SIZE": "2", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**group, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    assert [process.communicate(timeout=100)[0] for process in started] == ["0 2\n", "1 2\n"]


def test_variables_that_another_launcher_left_over_are_named(monkeypatch):
    for name in GROUP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # not read without LOCAL_RANK
    join_processes()
    left_over = [{name: GROUP[name] for name in list(GROUP)[:count]} for count in range(1, 5)]
    left_over += [
        {**GROUP, **{name: value}} for name in GROUP for value in ("", "x") if (name, value) != ("MASTER_ADDR", "x")
    ]
    left_over += [{**GROUP, "RANK": "1"}, {**GROUP, "LOCAL_RANK": "1"}, {**GROUP, "MASTER_PORT": "65536"}]
    for variables in left_over:
        with monkeypatch.context() as patch:
            patch.delenv("WORLD_SIZE")
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(UserError, match="unset LOCAL_RANK, or start with accelerate launch"):
                join_processes()
    for name, value in GROUP.items():
        monkeypatch.setenv(name, value)
    join_processes()
