"""Load what the demo serves: the index with its model, and the models for captions and try-on."""

from dataclasses import dataclass
from typing import Any

from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.errors import UserError, sentence
from unifashion.llm.captioner import Captioner
from unifashion.models.unifashion import UniFashionModel
from unifashion.search import Retriever

CAPTIONS_ITSELF = "blip2_cir_cls"  # the variant that writes captions itself


@dataclass(frozen=True)
class Models:
    """Paths of index and models, and the device; the names are those of the flags."""

    index: str
    model: str | None = None
    caption_model: str | None = None
    tryon_model: str | None = None
    tryon_retriever: str | None = None
    device: str | None = None
    uri: str | None = None


def load_service(models: Models, settings: DemoSettings) -> Service:
    """Open index and models.

    Raises:
        UserError: one of them is missing or cannot be used.
    """
    return Service(_open(models), settings, _tryon(models), reopen=lambda: _open(models))


def _open(models: Models) -> Loaded:
    retriever = Retriever.from_index(models.index, device=models.device, uri=models.uri, model=models.model)
    return Loaded(retriever, _captioner(models, retriever.model))


def _captioner(models: Models, own: object) -> Captioner | None:
    if models.caption_model is not None:
        return Captioner.from_pretrained(models.caption_model, models.device)
    if isinstance(own, UniFashionModel) and own.config.model_name == CAPTIONS_ITSELF:
        return Captioner(own)
    return None


def _tryon(models: Models) -> Any:
    if models.tryon_model is None:
        return None
    from unifashion.tryon.api import TryOn  # diffusers takes seconds to import
    from unifashion.tryon.loading import quiet_libraries

    quiet_libraries()
    try:
        tryon = TryOn.from_pretrained(models.tryon_model, retriever=models.tryon_retriever, device=models.device)
    except UserError as error:  # the message names the flag of the try-on programs
        raise UserError(sentence(error).replace("--retriever", "--tryon-retriever")) from None
    if tryon.reads == "sketch":
        raise UserError(
            f"{models.tryon_model} works from sketches of worn garments; --tryon-model needs one that takes photos of garments"
        )
    return tryon
