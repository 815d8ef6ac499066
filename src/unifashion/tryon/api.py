"""Try-on in two lines: a person, a garment, a picture.

    tryon = TryOn.from_pretrained("runs/tryon")
    picture = tryon(Person(photo, agnostic_mask, densepose), garment, "red striped shirt")

For more than one pair (batches, tensors, other starts) use ``TryOnPipeline``, which is ``tryon.pipe``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from PIL import Image

from unifashion.data.images import open_image
from unifashion.data.tryon import TryOnItem
from unifashion.distributed import choose_device
from unifashion.errors import UserError
from unifashion.tryon.loading import load_pipeline
from unifashion.tryon.maps import Picture, open_map, read_maps, to_share, to_unit
from unifashion.tryon.pipeline import STEPS, TryOnPipeline
from unifashion.tryon.qformer_context import QFormerContext, check_retriever
from unifashion.tryon.settings import Control, ControlRead
from unifashion.tryon.sketch import Sketcher

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


@dataclass(frozen=True)
class Person:
    """A person and the maps that say where a garment goes: pictures, or their files, all of one frame.

    image          the photo
    agnostic_mask  white where something is painted: the garment and what it may cover (arms); other forms of masks: masks.py
    densepose      the body's surface in DensePose's colours, as in VITON-HD's image-densepose, or part numbers; black = not known
    agnostic       the photo with that region hidden, as in VITON-HD's agnostic-v3.2; None = grey where the mask is white

    VITON-HD and the embedded set have all four; ``unifashion prepare tryon`` makes masks and agnostic pictures from parse maps
    and poses. The DensePose map must come from elsewhere.
    """

    image: Picture
    agnostic_mask: Picture
    densepose: Picture
    agnostic: Picture | None = None

    @classmethod
    def of(cls, item: TryOnItem) -> "Person":
        """Return the person of a data set's pair, read with ``PERSON_MAPS`` among its needs."""
        maps = item.maps
        return cls(maps["image"], maps["agnostic_mask"], maps["densepose"], maps.get("agnostic"))


