"""Phase 1: an image and its text. Losses itc, itm, lm, itg and q2i (paper, section 3.2.1)."""

from torch import Tensor

from unifashion.data.batches import Batch
from unifashion.distributed import gather
from unifashion.models.negatives import same_item
from unifashion.training.tasks.contrastive import ContrastiveTask, Features, ItmPairs
from unifashion.training.tasks.task import Losses


class CrossModalTask(ContrastiveTask):
    """Image-text contrast and matching; captions and drawings of the image."""

    losses = ("itc", "itm", "lm")
    matched_image = "image"

    @property
    def uses_all_parameters(self) -> bool:
        """Return whether no head is idle: that of a loss that is left out is, and so are the text layers without texts."""
        return self.model is self.network and all(map(self.wants, CrossModalTask.losses))

    def encode(self, batch: Batch) -> Features:
        """Run at most two passes: image with causal text (query rows and words at once; without lm the image alone), and text."""
        network, words = self.network, (batch["text_ids"], batch["text_mask"])
        tokens_BNW = network.image_tokens(batch["image"])
        image = network.qformer.project_image(tokens_BNW)
        query_BQH, logits_BLV = (
            network.caption_pass(image, *words) if self.wants("lm") else (network.query_rows(image), None)
        )
        vectors = {}
        if self.wants("itc", "itm"):
            vectors = {"image": network.project_queries(query_BQH), "text": network.text_features(*words)}
        return Features(vectors, query_BQH, logits_BLV, tokens_BNW, image)

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs | None]:
        """Return itc, and the pairs for itm."""
        similarities = self._similarities(vectors["image"], vectors["text"])
        exclude_mask_BM = same_item(batch["product"], gather(batch["product"]), batch["text"], gather(batch["text"]))
        texts = batch["text_ids"], batch["text_mask"]
        losses = {"itc": self._itc(*similarities, exclude_mask_BM)} if self.wants("itc") else {}
        pairs = self._choose_pairs(texts, texts, similarities, exclude_mask_BM) if self.wants("itm") else None
        return losses, pairs
