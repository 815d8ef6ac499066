"""Draw garments from an image, from words, or from both, by a checkpoint that was trained with the loss q2i.

    unifashion design dress.jpg --model runs/unified/pretrain -o drawn
    unifashion design dress.jpg shirt.jpg --words "is red and has long sleeves" --model runs/unified/cir_ft -o drawn
    unifashion design --words "a red dress with long sleeves" --num-images 4 --model runs/unified/cir_ft -o drawn

Pictures are named after the image, or after the words, with the number of the drawing; all.png shows them side by side, behind
the images that they were drawn from.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from unifashion.errors import UserError
from unifashion.flags import REQUIRED, SEEDS, argument, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Design: from what, by which model, and how it is drawn."""

    image: tuple[str, ...] = argument("image files", ())
    words: str = setting("", "what is drawn; with images: what should be different")
    model: str = setting(REQUIRED, "a run, a saved model folder or a hub id")
    output: Path = setting(Path("drawn"), "folder to write", short="-o")
    num_images: int = setting(1, "drawings of each", least=1, most=256)
    steps: int = setting(50, "of the sampler", least=1, most=1000)
    guidance: float = setting(5.0, "how strongly image and words steer; 1 = not more than in training", most=100)
    diffusion_model: str | None = setting(None, "where the Stable Diffusion is [where it was in training]")
    batch_size: int = setting(8, "drawings at once", least=1, most=1024)
    seed: int = setting(0, "of the first noise", below=SEEDS)
    device: str | None = setting(None, "as torch names it [the GPU if there is one]")
    overwrite: bool = setting(False, "replace pictures of the same names")

    def __post_init__(self) -> None:
        if not self.image and not self.words.strip():
            raise UserError("name images, words with --words, or both")


def run(settings: Settings) -> None:
    """Draw, write, and say where."""
    from PIL import Image

    from unifashion.data.contact_sheet import contact_sheet
    from unifashion.data.images import load_image
    from unifashion.io import check_output, replacing
    from unifashion.llm.designer import Designer

    folder = settings.output
    check_output(folder, "--output")
    files = _names(settings)
    taken = [folder / name for name in files if (folder / name).exists()]
    if taken and not settings.overwrite:
        raise UserError(f"{taken[0]} exists; name another folder with -o, or add --overwrite")
    sources = [load_image(Path(name)) for name in settings.image]
    designer = Designer.from_pretrained(settings.model, settings.device, settings.diffusion_model)
    starts: list[Image.Image | None] = [*sources] or [None]
    images = [start for start in starts for _ in range(settings.num_images)]
    drawn = designer.design(
        images,
        [settings.words] * len(images),
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    for number, (name, picture) in enumerate(zip(files, drawn, strict=True)):
        with replacing(folder / name) as unfinished:
            picture.save(unfinished, "PNG")
        if sources and number % settings.num_images == 0:
            cells.append(sources[number // settings.num_images])
        cells.append(picture)
    with replacing(folder / "all.png") as unfinished:
        contact_sheet(cells, settings.num_images + bool(sources), 192).save(unfinished, "PNG")
    sys.stdout.write(f"{len(drawn)} drawings, and all.png beside them, are in {folder}\n")


def _names(settings: Settings) -> list[str]:
    """Return the files' names, one per drawing; two images of one name get numbers that go on."""
    stems = [Path(name).stem for name in settings.image] or [
        re.sub(r"\W+", "-", settings.words.strip())[:60].strip("-") or "design"
    ]
    counts: dict[str, int] = {}
    names = []
    for stem in stems:
        for _ in range(settings.num_images):
            counts[stem] = counts.get(stem, 0) + 1
            names.append(f"{stem}_{counts[stem]}.png")
    return names
