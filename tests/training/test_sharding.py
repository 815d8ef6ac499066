"""FSDP, as accelerate sets it up (version 2, on the CPU), and DDP: two processes train what one trains, and can be resumed."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from unifashion.config import TrainingSettings
from unifashion.data.batches import PairRows, Photos
from unifashion.data.images import ImageTransform
from unifashion.data.records import ImageText
from unifashion.distributed import rank, world_size
from unifashion.errors import UserError
from unifashion.evaluation.scores import Score
from unifashion.training import train_tryon
from unifashion.training.checkpoint import find_checkpoint, read_state
from unifashion.training.run_folder import RunFolder
from unifashion.training.sharding import check_sharding
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.train import make_trainer
from unifashion.training.trainer import Trainer
from unifashion.tryon.loading import load_pipeline
from unifashion.tryon.settings import TryOnDataSettings, TryOnModelSettings, TryOnTrainingSettings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = dataclasses.replace(
    TrainingSettings(),
    num_epochs=2,
    learning_rate=1e-3,
    itm_negatives="unifashion",
    max_grad_norm=1.0,
    keep_last=9,
)


def fsdp_on_the_cpu(precision="no", version=2):
    """Return an accelerator with FSDP 2. accelerate only offers it on GPUs, though its code does not care."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=version, auto_wrap_policy="TRANSFORMER_BASED_WRAP", cpu_ram_efficient_loading=False
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin, mixed_precision=precision)
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    return check_sharding(accelerator)


def evaluate(model, losses):
    """A score that depends on weights which FSDP spreads, read without FSDP's help."""
    assert not any(isinstance(parameter, DTensor) for parameter in model.parameters())
    value = model.image_features(model.read_images(torch.ones(1, 3, 32, 32))).sum().item()
    return [Score("set", "set/protocol", "val", "", "R@1", value, 1, 1, 0.0, (), "model")], value


