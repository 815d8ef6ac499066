"""From a name to a pipeline: a try-on run or folder, a StableVITON ``.ckpt``, or Stable Diffusion 1.x to start training from."""

import logging
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers import logging as transformers_logging

from unifashion.errors import UserError, one_line
from unifashion.io import read_json, replacing_folder
from unifashion.models import kinds
from unifashion.models.blocks_vae import BlockAutoencoder
from unifashion.models.hub import download
from unifashion.models.weight_files import check_finite, load_foreign, read_safetensors
from unifashion.tryon import blocks_vae
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.pipeline import TryOnPipeline, default_scheduler
from unifashion.tryon.qformer_context import QFORMER, check_retriever
from unifashion.tryon.settings import ControlRead
from unifashion.tryon.stableviton import from_stable_diffusion, read_ckpt

log = logging.getLogger(__name__)

INDEX = "model_index.json"
LAST = "last"
BESIDE = "tryon"
PIPELINE_FILES = ("*.json", "*.txt", "*.safetensors")
# diffusers takes parts from modules that are imported already, so those of earlier models must be too.
OWN_PARTS = (TryOnDenoiser.__module__, BlockAutoencoder.__module__, blocks_vae.__name__)


def quiet_libraries() -> None:
    """Silence the messages and progress bars of other libraries."""
    for library in (transformers_logging, diffusers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def load_pipeline(name: str | Path, base: str | None = None, control: ControlRead = "as-trained") -> TryOnPipeline:
    """Open a finished model: a run, a pipeline folder, a hub id, or a ``.ckpt`` of StableVITON with a base.

    Args:
        name: the model.
        base: Stable Diffusion 1.x, for the parts that a ``.ckpt`` lacks.
        control: what the garment encoder of a ``.ckpt`` reads; other models record it themselves.

    Raises:
        UserError: nothing there, or another kind of model.
    """
    path = Path(name)
    if path.is_file():
        pipe = _from_ckpt(path, base)
        pipe.denoiser.register_to_config(control="garment" if control == "as-trained" else control)
        return pipe
    place = path if path.exists() else download(str(name), PIPELINE_FILES)
    folder = find_pipeline(place)
    if folder is None:
        kinds.refuse(kinds.of_folder(place), name, "try-on")
        raise UserError(f"no try-on model in {path}: expected {INDEX} of a TryOnPipeline there or in its {LAST} folder")
    _check_parts(folder)
    try:
        pipe = load_foreign(TryOnPipeline, str(folder), local_files_only=True, use_safetensors=True)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name}: not a try-on model that can be loaded ({one_line(error)})") from None
    for part, module in pipe.components.items():
        if isinstance(module, nn.Module):
            check_finite(module.state_dict(), folder / part)
    if (folder / QFORMER).is_file():
        pipe.qformer = read_safetensors(folder / QFORMER)
        check_finite(pipe.qformer, folder / QFORMER)
    if control not in ("as-trained", pipe.denoiser.config.control):
        raise UserError(f"{name} was trained with --control {pipe.denoiser.config.control}; leave --control out")
    return pipe


def find_pipeline(path: Path) -> Path | None:
    """Return the folder of a ``TryOnPipeline``; None where there is none.

    It is ``path``, its ``last`` checkpoint, or those of ``path/tryon``: a try-on run in the folder of the retrieval model that it
    belongs to makes one folder of them.
    """
    for folder in (path, path / LAST, path / BESIDE, path / BESIDE / LAST):
        index = read_json(folder / INDEX)
        if isinstance(index, dict) and index.get("_class_name") == TryOnPipeline.__name__:
            return folder
    return None


def _check_parts(folder: Path) -> None:
    """Check that no part of a pipeline is of another library: diffusers would import whatever ``model_index.json`` names.

    Raises:
        UserError: one is.
    """
    for part, of in read_json(folder / INDEX).items():
        if isinstance(of, list) and (len(of) != 2 or of[0] not in ("diffusers", "transformers", *OWN_PARTS)):
            raise UserError(
                f"{folder / INDEX} names {of} for its part {part!r}; a try-on model has parts of diffusers, transformers and "
                "UniFashion only"
            )


