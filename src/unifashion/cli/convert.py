"""``unifashion convert``: turn checkpoints of others into a UniFashion model, or back.

unifashion convert blip2_cir_rerank.pt runs/published        an original checkpoint becomes a model folder
unifashion convert Salesforce/blip2-itm-vit-g models/blip2   so does a Hugging Face BLIP-2
unifashion convert runs/cir/best mine.pt --to lavis          and back, for the code of LAVIS, SPRC and UniFashion
unifashion convert VITONHD.ckpt models/viton --base SD_FOLDER  StableVITON becomes a try-on pipeline
unifashion convert MGD.ckpt models/mgd --base SD_FOLDER --control sketch    UNIStableVITON likewise
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from unifashion.tryon.settings import CONTROL_READ_DOC, ControlRead


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "source",
        metavar="IN",
        help="a .pt/.pth of UniFashion, SPRC or LAVIS, a Hugging Face BLIP-2 (folder or hub id), a UniFashion model, or, with "
        "--base, a .ckpt of StableVITON",
    )
    parser.add_argument("out", metavar="OUT", help="model folder to write; with --to lavis a .pt file")
    parser.add_argument(
        "--to", choices=("unifashion", "lavis"), default="unifashion", help="form to write [%(default)s]"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="tokenizer of the checkpoint, folder or hub id [its own, else bert-base-uncased]; [DEC] is added where it lacks; "
        "if NAME has the weights of a BERT, they fill in text parts that the checkpoint lacks",
    )
    parser.add_argument(
        "--vision-tower",
        metavar="NAME",
        help="image tower for a checkpoint without one, such as blip2_pretrained.pth: LAVIS' eva_vit_g.pth or "
        "clip_vit_L.pth, or any checkpoint that has it [one of these files, if it lies beside IN]",
    )
    parser.add_argument(
        "--base",
        metavar="NAME",
        help="IN is a .ckpt of StableVITON or UNIStableVITON: Stable Diffusion 1.x in diffusers form (folder or hub id), for its "
        "text encoder and tokenizer",
    )
    parser.add_argument("--control", choices=get_args(ControlRead), default="as-trained", help=CONTROL_READ_DOC)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def run(flags: argparse.Namespace) -> None:
    """Convert and say where the result is."""
    if flags.base:
        from unifashion.tryon.loading import convert_ckpt

        convert_ckpt(Path(flags.source), Path(flags.out), flags.base, flags.control, flags.overwrite)
        sys.stdout.write(f"written to {flags.out}\n")
        return
    from unifashion.convert import convert

    out = convert(flags.source, flags.out, flags.to, flags.tokenizer, flags.vision_tower, flags.overwrite)
    sys.stdout.write(f"written to {out}\n")
