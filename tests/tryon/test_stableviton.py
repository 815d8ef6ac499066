"""Checkpoints of StableVITON: parity with its code, names and shapes at full size, and files that are not what they seem."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL
from toy import GOLDEN, ORIGINALS, rule_weight
from toy_tryon import build, ldm_shapes, observe, read, sizes

from unifashion.errors import UserError
from unifashion.tryon.loading import load_vae_weights
from unifashion.tryon.stableviton import from_ldm, from_stable_diffusion, read_ckpt, to_ldm, widen

CASES = [
    *(pytest.param((GOLDEN, name), id=f"own-{name}") for name in ("tryon", "tryon_atv")),
    *(pytest.param((ORIGINALS, name), id=f"original-{name}") for name in ("viton_plain", "viton_wide", "viton_atv")),
]
TOY = {"model_channels": 32, "channel_mult": [1, 1, 1, 1], "num_res_blocks": 2, "context_dim": 8, "num_heads": 4}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    folder, name = request.param
    recording = read(folder, name)
    return recording, observe(recording)


def compare(recording, found, kind, values):
    for name, expected in values.items():
        mine, largest = found[f"{kind}.{name}"], float(expected.float().abs().max())
        assert mine.shape == expected.shape, name
        if not expected.is_floating_point():
            assert torch.equal(mine.long(), expected.long()), name
        else:
            bound = recording.tolerance(f"{kind}.{name}", largest)
            torch.testing.assert_close(
                mine, expected, atol=bound, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_outputs_are_the_recorded_ones(case):
    recording, found = case
    compare(recording, found, "outputs", recording.outputs)


def test_gradients_are_the_recorded_ones(case):
    recording, found = case
    norms = dict(recording.grads)
    expected = norms.pop("_norms")
    compare(recording, found, "grads", norms)
    names, dead = recording.facts["grad_norm_names"], set(recording.facts.get("grad_zero", ()))
    bound = recording.tolerance("grads._norms", float(expected.max()))
    for name, mine, theirs in zip(names, found["grads._norms"], expected, strict=True):
        assert abs(mine - theirs) <= (1e-5 if name in dead else bound), name


@pytest.fixture(scope="module")
def toy_weights():
    return {name: rule_weight(name, shape) for name, shape in ldm_shapes(sizes(TOY)).items()}


def test_the_full_size_network_has_the_published_names_and_shapes():
    file = ORIGINALS / "fullsize_stableviton.json"
    published = {name: tuple(shape) for name, shape in json.loads(file.read_text())["parameters"].items()}
    unused = {name: published.pop(name) for name in ("proj_out.weight", "proj_out.bias")}
    assert ldm_shapes({}) == published
    assert unused == {"proj_out.weight": (768, 1024), "proj_out.bias": (768,)}


def test_the_list_of_full_size_shapes_has_not_changed():
    kept = json.loads((GOLDEN / "tryon_full_size.json").read_text())
    assert _digest(ldm_shapes({})) == kept


def _digest(shapes):
    """Counts and a few shapes: enough to notice any change of the architecture."""
    return {
        "count": len(shapes),
        "elements": sum(torch.Size(shape).numel() for shape in shapes.values()),
        "shapes": {
            name: list(shape) for name, shape in sorted(shapes.items()) if "warp_zero" in name or "op.weight" in name
        },
    }


def test_there_and_back_gives_the_same_weights(toy_weights):
    denoiser = from_ldm(toy_weights, "toy", num_heads=4)
    back = to_ldm(denoiser)
    assert set(back) == set(toy_weights)
    assert all(torch.equal(back[name], toy_weights[name]) for name in back)
    assert denoiser.config.block_out_channels == (32, 32, 32, 32)
    assert denoiser.config.cross_attention_dim == 8


def test_a_ckpt_file_with_other_stages_is_read_and_what_has_no_place_is_named(toy_weights, tmp_path, caplog):
    path = tmp_path / "viton.ckpt"
    extra = {
        "control_model.zero_convs.0.0.weight": torch.zeros(1),
        "first_stage_model.quant_conv.bias": torch.ones(8).half(),
    }
    weights = {name: tensor.half() for name, tensor in toy_weights.items()} | extra
    torch.save({"state_dict": weights, "epoch": 3}, path)
    denoiser, vae = read_ckpt(path, num_heads=4)
    assert list(vae) == ["quant_conv.bias"]
    assert "control_model.zero_convs" in caplog.text
    assert denoiser.unet.conv_in.weight.dtype == torch.float32
    torch.testing.assert_close(
        denoiser.unet.conv_in.weight, toy_weights["model.diffusion_model.input_blocks.0.0.weight"], atol=1e-3, rtol=1e-3
    )


def averages(weights, name=lambda name: name.replace(".", "")):
    """The averages that latent diffusion keeps of its U-Net, by its names for them; here the weights plus one."""
    unet = {stored: tensor for stored, tensor in weights.items() if stored.startswith("model.")}
    kept = {f"model_ema.{name(stored.removeprefix('model.'))}": tensor + 1 for stored, tensor in unet.items()}
    return kept | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}


@pytest.mark.parametrize(
    "name", [lambda name: name.replace(".", ""), lambda name: name], ids=["without dots", "with dots"]
)
def test_a_unet_that_is_kept_as_an_average_only_is_taken(toy_weights, tmp_path, caplog, name):
    raw = {stored: tensor for stored, tensor in toy_weights.items() if not stored.startswith("model.")}
    torch.save({"state_dict": raw | averages(toy_weights, name)}, tmp_path / "viton.ckpt")
    denoiser, _ = read_ckpt(tmp_path / "viton.ckpt", num_heads=4)
    for stored, tensor in to_ldm(denoiser).items():
        assert torch.equal(tensor, toy_weights[stored] + stored.startswith("model.")), stored
    count = sum(stored.startswith("model.") for stored in toy_weights)
    assert f"holds averaged weights (model_ema.*): taken for {count} parameters that have no raw one" in caplog.text


def test_raw_weights_go_before_averages(toy_weights, caplog):
    denoiser = from_ldm(toy_weights | averages(toy_weights), "some.ckpt", num_heads=4)
    assert torch.equal(denoiser.unet.conv_in.weight, toy_weights[FIRST])
    assert "holds averaged weights (model_ema.*): the raw ones are taken" in caplog.text
    lacking = {name: tensor for name, tensor in toy_weights.items() if name != LAST}
    denoiser = from_ldm(lacking | averages(toy_weights), "some.ckpt", num_heads=4)
    assert torch.equal(denoiser.unet.conv_out.weight, toy_weights[LAST] + 1)
    assert torch.equal(denoiser.unet.conv_in.weight, toy_weights[FIRST])


def test_names_without_dots_mean_one_parameter_each():
    names = ldm_shapes({})
    assert len({name.replace(".", "") for name in names}) == len(names)


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def with_channels(prefix, channels):
    def change(weights):
        name = f"{prefix}input_blocks.0.0.weight"
        return {**weights, name: torch.zeros(32, channels, 3, 3)}

    return change


FIRST, LAST = "model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.weight"
BAD_WEIGHTS = {
    "nothing of a U-Net": (lambda weights: {"a": torch.zeros(1)}, "is not a checkpoint of StableVITON"),
    "a plain Stable Diffusion": (
        lambda weights: {key: value for key, value in weights.items() if key.startswith("model.")},
        "it has no control_model.* parameters",
    ),
    "four channels": (with_channels("model.diffusion_model.", 4), "reads 4 channels, UNIStableVITON reads 13"),
    "a control of nine channels": (with_channels("control_model.", 9), "reads 9 channels"),
    "a parameter missing": (without(LAST), r"lacks 1 parameters of UNIStableVITON: model.diffusion_model.out"),
    "another shape": (
        lambda weights: {**weights, LAST: torch.zeros(8, 32, 3, 3)},
        r"is \(8, 32, 3, 3\), expected \(4, 32, 3, 3\)",
    ),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_a_checkpoint_of_something_else_is_one_sentence(toy_weights, what):
    change, sentence = BAD_WEIGHTS[what]
    with pytest.raises(UserError, match=sentence.replace("*", r"\*")):
        from_ldm(change(toy_weights), "some.ckpt", num_heads=4)


def test_a_file_that_would_run_code_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(UserError, match="holds more than weights"):
        read_ckpt(path)


@pytest.mark.parametrize("channels", [4, 9, 13])
def test_a_widened_first_convolution_does_what_the_narrow_one_did(channels):
    torch.manual_seed(0)
    narrow, x13 = torch.randn(6, channels, 3, 3), torch.randn(2, 13, 8, 8)
    noisy, agnostic = x13[:, :4], x13[:, 4:8]
    seen = {4: noisy, 9: torch.cat([noisy, torch.zeros(2, 1, 8, 8), agnostic], dim=1), 13: x13}[channels]
    expected = torch.nn.functional.conv2d(seen, narrow)
    torch.testing.assert_close(torch.nn.functional.conv2d(x13, widen(narrow, "x")), expected)


def test_other_channel_counts_cannot_be_widened():
    with pytest.raises(UserError, match=r"reads 8 channels; training can start from 4 \(Stable Diffusion\), 9"):
        widen(torch.zeros(6, 8, 3, 3), "x")


def test_training_starts_as_the_plain_network(toy_weights):
    """With fresh warp blocks and a hint that counts for nothing, the denoiser is the U-Net it was made from."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4, block_out_channels=(32, 32, 32, 32), cross_attention_dim=8, attention_head_dim=4
    )
    denoiser = from_stable_diffusion(unet, "toy")
    x13, t, context = torch.randn(2, 13, 16, 8), torch.tensor([3, 700]), torch.randn(2, 5, 8)
    with torch.no_grad():
        expected = unet(x13[:, :4], t, context).sample
        found = denoiser(x13, t, context, torch.randn(2, 4, 16, 8)).noise
        deepest = denoiser.garment_encoder.mid_block.resnets[0].conv1.weight
    torch.testing.assert_close(found, expected)
    assert torch.equal(deepest, unet.mid_block.resnets[0].conv1.weight)


