"""Add a loss: a pure function, and one line in a task. Then train with it, as with every other loss.

    python examples/add_a_loss.py --config configs/quickstart/pretrain.yaml --output-dir runs/uniform

The arguments are those of ``src/blip_train.py``. The loss has a column in train_metrics.csv and on the bar, works on several
processes and with --grad-cache-chunk. Within the package, the function would go into models/losses.py and the line in
training/tasks/cross_modal.py; a setting that weighs it would be one more line of ``TrainingSettings``.

The loss spreads the images over the sphere, so that a nearest neighbour means something (Wang and Isola, "Understanding
Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere", 2020).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # runs from a bare clone

import torch
from torch import Tensor

from blip_train import main as train
from unifashion.data.batches import Batch
from unifashion.distributed import gather
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.contrastive import ItmPairs
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Losses


def uniformity_loss(vector_BD: Tensor, others_MD: Tensor, sharpness: float = 2.0) -> Tensor:
    """Return log mean exp(-sharpness * squared distance) of rows and all rows: 0 if all are equal, lower as they spread."""
    squared_BM = (vector_BD[:, None] - others_MD[None]).square().sum(dim=-1)
    return torch.logsumexp(-sharpness * squared_BM.flatten(), dim=0) - torch.tensor(squared_BM.numel()).log()


class UniformCrossModalTask(CrossModalTask):
    """Phase 1 with one more loss."""

    losses = (*CrossModalTask.losses, "uniformity")

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs]:
        """Return itc and uniformity, and the pairs for itm."""
        losses, pairs = super().contrastive_losses(vectors, batch)
        image_BD = torch.nn.functional.normalize(vectors["image"].float().mean(dim=1), dim=-1)
        return {**losses, "uniformity": uniformity_loss(image_BD, gather(image_BD))}, pairs


RETRIEVAL_TASKS["blip2_cir_cls"] = UniformCrossModalTask

if __name__ == "__main__":
    train()
