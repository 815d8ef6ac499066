"""Phase 2: reference image and feedback find the target image (paper, section 3.2.2), describe it and draw it."""

from torch import Tensor

from unifashion.data.batches import Batch
from unifashion.distributed import gather, rank
from unifashion.models.losses import best_query_scores, contrastive_loss
from unifashion.models.negatives import same_item
from unifashion.training.tasks.contrastive import ContrastiveTask, Features, ItmPairs
from unifashion.training.tasks.task import Losses


class ComposedTask(ContrastiveTask):
    """The fused query against target images (itc), matching (itm), the fused query against target captions (ttc), itg and q2i.

    Without target captions matching reads the feedback in their place. With captions the wrong text of matching is another row's
    caption; the original takes another row's feedback (``itm_negatives: unifashion``), which the head can recognise by its style
    alone.

    ``composed_objective: paper`` is eq. 10 as it is printed: ttc compares e_cls, the fused text vector, with the captions, and
    matching reads the feedback; the released code, and the default here, compares the query rows, and matches the captions.

    The language model writes the target's caption, and the diffusion model draws the target, from the fused query rows.
    """

    losses = ("itc", "ttc", "itm")
    matched_image = "target"

    @property
    def uses_all_parameters(self) -> bool:
        """Return False: the language head is idle."""
        return False

    def encode(self, batch: Batch) -> Features:
        """Run the passes over reference with feedback and, as far as a loss reads them, over the target and over its caption."""
        network = self.network
        reference = network.read_images(batch["reference"])
        if not self.wants("itc", "itm", "ttc"):
            return Features({}, network.query_rows(reference, batch["text_ids"], batch["text_mask"]))
        tokens_BNW = target = None
        if self.wants("itc", "itm"):
            tokens_BNW = network.image_tokens(batch["target"])
            target = network.qformer.project_image(tokens_BNW)
        fused_BD, query_BQH = network.fused_pass(reference, batch["text_ids"], batch["text_mask"])
        vectors = {"fused": fused_BD}
        if target is not None:
            vectors["target"] = network.image_features(target)
        if self._reads_captions(batch):
            if self.objective == "released":
                vectors["fused_image"] = network.project_queries(query_BQH)
            vectors["caption"] = network.text_features(batch["caption_ids"], batch["caption_mask"])
        return Features(vectors, query_BQH, None, tokens_BNW, target)

    def _reads_captions(self, batch: Batch) -> bool:
        return self.wants("ttc") and "caption_ids" in batch

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs | None]:
        """Return itc and, with captions, ttc; and the pairs for itm."""
        product_B, text_B = batch["product"], batch["text"]
        same_target_BM = product_B[:, None] == gather(product_B)
        losses: Losses = {}
        similarities = self._similarities(vectors["target"], vectors["fused"]) if "target" in vectors else None
        if similarities is not None and self.wants("itc"):
            losses["itc"] = self._itc(*similarities, same_target_BM)
        if "caption" in vectors:
            losses["ttc"] = self._ttc(vectors, same_target_BM)
        if similarities is None or not self.wants("itm"):
            return losses, None
        matched = feedback = batch["text_ids"], batch["text_mask"]
        if "caption_ids" in batch and self.objective == "released":
            matched = batch["caption_ids"], batch["caption_mask"]
        exclude_mask_BM = same_item(product_B, gather(product_B), text_B, gather(text_B))
        wrong_texts = feedback if self.mining == "unifashion" else matched
        return losses, self._choose_pairs(matched, wrong_texts, similarities, exclude_mask_BM)

    def _ttc(self, vectors: dict[str, Tensor], same_target_BM: Tensor) -> Tensor:
        """Return the contrastive loss of composed queries and the captions of their targets, in one direction."""
        query_BQD = vectors["fused_image"] if "fused_image" in vectors else vectors["fused"][:, None]
        scores_BM = best_query_scores(query_BQD.float(), gather(vectors["caption"].float())) / self.network.temperature
        return contrastive_loss(scores_BM, same_target_BM, rank() * len(same_target_BM))
