"""``unifashion prepare``: turn original downloads into what training reads.

unifashion prepare fashiongen --source fashiongen_256_256_train.h5 fashiongen_256_256_validation.h5
unifashion prepare fashioniq --source fashion-iq/ asin2url.dress.txt asin2url.shirt.txt
unifashion prepare cirr --source cirr_annotations.zip cirr_photos.tar
unifashion prepare catalogue --source products.csv --max-side 1024
unifashion prepare tryon --source dataset/vitonhd dataset/dresscode
unifashion prepare catalogue --check

``tryon`` adds to VITON-HD or DressCode the maps that the download lacks, beside those it has: agnostic picture and mask, sketches
(see unifashion.apps.prepare.tryon). A call that was stopped goes on where it stood. FashionGen's HDF5 files are also read as
they are: unpack them to look at photos.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unifashion.data.datasets import retrieval_sets

if TYPE_CHECKING:
    from unifashion.apps.prepare.job_runner import Done


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "set", metavar="SET", help=f"{', '.join(spec.name for spec in retrieval_sets() if spec.prepare)} or tryon"
    )
    parser.add_argument("--source", metavar="PATH", nargs="+", type=Path, default=[], help="what was downloaded")
    parser.add_argument(
        "--data-root", metavar="DIR", type=Path, help="where the set's folder goes [$UNIFASHION_DATA, else dataset/]"
    )
    parser.add_argument(
        "--max-side", type=int, default=0, help="make longer photos this long, pixels (catalogue) [as they are]"
    )
    parser.add_argument(
        "--sketch-model",
        metavar="FILE",
        type=Path,
        help="TorchScript edge network for sketches, such as PiDiNet (tryon) [none]",
    )
    parser.add_argument("--threads", type=int, default=8, help="files at a time [%(default)s]")
    parser.add_argument("--check", action="store_true", help="compare the files with the manifest instead")


def run(flags: argparse.Namespace) -> int:
    """Prepare or check; return 1 where files failed or were changed."""
    from unifashion.apps.prepare import Options, check, prepare
    from unifashion.errors import UserError

    root = flags.data_root or Path(os.environ.get("UNIFASHION_DATA") or "dataset")
    if flags.set == "tryon":
        return _tryon(flags, flags.source or [root])
    if flags.sketch_model:
        raise UserError(f"--sketch-model is for tryon, not for {flags.set}")
    if flags.check:
        return _report(check(flags.set, root))
    if not flags.source:
        raise UserError("--source is required: what was downloaded")
    if flags.threads < 1 or flags.max_side < 0:
        raise UserError("--threads must be at least 1 and --max-side at least 0")
    folder, done = prepare(flags.set, flags.source, root, Options(flags.max_side, flags.threads))
    if done is None:
        sys.stdout.write(f"{folder} is complete; nothing was done (remove its manifest.json to look at every file)\n")
        return 0
    return _tell(folder, done)


def _tryon(flags: argparse.Namespace, sources: list[Path]) -> int:
    from unifashion.apps.prepare.tryon import check_tryon, prepare_tryon
    from unifashion.errors import UserError

    if flags.threads < 1:
        raise UserError("--threads must be at least 1")
    if flags.check:
        return _report([fault for source in sources for fault in check_tryon(source)])
    codes = [_tell(*prepare_tryon(source, flags.sketch_model, flags.threads)) for source in sources]
    return max(codes)


def _report(found: list[str]) -> int:
    for fault in found:
        sys.stdout.write(f"{fault}\n")
    sys.stdout.write(f"{len(found)} files are not as the manifest says\n")
    return 1 if found else 0


def _tell(folder: Path, done: "Done") -> int:
    failed = f"; {len(done.failed):,} failed, the reasons are in {folder / 'failed.csv'}" if done.failed else ""
    sys.stdout.write(f"{folder}: {done.made:,} files made, {done.kept:,} were there{failed}\n")
    return 1 if done.failed else 0
