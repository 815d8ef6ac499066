"""A file or folder of another kind is told what it is, what is needed and the way there, at every door."""

import json
import shutil

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from unifashion.convert import load_any
from unifashion.convert.tower import read_tower
from unifashion.errors import UserError
from unifashion.llm.diffusion_head import load_diffusion_head
from unifashion.llm.loading import load_base
from unifashion.models import hub, kinds
from unifashion.models.weight_files import read_safetensors, read_torch
from unifashion.tryon.loading import load_pipeline, start_pipeline

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LORA = {f"unet.{ATTENTION}.to_q.lora_A.weight": (4, 8), f"unet.{ATTENTION}.to_q.lora_B.weight": (8, 4)}
VAE = {
    "encoder.conv_in.weight": (8, 3, 3, 3),
    "decoder.conv_out.weight": (3, 8, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1),
}
SINGLE = {
    "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
    "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    "first_stage_model.decoder.conv_out.weight": (3, 8, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (8, 8),
}
FILES = {
    "a Stable Diffusion in a single file": (
        SINGLE,
        {"module." + name: shape for name, shape in SINGLE.items()},
        {"model_ema.diffusion_modelout2bias": (4,), "model_ema.decay": ()},
        {"model.diffusion_model.out.2.bias": (4,), "conditioner.embedders.0.transformer.x": (4,)},
    ),
    "a LoRA without its base": (
        LORA,
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 8)},
        {f"unet.{ATTENTION}.processor.to_q_lora.up.weight": (4, 8)},
        {"lora_unet_down_blocks_0_proj_in.lora_down.weight": (4, 8), "lora_unet_down_blocks_0_proj_in.alpha": ()},
        {"lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (4, 8)},
    ),
    "a textual inversion": (
        {"<dress>": (8,)},
        {"emb_params": (2, 8)},
        {"clip_g": (2, 8), "clip_l": (2, 8)},
        {"*": (2, 8)},
    ),
    "a VAE alone": (VAE, {"first_stage_model." + name: shape for name, shape in VAE.items()}),
    "a ControlNet": (
        {"control_model.input_blocks.0.0.weight": (8, 4, 3, 3), "control_model.zero_convs.0.0.weight": (8, 8, 1, 1)},
        {"conv_in.weight": (8, 4, 3, 3), "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
    ),
    "a U-Net alone": (
        {"conv_in.bias": (8,), "down_blocks.0.resnets.0.conv1.bias": (8,), "time_embedding.linear_1.bias": (8,)},
    ),
}
CONFIGS = {
    "a ControlNet": ("config.json", {"_class_name": "ControlNetModel"}),
    "a VAE alone": ("config.json", {"_class_name": "AutoencoderKL"}),
    "a LoRA without its base": ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "a/b"}),
    "a FluxPipeline of diffusers": ("model_index.json", {"_class_name": "FluxPipeline"}),
    "a model of transformers of type clip": ("config.json", {"model_type": "clip"}),
}
DOORS = {
    "retrieval": lambda path, base: load_any(path),
    "tower": lambda path, base: read_tower(path),
    "try-on": lambda path, base: load_pipeline(path, base),
    "diffusion": lambda path, base: start_pipeline(base, path),
    "language": lambda path, base: load_base(path),
}
OTHER_DOORS = (
    lambda path: load_pipeline(path),
    lambda path: start_pipeline(path, None),
    lambda path: load_diffusion_head(path, 8, 4, 64, "a", True),
)


def write(path, shapes):
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights, "step": 3}, path)
    return str(path)


