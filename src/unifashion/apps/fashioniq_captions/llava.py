"""A LLaVA-NeXT or LLaVA 1.5 in Hugging Face form on this machine: questions in batches, greedy answers.

Any ``AutoModelForImageTextToText`` with a chat template should work; tested are LlavaNextForConditionalGeneration and
LlavaForConditionalGeneration. Photos are prepared by the processor's Pillow path, which needs no torchvision and gives the same
pixels on every machine.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from unifashion.apps.fashioniq_captions.backend import Dialogue, Refusal, Reply, messages
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings
from unifashion.errors import UserError, one_line
from unifashion.models.kinds import check_folder
from unifashion.models.weight_files import load_foreign

log = logging.getLogger(__name__)


class LlavaBackend:
    """One copy of the model on one device. While one batch is generated, the next may be prepared in another thread."""

    concurrency = 2

    def __init__(self, settings: CaptionerSettings, device: str) -> None:
        for library in (transformers_logging, hub_logging):
            library.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        _check_name(settings.model)
        log.info("loading %s", settings.model)
        self.batch_size, self.max_new_tokens = settings.batch_size, settings.max_new_tokens
        bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.startswith("cuda"))
        self.processor = _load(AutoProcessor, settings.model, backend="pil")
        self.model = _load(AutoModelForImageTextToText, settings.model, dtype=torch.bfloat16 if bf16 else torch.float32)
        self.model.eval().to(device)
        self._complete_processor(settings.model)
        self._one_at_a_time = threading.Lock()

    def _complete_processor(self, name: str) -> None:
        """Check the processor and fill in what older checkpoints keep only in the model's config."""
        processor, config = self.processor, self.model.config
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise UserError(
                f"--model {name} has no processor for images and text (processor_config.json, preprocessor_config.json and "
                "tokenizer files): copy them from the checkpoint that it was made from"
            )
        if not getattr(processor, "chat_template", None):
            raise UserError(
                f"--model {name} has no chat template: add chat_template.json of the checkpoint it was made from"
            )
        if getattr(processor, "patch_size", 0) is None:
            processor.patch_size = config.vision_config.patch_size
        if getattr(processor, "vision_feature_select_strategy", "") is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1  # CLIP's class token
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def answer(self, images: Sequence[Image.Image], dialogues: Sequence[Dialogue]) -> list[Reply | Refusal]:
        """Return the model's greedy answers; the same as for its photos one by one."""
        texts = [
            self.processor.apply_chat_template(messages(dialogue, {"type": "image"}), add_generation_prompt=True)
            for dialogue in dialogues
        ]
        try:
            inputs = self.processor(images=list(images), text=texts, padding=True, return_tensors="pt")
            with self._one_at_a_time:
                return self._generate(inputs)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise UserError(
                    "a single photo does not fit into GPU memory; use --precision bf16, a smaller --model or --endpoint"
                ) from None
        half = len(images) // 2
        self.batch_size = min(self.batch_size, half)
        log.warning("GPU memory ran out with %d photos; continuing with %d at a time", len(images), self.batch_size)
        return self.answer(images[:half], dialogues[:half]) + self.answer(images[half:], dialogues[half:])

    def close(self) -> None:
        """Nothing waits here."""

    @torch.inference_mode()
    def _generate(self, inputs: Any) -> list[Reply | Refusal]:
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        tokens_BL = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        new_BL = tokens_BL[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new_BL, skip_special_tokens=True)
        return [Reply(text.strip(), self._ended(row_L)) for text, row_L in zip(texts, new_BL, strict=True)]

    def _ended(self, row_L: Tensor) -> bool:
        ends = self.model.generation_config.eos_token_id
        return len(row_L) < self.max_new_tokens or bool(torch.isin(row_L.cpu(), torch.tensor(ends)).any())


def _check_name(name: str) -> None:
    """Look for the model's config only: without a network, the loaders below would try file after file, for minutes."""
    try:
        check_folder(name, "vision-language", "config.json")
    except UserError as error:
        raise UserError(f"--model {name}: {error}") from None


def _load(auto: Any, name: str, **options: object) -> Any:
    try:
        return load_foreign(auto, name, **options)
    except UserError as error:
        raise UserError(f"--model {name}: {error}") from None
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = "processor" if auto is AutoProcessor else "model"
        raise UserError(
            f"--model {name}: its {what} cannot be loaded ({one_line(error)}); name a LLaVA in Hugging Face form, a folder "
            "or a hub id"
        ) from None
