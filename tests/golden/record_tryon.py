"""Writes the try-on recordings beside this file: tryon (first stage), tryon_atv (second), and the full-size names in short.

    PYTHONPATH=src python tests/golden/record_tryon.py

As in record.py: our numbers, made when tests/tryon/test_stableviton.py found them equal to recordings of the original code.
"""

import json

import torch
from safetensors.torch import save_file
from toy import GOLDEN, Recording
from toy_tryon import build, ldm_shapes, observe, run

from unifashion.tryon.stableviton import ldm_name

UNET = {"model_channels": 32, "channel_mult": [1, 1, 2, 1], "num_res_blocks": 2, "context_dim": 8, "num_heads": 2}
LATENT = (16, 8)
KEPT = (
    "control_model.cond_first_block.0.weight",
    "model.diffusion_model.warp_zero_convs.3.bias",
    "model.diffusion_model.warp_flow_blks.4.transformer_blocks.0.attn2.to_q.weight",
)
MASK = {
    "size": [128, 64],
    "rectangles": [[0, 10, 110, 8, 60, 1], [0, 40, 60, 20, 40, 0], [1, 30, 128, 0, 40, 1]],
    "rectangles_second_region_empty": [[0, 10, 110, 8, 60, 1]],
}


def make_inputs() -> dict[str, torch.Tensor]:
    """Latents, words and timesteps, stored in half precision."""
    generator = torch.Generator().manual_seed(11)
    channels = {"x_start": 4, "noise": 4, "hint": 4, "first_stage_cond": 9}
    inputs = {name: torch.randn(2, count, *LATENT, generator=generator).half() for name, count in channels.items()}
    return {**inputs, "context": torch.randn(2, 5, 8, generator=generator).half(), "t": torch.tensor([40, 870])}


def main() -> None:
    torch.set_num_threads(1)
    inputs = make_inputs()
    facts = {"unet": UNET, "latent": list(LATENT)}
    denoiser = build(facts)
    run(denoiser, inputs).loss.backward()
    facts["grad_norm_names"] = sorted(ldm_name(n) for n, p in denoiser.named_parameters() if p.grad is not None)
    for name, extra in (("tryon", {}), ("tryon_atv", {"cloth_mask": MASK, "atv_weight": 0.001})):
        wanted = dict.fromkeys([*KEPT, "_norms", *([f"atv_only.{KEPT[2]}"] if extra else [])])
        found = observe(Recording({**facts, **extra}, inputs, {}, wanted))
        # Of the inner features a corner is enough; the norms and the result depend on all of them.
        kept = {
            key: (t[:, :, :4, :4] if ".first4." in key else t).contiguous()
            for key, t in found.items()
            if ".first4." not in key
        }
        save_file(
            {**{f"inputs.{key}": tensor for key, tensor in inputs.items()}, **kept}, GOLDEN / f"{name}.safetensors"
        )
        (GOLDEN / f"{name}.json").write_text(json.dumps({**facts, **extra}) + "\n")
    shapes = ldm_shapes({})
    short = {
        "count": len(shapes),
        "elements": sum(torch.Size(shape).numel() for shape in shapes.values()),
        "shapes": {
            name: list(shape) for name, shape in sorted(shapes.items()) if "warp_zero" in name or "op.weight" in name
        },
    }
    (GOLDEN / "tryon_full_size.json").write_text(json.dumps(short) + "\n")


if __name__ == "__main__":
    main()
