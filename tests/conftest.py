"""Fixtures that several rooms use: small models of the real classes, and the optional real samples."""

import os
import socket
import traceback
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from hypothesis import HealthCheck, settings

from unifashion.config import DataSettings
from unifashion.encoders.unifashion import UniFashion
from unifashion.models.presets import UniFashionConfig
from unifashion.models.qformer import QFormerConfig
from unifashion.models.tokenizer import train_wordpiece

pytest_plugins = ["browser", "small_disk"]  # the fixtures of these names
torch.set_num_threads(1)  # toy tensors: threads only wait for one another

# Random inputs: the same few in every run of the suite; by hand, UNIFASHION_EXAMPLES=20000 pytest ... tries as many new ones.
EXAMPLES = int(os.environ.get("UNIFASHION_EXAMPLES") or 0)
CHECKS = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "default",
    max_examples=EXAMPLES or 50,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,  # a time limit for one input belongs to the test, if its subject is a hang
    suppress_health_check=CHECKS,
    print_blob=True,
)
settings.load_profile("default")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
WORDS = ["a red dress with short sleeves", "a blue striped shirt", "is longer and has dots", "a green floral top"]


def pytest_configure(config: pytest.Config) -> None:
    """Only a run of the tests marked ``gpu`` sees a GPU: the others are the same on every machine, and fork."""
    if config.getoption("-m") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def tiny_config(model_name: str = "blip2_cir_cls", **changes) -> UniFashionConfig:
    """A model of a few thousand weights with every part of the real one."""
    vision = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    }
    qformer = QFormerConfig(
        vocab_size=len(train_wordpiece(WORDS)),
        hidden_size=16,
        num_layers=3,
        num_heads=2,
        intermediate_size=32,
        image_width=16,
        max_positions=32,
        dropout=0.0,
        initial_std=0.25,
    )
    queries = "query_tokens" if model_name == "blip2_cir_cls" else "prompt_tokens"
    values = {
        "model_name": model_name,
        "vision": vision,
        "qformer": qformer,
        "num_queries": 4,
        "embed_dim": 12,
        "dec_token_id": train_wordpiece(WORDS).convert_tokens_to_ids("[DEC]"),
        "target_queries": queries,
        "image_size": DataSettings().image_size // 7,
        "max_text_tokens": 24,
    }
    return UniFashionConfig(**{**values, **changes})


@pytest.fixture(scope="session")
def make_model():
    """Build a tiny model of a named preset; the same name gives the same weights."""

    def make(model_name: str = "blip2_cir_cls", **changes) -> UniFashion:
        torch.manual_seed(0)
        return UniFashion(tiny_config(model_name, **changes), train_wordpiece(WORDS))

    return make


@pytest.fixture(scope="session")
def toy():
    """The embedded catalogue, an app: the tests of the core that use its pictures are skipped where it was removed."""
    return pytest.importorskip("unifashion.apps.toy_catalogue")


@pytest.fixture(scope="session")
def tryon_root(tmp_path_factory, toy):
    """A data root with a few synthetic persons."""
    root = tmp_path_factory.mktemp("data")
    toy.write_tryon(root / "vitonhd", toy.TryOnSizes(train=6, test=4, height=64), progress=False)
    return root


@pytest.fixture
def shared() -> Path:
    """The folder of real samples; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the real samples (../shared) are not on this machine")
    return SHARED


@pytest.fixture
def on_two_processes(tmp_path):
    """Run a function in two processes that know of one another; returns what each of them returned."""

    def run(work):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
                try:
                    AcceleratorState._reset_state(reset_partial_state=True)
                    assert PartialState(cpu=True).num_processes == 2
                    torch.set_num_threads(
                        1
                    )  # accelerate takes all cores, and sums differ in their last bits by threads
                    torch.save(work(), tmp_path / f"answer.{rank}")
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        return [torch.load(tmp_path / f"answer.{rank}", weights_only=False) for rank in range(2)]

    return run
