"""The two training steps written plainly, as the original runs them: the yardstick of ``bench_step``.

transformers' ``Blip2QFormerModel`` does the passes. Every text is padded to 64 tokens, every loss has a pass of its own, the
image's keys and values are projected in each of them. The mathematics is that of ``training.tasks`` with the original's way of
choosing hard negatives (the highest score), so that both sides compute the same numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from unifashion.models.unifashion import UniFashionModel

PADDED_LENGTH = 64


class PlainSteps(nn.Module):
    """Weights of a UniFashion model on transformers' Q-Former, and the losses of both phases."""

    def __init__(self, model: UniFashionModel) -> None:
        super().__init__()
        sizes = model.config.qformer
        config = Blip2QFormerConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.intermediate_size,
            cross_attention_frequency=sizes.cross_attention_freq,
            encoder_hidden_size=sizes.image_width,
            hidden_dropout_prob=sizes.dropout,
            attention_probs_dropout_prob=sizes.dropout,
            layer_norm_eps=sizes.layer_norm_eps,
            use_qformer_text_input=True,
            attn_implementation="eager",
        )
        self.qformer = Blip2QFormerModel(config)
        missing, unexpected = self.qformer.load_state_dict(_renamed(model), strict=False)
        assert not missing, missing
        assert all("embeddings" in name for name in unexpected), unexpected
        self.num_queries, self.dec_token_id = model.config.num_queries, model.config.dec_token_id
        self.query_tokens = nn.Parameter(model.query_tokens.detach().clone())
        if hasattr(model, "prompt_tokens"):
            self.prompt_tokens = nn.Parameter(model.prompt_tokens.detach().clone())
        self.words = nn.Embedding.from_pretrained(model.qformer.word_embeddings.weight.detach().clone(), freeze=False)
        self.places = nn.Embedding.from_pretrained(
            model.qformer.position_embeddings.weight.detach().clone(), freeze=False
        )
        for name in ("ln_vision", "vision_proj", "text_proj", "itm_head", "language_head"):
            own = getattr(model, name)
            copy = type(own)(sizes) if name == "language_head" else _like(own)
            copy.load_state_dict(own.state_dict())
            setattr(self, name, copy)
        self.temperature = nn.Parameter(model.temperature.detach().clone())

    def cls(self, image_BNW: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the phase-1 loss: itc + itm + lm."""
        ids_BL, mask_BL = _pad(ids_BL), _pad(mask_BL)
        image_BNW = self.ln_vision(image_BNW)
        image_BQD = F.normalize(self.vision_proj(self._pass(self.query_tokens, None, None, image_BNW)), dim=-1)
        text_BD = F.normalize(self.text_proj(self._pass(None, ids_BL, mask_BL, None)[:, 0]), dim=-1)
        scores_BB = torch.einsum("iqd,jd->ijq", image_BQD, text_BD).amax(-1) / self.temperature
        itm = self._match(self.query_tokens, image_BNW, (ids_BL, mask_BL), (ids_BL, mask_BL), scores_BB)
        return _contrast(scores_BB) + itm + self._caption_loss(image_BNW, ids_BL, mask_BL)

    def rerank(
        self, reference_BNW: Tensor, target_BNW: Tensor, feedback: list[Tensor], caption: list[Tensor]
    ) -> Tensor:
        """Return the phase-2 loss: itc + itm + ttc; ``feedback`` and ``caption`` are ids and mask."""
        ids_BL, mask_BL = _pad(feedback[0]), _pad(feedback[1])
        caption_ids_BL, caption_mask_BL = _pad(caption[0]), _pad(caption[1])
        reference_BNW, target_BNW = self.ln_vision(reference_BNW), self.ln_vision(target_BNW)
        fused_BTH = self._pass(self.query_tokens, ids_BL, mask_BL, reference_BNW)
        fused_BD = F.normalize(self.text_proj(fused_BTH[:, self.num_queries]), dim=-1)
        fused_BQD = F.normalize(self.vision_proj(fused_BTH[:, : self.num_queries]), dim=-1)
        target_BQD = F.normalize(self.vision_proj(self._pass(self.prompt_tokens, None, None, target_BNW)), dim=-1)
        caption_BD = F.normalize(self.text_proj(self._pass(None, caption_ids_BL, caption_mask_BL, None)[:, 0]), dim=-1)
        scores_BB = torch.einsum("iqd,jd->ijq", target_BQD, fused_BD).amax(-1) / self.temperature
        caption_scores_BB = torch.einsum("iqd,jd->ijq", fused_BQD, caption_BD).amax(-1) / self.temperature
        ttc = F.cross_entropy(caption_scores_BB, torch.arange(len(caption_scores_BB), device=caption_scores_BB.device))
        texts = (caption_ids_BL, caption_mask_BL), (ids_BL, mask_BL)
        return _contrast(scores_BB) + ttc + self._match(self.prompt_tokens, target_BNW, *texts, scores_BB)

    def _pass(self, queries: Tensor | None, ids: Tensor | None, mask: Tensor | None, image: Tensor | None) -> Tensor:
        parts, keys = [], []
        if queries is not None and image is not None:
            parts.append(queries.expand(len(image), -1, -1))
            keys.append(torch.ones(parts[0].shape[:2], device=image.device))
        if ids is not None and mask is not None:
            parts.append(self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device)))
            keys.append(mask.float())
        additive = (1 - torch.cat(keys, 1))[:, None, None, :] * -10000.0
        return self._run(torch.cat(parts, 1), self.num_queries if queries is not None else 0, additive, image)

    def _run(self, rows: Tensor, num_queries: int, additive: Tensor, image: Tensor | None) -> Tensor:
        output = self.qformer(
            query_embeds=rows, query_length=num_queries, attention_mask=additive, encoder_hidden_states=image
        )
        return output.last_hidden_state

    def _caption_loss(self, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        ids = torch.cat([torch.full_like(ids[:, :1], self.dec_token_id), ids[:, 1:]], 1)
        words = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        rows = torch.cat([self.query_tokens.expand(len(image), -1, -1), words], 1)
        num = self.num_queries
        allowed = torch.ones(rows.shape[1], rows.shape[1], device=rows.device).tril()
        allowed[:num, :num] = 1
        keys = torch.cat([torch.ones(len(ids), num, device=rows.device), mask.float()], 1)
        additive = (1 - allowed[None, None] * keys[:, None, None, :]) * -10000.0
        logits = self.language_head(self._run(rows, num, additive, image)[:, num:], self.words.weight)
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), label_smoothing=0.1)

    def _match(
        self,
        queries: Tensor,
        image: Tensor,
        texts: tuple[Tensor, Tensor],
        wrong_texts: tuple[Tensor, Tensor],
        scores: Tensor,
    ) -> Tensor:
        barred = scores.detach().masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
        wrong_image, wrong_text = barred.argmax(1), barred.T.argmax(1)
        ids = torch.cat([texts[0], texts[0], wrong_texts[0][wrong_text]])
        mask = torch.cat([texts[1], texts[1], wrong_texts[1][wrong_text]])
        images = torch.cat([image, image[wrong_image], image])
        hidden = self._pass(queries, ids, mask, images)[:, : self.num_queries]
        labels = (torch.arange(len(ids), device=ids.device) < len(image)).long()
        return F.cross_entropy(self.itm_head(hidden).mean(1), labels)


def _contrast(scores: Tensor) -> Tensor:
    diagonal = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, diagonal) + F.cross_entropy(scores.T, diagonal)


def _pad(ids: Tensor) -> Tensor:
    return F.pad(ids, (0, PADDED_LENGTH - ids.shape[1]))


def _like(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.LayerNorm):
        return nn.LayerNorm(module.normalized_shape, eps=module.eps)
    assert isinstance(module, nn.Linear)
    return nn.Linear(module.in_features, module.out_features)


def _renamed(model: UniFashionModel) -> dict[str, Tensor]:
    """Return our Q-Former's weights under transformers' names."""
    from unifashion.convert.huggingface import _TABLE

    renamed = {_TABLE.theirs(name): tensor for name, tensor in model.state_dict().items()}
    return {name.removeprefix("qformer."): tensor for name, tensor in renamed.items() if name and "qformer." in name}
