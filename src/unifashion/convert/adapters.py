"""What the original's big model puts between its query rows and the two models that read them.

    llm_proj.weight                 language.projection.weight
    proj_layer.LayerNorm.weight     drawing.adapter.norm.weight
    proj_layer.dense1.weight        drawing.adapter.expand.weight
    proj_layer.dense2.weight        drawing.adapter.contract.weight

Its file names neither the language model nor the diffusion model. A converted folder keeps both parts in ``heads.safetensors``,
beside a ``heads.json`` without models: whoever captions, draws or trains names them (llm/heads.py).
"""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from unifashion.convert.files import read_file
from unifashion.io import write_json
from unifashion.models.weight_files import Weights

HEADS, HEAD_WEIGHTS = "heads.json", "heads.safetensors"
PARTS_OF_HEADS = (
    HEADS,
    HEAD_WEIGHTS,
    "llm",
    "unet",
    "diffusion",
)  # what llm/model.py writes beside the retrieval network
UNNAMED = {"llm": None, "diffusion_model": None}

_KINDS = ("weight", "bias")
_PARTS = (
    {f"llm_proj.{kind}": f"language.projection.{kind}" for kind in _KINDS},
    {
        f"proj_layer.{theirs}.{kind}": f"drawing.adapter.{ours}.{kind}"
        for theirs, ours in (("LayerNorm", "norm"), ("dense1", "expand"), ("dense2", "contract"))
        for kind in _KINDS
    },
)


def adapter_names(state: Weights) -> dict[str, str]:
    """Return their names and ours of the parts that a state dict holds whole."""
    return {theirs: ours for part in _PARTS if part.keys() <= state.keys() for theirs, ours in part.items()}


def read_adapters(path: Path) -> Weights:
    """Return the adapters of a foreign weight file in float32, named as in ``heads.safetensors``; empty where it has none.

    Raises:
        UserError: a file that is damaged or holds no weights.
    """
    _, state, _ = read_file(path)
    return {ours: state[theirs].float() for theirs, ours in adapter_names(state).items()}


def write_adapters(folder: Path, adapters: Weights) -> None:
    """Write adapters into a model folder, for models that are named later."""
    save_file({name: tensor.contiguous() for name, tensor in adapters.items()}, folder / HEAD_WEIGHTS)
    write_json(folder / HEADS, UNNAMED)


def copy_heads(source: Path, folder: Path) -> None:
    """Copy the heads of one of our own folders into another, as far as it has any."""
    for name in PARTS_OF_HEADS:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).is_file():
            shutil.copy(source / name, folder / name)
