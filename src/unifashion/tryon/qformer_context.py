"""Query rows of a retrieval model's Q-Former for a garment, which the denoiser's adapter reads (f_zeta in the paper).

The Q-Former reads the control image (photo or sketch of the garment) and the caption in one pass; its query rows, Q of width H,
go through the adapter, which trains with the denoiser, and join the text as context. The Q-Former may train, too: its weights are
then kept in the try-on model's folder, the rest of the retrieval model is not.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unifashion.data.feedback import prepare_text
from unifashion.data.images import normalise
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError

QFORMER = "qformer.safetensors"  # in the folder of a try-on model whose Q-Former trained with it


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
    """A retrieval model, used for its query rows; frozen, unless ``train_qformer`` was called."""

    def __init__(self, name: str | Path, device: torch.device | str = "cpu") -> None:
        """Load a model.

        Raises:
            UserError: there is no usable model.
        """
        self.model = UniFashion.from_pretrained(name).to(device).requires_grad_(False)
        self.transform = self.model.image_transform
        self.device = torch.device(device)
        self.trains = False

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

    def train_qformer(self) -> None:
        """Let the Q-Former and its queries learn; its dropout stays off, so that a row does not depend on the others."""
        self.trains = True
        self.model.qformer.requires_grad_(True)
        self.model.query_tokens.requires_grad_(True)

    def apply(self, qformer: Mapping[str, Tensor]) -> None:
        """Replace weights by those that trained with a denoiser; ``weights_hash`` stays that of the model as it was loaded.

        Raises:
            UserError: they are not of this model.
        """
        if not qformer:
            return
        own = self.model.state_dict()
        wrong = [name for name, tensor in qformer.items() if name not in own or own[name].shape != tensor.shape]
        if wrong:
            raise UserError(
                f"{QFORMER} beside the try-on model is damaged: {wrong[0]} does not fit the retrieval model"
            )
        self.weights_hash  # noqa: B018 (kept before the weights change)
        self.model.load_state_dict(qformer, strict=False)

    @torch.no_grad()
    def __call__(self, image_B3HW: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the query rows (B, Q, H), float32, for images (uint8) and their captions."""
        return self.rows(*self.inputs(image_B3HW, texts))

    def rows(self, pixels_B3SS: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the query rows for what ``inputs`` returned."""
        return self.model.query_rows(self.model.read_images(pixels_B3SS), ids_BL, mask_BL).float()

    def inputs(self, image_B3HW: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the model reads of images (uint8) and their captions: pixels, ids and mask, on the device."""
        photos = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in image_B3HW]
        pixels = normalise(torch.stack([self.transform(photo) for photo in photos])).to(self.device)
        ids_BL, mask_BL = (tensor.to(self.device) for tensor in self.model.tokenize([prepare_text(t) for t in texts]))
        return pixels, ids_BL, mask_BL
