"""The image tower of a checkpoint, or of a file with nothing else in it.

LAVIS keeps the frozen tower out of ``blip2_pretrained.pth``; it is in ``eva_vit_g.pth`` (40 blocks, of which BLIP-2 uses 39)
or ``clip_vit_L.pth`` (BLIP-2 uses 21).
"""

import re
from pathlib import Path
from typing import Any

from unifashion.convert import huggingface
from unifashion.convert.files import is_own, read_file
from unifashion.convert.lavis import TOWER, from_lavis
from unifashion.convert.sizes import tower_config
from unifashion.errors import UserError
from unifashion.models import kinds, pretrained
from unifashion.models.presets import CLIP_VIT_L, EVA_VIT_G
from unifashion.models.weight_files import Weights

TOWER_FILES = ("eva_vit_g.pth", "clip_vit_L.pth")
_USED_BLOCKS = {tower["hidden_size"]: tower["num_hidden_layers"] for tower in (EVA_VIT_G, CLIP_VIT_L)}
_BLOCK = re.compile(r"vision\.encoder\.encoder\.layers\.(\d+)\.")


def read_tower(name: str | Path) -> tuple[Weights, dict[str, Any]]:
    """Return the tower's weights under our names, and its config.

    Raises:
        UserError: nothing there, or no EVA-ViT or CLIP ViT in it.
    """
    checkpoint = pretrained.resolve(name)
    if is_own(checkpoint):
        config, weights, _ = pretrained.read_folder(checkpoint)
        return only_tower(weights), config.vision
    if checkpoint.path.is_dir():
        vision, _ = huggingface.read_sizes(checkpoint)
        return only_tower(huggingface.read_weights(checkpoint, tower_only=True)[0]), vision
    _, state, _ = read_file(checkpoint.path)
    if any(key.startswith(TOWER) for key in state):
        weights = only_tower(from_lavis(state)[0])
    else:
        weights = _used_blocks(from_lavis({TOWER + key: tensor for key, tensor in state.items()})[0])
    if not weights:
        kinds.refuse(kinds.of_names(state), name, "tower")
    return weights, tower_config(weights, str(name))


def only_tower(weights: Weights) -> Weights:
    """Return the weights that belong to the tower."""
    return {name: tensor for name, tensor in weights.items() if name.startswith("vision.")}


def find_beside(path: Path, width: int) -> Path:
    """Return the tower file of LAVIS that is in the folder of ``path`` and has the width that its Q-Former reads.

    Raises:
        UserError: there is none.
    """
    for name in TOWER_FILES:
        beside = path.parent / name
        if beside.is_file() and read_tower(beside)[1]["hidden_size"] == width:
            return beside
    raise UserError(
        f"{path} holds no image tower; put LAVIS' {' or '.join(TOWER_FILES)} beside it, or convert it with "
        "--vision-tower NAME (one of these files, or a BLIP-2 folder or hub id)"
    )


def _used_blocks(weights: Weights) -> Weights:
    patches = weights.get("vision.encoder.embeddings.patch_embedding.weight")
    num_used = _USED_BLOCKS.get(len(patches)) if patches is not None else None
    return {
        name: tensor
        for name, tensor in weights.items()
        if num_used is None or not (block := _BLOCK.match(name)) or int(block[1]) < num_used
    }
