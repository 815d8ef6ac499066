"""Toy checkpoints of the original's layout, for the loaders; sizes are such that a loader can tell them from shapes."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unifashion.convert.lavis import to_lavis
from unifashion.models.presets import CLIP_VIT_L, EVA_VIT_G, UniFashionConfig
from unifashion.models.qformer import QFormerConfig
from unifashion.models.tokenizer import train_wordpiece
from unifashion.models.unifashion import UniFashionModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))  # for toy.py

# Matrices this small are faster on one core, and do not wait for others on a busy machine.
torch.set_num_threads(1)

CLASS_NAMES = {"blip2_cir_cls": "Blip2QformerCirCls", "blip2_cir_rerank": "Blip2QformerCirRerank"}
TOWERS = {
    "eva": {
        **EVA_VIT_G,
        "hidden_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
    },
    "clip": {
        **CLIP_VIT_L,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
    },
}


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A folder with a tokenizer whose last word is [DEC], as in BLIP-2."""
    folder = tmp_path_factory.mktemp("words")
    tokenizer = train_wordpiece(["a red dress with short sleeves", "is longer and has dots"])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_original(words):
    """Build a model of ours whose sizes are those of a loaded original; every weight is random."""

    def make(model_name="blip2_cir_cls", tower="eva", **changes):
        tokenizer = train_wordpiece(["a red dress with short sleeves", "is longer and has dots"])
        qformer = QFormerConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_layers=3,
            num_heads=2,
            intermediate_size=96,
            image_width=TOWERS[tower]["hidden_size"],
            max_positions=40,
        )
        config = UniFashionConfig(
            model_name=model_name,
            vision=TOWERS[tower],
            qformer=qformer,
            num_queries=4,
            embed_dim=12,
            dec_token_id=tokenizer.convert_tokens_to_ids("[DEC]"),
            image_size=28,
            **changes,
        )
        torch.manual_seed(0)
        model = UniFashionModel(config, tokenizer)
        for name, parameter in model.named_parameters():
            if name != "temperature":
                torch.nn.init.normal_(parameter, std=0.1)
        for name, parameter in model.named_parameters():
            if name.endswith("self_attn.qkv.bias"):
                parameter.data.chunk(3)[1].zero_()
        return model.eval()

    return make


@pytest.fixture
def save_original(tmp_path):
    """Write a model as the original code does; ``change`` edits its state dict first."""

    def save(model, name="original.pt", key=None, change=None):
        state = to_lavis(dict(model.state_dict()), model.config.vision["model_type"])
        state = change(state) if change else state
        path = tmp_path / name
        key = CLASS_NAMES[model.config.model_name] if key is None else key
        if path.suffix == ".safetensors":
            save_file({name: tensor.clone() for name, tensor in state.items()}, path)
        else:
            torch.save({"epoch": 3, key: state} if key else state, path)
        return path

    return save
