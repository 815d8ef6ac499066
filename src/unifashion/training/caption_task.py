"""The task of ``blip2_cir_full``: what an image is, or asks for with feedback, becomes a caption and a drawing.

Image-text data: the query rows of the image (no text) foretell its caption. Composed data: the query rows of reference and
feedback foretell the caption of the target, and draw the target. Losses: lm (mean over the tokens of the answers) and, with a
diffusion model, q2i (paper, section 3.2.2).
"""

from typing import cast

from unifashion.config import TrainingSettings
from unifashion.data.batches import Batch
from unifashion.data.images import MEAN, STD
from unifashion.distributed import mean_over_ranks
from unifashion.errors import UserError
from unifashion.llm.model import UniFashionFull
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.tasks import Losses, Task


class CaptionTask(Task):
    """Captions through the language model, drawings through the diffusion model."""

    uses_all_parameters = False  # a layer's text feed-forward rests where there is no text

    def __init__(self, model: UniFashionModel, settings: TrainingSettings) -> None:
        """Take a model with heads.

        Raises:
            UserError: nothing of it learns.
        """
        super().__init__(model, settings)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError("trainable: nothing is left to train; name at least one part that this model has")

    def forward(self, batch: Batch) -> Losses:
        """Return losses lm, where the batch has answers, and q2i, where the model draws."""
        model = cast(UniFashionFull, self.model)
        composed = "reference" in batch
        image = model.read_images(batch["reference" if composed else "image"])
        text = (batch["text_ids"], batch["text_mask"]) if composed else (None, None)
        rows_BQH = model.query_rows(image, *text)
        losses: Losses = {}
        if "answer_ids" in batch:
            ids_BL, mask_BL = batch["answer_ids"], batch["answer_mask"]
            num_targets = mean_over_ranks(mask_BL.sum())
            losses["lm"] = model.language(rows_BQH, ids_BL, mask_BL, num_targets)[0]
        if model.drawing is not None:
            pixels = batch["target" if composed else "image"]
            mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
            losses["q2i"] = model.drawing(rows_BQH, (pixels * std + mean) * 2 - 1)
        return losses
