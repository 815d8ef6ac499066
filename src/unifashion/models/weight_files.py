"""Read weights of any origin, and nothing else: no code that comes with them runs, and none of them is NaN or infinite.

    read_safetensors, read_torch    files, ours and others'
    read_torchscript                a program with its weights: the caller has made sure that it is trusted
    load_foreign                    models, tokenizers and configs that transformers or diffusers read
    check_finite                    once for all weights that will be used, whoever has read them

The only module that opens such files: a pickle is read with ``weights_only=True``, and Python files in a model's folder are left
alone, whatever its config asks for (``tests/test_nothing_runs.py``).
"""

import logging
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unifashion.errors import UserError
from unifashion.io import open_file
from unifashion.models import hub

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]
# Second copies of weights that repositories hold, and some hold alone: model.fp16.safetensors.
VARIANTS = ("fp16", "bf16", "non_ema")
MAX_JSON_BYTES = 2**28
_REFUSED = re.compile(r"GLOBAL (\S+)")
# How files begin that are called like weights and are something else.
_BEGINNINGS = (
    (
        re.compile(rb"GGUF"),
        "is a GGUF file (weights for llama.cpp); name the model that it was made from, in Hugging Face form",
    ),
    (
        re.compile(rb"version https://git-lfs"),
        "is a pointer of Git LFS, not the weights; run 'git lfs pull' in its folder",
    ),
    (re.compile(rb"\s*<(!doctype|html)", re.IGNORECASE), "is a web page, not the weights; download the file itself"),
)
_SAFETENSORS = re.compile(rb".{7}\0\{", re.DOTALL), "is a safetensors file; end its name in .safetensors"
_TORCH = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]"), "is a PyTorch file; end its name in .pt"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_torch(path: Path) -> Any:
    """Read a ``.pt``, ``.pth`` or ``.bin`` file with ``weights_only=True``.

    Raises:
        UserError: a damaged file, or one that holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken pickle can raise anything
        refused = _REFUSED.search(str(error))
        if refused:
            raise UserError(
                f"{path} holds more than weights (its pickle needs {refused[1]}) and was not opened; "
                "save its state dict alone, with torch.save(model.state_dict(), FILE)"
            ) from None
        what = (
            _beginning(path, _SAFETENSORS)
            or "is not a PyTorch weight file, or it is cut short; copy or download it again"
        )
        raise UserError(f"{path} {what}") from None


def _beginning(path: Path, other: tuple[re.Pattern[bytes], str]) -> str | None:
    """Return what a file is by its first bytes, and the way out; None for one that they do not tell."""
    try:
        with open_file(path, sys.maxsize) as file:
            start = file.read(32)
    except OSError:
        return None
    return next((what for pattern, what in (*_BEGINNINGS, other) if pattern.match(start)), None)


def read_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Open a TorchScript program on the CPU; raises whatever a damaged archive raises.

    It can read and write files with the rights of whoever runs it. So it is either known by its hash, or the user has said in so
    many words that it is trusted.
    """
    program: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu").eval()
    check_finite(program.state_dict(), path)
    return program


def read_safetensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Weights:
    """Read the wanted tensors of a ``.safetensors`` file.

    Raises:
        UserError: a missing or damaged file.
    """
    try:
        open_file(path, sys.maxsize).close()  # safetensors would wait for a pipe
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if wanted(name)}
    except (SafetensorError, OSError) as error:
        what = _beginning(path, _TORCH) or f"is missing or damaged ({error}); copy or download it again, or train again"
        raise UserError(f"{path} {what}") from None


def check_finite(weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        UserError: names the first tensor with such a number.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            values = tensor if tensor.dtype in _FLOATS else tensor.float()  # aminmax does not know 8-bit floats
            if (
                not torch.stack(values.aminmax()).isfinite().all()
            ):  # one pass without a copy; NaN is both least and greatest
                raise UserError(
                    f"the weights in {source} are damaged, or of a training that diverged: {name} holds NaN or infinite numbers"
                )


def _check_files(folder: Path) -> None:
    """Refuse what the libraries would wait for, or read into memory as a whole before they see that it is damaged."""
    for path in (*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")):
        read_safetensors(path, lambda name: False)
    for path in (*folder.glob("*.json"), *folder.glob("*/*.json")):
        if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} has more than {MAX_JSON_BYTES:,} bytes; copy or download it again")


def _from_pretrained(kind: Any, name: str | Path, options: dict[str, Any]) -> Any:
    """Load a model, of the files' full precision if it is there; or what is no model."""
    is_model = isinstance(kind, type) and issubclass(kind, nn.Module)
    if not (is_model or kind.__name__.startswith("AutoModel") or hasattr(kind, "components")):
        return kind.from_pretrained(name, **options)
    try:
        return _complete(kind, name, options)
    except OSError:
        for variant in VARIANTS:
            try:
                loaded = _complete(kind, name, {**options, "variant": variant})
            except UserError:
                raise
            except (OSError, ValueError):  # ValueError: a pipeline
                continue
            log.warning(
                "%s has weights of the variant %s only: they are taken",
                Path(name, options.get("subfolder", "")),
                variant,
            )
            return loaded
        raise


def _complete(kind: Any, name: str | Path, options: dict[str, Any]) -> Any:
    """Load a model whose files have all of its weights: the libraries draw the others at random.

    Raises:
        UserError: some are missing.
    """
    if hasattr(kind, "components"):  # a pipeline, which says this of none of its parts
        return kind.from_pretrained(name, **options)
    loaded, found = kind.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        folder = Path(name, options.get("subfolder", ""))
        raise UserError(
            f"the weights in {folder} lack {len(missing)} parameters of {type(loaded).__name__} ({', '.join(missing[:2])}); "
            "save them with save_pretrained of the model itself, without wrappers"
        )
    return loaded


def load_foreign(kind: Any, name: str | Path, **options: Any) -> Any:
    """Return ``kind.from_pretrained(name, **options)`` of a class of transformers, peft or diffusers.

    Raises:
        UserError: it needs Python code of its own, has weights that are damaged or not finite, or a config that is far too large;
            for everything else, what ``kind`` raises.
    """
    if kind.__module__.startswith("transformers"):  # by default it asks on the terminal, and a "y" runs the code
        options["trust_remote_code"] = False
    folder = Path(name, options.get("subfolder", ""))
    is_here = Path(name).exists()
    if not is_here:
        hub.check_reachable(str(name))
    _check_files(folder)
    try:
        loaded = _from_pretrained(kind, name, options)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{name} can only be opened with Python code that comes with it, and such code is never run; choose a model "
                "whose architecture transformers or diffusers itself has"
            ) from None
        raise
    except OSError as error:
        what = None if is_here else hub.fault(error, str(name))
        if what:
            raise UserError(f"no model at {name!r}: {what}") from None
        raise
    words = getattr(loaded, "all_special_tokens", None)
    if words is not None and len(loaded) <= len(set(words)):  # what transformers makes of a folder without its files
        raise UserError(
            f"the tokenizer in {folder} has no words: its files (tokenizer.json, vocab.txt, ...) are missing"
        )
    if isinstance(loaded, nn.Module):
        check_finite(loaded.state_dict(), folder)
    if not isinstance(getattr(loaded, "model_max_length", 0), int | float):
        raise ValueError("the tokenizer's model_max_length is not a number")
    return loaded
