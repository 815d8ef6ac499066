"""``blip2_cir_rerank``, phase 2: reference image and feedback find the target image (paper, section 3.2.2)."""

from torch import Tensor

from unifashion.data.batches import Batch
from unifashion.distributed import gather, rank
from unifashion.models.losses import best_query_scores, contrastive_loss
from unifashion.models.negatives import same_item
from unifashion.training.tasks.contrastive import ContrastiveTask, Features, ItmPairs
from unifashion.training.tasks.task import Losses


class ComposedTask(ContrastiveTask):
    """The fused query against target images (itc), matching (itm), and the fused query against target captions (ttc).

    Without target captions ttc is left out and matching reads the feedback in their place. With captions the wrong text of
    matching is another row's caption; the original takes another row's feedback (``itm_negatives: unifashion``), which the
    head can recognise by its style alone.
    """

    losses = ("itc", "ttc", "itm")
    uses_all_parameters = False  # the language head is idle
    matched_image = "target"

    def encode(self, batch: Batch) -> Features:
        """Run the passes over reference with feedback, over the target, and over its caption where there is one."""
        reference = self.model.read_images(batch["reference"])
        tokens_BNW = self.model.image_tokens(batch["target"])
        target = self.model.qformer.project_image(tokens_BNW)
        fused_BD, fused_image_BQD = self.model.fused_features(reference, batch["text_ids"], batch["text_mask"])
        vectors = {"fused": fused_BD, "target": self.model.image_features(target)}
        if "caption_ids" in batch:
            vectors["fused_image"] = fused_image_BQD
            vectors["caption"] = self.model.text_features(batch["caption_ids"], batch["caption_mask"])
        return Features(vectors, {}, tokens_BNW, target)

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs]:
        """Return itc and, with captions, ttc; and the pairs for itm."""
        similarities = self._similarities(vectors["target"], vectors["fused"])
        product_B, text_B = batch["product"], batch["text"]
        same_target_BM = product_B[:, None] == gather(product_B)
        losses = {"itc": self._itc(*similarities, same_target_BM)}
        matched = feedback = batch["text_ids"], batch["text_mask"]
        if "caption" in vectors:
            matched = batch["caption_ids"], batch["caption_mask"]
            caption_MD = gather(vectors["caption"].float())
            fused_to_caption_BM = best_query_scores(vectors["fused_image"].float(), caption_MD)
            fused_to_caption_BM = fused_to_caption_BM / self.model.temperature
            losses["ttc"] = contrastive_loss(fused_to_caption_BM, same_target_BM, rank() * len(product_B))
        exclude_mask_BM = same_item(product_B, gather(product_B), text_B, gather(text_B))
        wrong_texts = feedback if self.mining == "unifashion" else matched
        return losses, self._choose_pairs(matched, wrong_texts, similarities, exclude_mask_BM)
