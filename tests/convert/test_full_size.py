"""Published checkpoints fit: names, shapes and sizes of the presets, on the meta device."""

import json

import pytest
import torch
from toy import GOLDEN, ORIGINALS, fold, full_size_shapes

from unifashion.config import DataSettings
from unifashion.convert.complete import complete
from unifashion.convert.lavis import UNUSED_HEADS, from_lavis
from unifashion.convert.sizes import qformer_sizes, tower_config
from unifashion.models.presets import build_config
from unifashion.models.unifashion import UniFashionModel

LISTS = json.loads((GOLDEN / "full_size.json").read_text())
# What the original's classes have beyond ours, and never use.
UNUSED = {
    "blip2_cir_cls": {"query_proj.weight": (256, 256), "query_proj.bias": (256,)},
    "blip2_cir_rerank": {
        "query_proj.weight": (256, 256),
        "query_proj.bias": (256,),
        "caption_proj.weight": (256, 768),
        "caption_proj.bias": (256,),
    },
}


@pytest.mark.parametrize("case", LISTS)
def test_names_and_shapes_of_a_preset_are_those_of_the_published_model(case):
    preset, model_name = case.split()
    assert fold(full_size_shapes(model_name, preset)) == {k: [list(r), list(s)] for k, (r, s) in LISTS[case].items()}


@pytest.mark.parametrize(
    ("file", "model_name"), [("fullsize_cls", "blip2_cir_cls"), ("fullsize_rerank", "blip2_cir_rerank")]
)
def test_the_original_has_our_names_and_its_known_unused_heads(file, model_name):
    published = published_shapes(file)
    assert published == {**full_size_shapes(model_name, "vitg"), **UNUSED[model_name]}
    assert all(name.startswith(UNUSED_HEADS) for name in UNUSED[model_name])


@pytest.mark.parametrize("case", LISTS)
def test_sizes_told_from_published_shapes_are_those_of_the_preset(case):
    preset, model_name = case.split()
    weights = meta_weights(full_size_shapes(model_name, preset))
    expected = build_config(model_name, preset, 30523, 30522, DataSettings())
    assert qformer_sizes(weights, 0, case) == expected.qformer
    assert tower_config(weights, case) == expected.vision


@pytest.mark.parametrize("case", LISTS)
def test_a_published_checkpoint_fills_our_model_without_a_gap(case, caplog):
    preset, model_name = case.split()
    with torch.device("meta"):
        model = UniFashionModel(build_config(model_name, preset, 30523, 30522, DataSettings()))
    weights = meta_weights({**full_size_shapes(model_name, preset), **UNUSED[model_name]})
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert not caplog.records
    assert {name: tensor.shape for name, tensor in complete(weights, shapes, case, "no/bert").items()} == shapes
    assert not caplog.records, "something was missing or left out"


def test_layer_norms_have_the_eps_of_the_original():
    with torch.device("meta"):
        model = UniFashionModel(build_config("blip2_cir_cls", "vitg", 30523, 30522, DataSettings()))
    norms = {name: module.eps for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms.pop("ln_vision") == 1e-5
    assert {eps for name, eps in norms.items() if name.startswith("vision.")} == {1e-6}
    assert {eps for name, eps in norms.items() if not name.startswith("vision.")} == {1e-12}


def published_shapes(file):
    path = ORIGINALS / f"{file}.json"
    return {name: tuple(shape) for name, shape in json.loads(path.read_text())["parameters"].items()}


def meta_weights(shapes):
    return from_lavis({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})[0]
