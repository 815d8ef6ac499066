"""Name what a file or folder is when it is not what was asked for, and the way from there to what is needed.

    names of parameters     files: Stable Diffusion in one file, LoRA, textual inversion, VAE, ControlNet, ...
    configs                 folders of diffusers, transformers, peft and ours

Asked where a door would refuse anyway, or before a library would fill in at random what another kind of model lacks.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unifashion.errors import UserError
from unifashion.io import read_json
from unifashion.models import hub
from unifashion.models.weight_files import read_safetensors, read_torch
from unifashion.models.wrappers import plain_name

Door = Literal["retrieval", "tower", "try-on", "diffusion", "language", "vision-language"]
NEEDED: dict[Door, str] = {
    "retrieval": "a retrieval model is needed: a UniFashion run, folder or hub id, a file of UniFashion, SPRC or LAVIS, or a "
    "Hugging Face BLIP-2",
    "tower": "an image tower is needed: LAVIS' eva_vit_g.pth or clip_vit_L.pth, or a checkpoint that has it",
    "try-on": "a try-on model is needed: a UniFashion run or pipeline folder, or a .ckpt of StableVITON with --base",
    "diffusion": "a Stable Diffusion 1.x in diffusers form is needed: a folder or hub id with unet, vae, text_encoder, "
    "tokenizer and scheduler",
    "language": "a causal language model in Hugging Face form is needed: a folder or hub id",
    "vision-language": "a LLaVA in Hugging Face form is needed: a folder or hub id",
}


@dataclass(frozen=True)
class Kind:
    """What something is, the doors that take it, and what else makes it of use at a door."""

    what: str
    doors: tuple[Door, ...] = ()
    ways: Mapping[Door, str] = field(default_factory=dict)


_CONVERTED = (
    'convert it once, with StableDiffusionPipeline.from_single_file("FILE").save_pretrained("FOLDER") of diffusers, and name '
    "that folder"
)
_FUSED = "fuse it into its base once, with load_lora_weights, fuse_lora and save_pretrained of diffusers, and name that folder"
_MERGED = "merge it into its base once, with merge_and_unload and save_pretrained of peft, and name that folder"
_WHOLE = "name the Stable Diffusion that it belongs to"
_SINGLE_FILE = Kind(
    "a Stable Diffusion in a single file",
    ways={"diffusion": _CONVERTED, "try-on": f"to start a training, {_CONVERTED}"},
)
_STABLEVITON = Kind(
    "a checkpoint of StableVITON",
    ("try-on",),
    ways={"retrieval": "for try-on name it with --model-path and --base, or convert it with --base"},
)
_LORA = Kind(
    "a LoRA without its base",
    ways={"diffusion": _FUSED, "try-on": f"to start a training, {_FUSED}", "language": _MERGED},
)
_INVERSION = Kind("a textual inversion (new words for a text encoder)", ways={"diffusion": _WHOLE})
_VAE = Kind("a VAE alone", ways={"diffusion": _WHOLE})
_CONTROLNET = Kind("a ControlNet", ways={"diffusion": _WHOLE})
_UNET = Kind("a U-Net alone", ways={"diffusion": _WHOLE})
_GGUF = Kind("a folder of GGUF files", ways=dict.fromkeys(NEEDED, "name the model that they were made from"))

# The first row of which every pattern begins some name in the file.
_BY_NAMES: tuple[tuple[tuple[str, ...], Kind], ...] = (
    ((r"(.*[._])?(lora_([AB]|up|down|unet|te\d?)|lora\.(up|down)|hada_w\d_[ab]|lokr_w\d)(\b|_)",), _LORA),
    ((r"(model\.diffusion_model\.warp_flow_blks|control_model\.cond_first_block)\.",), _STABLEVITON),
    ((r"(control_model|controlnet_cond_embedding|controlnet_down_blocks|input_hint_block)\.",), _CONTROLNET),
    ((r"(model\.diffusion_model\.|model_ema\.diffusion_model)",), _SINGLE_FILE),
    ((r"(first_stage_model\.)?encoder\.conv_in\.", r"(first_stage_model\.)?decoder\.conv_out\."), _VAE),
    ((r"conv_in\.", r"down_blocks\.", r"time_embedding\."), _UNET),
    ((r"(<[^.]+>|\*|emb_params|string_to_param|clip_[gl])$",), _INVERSION),
)
_LORA_FILES = ("adapter_config.json", "pytorch_lora_weights.safetensors")
_DIFFUSERS = {"ControlNetModel": _CONTROLNET, "AutoencoderKL": _VAE, "UNet2DConditionModel": _UNET}


def of_names(names: Iterable[str]) -> Kind | None:
    """Return the kind of file that has parameters of these names; None for one that is not in the table."""
    plain = [plain_name(name) for name in names]
    for patterns, kind in _BY_NAMES:
        if all(any(re.match(pattern, name) for name in plain) for pattern in patterns):
            return kind
    return None


def of_file(path: Path) -> Kind | None:
    """Return the kind of a weight file.

    Raises:
        UserError: it cannot be read.
    """
    names: list[str] = []

    def note(name: str) -> bool:
        names.append(name)
        return False

    if path.suffix == ".safetensors":
        read_safetensors(path, note)
        return of_names(names)
    content: Any = read_torch(path)
    for key, value in content.items() if isinstance(content, Mapping) else ():
        names += [str(key), *(map(str, value) if isinstance(value, Mapping) else ())]
    return of_names(names)


def of_folder(folder: Path) -> Kind | None:
    """Return the kind of a model folder, or of a run's checkpoint; None for one that does not say."""
    return next(filter(None, map(_of_one_folder, (folder, folder / "best", folder / "last"))), None)


