"""Checkpoints of StableVITON and of the original UNIStableVITON (``.ckpt``, names of latent diffusion), and Stable Diffusion.

    model.diffusion_model.output_blocks.4.1.norm.weight      unet.up_blocks.1.attentions.1.norm.weight
    model.diffusion_model.warp_flow_blks.0.proj_in.bias      warp_blocks.0.proj_in.bias
    control_model.input_blocks.3.0.op.weight                 garment_encoder.down_blocks.0.downsamplers.0.conv.weight
    control_model.cond_first_block.0.weight                  garment_encoder.controlnet_cond_embedding.weight
    learnable_vector                                         unconditional

A ``.ckpt`` also contains its VAE (``first_stage_model.*``). Text encoder, tokenizer and schedule come from a Stable Diffusion 1.x
folder in diffusers form, which also is what training starts from: its U-Net, whose first convolution is widened to 13 channels
with zeros. From 4 channels: those of the noisy latent. From 9 (inpainting: noisy latent 4, mask 1, masked image 4): the noisy
latent's and, for the agnostic latent, the masked image's; the mask's, which is 1 = paint there and 1 = keep here, starts at zero.
"""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from unifashion.convert.files import read_file
from unifashion.convert.names import summarise
from unifashion.errors import UserError
from unifashion.models import kinds
from unifashion.models.weight_files import Weights, check_finite
from unifashion.tryon.denoiser import INPUT_CHANNELS, LATENT_CHANNELS, TryOnDenoiser

log = logging.getLogger(__name__)

UNET, CONTROL, VAE, TEXT = "model.diffusion_model.", "control_model.", "first_stage_model.", "cond_stage_model."
AVERAGE = "model_ema."
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_cond_embedding": "cond_first_block.0",
}
_PART = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_SAMPLER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv\.(weight|bias)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)")
_WARP = re.compile(r"warp_blocks\.(\d+)\.(.+)")


def ldm_name(name: str, layers: int = 2) -> str | None:
    """Return the name that latent diffusion's code has for a parameter of ``TryOnDenoiser``; None for one it does not have."""
    if name == "unconditional":
        return "learnable_vector"
    warp = _WARP.fullmatch(name)
    if warp:
        index, rest = warp.groups()
        if rest.startswith("zero_conv."):
            return f"{UNET}warp_zero_convs.{index}.{rest.removeprefix('zero_conv.')}"
        return f"{UNET}warp_flow_blks.{index}.{rest.replace('block.', 'transformer_blocks.0.', 1)}"
    for ours, theirs in (("unet.", UNET), ("garment_encoder.", CONTROL)):
        if name.startswith(ours):
            inner = _unet_name(name.removeprefix(ours), layers)
            return theirs + inner if inner else None
    return None


def _unet_name(name: str, layers: int) -> str | None:
    module, _, leaf = name.rpartition(".")
    if module in _OUTSIDE:
        return f"{_OUTSIDE[module]}.{leaf}"
    sampler = _SAMPLER.fullmatch(name)
    if sampler:
        way, level, leaf = sampler[1], int(sampler[2]), sampler[3]
        if way == "down":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{leaf}"
        return f"output_blocks.{level * (layers + 1) + layers}.{1 if level == 0 else 2}.conv.{leaf}"
    part, middle = _PART.fullmatch(name), _MIDDLE.fullmatch(name)
    if part:
        way, level, kind, layer, rest = part[1], int(part[2]), part[3], int(part[4]), part[5]
        index = level * (layers + 1) + layer + (way == "down")
        prefix = f"{'input' if way == 'down' else 'output'}_blocks.{index}.{0 if kind == 'resnets' else 1}."
    elif middle:
        kind, rest = middle[1], middle[3]
        prefix = f"middle_block.{1 if kind == 'attentions' else 2 * int(middle[2])}."
    else:
        return None
    if kind == "attentions":
        return prefix + rest
    inner, _, leaf = rest.rpartition(".")
    return f"{prefix}{_RESNET[inner]}.{leaf}"


