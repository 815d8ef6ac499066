"""Tasks: a model and a batch become a dict of named losses. This is where the passes of each named model are laid out.

A batch is what ``data.batches`` collates. Shapes: B rows, M rows of all ranks, Q query tokens, D width, L text tokens.
Losses are the paper's (section 3.2.1 for ``blip2_cir_cls``, 3.2.2 for ``blip2_cir_rerank``), with these decisions:
rows of one product, or with one text, are never negatives of one another; hard negatives come from all ranks.

The contrastive tasks have three parts, so that ``grad_cache`` can take them apart: ``read`` passes over rows that know nothing
of one another, ``compare`` sees the vectors of all rows, ``match`` passes over pairs of image and text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unifashion.config import TrainingSettings
from unifashion.data.batches import Batch
from unifashion.distributed import gather, gather_padded, mean_over_ranks, rank, stack_padded
from unifashion.models.losses import best_query_scores, contrastive_loss, language_loss, matching_loss
from unifashion.models.negatives import hard_negatives, same_item
from unifashion.models.qformer import ImageMemory
from unifashion.models.unifashion import UniFashionModel

Losses = dict[str, Tensor]


class Task(nn.Module):
    """Base of the tasks: the model and the loss settings."""

    uses_all_parameters = True  # whether every trained parameter takes part in every step

    def __init__(self, model: UniFashionModel, settings: TrainingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings


@dataclass(frozen=True, eq=False)
class Reading:
    """What the passes over single rows yield."""

    features: dict[str, Tensor]  # vectors that rows are compared by
    losses: Losses  # that need no other row
    tokens_BNW: Tensor  # of the images that are matched
    image: ImageMemory  # their keys and values


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images and texts that are shown to the matching head: R = [B matches; wrong images; wrong texts]."""

    wrong_image_I: Tensor  # rows of all ranks
    text_row_T: Tensor  # rows of this rank that are shown with a wrong text
    ids_RL: Tensor
    mask_RL: Tensor
    num_pairs: Tensor  # mean over the ranks

    def labels(self) -> Tensor:
        """Return 1 for matches, 0 for the rest."""
        num_matches = len(self.ids_RL) - len(self.wrong_image_I) - len(self.text_row_T)
        return (torch.arange(len(self.ids_RL), device=self.ids_RL.device) < num_matches).long()


class ContrastiveTask(Task):
    """What the two retrieval tasks share: contrast, hard negatives, matching."""

    matched_image: str  # the batch's name of the images that texts are matched with

    def read(self, batch: Batch, num_targets: Tensor | None = None) -> Reading:
        """Pass over the rows of a batch, or of a part of one.

        ``num_targets`` is ``count_targets`` of the whole batch.
        """
        raise NotImplementedError

    def compare(self, features: dict[str, Tensor], batch: Batch) -> tuple[Losses, Pairs]:
        """Return the losses between rows, and the pairs for ``match``."""
        raise NotImplementedError

    def count_targets(self, batch: Batch) -> Tensor | None:
        """Return how many words are foretold, mean over the ranks; None where none are."""
        return None

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        reading = self.read(batch, self.count_targets(batch))
        losses, pairs = self.compare(reading.features, batch)
        return losses | {"itm": self.match(reading, pairs)} | reading.losses

    def match(self, reading: Reading, pairs: Pairs) -> Tensor:
        """Return ITM, all pairs in one pass."""
        image = reading.image
        tokens_MNW = gather(reading.tokens_BNW)
        if len(tokens_MNW) == len(reading.tokens_BNW):
            own_B = torch.arange(len(tokens_MNW), device=tokens_MNW.device)
            images = image.rows(torch.cat([own_B, pairs.wrong_image_I, pairs.text_row_T]))
        else:
            wrong_images = self.model.qformer.project_image(tokens_MNW[pairs.wrong_image_I])
            images = ImageMemory.concatenate([image, wrong_images, image.rows(pairs.text_row_T)])
        logits_R2 = self.model.match_logits(images, pairs.ids_RL, pairs.mask_RL)
        return matching_loss(logits_R2.float(), pairs.labels(), pairs.num_pairs)

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

    def _pairs(
        self,
        texts: tuple[Tensor, Tensor],
        wrong_texts: tuple[Tensor, Tensor],
        scores: tuple[Tensor, Tensor],
        forbidden_BM: Tensor,
    ) -> Pairs:
        """Choose what every row is wrongly shown with.

        ``texts`` are ids and mask of the texts that match, ``wrong_texts`` of those that wrong ones are taken from. ``scores``
        are (image-to-text, text-to-image). BLIP-2 seeks row b's wrong text among the texts near image b; the original
        UniFashion code uses the two matrices the other way round.
        """
        mining = self.settings.itm_negatives
        image_to_text_BM, text_to_image_BM = scores if mining == "multinomial" else (scores[1], scores[0])
        wrong_image_B, has_image_B = hard_negatives(text_to_image_BM, forbidden_BM, mining)
        wrong_text_B, has_text_B = hard_negatives(image_to_text_BM, forbidden_BM, mining)
        (ids_BL, mask_BL), pick_text = texts, wrong_text_B[has_text_B]
        ids_RL = stack_padded([ids_BL, ids_BL[has_image_B], gather_padded(wrong_texts[0])[pick_text]])
        mask_RL = stack_padded([mask_BL, mask_BL[has_image_B], gather_padded(wrong_texts[1])[pick_text]])
        return Pairs(
            wrong_image_B[has_image_B],
            has_text_B.nonzero()[:, 0],
            ids_RL,
            mask_RL,
            mean_over_ranks(torch.tensor(float(len(ids_RL)), device=ids_RL.device)),
        )


