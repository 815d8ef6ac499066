"""Parameter names without what a trainer has put around the model, and averaged weights beside the raw ones.

module._orig_mod.Qformer.bert.encoder.layer.0...         Qformer.bert.encoder.layer.0...          DDP, torch.compile
visual_encoder._fsdp_wrapped_module.blocks.0...          visual_encoder.blocks.0...               FSDP, a part of the model
model.query_tokens                                       query_tokens                             Lightning, the class's attribute
ema_model.query_tokens                                   query_tokens, averaged                   EMA, where there is no raw one
model.diffusion_model.input_blocks.0...                  as it is: latent diffusion's own name
"""

import logging
import re
from itertools import takewhile

from unifashion.errors import UserError
from unifashion.models.weight_files import Weights

log = logging.getLogger(__name__)

# One part of a name each, at any place and in any order; no model that is read here has a part called so.
_WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Attributes that hold the model, or its average. They open names of models too: they are dropped before a known first part only.
_HOLDERS = ("model", "online_model")
_AVERAGES = ("ema_model", "model_ema", "averaged_model", "ema", "shadow")
_FIRST = re.compile(
    r"(Qformer|visual_encoder|ln_vision|vision_proj|text_proj|itm_head|bert|cls"  # LAVIS, BERT
    r"|blocks|patch_embed|conv1|ln_pre|transformer\.resblocks"  # image towers alone
    r"|vision_model|qformer|embeddings|vision_projection|text_projection|language_model|language_projection"  # transformers
    r"|model\.diffusion_model|control_model|first_stage_model|cond_stage_model"  # latent diffusion
    r"|vision|language_head)\."  # ours
    r"|(query_tokens|prompt_tokens|temp|temperature|cls_token|pos_embed|class_embedding|positional_embedding"
    r"|learnable_vector)$"
)


def plain_name(name: str) -> str:
    """Return a parameter's own name."""
    return _read(name)[1]


def _read(name: str) -> tuple[bool, str]:
    """Return whether a name is that of an averaged weight, and the parameter's own name."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    holders = list(takewhile(lambda part: part in (*_HOLDERS, *_AVERAGES), parts))
    for count in range(len(holders), 0, -1):
        own = ".".join(parts[count:])
        if _FIRST.match(own):
            return any(part in _AVERAGES for part in holders[:count]), own
    return False, ".".join(parts) or name


def plain_weights(weights: Weights, source: object) -> Weights:
    """Return weights under their own names; of raw and averaged ones the raw, with a line in the log.

    Raises:
        UserError: two weights have the same own name.
    """
    raw: Weights = {}
    averaged: Weights = {}
    for stored, tensor in weights.items():
        is_average, name = _read(stored)
        side = averaged if is_average else raw
        if name in side:
            raise UserError(
                f"{source} holds {name} twice, one of them as {stored}; save the state dict of one model alone"
            )
        side[name] = tensor
    if averaged:
        taken = (
            "the raw ones are taken; save the others alone to use them" if averaged.keys() <= raw.keys() else "taken"
        )
        log.warning("%s holds averaged weights (EMA): %s", source, taken)
    return {**averaged, **raw}
