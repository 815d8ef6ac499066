"""The try-on network at toy size with rule weights, and everything that is recorded of it (see toy.py for recordings)."""

import json
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from toy import Recording, rule_weight

from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.losses import noise_schedule
from unifashion.tryon.stableviton import from_ldm, ldm_name
from unifashion.tryon.warp import attention_total_variation, warp_region


def read(folder, name):
    """A recording; names that it shares with another are filled in."""
    recording = Recording.read(folder, name)
    for key in recording.facts.get("same_as_viton_plain", ()):
        recording.facts[key] = json.loads((folder / "viton_plain.json").read_text())[key]
    return recording


def sizes(unet):
    """Our settings for the original's."""
    return {
        "block_out_channels": tuple(unet["model_channels"] * factor for factor in unet["channel_mult"]),
        "layers_per_block": unet["num_res_blocks"],
        "cross_attention_dim": unet["context_dim"],
        "num_heads": unet["num_heads"],
    }


def ldm_shapes(config) -> dict[str, tuple[int, ...]]:
    """The original's names and shapes of a denoiser of these sizes; nothing is allocated."""
    with torch.device("meta"):
        denoiser = TryOnDenoiser(**config)
    return {
        ldm_name(name, denoiser.config.layers_per_block): tuple(p.shape) for name, p in denoiser.state_dict().items()
    }


def build(facts) -> TryOnDenoiser:
    """The denoiser with rule weights, frozen as in the paper; the decoder keeps gradients, because they were recorded."""
    weights = {name: rule_weight(name, tuple(shape)) for name, shape in ldm_shapes(sizes(facts["unet"])).items()}
    denoiser = from_ldm(weights, "toy", facts["unet"]["num_heads"])
    denoiser.freeze("paper")
    for module in (denoiser.unet.up_blocks, denoiser.unet.conv_norm_out, denoiser.unet.conv_out):
        module.requires_grad_(True)
    return denoiser.train()


@dataclass
class Pass:
    """One pass of the training loss, and what was caught on its way."""

    x_noisy: torch.Tensor
    noise_pred: torch.Tensor
    attention_centre: torch.Tensor | None
    loss: torch.Tensor


def run(denoiser, inputs, context=None, attention_centre=False) -> Pass:
    """Predict the noise and compare."""
    inputs = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    noisy = noise_schedule().add_noise(inputs["x_start"], inputs["noise"], inputs["t"])
    x13 = torch.cat([noisy, inputs["first_stage_cond"]], dim=1)
    context = inputs["context"] if context is None else context
    found = denoiser(x13, inputs["t"], context, inputs["hint"], attention_centre=attention_centre)
    return Pass(noisy, found.noise, found.attention_centre, F.mse_loss(found.noise, inputs["noise"]))


def gradients(denoiser, loss, facts, wanted) -> dict[str, torch.Tensor]:
    """Gradients by the original's names: those ``wanted``, and the norms of all that were recorded."""
    denoiser.zero_grad()
    loss.backward(retain_graph=True)
    named = {ldm_name(name): parameter.grad for name, parameter in denoiser.named_parameters()}
    reached = {name for name, grad in named.items() if grad is not None}
    found = {name: named[name] for name in wanted if name in named}
    if "_norms" in wanted:
        assert reached == set(facts["grad_norm_names"]), "gradients reach other parameters than in the original"
        found["_norms"] = torch.stack([named[name].norm() for name in facts["grad_norm_names"]])
    return found