def test_a_network_of_another_family_is_refused():
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(32, 32, 32, 32), cross_attention_dim=8, attention_head_dim=4, use_linear_projection=True
    )
    with pytest.raises(UserError, match=r"not a U-Net of Stable Diffusion 1\.x"):
        from_stable_diffusion(unet, "sd2")


def test_rule_weights_are_those_of_the_original_recording():
    facts = read(ORIGINALS, "viton_plain").facts
    total = sum(float(tensor.double().abs().sum()) for tensor in to_ldm(build(facts)).values())
    assert total == pytest.approx(facts["weights_abs_sum"], rel=1e-9)


def ldm_vae(vae):
    """The weights of a VAE under the names of latent diffusion."""
    renamed = {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{1 - int(m[1])}.upsample.", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace(
            "conv_shortcut", "nin_shortcut"
        )
        for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            name = name.replace(f"mid_block.attentions.0.{ours}", f"mid.attn_1.{theirs}")
        is_map = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        renamed[name.replace("conv_norm_out", "norm_out")] = tensor[..., None, None] if is_map else tensor
    return renamed


def test_the_vae_of_a_checkpoint_is_read():
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    source, target = (AutoencoderKL(**sizes, **kinds) for _ in range(2))
    load_vae_weights(target, ldm_vae(source), "some.ckpt")
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(source(image).sample, target(image).sample)
    with pytest.raises(UserError, match="does not fit that of the base"):
        load_vae_weights(
            AutoencoderKL(**{**sizes, "block_out_channels": (8, 32)}, **kinds), ldm_vae(source), "some.ckpt"
        )
