"""Parameter names without what trainers put around a model."""

from hypothesis import given
from hypothesis import strategies as st

from unifashion.models.wrappers import plain_name

WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
NAMES = (
    "visual_encoder.blocks.0.attn.qkv.weight",
    "query_tokens",
    "temp",
    "model.diffusion_model.input_blocks.0.0.weight",
    "vision_model.encoder.layers.3.mlp.fc1.bias",
    "qformer.layers.0.attention.key.weight",
    "control_model.input_blocks.1.1.proj_in.weight",
)


@given(st.sampled_from(NAMES), st.lists(st.sampled_from(WRAPPERS), max_size=5), st.data())
def test_any_wrappers_at_any_place_are_left_out(name, wrappers, data):
    parts = name.split(".")
    for wrapper in wrappers:
        parts.insert(data.draw(st.integers(0, len(parts))), wrapper)
    assert plain_name(".".join(parts)) == name


@given(st.sampled_from(NAMES), st.lists(st.sampled_from((*WRAPPERS, "model", "ema_model")), max_size=5))
def test_the_attribute_that_held_the_model_is_left_out_too(name, before):
    assert plain_name(".".join([*before, name])) == name


def test_names_that_begin_like_a_wrapper_stay():
    for name in (
        "model.diffusion_model.out.0.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.embed_tokens.weight",
        "modules.0.weight",
        "module",
        "ema.decay",
        "model_ema.diffusion_modelout0weight",
        "base_model.model.model.layers.0.q_proj.lora_A.weight",
    ):
        assert plain_name(name) == name