def refusal(door, *names):
    with pytest.raises(UserError) as error:
        door(*names)
    return str(error.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the parts of a Stable Diffusion, as far as is looked at before the other name is."""
    folder = tmp_path_factory.mktemp("base")
    from diffusers import AutoencoderKL, UNet2DConditionModel

    UNet2DConditionModel(block_out_channels=(32,) * 4, cross_attention_dim=16).save_pretrained(folder / "unet")
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, **blocks).save_pretrained(folder / "vae")
    return str(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("what", FILES)
def test_a_file_of_another_kind_is_told_at_every_door(tmp_path, base, what, suffix):
    for number, shapes in enumerate(FILES[what]):
        path = write(tmp_path / f"{number}{suffix}", shapes)
        for needed, door in DOORS.items():
            said = refusal(door, path, base)
            assert f"{path} is {what}" in said and f", but {kinds.NEEDED[needed]}" in said, (needed, said)
        assert all(f"{path} is {what}" in refusal(door, path) for door in OTHER_DOORS)


@pytest.mark.parametrize("what", CONFIGS)
def test_a_folder_of_another_kind_is_told_at_every_door(tmp_path, base, what):
    name, config = CONFIGS[what]
    (tmp_path / name).write_text(json.dumps(config))
    for needed, door in DOORS.items():
        if (needed, what) != (
            "language",
            "a model of transformers of type clip",
        ):  # transformers itself knows which are
            said = refusal(door, str(tmp_path), base)
            assert f"{tmp_path} is {what}, but " in said, (needed, said)
    assert all(f"{tmp_path} is {what}, but " in refusal(door, str(tmp_path)) for door in OTHER_DOORS)


@pytest.mark.parametrize(
    ("what", "door", "way"),
    [
        (
            "a Stable Diffusion in a single file",
            "diffusion",
            "convert it once, with StableDiffusionPipeline.from_single_file",
        ),
        ("a Stable Diffusion in a single file", "try-on", "to start a training, convert it once"),
        ("a LoRA without its base", "diffusion", "fuse it into its base once"),
        ("a LoRA without its base", "language", "merge it into its base once"),
        ("a ControlNet", "diffusion", "name the Stable Diffusion that it belongs to"),
    ],
)
def test_the_way_out_fits_the_door(tmp_path, base, what, door, way):
    path = write(tmp_path / "a.safetensors", FILES[what][0])
    assert f"; {way}" in refusal(DOORS[door], path, base)


def test_a_textual_inversion_of_the_first_kind_is_told(tmp_path):
    torch.save(
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": torch.ones(2, 8)}}, tmp_path / "a.pt"
    )
    for door in (load_any, load_pipeline, load_base):
        assert "a.pt is a textual inversion" in refusal(door, str(tmp_path / "a.pt"))


def test_a_whole_controlnet_does_not_become_a_unet_with_weights_at_random(tmp_path):
    ControlNetModel(block_out_channels=(32,) * 4, cross_attention_dim=16).save_pretrained(tmp_path)
    said = refusal(start_pipeline, str(tmp_path), None)
    assert said.startswith(f"{tmp_path} is a ControlNet, but a Stable Diffusion 1.x in diffusers form is needed")


def test_runs_of_the_other_half_of_the_project_are_told(tmp_path, base):
    for name, config in (
        ("model_index.json", {"_class_name": "TryOnPipeline"}),
        ("config.json", {"model_type": "unifashion"}),
    ):
        (tmp_path / name / "last").mkdir(parents=True)
        (tmp_path / name / "last" / name).write_text(json.dumps(config))
    assert "is a try-on model, but a retrieval model" in refusal(load_any, tmp_path / "model_index.json")
    assert "is a UniFashion retrieval model, but a try-on" in refusal(load_pipeline, tmp_path / "config.json")


def test_a_folder_of_gguf_files_is_told(tmp_path, base):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF" + bytes(60))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for door in DOORS.values():
        assert "is a folder of GGUF files, but " in refusal(door, str(tmp_path), base)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".gguf"])
@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"GGUF" + bytes(60), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        (b"\n<!doctype HTML><html>", "is a web page"),
    ],
)
def test_what_is_only_called_like_weights_is_told_by_its_beginning(tmp_path, suffix, start, what):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(start)
    assert f"{path} {what}" in refusal(load_any, path)
    assert f"{path} {what}" in refusal(load_base, str(path))


def test_a_wrong_ending_is_told_and_a_file_cut_short_is_damaged(tmp_path):
    right, wrong = tmp_path / "a.safetensors", tmp_path / "a.pt"
    write(right, VAE)
    shutil.copy(right, wrong)
    assert "is a safetensors file; end its name in .safetensors" in refusal(read_torch, wrong)
    right.write_bytes(right.read_bytes()[:60])
    assert "is missing or damaged" in refusal(read_safetensors, right)
    write(wrong, VAE)
    shutil.copy(wrong, right)
    assert "is a PyTorch file; end its name in .pt" in refusal(read_safetensors, right)
    wrong.write_bytes(wrong.read_bytes()[:60])
    assert "is not a PyTorch weight file, or it is cut short" in refusal(read_torch, wrong)


def test_a_repository_of_another_kind_is_told_by_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    for door in (load_any, load_pipeline, load_base, lambda name: start_pipeline(name, None)):
        assert "owner/name is a ControlNet, but " in refusal(door, "owner/name")


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"_class_name": [1]}', '{"model_type": {"a": 1}}', '{"model_type": null}']
)
def test_a_strange_config_is_one_sentence(tmp_path, content):
    for name in ("config.json", "model_index.json"):
        (tmp_path / name).write_text(content)
    for door in (load_any, load_pipeline, load_base, *OTHER_DOORS):
        assert str(tmp_path) in refusal(door, str(tmp_path))


def test_names_of_models_that_are_read_are_of_no_kind():
    for name in ("visual_encoder.blocks.0.norm1.bias", "query_tokens", "blocks.0.attn.qkv.weight", "conv1.weight"):
        assert kinds.of_names([name]) is None
