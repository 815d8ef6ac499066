"""The Q-Former: a BERT whose learnable queries read an image, as in BLIP-2.

Queries and text share self-attention; in every ``cross_attention_freq``-th layer the query rows also attend to the image;
queries and text have feed-forwards of their own. One module serves four passes:

    image         queries + image                         -> image features
    text          text alone, bidirectional               -> text features
    image + text  queries + text + image, bidirectional   -> matching, composed queries
    captioning    the same with ``causal=True``: queries see queries, text sees queries and earlier text

In the captioning pass the query rows never see text, so they equal those of the image pass: one pass gives both.
The keys and values that cross-attention takes from an image depend on the image alone. ``project_image`` computes them
once; every pass reuses them, whole or by row (``ImageMemory.rows``).

Shapes: B rows, Q query tokens, L text tokens, T = Q + L, N image tokens, W image width, H hidden width, A heads.
Layout and numerics (post-norm, exact GELU, LayerNorm eps 1e-12) follow BERT and the Q-Former of LAVIS.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class QFormerConfig:
    """Sizes of a Q-Former; the defaults are those of BERT-base."""

    vocab_size: int = 30523
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    cross_attention_freq: int = 2
    image_width: int = 1408
    max_positions: int = 512
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initial_std: float = 0.02  # of new weights: BERT's, made for width 768; narrow models need about 1 / sqrt(width)


class ImageMemory(NamedTuple):
    """Keys and values of B images for each cross-attention layer, both (layers, B, A, N, H / A)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def rows(self, index: Tensor) -> "ImageMemory":
        """Return the memory of the images ``index`` (R,), repeated and reordered as it says."""
        return ImageMemory(
            tuple(k.index_select(0, index) for k in self.keys), tuple(v.index_select(0, index) for v in self.values)
        )

    def beside(self, other: "ImageMemory") -> "ImageMemory":
        """Return a memory whose every row holds the tokens of two images, this one's first."""
        return ImageMemory(
            tuple(torch.cat(pair, dim=-2) for pair in zip(self.keys, other.keys, strict=True)),
            tuple(torch.cat(pair, dim=-2) for pair in zip(self.values, other.values, strict=True)),
        )

    @staticmethod
    def concatenate(memories: "list[ImageMemory]") -> "ImageMemory":
        """Stack memories along their rows."""
        return ImageMemory(
            tuple(torch.cat(parts) for parts in zip(*(m.keys for m in memories), strict=True)),
            tuple(torch.cat(parts) for parts in zip(*(m.values for m in memories), strict=True)),
        )


