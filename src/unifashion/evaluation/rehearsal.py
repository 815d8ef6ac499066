"""A validation without a model: what is wrong with its data, protocols or settings shows in seconds, before a training begins.

Everything is read and computed as in ``retrieval.validate``, except that no image is opened and all vectors are zero.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unifashion.config import DataSettings, EvaluationSettings
from unifashion.data.splits import is_composed
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.protocol import Picture
from unifashion.evaluation.composed import score_composed
from unifashion.evaluation.cross_modal import score_cross_modal


def rehearse(data: DataSettings, evaluation: EvaluationSettings) -> None:
    """Run the protocols of ``data.dataset`` on its validation split.

    Raises:
        UserError: as ``validate``, except for what only the images themselves show.
    """
    score = score_composed if is_composed(data.dataset) else score_cross_modal
    score(_Zeros(), data, evaluation, keep_lists=False)


class _Zeros(Embedder):
    """Gives every image, text and query the same vector, (1, 1) or (1,), without a model."""

    def __init__(self) -> None:
        pass

    def find_broken(self, paths: Sequence[Path]) -> dict[Path, str]:
        return {}

    def images(self, paths: Sequence[Path]) -> tuple[Tensor, dict[Path, str]]:
        return torch.zeros(len(paths), 1, 1), {}

    def texts(self, texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(texts), 1)

    def composed(self, references: Sequence[Picture], feedback: Sequence[str]) -> Tensor:
        return torch.zeros(len(references), 1)

    def match(
        self,
        texts: Sequence[str],
        paths: Sequence[Picture],
        pairs_P2: Tensor,
        references: Sequence[Picture] | None = None,
    ) -> Tensor:
        return torch.zeros(len(pairs_P2))
