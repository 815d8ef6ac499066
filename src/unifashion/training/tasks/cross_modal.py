"""``blip2_cir_cls``, phase 1: an image and its text. Losses itc, itm and lm (paper, section 3.2.1)."""

from torch import Tensor

from unifashion.data.batches import Batch
from unifashion.distributed import gather
from unifashion.models.losses import language_loss
from unifashion.models.negatives import same_item
from unifashion.training.tasks.contrastive import ContrastiveTask, Features, ItmPairs
from unifashion.training.tasks.task import Losses


class CrossModalTask(ContrastiveTask):
    """Image-text contrast, matching and captioning by the Q-Former's own head."""

    losses = ("itc", "itm", "lm")
    matched_image = "image"

    def encode(self, batch: Batch) -> Features:
        """Run two passes: image with causal text (image vectors and words at once), and text alone."""
        ids_BL, mask_BL = batch["text_ids"], batch["text_mask"]
        tokens_BNW = self.model.image_tokens(batch["image"])
        image = self.model.qformer.project_image(tokens_BNW)
        image_BQD, logits_BLV = self.model.caption_pass(image, ids_BL, mask_BL)
        vectors = {"image": image_BQD, "text": self.model.text_features(ids_BL, mask_BL)}
        lm = language_loss(logits_BLV.float(), ids_BL, mask_BL, num_targets=batch["num_targets"])
        return Features(vectors, {"lm": lm}, tokens_BNW, image)

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs]:
        """Return itc, and the pairs for itm."""
        similarities = self._similarities(vectors["image"], vectors["text"])
        exclude_mask_BM = same_item(batch["product"], gather(batch["product"]), batch["text"], gather(batch["text"]))
        texts = batch["text_ids"], batch["text_mask"]
        losses = {"itc": self._itc(*similarities, exclude_mask_BM)}
        return losses, self._choose_pairs(texts, texts, similarities, exclude_mask_BM)