def _of_one_folder(folder: Path) -> Kind | None:
    index, config = _classes(folder / "model_index.json"), _classes(folder / "config.json")
    if "_class_name" in index:
        own = index["_class_name"] == "TryOnPipeline"
        return Kind("a try-on model", ("try-on", "diffusion")) if own else _of_diffusers(index, ("diffusion",))
    if "_class_name" in config:
        return _DIFFUSERS.get(config["_class_name"]) or _of_diffusers(config)
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return _GGUF
    if "model_type" in config:
        return _of_transformers(config["model_type"])
    return _LORA if any((folder / name).is_file() for name in _LORA_FILES) else None


def _classes(path: Path) -> dict[str, str]:
    """Return what a config says of the class that it belongs to."""
    config = read_json(path)
    if not isinstance(config, dict):
        return {}
    return {name: config[name] for name in ("_class_name", "model_type") if isinstance(config.get(name), str)}


def _of_diffusers(classes: Mapping[str, str], doors: tuple[Door, ...] = ()) -> Kind:
    return Kind(f"a {classes['_class_name']} of diffusers", doors)


def _of_transformers(model_type: str) -> Kind:
    if model_type == "unifashion":
        return Kind("a UniFashion retrieval model", ("retrieval", "tower"))
    ours: tuple[Door, ...] = ("retrieval", "tower") if model_type == "blip-2" else ()
    return Kind(f"a model of transformers of type {model_type}", (*ours, "language", "vision-language"))


def refuse(kind: Kind | None, source: object, door: Door) -> None:
    """Refuse what is known to be of a kind that a door does not take.

    Raises:
        UserError: says what ``source`` is, what is needed, and the way out.
    """
    if kind is not None and door not in kind.doors:
        raise UserError(_sentence(source, kind.what, door, kind.ways.get(door)))


def check_folder(name: str, door: Door, *parts: str) -> None:
    """Check that the name is that of a folder or hub repository for this door, before a library looks into it.

    Args:
        name: folder or hub id.
        door: what it is needed for.
        parts: files or folders that a folder must have.

    Raises:
        UserError: a file, another kind of model, or a folder without those parts; nothing there.
    """
    path = Path(name)
    if path.is_file():
        refuse(of_file(path), name, door)
        beside = (path.parent / "config.json").is_file()
        raise UserError(_sentence(name, "a file", door, f"name its folder, {path.parent}" if beside else None))
    if not path.is_dir():
        _check_repository(name, door, parts)
        return
    kind = of_folder(path)
    refuse(kind, name, door)
    missing = [part for part in parts if not (path / part).exists()]
    if missing:
        raise UserError(_sentence(name, kind.what if kind else f"a folder without {' and '.join(missing)}", door))


def _check_repository(name: str, door: Door, parts: tuple[str, ...]) -> None:
    folder = hub.check_reachable(name)
    if folder is None:
        return
    refuse(of_folder(folder), name, door)
    for part in parts:
        if part in hub.KIND_FILES and not (folder / part).is_file():  # others have not been asked for
            raise UserError(f"no model at {name!r}: {hub.lacks(name, part)}")


def _sentence(source: object, what: str, door: Door, way: str | None = None) -> str:
    return f"{source} is {what}, but {NEEDED[door]}" + (f"; {way}" if way else "")