class Attention(nn.Module):
    """Multi-head attention with BERT's output: dense, dropout, residual, LayerNorm."""

    def __init__(self, config: QFormerConfig, key_width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(key_width, config.hidden_size)
        self.value = nn.Linear(key_width, config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def _heads(self, x_BTH: Tensor) -> Tensor:
        return x_BTH.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def project(self, source_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of ``source``, both (B, A, S, H / A)."""
        return self._heads(self.key(source_BSW)), self._heads(self.value(source_BSW))

    def forward(self, x_BTH: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from ``x``; ``mask`` is True where a row may attend, broadcastable to (B, A, T, S)."""
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(self._heads(self.query(x_BTH)), key, value, mask, dropout)
        out_BTH = self.dense(mixed.transpose(1, 2).flatten(2))
        return self.norm(x_BTH + F.dropout(out_BTH, self.dropout, self.training))


class FeedForward(nn.Module):
    """BERT's feed-forward: dense, GELU, dense, dropout, residual, LayerNorm."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x_BTH: Tensor) -> Tensor:
        """Return (B, T, H)."""
        out_BTH = self.contract(F.gelu(self.expand(x_BTH)))
        return self.norm(x_BTH + F.dropout(out_BTH, self.dropout, self.training))


class QFormerLayer(nn.Module):
    """Self-attention over [queries; text], cross-attention of the queries to the image, two feed-forwards."""

    def __init__(self, config: QFormerConfig, has_cross_attention: bool) -> None:
        super().__init__()
        self.attention = Attention(config, config.hidden_size)
        self.cross_attention: Attention | None = Attention(config, config.image_width) if has_cross_attention else None
        self.text_ffn = FeedForward(config)
        self.query_ffn = FeedForward(config)

    def forward(
        self, x_BTH: Tensor, num_queries: int, mask: Tensor | None, image: tuple[Tensor, Tensor] | None, reads: bool
    ) -> Tensor:
        """Return (B, T, H). ``reads`` says whether this pass has an image, ``image`` is its keys and values in this layer."""
        x_BTH = self.attention(x_BTH, *self.attention.project(x_BTH), mask)
        # Without an image every row, queries too, takes the text feed-forward: SPRC's checkpoints were trained with such a pass.
        if not reads:
            return self.text_ffn(x_BTH)
        # Text rows never attend to the image themselves; they see it through the queries, in self-attention.
        query_BQH, text_BLH = x_BTH.split([num_queries, x_BTH.shape[1] - num_queries], dim=1)
        if self.cross_attention is not None and image is not None:
            query_BQH = self.cross_attention(query_BQH, *image)
        return torch.cat([self.query_ffn(query_BQH), self.text_ffn(text_BLH)], dim=1)


class QFormer(nn.Module):
    """Embeddings and layers; heads live in the model that owns it."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            QFormerLayer(config, index % config.cross_attention_freq == 0) for index in range(config.num_layers)
        )
        self.apply(self._initialise)
        # BLIP-2 starts the queries' feed-forward as a copy of the text's, which comes from BERT.
        for layer in self._each_layer():
            layer.query_ffn.load_state_dict(layer.text_ffn.state_dict())

    def _each_layer(self) -> Iterator[QFormerLayer]:
        return (layer for layer in self.layers if isinstance(layer, QFormerLayer))

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initial_std)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def project_image(self, image_BNW: Tensor) -> ImageMemory:
        """Compute the keys and values that all passes over these images share."""
        pairs = [
            layer.cross_attention.project(image_BNW)
            for layer in self._each_layer()
            if layer.cross_attention is not None
        ]
        return ImageMemory(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def forward(
        self,
        query_BQH: Tensor | None = None,
        text_ids_BL: Tensor | None = None,
        text_mask_BL: Tensor | None = None,
        image: ImageMemory | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Run one pass and return the last hidden state (B, Q + L, H), query rows first.

        Args:
            query_BQH: query rows; None for a text pass.
            text_ids_BL: token ids; None for an image pass.
            text_mask_BL: 1 for real tokens, 0 for padding.
            image: what ``project_image`` returned, with B rows; without it every row uses the text feed-forward.
            causal: text sees the queries and earlier text, queries see queries only.
        """
        parts = [] if query_BQH is None else [query_BQH]
        if text_ids_BL is not None:
            positions_L = torch.arange(text_ids_BL.shape[1], device=text_ids_BL.device)
            parts.append(self.word_embeddings(text_ids_BL) + self.position_embeddings(positions_L))
        num_queries = 0 if query_BQH is None else query_BQH.shape[1]
        # Queries have no position embedding: their order has no meaning. BERT's first LayerNorm is applied to them too.
        x_BTH = F.dropout(self.norm(torch.cat(parts, dim=1)), self.config.dropout, self.training)
        mask = attention_mask(num_queries, text_mask_BL, causal)

        keys_values = iter(zip(image.keys, image.values, strict=True)) if image is not None else iter(())
        for layer in self._each_layer():
            key_value = next(keys_values, None) if layer.cross_attention is not None else None
            x_BTH = layer(x_BTH, num_queries, mask, key_value, reads=image is not None)
        return x_BTH


def attention_mask(num_queries: int, text_mask_BL: Tensor | None, causal: bool) -> Tensor | None:
    """Return which positions may attend to which, a bool (B, 1, 1 or T, T) tensor; None when all see everything."""
    if text_mask_BL is None:
        return None
    # Queries are never padding. A boolean mask, because scaled_dot_product_attention adds float masks in the dtype of the scores.
    keys_BT = F.pad(text_mask_BL.bool(), (num_queries, 0), value=True)
    if not causal:
        return keys_BT[:, None, None, :]
    total = keys_BT.shape[1]
    allowed_TT = torch.ones(total, total, dtype=torch.bool, device=keys_BT.device).tril()
    # The queries must not see the caption that they are to predict, so that this pass also gives the features of the image pass.
    allowed_TT[:num_queries, :num_queries] = True
    return keys_BT[:, None, None, :] & allowed_TT
