"""``blip2_cir_full``: an image, or an image with feedback, becomes a caption and a drawing of what it shows or asks for.

Image-text data: the query rows of the image (no text) predict its caption. Composed data: the query rows of reference and
feedback predict the caption of the target, and draw the target. Losses: lm (mean over the tokens of the answers) and, with a
diffusion model, q2i (paper, section 3.2.2).
"""

from pathlib import Path

from torch import Tensor

from unifashion.config import TrainingSettings
from unifashion.data.batches import Batch, Row, collate
from unifashion.data.images import MEAN, STD
from unifashion.distributed import mean_over_ranks
from unifashion.errors import UserError
from unifashion.llm.model import UniFashionFull
from unifashion.training.tasks.task import Losses, Position, Task, prepare_images


class CaptionTask(Task):
    """Captions through the language model, drawings through the diffusion model."""

    losses = ("lm", "q2i")
    uses_all_parameters = False  # a layer's text feed-forward is idle where there is no text
    model: UniFashionFull

    def __init__(self, model: UniFashionFull, settings: TrainingSettings, augment_images: bool = False) -> None:
        """Take a model with heads.

        Raises:
            UserError: none of its parameters is trained.
        """
        super().__init__(model, settings.loss_weights())
        self.augment_images = augment_images
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError("trainable: nothing is left to train; name at least one part that this model has")

    def collate(self, rows: list[Row]) -> Batch:
        """See ``data.batches``; the answers are tokens of the language model."""
        return collate(rows, self.model.base.tokenize, self.model.language.tokenize)

    def prepare(self, batch: Batch, position: Position) -> Batch:
        """Normalise the photos."""
        return prepare_images(batch, position, self.augment_images)

    def encode(self, batch: Batch) -> Tensor:
        """Return the query rows (B, Q, H) of images, or of references with feedback."""
        composed = "reference" in batch
        image = self.model.base.read_images(batch["reference" if composed else "image"])
        return self.model.query_rows(image, *((batch["text_ids"], batch["text_mask"]) if composed else ()))

    def losses_of(self, features: Tensor, batch: Batch) -> Losses:
        """Return lm, where the batch has answers, and q2i, where the model draws."""
        losses: Losses = {}
        if "answer_ids" in batch:
            ids_BL, mask_BL = batch["answer_ids"], batch["answer_mask"]
            num_targets = mean_over_ranks(mask_BL.sum())
            losses["lm"] = self.model.language(features, ids_BL, mask_BL, num_targets)[0]
        if self.model.diffusion is not None:
            pixels = batch["target" if "reference" in batch else "image"]
            mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
            losses["q2i"] = self.model.diffusion(features, (pixels * std + mean) * 2 - 1)
        return losses

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the folder of a ``UniFashionFull``."""
        self.model.write(folder, {name.removeprefix("model."): tensor for name, tensor in weights.items()})

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        """Read the folder of a ``UniFashionFull``."""
        return {f"model.{name}": tensor for name, tensor in self.model.read_weights(folder).items()}
