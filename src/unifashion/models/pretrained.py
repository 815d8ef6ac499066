"""Model folders in Hugging Face style: ``config.json``, ``model.safetensors`` and the tokenizer's files."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unifashion.config import MODEL_NAMES
from unifashion.errors import UserError
from unifashion.io import read_json, replacing_folder, write_json
from unifashion.models import kinds
from unifashion.models.hub import download, lacks
from unifashion.models.presets import UniFashionConfig, wrong_settings
from unifashion.models.qformer import QFormerConfig
from unifashion.models.weight_files import check_finite, load_foreign, read_safetensors
from unifashion.models.wrappers import plain_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "unifashion"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
RUN_CHECKPOINTS = ("best", "last")
Loaded = tuple[UniFashionConfig, dict[str, Tensor], PreTrainedTokenizerBase | None]


def save(
    folder: str | Path,
    config: UniFashionConfig,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase | None,
    write_more: Callable[[Path], None] | None = None,
) -> None:
    """Write the three parts, and what ``write_more`` adds; ``folder`` keeps its old content until the new one is complete."""
    with replacing_folder(Path(folder)) as unfinished:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})
        write_json(unfinished / CONFIG, {"model_type": MODEL_TYPE, **asdict(config)})
        if tokenizer is not None:
            tokenizer.save_pretrained(str(unfinished))
        if write_more is not None:
            write_more(unfinished)
        for path in unfinished.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors leaves its files to the owner alone; a model folder is meant to be shared


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint on this machine: a file, or a folder, which may be the local copy of hub repository ``repo``."""

    path: Path
    repo: str | None = None

    def fetch(self, *patterns: str) -> None:
        """Download these files of the repository into the folder; does nothing for a local one."""
        if self.repo:
            download(self.repo, patterns)

    def need(self, file: str) -> None:
        """Download this file of the repository; does nothing for a local folder.

        Raises:
            UserError: the repository does not have it.
        """
        self.fetch(file)
        if self.repo and not (self.path / file).is_file():
            raise UserError(f"no model at {self.repo!r}: {lacks(self.repo, file)}")

    @property
    def name(self) -> str:
        """Return how messages name it."""
        return self.repo or str(self.path)


def resolve(name: str | Path) -> CheckpointSource:
    """Return the checkpoint that ``name`` means: a file, a model folder, the ``best`` or ``last`` of a run, a hub repository.

    Of a hub repository only the small files have been downloaded.

    Raises:
        UserError: no such file, folder or repository, or a folder without a model in it.
    """
    path = Path(name)
    if path.is_file():
        return CheckpointSource(path.parent if path.name == WEIGHTS and model_type(path.parent) else path)
    if path.is_dir():
        kept = [path / checkpoint for checkpoint in RUN_CHECKPOINTS if os.path.lexists(path / checkpoint)]
        # A "best" that is damaged is not passed over for "last", which answers differently.
        for folder in (path, *kept[:1]):
            if (folder / CONFIG).is_file() and ((folder / WEIGHTS).is_file() or model_type(folder) != MODEL_TYPE):
                return CheckpointSource(folder)
        kinds.refuse(kinds.of_folder(path), path, "retrieval")
        if kept:
            raise UserError(
                f"no model in {kept[0]}: expected {CONFIG} and {WEIGHTS} there; restore it, or name another"
            )
        raise UserError(
            f"no model in {path}: expected {CONFIG} and {WEIGHTS} there or in its {' or '.join(RUN_CHECKPOINTS)} folder"
        )
    return CheckpointSource(download(str(name), ("*.json", "*.txt")), str(name))


def model_type(folder: Path) -> str:
    """Return the ``model_type`` that the folder's config names, or an empty string."""
    config = read_json(folder / CONFIG)
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def load(name: str | Path) -> Loaded:
    """Read config, weights and tokenizer of a UniFashion run, model folder or hub id (errors: ``resolve``, ``read_folder``)."""
    return read_folder(resolve(name))


def read_folder(source: CheckpointSource) -> Loaded:
    """Read config, weights and tokenizer of a UniFashion model folder.

    Raises:
        UserError: another kind of model, a config that is not ours, weights that are damaged.
    """
    folder = source.path
    kinds.refuse(kinds.of_folder(folder), source.name, "retrieval")
    source.need(CONFIG)
    config = read_config(folder / CONFIG)
    source.need(WEIGHTS)
    weights = plain_weights(read_safetensors(folder / WEIGHTS), folder / WEIGHTS)
    check_finite(weights, folder / WEIGHTS)
    return config, weights, _read_tokenizer(folder, config)


def _read_tokenizer(folder: Path, config: UniFashionConfig) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model folder.

    Raises:
        UserError: none, a damaged one, or one that is not that of the config.
    """
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    try:
        tokenizer = load_foreign(PreTrainedTokenizerFast, folder)
    except Exception as error:  # for a broken file, transformers and tokenizers raise all kinds of errors
        reason = " ".join(str(error).split())[:160]
        what = f"{missing[0]} is missing" if missing else f"they cannot be read: {reason}"
        raise UserError(f"the tokenizer's files in {folder} are damaged ({what}); copy the model again") from None
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    if None in special or len(tokenizer) > config.qformer.vocab_size or config.dec_token_id >= len(tokenizer):
        raise UserError(
            f"the tokenizer in {folder} ({len(tokenizer)} words) is not that of its model ({config.qformer.vocab_size}), or "
            "lacks [CLS], [SEP], [PAD] or [DEC]; copy the model again"
        )
    return tokenizer


def read_config(path: Path) -> UniFashionConfig:
    """Read ``config.json`` of a UniFashion model.

    Raises:
        UserError: not JSON, or the config of something else.
    """
    try:
        values: dict[str, Any] = read_json(path)
        if values.pop("model_type") != MODEL_TYPE or values["model_name"] not in MODEL_NAMES:
            raise KeyError("model_type")
        marks = tuple(values.pop("marks", ()))
        config = UniFashionConfig(**{**values, "qformer": QFormerConfig(**values["qformer"]), "marks": marks})
    except (ValueError, KeyError, TypeError, AttributeError):  # None, where it cannot be read, has no pop
        raise UserError(
            f"{path} is not the config of a UniFashion model (or of a BLIP-2 one); expected what save_pretrained writes"
        ) from None
    wrong = wrong_settings(config)
    if wrong:
        raise UserError(f"{path} is damaged: {wrong}; expected what save_pretrained writes")
    return config


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Load weights that must fit the model exactly; raises as ``check_fit``."""
    check_fit(model, weights, source)
    model.load_state_dict(weights)


def check_fit(model: nn.Module, weights: dict[str, Tensor], source: str | Path) -> None:
    """Check that weights fit the model exactly.

    Raises:
        UserError: names the first parameters that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    wrong = [f"{k} is missing" for k in own if k not in weights]
    wrong += [f"{k} is unknown" for k in weights if k not in own]
    wrong += [
        f"{k} has shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"the weights in {source} do not fit their config: {'; '.join(wrong[:3])}{more}")


def weights_hash(weights: Mapping[str, Tensor], size: int = 16) -> str:
    """Return a hash of every weight, its name, type and shape, as hexadecimal digits.

    Args:
        weights: such as a state dict; their order does not matter.
        size: of the hash, bytes. It is part of the hash: a shorter one is not the beginning of a longer one.
    """
    digest = hashlib.blake2b(digest_size=size)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