@pytest.fixture
def fit(make_model, tmp_path):
    pairs = []
    for number in range(17):
        Image.new("RGB", (40, 40), (15 * number, 90, 200 - 10 * number)).save(tmp_path / f"{number}.png")
        pairs.append(ImageText(tmp_path / f"{number}.png", f"a dress number {number}", str(number)))

    def fit(name, make_accelerator, resume=False):
        settings = dataclasses.replace(SETTINGS, batch_size=8 // world_size(), output_dir=str(tmp_path / name))
        model = make_model()
        model.vision.freeze()
        run = None
        if rank() == 0:
            run = RunFolder.reopen(tmp_path / name) if resume else RunFolder(tmp_path / name)
            run.describe((settings,))
        rows = PairRows(pairs, Photos(ImageTransform(32)))
        trainer = make_trainer(CrossModalTask(model, settings), rows, settings, make_accelerator(), run, evaluate)
        if resume:
            trainer.resume(find_checkpoint(tmp_path / name))
        trainer.fit()
        return sum(isinstance(parameter, DTensor) for parameter in trainer.task.parameters())

    return fit


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_what_one_trains_and_go_on_where_they_stood(kind, fit, on_two_processes, tmp_path):
    make_accelerator = fsdp_on_the_cpu if kind == "fsdp" else lambda: Accelerator(cpu=True)
    num_sharded = on_two_processes(lambda: fit(kind, make_accelerator))
    assert all(num_sharded) if kind == "fsdp" else not any(num_sharded)
    fit("alone", lambda: Accelerator(cpu=True))
    ours, alone = (load_file(tmp_path / name / "last" / "model.safetensors") for name in (kind, "alone"))
    assert ours.keys() == alone.keys()
    for name, tensor in alone.items():
        assert ours[name].shape == tensor.shape
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    start = load_file(tmp_path / "alone" / "checkpoints" / "step_00000002" / "model" / "model.safetensors")
    assert not torch.allclose(start["query_tokens"], alone["query_tokens"], rtol=1e-3, atol=1e-4)

    metrics = {name: (tmp_path / kind / name).read_bytes() for name in ("validation_metrics.csv",)}
    shutil.rmtree(tmp_path / kind / "checkpoints" / "step_00000004")
    shutil.rmtree(tmp_path / kind / "last")
    on_two_processes(lambda: fit(kind, make_accelerator, resume=True))
    again = load_file(tmp_path / kind / "last" / "model.safetensors")
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    assert {name: (tmp_path / kind / name).read_bytes() for name in metrics} == metrics


@pytest.fixture
def fit_tryon(tryon_root, tmp_path, monkeypatch):
    """Train try-on for two steps of four rows; returns how many parameters were spread."""
    num_sharded = []

    def fit_and_look(trainer, fit=Trainer.fit):
        fit(trainer)
        num_sharded.append(sum(isinstance(parameter, DTensor) for parameter in trainer.task.parameters()))

    monkeypatch.setattr(Trainer, "fit", fit_and_look)

    def fit(name, make_accelerator, resume=False):
        monkeypatch.setattr(train_tryon, "make_accelerator", lambda *_, **__: make_accelerator())
        training = TryOnTrainingSettings(
            output_dir=str(tmp_path / name),
            resume=str(tmp_path / name) if resume else None,
            max_steps=2,
            save_steps=1,
            batch_size=4 // world_size(),
            learning_rate=1e-3,
            max_grad_norm=1.0,
            ema_decay=0.5,
            adam_epsilon=1e-4,  # else noise in a gradient of nearly zero becomes a whole step
            atv_weight=0.1,
            colour=False,
            cache_latents=True,
            num_validation_images=1,
            validation_inference_steps=1,
        )
        model = TryOnModelSettings(architecture="tiny", trainable="all")
        train_tryon.train(TryOnDataSettings(data_root=str(tryon_root), height=24, width=18), model, training)
        return num_sharded[-1]

    return fit


def kept(run):
    """All that a try-on run keeps at its end: the average, the weights under training, the optimiser's momenta, its score."""
    checkpoint = find_checkpoint(run)
    state, progress = read_state(checkpoint)
    assert progress["step"] == state["average"]["num_steps"] == 2
    return {
        "average": load_pipeline(checkpoint / "model").denoiser.state_dict(),
        "trained": state["average"]["trained"],
        "momenta": {name: entry["exp_avg"] for name, entry in state["optimizer"]["state"].items()},
        "score": {"ssim": torch.tensor(json.loads((run / "run.json").read_text())["validation"]["ssim"])},
    }


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_the_try_on_of_one_with_twice_the_rows(kind, fit_tryon, on_two_processes, tmp_path):
    make_accelerator = fsdp_on_the_cpu if kind == "fsdp" else lambda: Accelerator(cpu=True)
    num_sharded = on_two_processes(lambda: fit_tryon(kind, make_accelerator))
    assert all(num_sharded) if kind == "fsdp" else not any(num_sharded)
    fit_tryon("alone", lambda: Accelerator(cpu=True))
    ours, alone = (kept(tmp_path / name) for name in (kind, "alone"))
    for part, tensors in alone.items():
        assert ours[part].keys() == tensors.keys() and tensors
        for name, tensor in tensors.items():
            bound = 1e-4 * (tensor.abs().max().item() if part == "momenta" else 1) + 1e-9
            torch.testing.assert_close(ours[part][name], tensor, rtol=1e-3, atol=bound, msg=f"{part} {name}")
    assert any(not torch.allclose(alone["average"][name[6:]], alone["trained"][name]) for name in alone["trained"])

    shutil.rmtree(tmp_path / kind / "checkpoints" / "step_00000002")
    shutil.rmtree(tmp_path / kind / "last")
    on_two_processes(lambda: fit_tryon(kind, make_accelerator, resume=True))
    again = kept(tmp_path / kind)
    assert all(torch.equal(again[part][name], ours[part][name]) for part in ours for name in ours[part])


def test_a_run_of_two_processes_does_not_go_on_with_one(fit, fit_tryon, on_two_processes, tmp_path):
    for name, fit_one in (("retrieval", fit), ("tryon", fit_tryon)):
        on_two_processes(lambda name=name, fit_one=fit_one: fit_one(name, lambda: Accelerator(cpu=True)))
        with pytest.raises(
            UserError, match=r"was written by 2 processes, now there are 1; start the same number, or .*--init-"
        ):
            fit_one(name, lambda: Accelerator(cpu=True), resume=True)


def test_sharded_weights_stay_float32_when_passes_are_bf16(fit, on_two_processes, tmp_path):
    on_two_processes(lambda: fit("bf16", lambda: fsdp_on_the_cpu("bf16")))
    weights = load_file(tmp_path / "bf16" / "last" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values() if tensor.is_floating_point())
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_first_version_of_fsdp_is_refused(on_two_processes):
    def refused():
        with pytest.raises(UserError, match="fsdp_version: 2"):
            fsdp_on_the_cpu(version=1)

    on_two_processes(refused)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configs_and_their_headers_name_the_command(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no", "precision is a setting of the run"
    text = path.read_text()
    assert text.startswith("#") and "ACCELERATE_CONFIG=" in text
    assert config.num_processes >= config.num_machines
    assert yaml.safe_load(text).get("fsdp_config", {}).get("fsdp_version", 2) == 2
