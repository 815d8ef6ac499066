"""The adapter (the paper's f_zeta): the Q-Former's query rows as rows among CLIP's word embeddings.

    query rows -> ContextAdapter -> inserted among CLIP's word embeddings -> CLIP text layers -> cross-attention of a UNet

The diffusion head and the try-on denoiser both condition on it.

Shapes: B rows, Q query rows, H Q-Former width, L words of the prompt, E width of the text encoder, T all rows of the text.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unifashion.errors import UserError
from unifashion.models.pretrained import resolve
from unifashion.models.weight_files import check_finite, read_safetensors

INSERT_AT = 2  # the rows follow the opening token and one word
TRAINED, PREFIX = "heads.safetensors", "drawing.adapter."  # where a model with a diffusion head keeps its adapter


class ContextAdapter(nn.Module):
    """LayerNorm, expand, quick GELU, contract, dropout, residual. Where the widths differ the residual is a linear map."""

    def __init__(self, width: int, text_width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, text_width)
        self.residual = nn.Identity() if width == text_width else nn.Linear(width, text_width, bias=False)
        self.dropout = dropout

    def forward(self, x_BQH: Tensor) -> Tensor:
        """Return (B, Q, E)."""
        h = self.expand(self.norm(x_BQH))
        out_BQE = self.contract(h * torch.sigmoid(1.702 * h))
        return self.residual(x_BQH) + F.dropout(out_BQE, self.dropout, self.training)


def load_adapter(adapter: ContextAdapter, name: str | Path) -> None:
    """Fill an adapter with that of a trained diffusion head.

    Args:
        adapter: of the same widths.
        name: run folder, model folder or hub id of the model that has the head.

    Raises:
        UserError: nothing there, no diffusion head, or other widths.
    """
    source = resolve(name)
    source.fetch(TRAINED)
    path = source.path / TRAINED
    found = read_safetensors(path, lambda key: key.startswith(PREFIX)) if path.is_file() else {}
    if not found:
        raise UserError(f"{name} has no diffusion head, and so no adapter; name a model that was trained with one")
    check_finite(found, path)
    weights = {key.removeprefix(PREFIX): tensor for key, tensor in found.items()}
    if {key: tensor.shape for key, tensor in weights.items()} != {
        key: tensor.shape for key, tensor in adapter.state_dict().items()
    }:
        raise UserError(
            f"the adapter in {path} does not fit: it must lead from rows of width {adapter.expand.in_features} to texts of width "
            f"{adapter.contract.out_features}, as the retrieval model and the text encoder have them"
        )
    adapter.load_state_dict(weights)


def encode_with_context(encoder: Any, ids_BL: Tensor, context_BQE: Tensor | None, insert_at: int = INSERT_AT) -> Tensor:
    """Run CLIP's text encoder with extra rows among its word embeddings.

    Args:
        encoder: a ``CLIPTextModel``.
        ids_BL: tokens of the prompt.
        context_BQE: rows that are inserted before token ``insert_at``; None = none. Positions continue through them.
        insert_at: position of the first row.

    Returns:
        last hidden state (B, L + Q, E), after the final LayerNorm; every position sees itself and those before it.
    """
    clip = getattr(encoder, "text_model", encoder)  # older transformers wrap it once more
    x_BTE = clip.embeddings.token_embedding(ids_BL)
    if context_BQE is not None:
        x_BTE = torch.cat([x_BTE[:, :insert_at], context_BQE.to(x_BTE.dtype), x_BTE[:, insert_at:]], dim=1)
    x_BTE = clip.embeddings(inputs_embeds=x_BTE)  # adds the positions, which continue through the inserted rows
    length = x_BTE.shape[1]
    # The encoder builds its own causal mask only from token ids; given embeddings it has to be passed.
    mask_TT = torch.full((length, length), torch.finfo(x_BTE.dtype).min, dtype=x_BTE.dtype, device=x_BTE.device).triu(1)
    hidden_BTE = clip.encoder(
        inputs_embeds=x_BTE, attention_mask=mask_TT[None, None], is_causal=False
    ).last_hidden_state
    normed: Tensor = clip.final_layer_norm(hidden_BTE)
    return normed