class TryOn:
    """A try-on model that is ready to draw.

    ``sketcher`` draws garments for a model that reads their sketches; set the one whose sketches it was trained with.
    """

    def __init__(self, pipe: TryOnPipeline, context: QFormerContext | None = None) -> None:
        """Take a pipeline, and the retrieval model if its denoiser was trained with one.

        Raises:
            UserError: one without the other, or another retrieval model than that.
        """
        self.pipe, self.context = pipe, context
        self.sketcher = Sketcher()
        pipe.set_progress_bar_config(disable=True)
        _check_context(pipe, context is not None)
        trained_with = pipe.denoiser.config.retriever
        if context is not None and trained_with is not None:
            check_retriever(trained_with, context.weights_hash)
        if context is not None:
            context.apply(pipe.qformer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        base: str | None = None,
        control: ControlRead = "as-trained",
        retriever: str | Path | None = None,
        device: torch.device | str | None = None,
        precision: str = "auto",
        scheduler: str = "default",
    ) -> "TryOn":
        """Open a model.

        Args:
            name: a try-on run or pipeline folder, a hub id, or a StableVITON ``.ckpt``.
            base: Stable Diffusion 1.x in diffusers form, for a ``.ckpt``.
            control: what the garment encoder of a ``.ckpt`` reads (``tryon.settings.Control``; default: garment).
            retriever: the retrieval model that the denoiser was trained with, if it was.
            device: where it runs; None = a GPU where there is one.
            precision: fp32, bf16, or auto = bf16 on a GPU that has it.
            scheduler: default = the one in the model's folder, or a name of ``SCHEDULERS``.

        Raises:
            UserError: no model there, or the retriever does not fit it.
        """
        where = choose_device(device)
        pipe = load_pipeline(name, base, control)
        bf16 = where.type == "cuda" and torch.cuda.is_bf16_supported() and precision == "auto"
        pipe.to(where, *([torch.bfloat16] if bf16 or precision == "bf16" else []))
        change_scheduler(pipe, scheduler)
        _check_context(pipe, retriever is not None)
        return cls(pipe, QFormerContext(retriever, where) if retriever else None)

    @property
    def reads(self) -> Control:
        """Return what the garment encoder reads: the garment's photo, a sketch of that photo, or a sketch of it as worn."""
        return self.pipe.denoiser.config.control

    def __call__(
        self,
        person: Person,
        garment: Picture,
        words: str = "",
        *,
        is_sketch: bool = False,
        steps: int = STEPS,
        guidance_scale: float = 1.0,
        repaint: bool = False,
        seed: int = 0,
        size: Literal["photo", "model"] = "photo",
        on_step: Callable[[int, int], None] | None = None,
    ) -> Image.Image:
        """Draw the person in the garment.

        Args:
            person: photo and maps. Of a photo in another aspect ratio than the model's, the model sees a window around the mask.
            garment: its photo; for a model that reads "sketch", the sketch as this person wears it. Alpha is put over white.
            words: its caption.
            is_sketch: the garment for a model that reads "garment-sketch" is one already; by default it is made of the photo.
            steps: of the sampler.
            guidance_scale: 1 = no unconditional pass.
            repaint: put back the photo's pixels where the mask is not white.
            seed: the same seed draws the same picture.
            size: of the result: the photo's, what was drawn in its place; or the model's, what was drawn alone.
            on_step: called as (steps done, steps in all) after each step.

        Raises:
            UserError: a file that cannot be read, or maps that show another frame than the photo; a sketch for a model that
                reads photos.
        """
        if is_sketch and self.reads == "garment":
            raise UserError("this model reads photos of garments: give the garment's photo, without is_sketch")
        if self.reads == "garment-sketch" and not is_sketch:
            garment = self.sketcher(open_image(garment))
        height, width = self.pipe.denoiser.config.image_size
        pictures = {
            "image": person.image,
            "keep": person.agnostic_mask,
            "densepose": person.densepose,
            "garment": garment,
        }
        if person.agnostic is not None:
            pictures["agnostic"] = person.agnostic
        maps, frame = read_maps(pictures, height, width)
        units = {name: to_share(pixels) if name == "keep" else to_unit(pixels) for name, pixels in maps.items()}
        rows = None if self.context is None else self.context(maps["garment"][None], [words])

        def stepped(_: Any, index: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(min(index + 1, steps), steps)
            return tensors

        drawn = self.pipe(
            person=units["image"][None],
            garment=units["garment"][None],
            agnostic_mask=units["keep"][None],
            densepose=units["densepose"][None],
            agnostic=units["agnostic"][None] if "agnostic" in units else None,
            prompt=words,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            repaint=repaint,
            generator=self.pipe.seeded([seed]),
            rows=rows,
            callback_on_step_end=stepped,
        )
        if size == "model":
            return drawn.images[0]
        photo = open_image(person.image)
        result = frame.paste(photo, drawn.images[0])
        if not repaint or result.size == drawn.images[0].size:
            return result
        mask = open_map(person.agnostic_mask, "keep").resize(photo.size, Image.Resampling.BILINEAR)
        return Image.composite(result, photo, mask)  # the photo's own pixels, not those that were scaled


def change_scheduler(pipe: TryOnPipeline, name: str) -> None:
    """Give the pipeline another sampler over the same noise schedule."""
    if name != "default":
        kind, extra = SCHEDULERS[name]
        config = pipe.scheduler.config
        extra = {
            **extra,
            "prediction_type": config.prediction_type,
        }  # from_config drops what was a default of the other class
        pipe.scheduler = getattr(diffusers, kind).from_config(config, **extra)


def _check_context(pipe: TryOnPipeline, given: bool) -> None:
    width = pipe.denoiser.config.adapter_width
    if given == (width is None):
        raise UserError(
            "this model was trained without a retrieval model: leave out --retriever"
            if given
            else "this model was trained with rows of a retrieval model: name it with --retriever"
        )
