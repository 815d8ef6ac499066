"""Garments drawn from an image, from words, or from both, by a checkpoint with a diffusion head (the loss q2I).

designer = Designer.from_pretrained("runs/unified/cir_ft")
designer.design(["dress.jpg"])                                    # what the photo shows
designer.design(["dress.jpg"], ["is red and has long sleeves"])   # the photo, changed as the words say
designer.design([None], ["a red dress with long sleeves"])        # the words alone
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from unifashion.data.feedback import prepare_text
from unifashion.data.images import normalise, open_image
from unifashion.distributed import choose_device
from unifashion.errors import UserError
from unifashion.llm.heads import find_heads
from unifashion.llm.model import UniFashionFull
from unifashion.seeding import seed_for

Picture = str | Path | Image.Image


class Designer:
    """A model that draws garments, on its device."""

    def __init__(self, model: UniFashionFull) -> None:
        """Take a model.

        Raises:
            UserError: it has no diffusion head.
        """
        if model.diffusion is None:
            raise UserError(
                "this checkpoint has no diffusion head, so it draws nothing; train one with --losses ...+q2i --diffusion-model"
            )
        self.model, self.head = model.eval(), model.diffusion

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | None = None, diffusion_model: str | None = None
    ) -> "Designer":
        """Load a run, a saved model folder or a hub id.

        Args:
            name: the checkpoint.
            device: as torch names it; default: the GPU where there is one.
            diffusion_model: where the Stable Diffusion of the head is, if not where it was in training.

        Raises:
            UserError: nothing there, or a model that does not draw.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        where = choose_device(device)
        if find_heads(name) is None:
            raise UserError(f"{name} has no diffusion head; train one with --losses ...+q2i --diffusion-model")
        model = UniFashionFull.from_pretrained(name, diffusion_model=diffusion_model, language=False)
        return cls(model.to(where))

    def design(
        self,
        images: Sequence[Picture | None],
        words: Sequence[str] | None = None,
        *,
        steps: int = 50,
        guidance: float = 5.0,
        seed: int = 0,
        batch_size: int = 8,
    ) -> list[Image.Image]:
        """Return one drawing per image.

        >>> [picture.mode for picture in designer.design(["front.png"], ["in red"], steps=2)]
        ['RGB']

        Args:
            images: files or Pillow images; None = from the words alone.
            words: for each image; "" = from the image alone.
            steps: of the sampler.
            guidance: how strongly image and words steer; 1 = not more than in training.
            seed: a row's first noise depends on it and on the row's number alone.
            batch_size: drawings at once.

        Raises:
            ImageError: an image that cannot be read.
            UserError: neither image nor words.
        """
        texts = list(words) if words is not None else [""] * len(images)
        for image, text in zip(images, texts, strict=True):
            if image is None and not text.strip():
                raise UserError("name an image, words, or both: there is nothing to draw from")
        # Rows with and without image, and with and without words, go through different passes.
        order = sorted(range(len(images)), key=lambda row: (images[row] is None, not texts[row].strip()))
        pictures: dict[int, Image.Image] = {}
        for part in _batches(order, images, texts, batch_size):
            noise = [seed_for("design", seed, row) for row in part]
            pixels = self._draw([images[row] for row in part], [texts[row] for row in part], noise, steps, guidance)
            pictures |= dict(zip(part, map(_to_image, pixels), strict=True))
        return [pictures[row] for row in range(len(images))]

    @torch.inference_mode()
    def _draw(
        self, images: Sequence[Picture | None], texts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float
    ) -> Tensor:
        rows_BQH = (
            None if images[0] is None else self.query_rows([image for image in images if image is not None], texts)
        )
        return self.head.draw(rows_BQH, texts, steps, guidance, [torch.Generator().manual_seed(seed) for seed in seeds])

    @torch.inference_mode()
    def query_rows(self, images: Sequence[Picture], texts: Sequence[str]) -> Tensor:
        """Return the rows (B, Q, H) that the head reads: of the images, and with words where composed queries were trained."""
        network, device = self.model.base, self.model.base.temperature.device
        pixels = torch.stack([network.image_transform(open_image(image)) for image in images])
        memory = network.read_images(normalise(pixels.to(device)))
        if not texts[0].strip() or network.config.target_queries != "prompt_tokens":
            return network.query_rows(memory)  # phase 1 reads the image, and the words are the prompt
        ids_BL, mask_BL = (tensor.to(device) for tensor in network.tokenize([prepare_text(text) for text in texts]))
        return network.query_rows(memory, ids_BL, mask_BL)


def _batches(
    order: Sequence[int], images: Sequence[Picture | None], texts: Sequence[str], size: int
) -> list[list[int]]:
    """Cut sorted rows into batches of rows of one kind."""
    batches: list[list[int]] = []
    kind = None
    for row in order:
        own = images[row] is None, not texts[row].strip()
        if own != kind or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(row)
        kind = own
    return batches


def _to_image(pixels_3ST: Tensor) -> Image.Image:
    return Image.fromarray((pixels_3ST * 255).round().byte().permute(1, 2, 0).cpu().numpy())
