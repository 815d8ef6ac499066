"""Convert other projects' checkpoints into a UniFashion model, or back.

unifashion convert blip2_cir_rerank.pt runs/published             an original checkpoint becomes a model folder
unifashion convert blip2_cir_full.pt runs/full                    likewise; then: unifashion caption --model runs/full --llm LLM
unifashion convert Salesforce/blip2-itm-vit-g models/blip2        so does a Hugging Face BLIP-2
unifashion convert runs/cir/best mine.pt --to lavis               and back, for the code of LAVIS, SPRC and UniFashion
unifashion convert VITONHD.ckpt models/viton --base SD_FOLDER     StableVITON becomes a try-on pipeline
unifashion convert MGD.ckpt models/mgd --base SD_FOLDER --control garment-sketch   UNIStableVITON likewise
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.flags import argument, setting
from unifashion.tryon.settings import CONTROL_READ_DOC, ControlRead


@dataclass(frozen=True)
class Settings:
    """Conversion: from what, into what."""

    source: str = argument(
        "a .pt/.pth of UniFashion, SPRC or LAVIS, a Hugging Face BLIP-2 (folder or hub id), a UniFashion model, or, with "
        "--base, a .ckpt of StableVITON",
        name="IN",
    )
    out: str = argument("model folder to write; with --to lavis a .pt file")
    to: Literal["unifashion", "lavis"] = setting("unifashion", "form to write")
    tokenizer: str | None = setting(
        None,
        "tokenizer of the checkpoint, folder or hub id [its own, else bert-base-uncased]; [DEC] is added if it is missing; "
        "if it has the weights of a BERT, they fill in text parts that the checkpoint lacks",
    )
    vision_tower: str | None = setting(
        None,
        "image tower for a checkpoint without one, such as blip2_pretrained.pth: LAVIS' eva_vit_g.pth or "
        "clip_vit_L.pth, or any checkpoint that has it [one of these files, if it lies beside IN]",
    )
    base: str | None = setting(
        None,
        "IN is a .ckpt of StableVITON or UNIStableVITON: Stable Diffusion 1.x in diffusers form (folder or hub id), for its "
        "text encoder and tokenizer",
    )
    control: ControlRead = setting("as-trained", CONTROL_READ_DOC)
    overwrite: bool = setting(False, "replace OUT")


def run(settings: Settings) -> None:
    """Convert and say where the result is."""
    from unifashion.io import check_output

    out = Path(settings.out)
    check_output(out, "OUT", is_file=settings.to == "lavis")
    if settings.base:
        from unifashion.tryon.loading import convert_ckpt

        convert_ckpt(Path(settings.source), out, settings.base, settings.control, settings.overwrite)
    else:
        from unifashion.convert import convert

        names = settings.tokenizer, settings.vision_tower
        out = convert(settings.source, settings.out, settings.to, *names, settings.overwrite)
    sys.stdout.write(f"written to {out}\n")
