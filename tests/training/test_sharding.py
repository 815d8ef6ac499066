"""FSDP, as accelerate sets it up (version 2, on the CPU), and DDP: two processes train what one trains, and can be resumed."""

import dataclasses
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
from unifashion.training.checkpoint import find_checkpoint
from unifashion.training.run_folder import RunFolder
from unifashion.training.sharding import check_sharding
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.train import make_trainer

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


def evaluate(model):
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