def start_pipeline(name: str, base: str | None, **changes: Any) -> TryOnPipeline:
    """Build the model that training starts from: any that ``load_pipeline`` opens, or a Stable Diffusion 1.x.

    Args:
        name: the weights.
        base: Stable Diffusion 1.x for the parts that ``name`` lacks.
        changes: settings of the denoiser (control, image_size, adapter_width, adapter_kind, retriever) of this training.

    Raises:
        UserError: nothing usable there.
    """
    path = Path(name)
    if path.is_file() or find_pipeline(path) is not None:
        pipe = load_pipeline(name, base)
        _adopt(pipe, changes)
        return pipe
    unet = _part(UNet2DConditionModel, name, "unet")
    denoiser = from_stable_diffusion(unet, name, **changes)
    tokenizer = _part(CLIPTokenizer, base or name, "tokenizer")
    return TryOnPipeline(
        _part(AutoencoderKL, name, "vae").eval(),
        _part(CLIPTextModel, base or name, "text_encoder").eval(),
        tokenizer,
        denoiser,
        default_scheduler(),
    )


def _adopt(pipe: TryOnPipeline, changes: dict[str, Any]) -> None:
    """Apply the new training's settings to the denoiser; an adapter cannot be added or removed, nor read other rows."""
    width, kind = changes.pop("adapter_width", None), changes.pop("adapter_kind", "linear")
    own = pipe.denoiser.config
    if (width, kind if width else own.adapter_kind) != (own.adapter_width, own.adapter_kind):
        raise UserError(
            f"the model to start from has {_adapter(own.adapter_width, own.adapter_kind)}, --retriever and --adapter ask for "
            f"{_adapter(width, kind)}; start from one that has the same"
        )
    if width is not None:
        check_retriever(pipe.denoiser.config.retriever, changes["retriever"])
    pipe.denoiser.register_to_config(**changes)


def _adapter(width: int | None, kind: str) -> str:
    return "no adapter" if width is None else f"a {kind} adapter for rows of width {width}"


def _from_ckpt(path: Path, base: str | None) -> TryOnPipeline:
    if base is None:
        kinds.refuse(kinds.of_file(path), path, "try-on")
        raise UserError(
            f"{path} holds no text encoder and tokenizer; name a Stable Diffusion 1.x in diffusers form with --base"
        )
    denoiser, vae_weights = read_ckpt(path)
    vae = _part(AutoencoderKL, base, "vae")
    if vae_weights:
        load_vae_weights(vae, vae_weights, str(path))
    else:
        log.warning("%s holds no VAE; that of %s is used", path, base)
    return TryOnPipeline(
        vae.eval(),
        _part(CLIPTextModel, base, "text_encoder").eval(),
        _part(CLIPTokenizer, base, "tokenizer"),
        denoiser.eval(),
        default_scheduler(),
    )


def load_vae_weights(vae: AutoencoderKL, weights: dict[str, Any], source: str) -> None:
    """Load a VAE's weights under the names of latent diffusion.

    Raises:
        UserError: they do not fit.
    """
    try:
        vae.load_state_dict(convert_ldm_vae_checkpoint(weights, dict(vae.config)))
        check_finite(vae.state_dict(), source)
    except UserError:
        raise
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{source}: its VAE does not fit that of the base ({one_line(error)})") from None


def _part(kind: Any, name: str, subfolder: str) -> Any:
    kinds.check_folder(name, "diffusion", subfolder)
    try:
        return load_foreign(kind, name, subfolder=subfolder)
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise UserError(
            f"{name} has no usable {subfolder} ({one_line(error, 160)}); name a Stable Diffusion 1.x in diffusers "
            "form with --init-from or --base"
        ) from None


def convert_ckpt(path: Path, out: Path, base: str, control: ControlRead, overwrite: bool = False) -> None:
    """Write a ``.ckpt`` of StableVITON, with the rest of a Stable Diffusion 1.x, as a pipeline folder.

    Raises:
        UserError: what ``load_pipeline`` raises; ``out`` exists.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; give another name, or --overwrite to replace it")
    if not path.is_file():
        raise UserError(f"{path} is not a file; --base is for a checkpoint file of StableVITON")
    quiet_libraries()
    save_pipeline(load_pipeline(path, base, control), out)


def save_pipeline(pipe: TryOnPipeline, folder: Path) -> None:
    """Write a pipeline; ``folder`` keeps its old content until the new one is complete."""
    with replacing_folder(folder) as unfinished:
        pipe.save_pretrained(unfinished)
