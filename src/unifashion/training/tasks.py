"""Tasks: a model and a batch become a dict of named losses. This is where the passes of each named model are laid out.

A batch is what ``data.batches`` collates. Shapes: B rows, M rows of all ranks, Q query tokens, D width, L text tokens.
Losses are the paper's (section 3.2.1 for ``blip2_cir_cls``, 3.2.2 for ``blip2_cir_rerank``), with these decisions:
rows of one product, or with one text, are never negatives of one another; hard negatives come from all ranks.
"""

import torch
from torch import Tensor, nn

from unifashion.config import TrainingSettings
from unifashion.data.batches import Batch
from unifashion.models.losses import best_query_scores, contrastive_loss, language_loss, matching_loss
from unifashion.models.negatives import hard_negatives, same_item
from unifashion.models.qformer import ImageMemory
from unifashion.models.unifashion import UniFashion
from unifashion.training.distributed import gather, gather_padded, mean_over_ranks, rank, stack_padded

Losses = dict[str, Tensor]


class Task(nn.Module):
    """Base of the tasks: the model, the loss settings, and what both tasks share."""

    uses_all_parameters = True  # whether every trained parameter takes part in every step

    def __init__(self, model: UniFashion, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def _scores(self, image_BQD: Tensor, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return image-to-text and text-to-image similarities over the temperature, both (B, M)."""
        image_BQD, text_BD = image_BQD.float(), text_BD.float()
        temperature = self.model.temperature
        image_to_text_BM = best_query_scores(image_BQD, gather(text_BD)) / temperature
        text_to_image_BM = best_query_scores(gather(image_BQD), text_BD).T / temperature
        return image_to_text_BM, text_to_image_BM

    def _contrast(self, image_to_text_BM: Tensor, text_to_image_BM: Tensor, forbidden_BM: Tensor) -> Tensor:
        """Return ITC, the sum of both directions."""
        offset = rank() * len(forbidden_BM)
        return contrastive_loss(image_to_text_BM, forbidden_BM, offset) + contrastive_loss(
            text_to_image_BM, forbidden_BM, offset
        )

    def _match(
        self,
        image: ImageMemory,
        tokens_BNW: Tensor,
        ids_BL: Tensor,
        mask_BL: Tensor,
        scores: tuple[Tensor, Tensor],
        forbidden_BM: Tensor,
        wrong_texts: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return ITM over [match; wrong image; wrong text], all rows in one pass.

        ``scores`` are (image-to-text, text-to-image). BLIP-2 seeks row b's wrong text among the texts near image b; the
        original UniFashion code uses the two matrices the other way round. ``wrong_texts`` are ids and mask of the texts
        that wrong ones are taken from; default: the same texts that match.
        """
        mining = self.settings.itm_negatives
        image_to_text_BM, text_to_image_BM = scores if mining == "multinomial" else (scores[1], scores[0])
        wrong_image_B, has_image_B = hard_negatives(text_to_image_BM, forbidden_BM, mining)
        wrong_text_B, has_text_B = hard_negatives(image_to_text_BM, forbidden_BM, mining)
        rows_B = torch.arange(len(ids_BL), device=ids_BL.device)
        pick_image, pick_text = wrong_image_B[has_image_B], wrong_text_B[has_text_B]

        tokens_MNW = gather(tokens_BNW)
        if len(tokens_MNW) == len(tokens_BNW):
            wrong_images = image.rows(pick_image)
        else:
            wrong_images = self.model.qformer.project_image(tokens_MNW[pick_image])
        images = ImageMemory.concatenate([image, wrong_images, image.rows(rows_B[has_text_B])])

        wrong_ids_BL, wrong_mask_BL = wrong_texts or (ids_BL, mask_BL)
        ids_RL = stack_padded([ids_BL, ids_BL[has_image_B], gather_padded(wrong_ids_BL)[pick_text]])
        mask_RL = stack_padded([mask_BL, mask_BL[has_image_B], gather_padded(wrong_mask_BL)[pick_text]])
        label_R = (torch.arange(len(ids_RL), device=ids_RL.device) < len(ids_BL)).long()
        return matching_loss(self.model.match_logits(images, ids_RL, mask_RL).float(), label_R)


class CrossModalTask(Task):
    """``blip2_cir_cls``: image-text contrast, matching and captioning."""

    def forward(self, batch: Batch) -> Losses:
        """Return losses itc, itm and lm."""
        ids_BL, mask_BL = batch["text_ids"], batch["text_mask"]
        tokens_BNW = self.model.image_tokens(batch["image"])
        image = self.model.qformer.project_image(tokens_BNW)

        image_BQD, logits_BLV = self.model.caption_pass(image, ids_BL, mask_BL)
        text_BD = self.model.text_features(ids_BL, mask_BL)
        scores = self._scores(image_BQD, text_BD)
        forbidden_BM = same_item(batch["product"], gather(batch["product"]), batch["text"], gather(batch["text"]))
        num_targets = mean_over_ranks(mask_BL[:, 1:].sum())
        return {
            "itc": self._contrast(*scores, forbidden_BM),
            "itm": self._match(image, tokens_BNW, ids_BL, mask_BL, scores, forbidden_BM),
            "lm": language_loss(logits_BLV.float(), ids_BL, mask_BL, num_targets=num_targets),
        }


class ComposedTask(Task):
    """``blip2_cir_rerank``: the fused query against target images (ITC), matching, and target captions (TTC).

    Without target captions TTC is left out and matching reads the feedback in their place. With captions the wrong text of
    matching is another row's caption; the original takes another row's feedback (``itm_negatives: unifashion``), which the
    head can tell by its style alone.
    """

    uses_all_parameters = False  # the language head rests

    def forward(self, batch: Batch) -> Losses:
        """Return losses itc, itm and, where the batch has captions, ttc."""
        reference = self.model.read_images(batch["reference"])
        tokens_BNW = self.model.image_tokens(batch["target"])
        target = self.model.qformer.project_image(tokens_BNW)

        fused_BD, fused_image_BQD = self.model.fused_features(reference, batch["text_ids"], batch["text_mask"])
        scores = self._scores(self.model.image_features(target), fused_BD)
        product_B, text_B = batch["product"], batch["text"]
        same_target_BM = product_B[:, None] == gather(product_B)
        losses = {"itc": self._contrast(*scores, same_target_BM)}
        if "caption_ids" not in batch:
            matched = batch["text_ids"], batch["text_mask"]
        else:
            matched = batch["caption_ids"], batch["caption_mask"]
            caption_MD = gather(self.model.text_features(*matched).float())
            fused_to_caption_BM = best_query_scores(fused_image_BQD.float(), caption_MD) / self.model.temperature
            losses["ttc"] = contrastive_loss(fused_to_caption_BM, same_target_BM, rank() * len(product_B))
        forbidden_BM = same_item(product_B, gather(product_B), text_B, gather(text_B))
        feedback = (batch["text_ids"], batch["text_mask"])
        wrong_texts = feedback if self.settings.itm_negatives == "unifashion" else matched
        losses["itm"] = self._match(target, tokens_BNW, *matched, scores, forbidden_BM, wrong_texts)
        return losses


TASKS: dict[str, type[Task]] = {"blip2_cir_cls": CrossModalTask, "blip2_cir_rerank": ComposedTask}


def find_task(model_name: str) -> type[Task]:
    """Return the task that trains a named model."""
    if model_name == "blip2_cir_full":
        from unifashion.training.caption_task import CaptionTask  # here, because it builds on this module

        return CaptionTask
    return TASKS[model_name]
