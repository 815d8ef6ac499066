"""Query rows of a retrieval model's Q-Former for a garment, which the denoiser's adapter reads (f_zeta in the paper).

The Q-Former reads the control image (photo or sketch of the garment) and the caption in one pass; its query rows, Q of width H,
go through the adapter, which trains with the denoiser, and join the text as context.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unifashion.data.feedback import prepare_text
from unifashion.data.images import normalise
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError


def check_retriever(trained_with: str | None, given: str) -> None:
    """Check that a retrieval model is the one of a try-on model, by the hashes of their weights; older models know none.

    Raises:
        UserError: it is another.
    """
    if trained_with not in (None, given):
        raise UserError(
            f"--retriever names another retrieval model than this try-on model was trained with: its weights have the hash "
            f"{given[:8]}, expected {trained_with[:8]}; name that one"
        )


class QFormerContext:
    """A frozen retrieval model, used for its query rows."""

    def __init__(self, name: str | Path, device: torch.device | str = "cpu") -> None:
        """Load a model.

        Raises:
            UserError: there is no usable model.
        """
        self.model = UniFashion.from_pretrained(name).to(device).requires_grad_(False)
        self.transform = self.model.image_transform
        self.device = torch.device(device)

    @cached_property
    def weights_hash(self) -> str:
        """Return the hash of all weights."""
        return self.model.weights_hash()

    @property
    def num_rows(self) -> int:
        """Return the number Q of rows of an image."""
        return self.model.config.num_queries

    @property
    def width(self) -> int:
        """Return the width H of a row."""
        return self.model.config.qformer.hidden_size

    @torch.no_grad()
    def __call__(self, image_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the query rows (B, Q, H), float32, for images (uint8) and their captions."""
        photos = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in image_B3HW]
        pixels = normalise(torch.stack([self.transform(photo) for photo in photos])).to(self.device)
        ids_BL, mask_BL = (tensor.to(self.device) for tensor in self.model.tokenize([prepare_text(t) for t in texts]))
        return self.model.query_rows(self.model.read_images(pixels), ids_BL, mask_BL).float()
