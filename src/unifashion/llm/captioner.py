"""Captions of images, from whichever head a checkpoint has.

captioner = Captioner.from_pretrained("runs/pretrain")          # blip2_cir_cls: the Q-Former's own language head
captioner = Captioner.from_pretrained("runs/caption_ft")        # blip2_cir_full: a language model
captioner.caption(["a.jpg", Image.open("b.png")])               # -> ["a red dress ...", "..."]
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from unifashion.data.images import normalise, open_image
from unifashion.distributed import choose_device
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.llm.answers import NoCaption, caption_of
from unifashion.llm.heads import find_heads
from unifashion.llm.model import UniFashionFull
from unifashion.models.generation import Decoding, generate, to_caption
from unifashion.models.unifashion import UniFashionModel

log = logging.getLogger(__name__)


class Captioner:
    """A model that writes captions, on its device."""

    def __init__(self, model: UniFashionModel | UniFashionFull) -> None:
        """Take a model.

        Raises:
            UserError: the model was not trained to write captions.
        """
        name = model.config.model_name
        if isinstance(model, UniFashionFull) and model.language is None:
            model = model.base  # its head draws
        if name != "blip2_cir_cls" and not isinstance(model, UniFashionFull):
            raise UserError(
                f"this {name} was not trained to write captions, or its language model is not named (--llm); use a "
                "blip2_cir_cls (phase 1) or a model that was trained with the loss itg"
            )
        self.model = model.eval()
        self.network = model.base if isinstance(model, UniFashionFull) else model
        self.transform = self.network.image_transform

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | None = None, llm: str | None = None) -> "Captioner":
        """Load a run, a saved model folder or a hub id.

        Args:
            name: the checkpoint.
            device: as torch names it; default: the GPU where there is one.
            llm: where the frozen language model of a blip2_cir_full is, if not where it was in training.

        Raises:
            UserError: nothing there, or a model that does not write captions.
        """
        transformers_logging.set_verbosity_error()
        where = choose_device(device)
        has_heads = find_heads(name) is not None
        if llm is not None and not has_heads:
            raise UserError(f"{name} has no head for a language model, so llm {llm!r} would not be used; leave it out")
        model = UniFashionFull.from_pretrained(name, llm) if has_heads else UniFashion.from_pretrained(name)
        return cls(model.to(where))

    def caption(
        self,
        images: Sequence[str | Path | Image.Image],
        decoding: Decoding | None = None,
        instruction: str | None = None,
        batch_size: int = 32,
        seed: int | None = None,
    ) -> list[str]:
        """Return one caption per image.

        >>> [type(caption) for caption in captioner.caption(["front.png", "back.png"])]
        [<class 'str'>, <class 'str'>]

        Args:
            images: files, or Pillow images.
            decoding: how words are chosen; greedily by default.
            instruction: to a language model, in place of the one it was trained with.
            batch_size: images at once; it changes no caption that is not sampled.
            seed: makes sampling repeatable.

        Raises:
            ImageError: an image that cannot be read.
            UserError: an instruction for a model without a language model.
        """
        captions: list[str] = []
        for start in range(0, len(images), batch_size):
            pixels = [self.transform(open_image(image)) for image in images[start : start + batch_size]]
            part_seed = None if seed is None else seed + start
            captions += self.caption_pixels(torch.stack(pixels), decoding, instruction, part_seed)
        return captions

    @torch.inference_mode()
    def caption_pixels(
        self,
        pixels_B3SS: Tensor,
        decoding: Decoding | None = None,
        instruction: str | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Return captions of one batch of uint8 images that went through ``transform``; arguments as in ``caption``.

        A language model's answer that is no caption (a refusal, thoughts alone) becomes an empty one, with a warning.
        """
        model, network, decoding = self.model, self.network, decoding or Decoding()
        if instruction is not None and not isinstance(model, UniFashionFull):
            raise UserError("--instruction is for a blip2_cir_full; the Q-Former's own head takes no instruction")
        device = network.temperature.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            image = network.read_images(normalise(pixels_B3SS.to(device)))
            if isinstance(model, UniFashionFull):
                assert model.language is not None, "checked when the model was taken"
                instructions = None if instruction is None else [instruction] * len(pixels_B3SS)
                return [
                    _caption(text) for text in model.language.generate(model.query_rows(image), decoding, instructions)
                ]
            tokenizer = network.tokenizer
            assert tokenizer is not None
            end = int(tokenizer.sep_token_id)  # type: ignore[arg-type]
            banned_ids = [token for token in tokenizer.all_special_ids if token != end]
            return [to_caption(tokenizer, ids) for ids in generate(network, image, end, decoding, banned_ids)]


def _caption(answer: str) -> str:
    try:
        return caption_of(answer)
    except NoCaption as error:
        log.warning("an image without a caption: %s", error)
        return ""