def observe_plain(recording) -> dict[str, torch.Tensor]:
    """Outputs and gradients of a case without total variation."""
    denoiser, inputs, facts = build(recording.facts), recording.inputs, recording.facts
    caught, hooks = {}, _hooks(denoiser)
    handles = [
        module.register_forward_hook(_catch(caught, name, of_input)) for name, (module, of_input) in hooks.items()
    ]
    found = run(denoiser, inputs)
    for handle in handles:
        handle.remove()
    out = {"outputs.x_noisy": found.x_noisy, "outputs.noise_pred": found.noise_pred, "outputs.loss_mse": found.loss}
    out |= {f"outputs.first4.{name}": tensor[:, :4] for name, tensor in caught.items()}
    wanted = [name for name in recording.grads if not name.startswith("uncond.")]
    out |= {f"grads.{name}": grad for name, grad in gradients(denoiser, found.loss, facts, wanted).items()}
    for copies in (1, 77):
        vector = denoiser.unconditional.expand(len(inputs["t"]), copies, -1)
        without = run(denoiser, inputs, vector)
        out[f"outputs.noise_pred_uncond_{copies}"] = without.noise_pred
    out["outputs.loss_mse_uncond"] = without.loss
    gradient = gradients(denoiser, without.loss, facts, ["learnable_vector"])
    out["grads.uncond.learnable_vector"] = gradient["learnable_vector"]
    return {name: tensor.detach() for name, tensor in out.items()}


def _catch(caught, name, of_input):
    def hook(module, args, output):
        if name == "control":
            caught.update({f"control.{number}": feature for number, feature in enumerate([*output[0], output[1]])})
        else:
            caught[name] = args[0] if of_input else (output if isinstance(output, torch.Tensor) else output[0])

    return hook


def _hooks(denoiser):
    """Modules by the recorded names; true where the module's input was recorded."""
    unet = denoiser.unet
    hooks = {"control": (denoiser.garment_encoder, False), "unet_middle": (unet.mid_block, False)}
    number = 0
    for block in unet.up_blocks:
        for index in range(len(block.resnets)):
            is_last = index == len(block.resnets) - 1
            module = block.upsamplers[0] if is_last and block.upsamplers else None
            module = module or (block.attentions[index] if hasattr(block, "attentions") else block.resnets[index])
            hooks[f"unet_out_block.{number}"] = (module, False)
            number += 1
    return hooks | {f"warp_flow.{i}": (block.zero_conv, True) for i, block in enumerate(denoiser.warp_blocks)}


def garment_mask(facts, key):
    """The mask of the garment on the person, drawn from the recorded rectangles."""
    mask = torch.zeros(2, 1, *facts["cloth_mask"]["size"])
    for sample, y0, y1, x0, x1, value in facts["cloth_mask"][key]:
        mask[sample, :, y0:y1, x0:x1] = value
    return mask


def observe_atv(recording) -> dict[str, torch.Tensor]:
    """Outputs and gradients of the second stage."""
    denoiser, inputs, facts = build(recording.facts), recording.inputs, recording.facts
    found = run(denoiser, inputs, attention_centre=True)
    out = {
        "outputs.noise_pred": found.noise_pred,
        "outputs.loss_mse": found.loss,
        "outputs.coords": found.attention_centre.flatten(1, 2),
    }
    latent, size = inputs["x_start"].shape[-2:], found.attention_centre.shape[1:3]
    for key, ending in (("rectangles", ""), ("rectangles_second_region_empty", "_second_region_empty")):
        region = warp_region(garment_mask(facts, key), latent, size)
        out[f"outputs.tv_mask{ending}"] = region.to(torch.uint8)
        variation = attention_total_variation(found.attention_centre, region)
        out[f"outputs.loss_atv{ending}"] = facts["atv_weight"] * variation
        out.setdefault("outputs.tv", variation)
    out["outputs.loss_total"] = found.loss + out["outputs.loss_atv"]
    wanted = [name.removeprefix("atv_only.") for name in recording.grads if name.startswith("atv_only.")]
    only = gradients(denoiser, out["outputs.loss_atv"], facts, wanted)
    out |= {f"grads.atv_only.{name}": grad.clone() for name, grad in only.items()}
    wanted = [name for name in recording.grads if not name.startswith("atv_only.")]
    out |= {
        f"grads.{name}": grad for name, grad in gradients(denoiser, out["outputs.loss_total"], facts, wanted).items()
    }
    return {name: tensor.detach() for name, tensor in out.items()}


def observe(recording) -> dict[str, torch.Tensor]:
    """Everything that the recording may hold."""
    return observe_atv(recording) if "cloth_mask" in recording.facts else observe_plain(recording)
