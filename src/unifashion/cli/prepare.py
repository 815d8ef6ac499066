"""Turn original downloads into what training reads.

    unifashion prepare fashiongen --source fashiongen_256_256_train.h5 fashiongen_256_256_validation.h5
    unifashion prepare fashioniq --source fashion-iq/ asin2url.dress.txt asin2url.shirt.txt
    unifashion prepare cirr --source cirr_annotations.zip cirr_photos.tar
    unifashion prepare catalogue --source products.csv --max-side 1024
    unifashion prepare tryon --source dataset/vitonhd dataset/dresscode
    unifashion prepare catalogue --check

``tryon`` adds to VITON-HD or DressCode the maps that the download lacks, beside those it has: agnostic picture and mask, sketches
(see unifashion.apps.prepare.tryon). A call that was stopped continues where it stopped. FashionGen's HDF5 files are also read as
they are: unpack them to look at photos.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unifashion.data.datasets import names, retrieval_sets
from unifashion.data.settings import default_root
from unifashion.errors import UserError
from unifashion.flags import argument, setting


@dataclass(frozen=True)
class Settings:
    """Preparation: of which data set, from which downloads."""

    set: str = argument(f"{', '.join(names(spec for spec in retrieval_sets() if spec.prepare))} or tryon")
    source: tuple[Path, ...] = setting((), "what was downloaded")
    data_root: Path | None = setting(None, "where the set's folder goes [$UNIFASHION_DATA, else dataset/]")
    max_side: int = setting(0, "shrink larger photos to this side, pixels (catalogue); 0 = as they are", most=2**16)
    sketch_model: Path | None = setting(None, "TorchScript edge network for sketches, such as PiDiNet (tryon) [none]")
    trust_sketch_model: bool = setting(False, "run that network, which is a program and can read and write your files")
    threads: int = setting(8, "files at a time", least=1, most=256)
    check: bool = setting(False, "compare the files with the manifest instead")

    def __post_init__(self) -> None:
        if self.sketch_model and self.set != "tryon":
            raise UserError(f"--sketch-model is for tryon, not for {self.set}")
        if self.trust_sketch_model and not self.sketch_model:
            raise UserError("--trust-sketch-model without --sketch-model: name the network")


def run(settings: Settings) -> int:
    """Prepare or check; return 1 where files failed or were changed."""
    from unifashion.apps.prepare import Options, check, prepare
    from unifashion.apps.prepare.job_runner import Done
    from unifashion.apps.prepare.tryon import check_tryon, prepare_tryon
    from unifashion.io import check_output

    root = settings.data_root or default_root()
    is_tryon, sources = settings.set == "tryon", settings.source or (root,)
    if settings.check:
        faults = [fault for path in sources for fault in check_tryon(path)] if is_tryon else check(settings.set, root)
        sys.stdout.write("".join(f"{line}\n" for line in [*faults, f"{len(faults)} files differ from the manifest"]))
        return 1 if faults else 0
    outcomes: Iterable[tuple[Path, Done]]
    if is_tryon:
        sketch = settings.sketch_model, settings.threads, True, settings.trust_sketch_model
        outcomes = (prepare_tryon(path, *sketch) for path in sources)
    else:
        if not settings.source:
            raise UserError("--source is required: what was downloaded")
        check_output(root, "--data-root")
        folder, done = prepare(settings.set, settings.source, root, Options(settings.max_side, settings.threads))
        if done is None:
            sys.stdout.write(f"{folder} is complete; nothing was done (remove its manifest.json to check every file)\n")
            return 0
        outcomes = [(folder, done)]
    code = 0
    for folder, done in outcomes:
        failed = f"; {len(done.failed):,} failed, the reasons are in {folder / 'failed.csv'}" if done.failed else ""
        sys.stdout.write(f"{folder}: {done.made:,} files made, {done.kept:,} already there{failed}\n")
        code = 1 if done.failed else code
    return code