def from_ldm(weights: Weights, source: str, num_heads: int = 8) -> TryOnDenoiser:
    """Build the denoiser of these sizes and fill it.

    Args:
        weights: names of latent diffusion; other stages may be among them and are ignored.
        source: how messages name the checkpoint.
        num_heads: attention heads, which leave no trace in a shape; 8 in Stable Diffusion 1.x.

    Raises:
        UserError: another kind of checkpoint, other channel counts, missing names, shapes that differ.
    """
    weights = _with_averages(weights, source)
    config = _sizes(weights, source, num_heads)
    with torch.device("meta"):
        denoiser = TryOnDenoiser(**config)
    shapes = {name: tensor.shape for name, tensor in denoiser.state_dict().items()}
    theirs = {name: str(ldm_name(name, config["layers_per_block"])) for name in shapes}
    missing = [name for name in theirs.values() if name not in weights]
    if missing:
        raise UserError(f"{source} lacks {len(missing)} parameters of UNIStableVITON: {summarise(missing)}")
    wrong = [
        f"{old} is {tuple(weights[old].shape)}, expected {tuple(shapes[new])}"
        for new, old in theirs.items()
        if weights[old].shape != shapes[new]
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{source} does not fit UNIStableVITON: {wrong[0]}{more}")
    known = set(theirs.values())
    unexpected = [name for name in weights if name.startswith((UNET, CONTROL)) and name not in known]
    if unexpected:
        log.warning(
            "%s: %d parameters are not part of UNIStableVITON and are left out: %s",
            source,
            len(unexpected),
            summarise(unexpected),
        )
    check_finite({old: weights[old] for old in theirs.values()}, source)
    denoiser.load_state_dict({new: weights[old].float() for new, old in theirs.items()}, assign=True)
    return denoiser.requires_grad_(True)


def _with_averages(weights: Weights, source: str) -> Weights:
    """Return the weights with the averaged ones (EMA) where there is no raw one, under its name.

    Latent diffusion writes the average of model.diffusion_model.out.2.bias as model_ema.diffusion_modelout2bias.
    """
    averaged = {
        _dotless(name.removeprefix(AVERAGE)): tensor for name, tensor in weights.items() if name.startswith(AVERAGE)
    }
    if not averaged:
        return weights
    with torch.device("meta"):
        known = map(ldm_name, TryOnDenoiser(block_out_channels=(32, 64, 96, 128)).state_dict())
    missing = [name for name in known if name and name not in weights]
    found = {name: key for name in missing if (key := _dotless(name.removeprefix("model."))) in averaged}
    taken = f"taken for {len(found)} parameters that have no raw one" if found else "the raw ones are taken"
    log.warning("%s holds averaged weights (%s*): %s", source, AVERAGE, taken)
    return {**weights, **{name: averaged[key] for name, key in found.items()}}


def _dotless(name: str) -> str:
    return name.replace(".", "")


def to_ldm(denoiser: TryOnDenoiser) -> Weights:
    """Return the weights under the names of latent diffusion; an adapter has no such name and is left out."""
    named = (
        (ldm_name(name, denoiser.config.layers_per_block), tensor) for name, tensor in denoiser.state_dict().items()
    )
    return {name: tensor for name, tensor in named if name is not None}


def _sizes(weights: Weights, source: str, num_heads: int) -> dict[str, Any]:
    """Infer the sizes of the network from the shapes of its weights."""
    first = weights.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or f"{CONTROL}input_blocks.0.0.weight" not in weights:
        kinds.refuse(kinds.of_names(weights), source, "try-on")
        raise UserError(
            f"{source} is not a checkpoint of StableVITON: it has no {UNET if first is None else CONTROL}* parameters "
            f"(it begins with {', '.join(list(weights)[:3]) or 'nothing'})"
        )
    for name in (f"{UNET}input_blocks.0.0.weight", f"{CONTROL}input_blocks.0.0.weight"):
        channels = weights[name].shape[1]
        if channels != INPUT_CHANNELS:
            raise UserError(
                f"{source}: {name} reads {channels} channels, UNIStableVITON reads {INPUT_CHANNELS} (noise 4, agnostic 4, "
                "mask 1, densepose 4); is this the checkpoint of another model?"
            )
    if weights.get(f"{UNET}input_blocks.1.1.proj_in.weight", first).ndim != 4:
        raise UserError(f"{source} has linear maps around its attention, as Stable Diffusion 2 has; 1.x is needed")
    layers = 2  # in every Stable Diffusion
    widths = [len(first)]
    while (
        conv := weights.get(f"{UNET}input_blocks.{len(widths) * (layers + 1) + 1}.0.out_layers.3.weight")
    ) is not None:
        widths.append(len(conv))
    context = weights.get(f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    if context is None:
        raise UserError(
            f"{source} has no cross-attention at {UNET}input_blocks.1.1; is this the checkpoint of another model?"
        )
    return {
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "cross_attention_dim": context.shape[1],
        "num_heads": num_heads,
    }


def read_ckpt(path: Path, num_heads: int = 8) -> tuple[TryOnDenoiser, Weights]:
    """Read a ``.ckpt`` (weights only, never code): the denoiser, and its VAE's weights under diffusers' names (or none).

    Raises:
        UserError: a damaged or dangerous file, or what ``from_ldm`` raises.
    """
    _, weights, _ = read_file(path)
    vae = {name.removeprefix(VAE): tensor.float() for name, tensor in weights.items() if name.startswith(VAE)}
    return from_ldm(weights, str(path), num_heads), vae


def widen(weight_OIhw: Tensor, source: str) -> Tensor:
    """Return a first convolution of 13 input channels that computes what one of 4, 9 or 13 does; new channels start at zero.

    Raises:
        UserError: another number of channels.
    """
    channels = weight_OIhw.shape[1]
    wide = weight_OIhw.new_zeros(len(weight_OIhw), INPUT_CHANNELS, *weight_OIhw.shape[2:])
    if channels == INPUT_CHANNELS:
        return weight_OIhw
    if channels not in (LATENT_CHANNELS, 2 * LATENT_CHANNELS + 1):
        raise UserError(
            f"{source}: its first convolution reads {channels} channels; training can start from 4 "
            "(Stable Diffusion), 9 (inpainting) or 13 (try-on)"
        )
    wide[:, :LATENT_CHANNELS] = weight_OIhw[:, :LATENT_CHANNELS]
    if channels > LATENT_CHANNELS:
        wide[:, LATENT_CHANNELS : 2 * LATENT_CHANNELS] = weight_OIhw[:, -LATENT_CHANNELS:]
    return wide


def from_stable_diffusion(unet: UNet2DConditionModel, source: str, **changes: Any) -> TryOnDenoiser:
    """Build the denoiser that training starts from: the given U-Net, a copy as garment encoder, warp blocks without effect.

    Args:
        unet: of Stable Diffusion 1.x or Paint-by-Example.
        source: how messages name it.
        changes: settings of ``TryOnDenoiser`` that the U-Net does not decide.

    Raises:
        UserError: another architecture, or a first convolution of other channels than 4, 9 or 13.
    """
    config = unet.config
    heads = config.num_attention_heads or config.attention_head_dim
    if not isinstance(heads, int) or config.use_linear_projection or config.addition_embed_type is not None:
        raise UserError(f"{source} is not a U-Net of Stable Diffusion 1.x; name a folder of that family")
    denoiser = TryOnDenoiser(
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        cross_attention_dim=config.cross_attention_dim,
        num_heads=heads,
        norm_num_groups=config.norm_num_groups,
        **changes,
    )
    weights = {**unet.state_dict()}
    weights["conv_in.weight"] = widen(weights["conv_in.weight"], source)
    own = denoiser.unet.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong:
        raise UserError(f"{source} does not fit the U-Net of Stable Diffusion 1.x: {summarise(wrong)}")
    denoiser.unet.load_state_dict({name: weights[name] for name in own})
    denoiser.copy_encoder()
    return denoiser
