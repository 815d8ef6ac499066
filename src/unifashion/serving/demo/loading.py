"""Load what the demo serves: the index with its model, and the models for captions and try-on."""

import logging
from dataclasses import dataclass
from typing import Any

from unifashion.llm.captioner import Captioner
from unifashion.serving import Retriever
from unifashion.serving.demo.service import Service
from unifashion.serving.demo.settings import DemoSettings

log = logging.getLogger(__name__)
OWN_WORDS = "blip2_cir_cls"  # the model that writes captions itself


@dataclass(frozen=True)
class Models:
    """Where everything lies."""

    index: str
    caption_model: str | None = None
    tryon_model: str | None = None
    tryon_retriever: str | None = None
    device: str | None = None
    uri: str | None = None


def load_service(models: Models, settings: DemoSettings) -> Service:
    """Open index and models.

    Raises:
        UserError: something is not there or cannot be used.
    """
    retriever = Retriever.from_index(models.index, device=models.device, uri=models.uri)
    return Service(retriever, settings, _captioner(models, retriever.model), _tailor(models))


def _captioner(models: Models, own: Any) -> Captioner | None:
    if models.caption_model is not None:
        return Captioner.from_pretrained(models.caption_model, models.device)
    if own.config.model_name == OWN_WORDS:
        return Captioner(own)
    log.info("a %s writes no captions; --caption-model adds a model that does", own.config.model_name)
    return None


def _tailor(models: Models) -> Any:
    if models.tryon_model is None:
        return None
    from unifashion.serving.demo.try_on import Tailor  # diffusers takes seconds to import

    return Tailor.from_pretrained(models.tryon_model, models.tryon_retriever, models.device)
