"""Any photo of a person, any product photo: what the try-on pipeline needs is made of them.

The model reads two maps of the person: the agnostic mask (white = drawn anew) and a DensePose map. Where they are missing, a
box over the middle of the photo from neck to hips stands for the mask, and black (no body known) for the map. That is a way to
have a look, not what the model was trained on; maps of the person make the result.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageOps

from unifashion.data.tryon_maps import to_map
from unifashion.errors import UserError
from unifashion.serving.demo.refusals import Refusal
from unifashion.serving.demo.service import Progress
from unifashion.tryon.loading import load_pipeline, quiet_libraries
from unifashion.tryon.pipeline import TryOnPipeline
from unifashion.tryon.retriever import Retriever

TORSO = (0.2, 0.16, 0.8, 0.68)  # left, top, right, bottom of the box, as shares of the photo
STEPS = 30
RATIO_TOLERANCE = 0.02


class Tailor:
    """A try-on model that takes photos."""

    def __init__(self, pipe: TryOnPipeline, retriever: Retriever | None = None, steps: int = STEPS) -> None:
        """Take a pipeline, and the retrieval model that it was trained with if there was one.

        Raises:
            UserError: a model that reads sketches, or one that needs a retrieval model.
        """
        if pipe.denoiser.config.control != "garment":
            raise UserError("--tryon-model reads sketches of garments; the demo needs one that reads their photos")
        if pipe.denoiser.adapter is not None and retriever is None:
            raise UserError("--tryon-model was trained beside a retrieval model; name that with --tryon-retriever")
        self._pipe, self._retriever, self._steps = pipe, retriever if pipe.denoiser.adapter is not None else None, steps
        self._pipe.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, name: str | Path, retriever: str | None = None, device: str | None = None) -> "Tailor":
        """Load a try-on run or folder.

        Raises:
            UserError: nothing there, or a model that the demo cannot use.
        """
        quiet_libraries()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_pipeline(name).to(device), Retriever(retriever, device) if retriever else None)

    def dress(
        self, person: Image.Image, garment: Image.Image, words: str, maps: Mapping[str, Image.Image], progress: Progress
    ) -> Image.Image:
        """Return the person in the garment, at the model's size; the photo's edges are cut to the model's ratio.

        Args:
            person: RGB photo.
            garment: RGB photo of the product.
            words: its caption.
            maps: "mask" and "pose", of the same frame as the photo; either may be missing.
            progress: called as (step, steps).

        Raises:
            Refusal: a map of another shape than the photo.
        """
        height, width = self._pipe.denoiser.config.image_size
        for name, picture in maps.items():
            ratio = picture.width / picture.height * person.height / person.width
            if abs(ratio - 1) > RATIO_TOLERANCE:
                raise Refusal(f"The {name} has another shape than the photo; both must show the same frame.")
        fitted = {name: ImageOps.fit(picture, (width, height)) for name, picture in maps.items()}

        def step(pipe: Any, number: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            progress(number + 1, len(pipe.scheduler.timesteps))
            return {}

        found = self._pipe(
            ImageOps.fit(person, (width, height)),
            garment.resize((width, height), Image.Resampling.BICUBIC),
            agnostic_mask=fitted.get("mask") or torso_mask(width, height),
            densepose=fitted.get("pose") or Image.new("RGB", (width, height)),
            prompt=words,
            num_inference_steps=self._steps,
            generator=self._pipe.seeded([0]),
            rows=self._rows(garment, words, height, width),
            callback_on_step_end=step,
        )
        return found.images[0]

    def _rows(self, garment: Image.Image, words: str, height: int, width: int) -> torch.Tensor | None:
        if self._retriever is None:
            return None
        return self._retriever(to_map(garment, "garment", height, width)[None], [words])


def torso_mask(width: int, height: int) -> Image.Image:
    """Return a mask that is white where the upper body of a person in the middle is."""
    mask = Image.new("RGB", (width, height))
    left, top, right, bottom = TORSO
    box = (left * width, top * height, right * width - 1, bottom * height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=width // 16, fill="white")
    return mask