class CrossModalTask(ContrastiveTask):
    """``blip2_cir_cls``: image-text contrast, matching and captioning. Losses itc, itm and lm."""

    matched_image = "image"

    def read(self, batch: Batch, num_targets: Tensor | None = None) -> Reading:
        """See ``ContrastiveTask``."""
        ids_BL, mask_BL = batch["text_ids"], batch["text_mask"]
        tokens_BNW = self.model.image_tokens(batch["image"])
        image = self.model.qformer.project_image(tokens_BNW)
        image_BQD, logits_BLV = self.model.caption_pass(image, ids_BL, mask_BL)
        features = {"image": image_BQD, "text": self.model.text_features(ids_BL, mask_BL)}
        words = language_loss(logits_BLV.float(), ids_BL, mask_BL, num_targets=num_targets)
        return Reading(features, {"lm": words}, tokens_BNW, image)

    def count_targets(self, batch: Batch) -> Tensor:
        """Count every token but the first of each text."""
        return mean_over_ranks(batch["text_mask"][:, 1:].sum())

    def compare(self, features: dict[str, Tensor], batch: Batch) -> tuple[Losses, Pairs]:
        """See ``ContrastiveTask``."""
        scores = self._scores(features["image"], features["text"])
        forbidden_BM = same_item(batch["product"], gather(batch["product"]), batch["text"], gather(batch["text"]))
        texts = batch["text_ids"], batch["text_mask"]
        return {"itc": self._contrast(*scores, forbidden_BM)}, self._pairs(texts, texts, scores, forbidden_BM)


class ComposedTask(ContrastiveTask):
    """``blip2_cir_rerank``: the fused query against target images (ITC), matching, and target captions (TTC).

    Without target captions TTC is left out and matching reads the feedback in their place. With captions the wrong text of
    matching is another row's caption; the original takes another row's feedback (``itm_negatives: unifashion``), which the
    head can tell by its style alone.
    """

    uses_all_parameters = False  # the language head rests
    matched_image = "target"

    def read(self, batch: Batch, num_targets: Tensor | None = None) -> Reading:
        """See ``ContrastiveTask``."""
        reference = self.model.read_images(batch["reference"])
        tokens_BNW = self.model.image_tokens(batch["target"])
        target = self.model.qformer.project_image(tokens_BNW)
        fused_BD, fused_image_BQD = self.model.fused_features(reference, batch["text_ids"], batch["text_mask"])
        features = {"fused": fused_BD, "target": self.model.image_features(target)}
        if "caption_ids" in batch:
            features["fused_image"] = fused_image_BQD
            features["caption"] = self.model.text_features(batch["caption_ids"], batch["caption_mask"])
        return Reading(features, {}, tokens_BNW, target)

    def compare(self, features: dict[str, Tensor], batch: Batch) -> tuple[Losses, Pairs]:
        """See ``ContrastiveTask``."""
        scores = self._scores(features["target"], features["fused"])
        product_B, text_B = batch["product"], batch["text"]
        same_target_BM = product_B[:, None] == gather(product_B)
        losses = {"itc": self._contrast(*scores, same_target_BM)}
        matched = feedback = batch["text_ids"], batch["text_mask"]
        if "caption" in features:
            matched = batch["caption_ids"], batch["caption_mask"]
            caption_MD = gather(features["caption"].float())
            fused_to_caption_BM = best_query_scores(features["fused_image"].float(), caption_MD)
            fused_to_caption_BM = fused_to_caption_BM / self.model.temperature
            losses["ttc"] = contrastive_loss(fused_to_caption_BM, same_target_BM, rank() * len(product_B))
        forbidden_BM = same_item(product_B, gather(product_B), text_B, gather(text_B))
        wrong_texts = feedback if self.settings.itm_negatives == "unifashion" else matched
        return losses, self._pairs(matched, wrong_texts, scores, forbidden_BM)


TASKS: dict[str, type[Task]] = {"blip2_cir_cls": CrossModalTask, "blip2_cir_rerank": ComposedTask}


def find_task(model_name: str) -> type[Task]:
    """Return the task that trains a named model."""
    if model_name == "blip2_cir_full":
        from unifashion.training.caption_task import CaptionTask  # here, because it builds on this module

        return CaptionTask
    return TASKS[model_name]
