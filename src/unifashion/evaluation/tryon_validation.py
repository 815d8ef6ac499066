"""Validation during try-on training: a few test pairs, generated from fixed seeds, shown beside the truth; and their SSIM."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from unifashion.data.contact_sheet import contact_sheet
from unifashion.data.tryon import TryOnItem
from unifashion.evaluation.metrics import ssim
from unifashion.tryon.maps import Maps, to_share, to_unit
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext

Shown = tuple[TryOnItem, Maps]


@dataclass(frozen=True)
class TryOnValidation:
    """Results of a validation: (B, 3, H, W) in [0, 1], their mean SSIM to the truth, and that of the agnostic pictures."""

    pictures: Tensor
    ssim: float
    ssim_agnostic: float
    sheet: Image.Image


def validate_tryon(
    pipe: TryOnPipeline,
    pairs: Sequence[Shown],
    steps: int = 50,
    guidance_scale: float = 1.0,
    context: QFormerContext | None = None,
) -> TryOnValidation:
    """Draw paired items, each from its own seed, without repainting, and lay them out: agnostic, garment, result, truth.

    Args:
        pipe: the pipeline.
        pairs: items with their maps in the pipeline's size: image, agnostic, densepose, keep, garment, and the control.
        steps: of the sampler.
        guidance_scale: 1 = no unconditional pass.
        context: for a denoiser with an adapter.
    """
    config = pipe.denoiser.config
    items = [item for item, _ in pairs]
    maps = {name: torch.stack([each[name] for _, each in pairs]) for name in pairs[0][1]}
    units = {name: to_share(pixels) if name == "keep" else to_unit(pixels) for name, pixels in maps.items()}
    texts = [item.text for item in items]
    pictures = pipe(
        person=units["agnostic"],  # never the truth
        garment=units[config.control],
        agnostic_mask=units["keep"],
        densepose=units["densepose"],
        agnostic=units["agnostic"],
        prompt=texts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=pipe.seeded(range(len(items))),
        rows=context(maps[config.control], texts) if context else None,
        output_type="pt",
    ).images.cpu()
    truth, agnostic, garment = (units[name] / 2 + 0.5 for name in ("image", "agnostic", "garment"))
    columns = (agnostic, garment, pictures, truth)
    cells = [to_picture(column[row]) for row in range(len(items)) for column in columns]
    heads = ["person", "garment", "result", "truth"] * len(items)
    sheet = contact_sheet(cells, 8 if len(items) > 1 else 4, 128, heads, caption_lines=1)
    return TryOnValidation(pictures, float(ssim(pictures, truth).mean()), float(ssim(agnostic, truth).mean()), sheet)


def to_picture(image_3HW: Tensor) -> Image.Image:
    """Return a picture of values in [0, 1]; small ones are enlarged without smoothing."""
    array = (image_3HW.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(array)
    factor = max(128 // picture.height, 1)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
