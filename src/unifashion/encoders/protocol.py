"""What search needs from a model, whatever the model. ``encoders.unifashion.UniFashion`` is the first to implement it.

An encoder puts images, texts, and composed queries (a reference image with feedback) into one space, as unit vectors on the CPU.
The score of an image for a query is the highest dot product of the query's vector with one of the image's V vectors.

Shapes: G images, V vectors an image, M texts or composed queries, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor

Picture = str | Path | Image.Image


class Encoder(Protocol):
    """Turns images, texts and composed queries into vectors that can be compared."""

    @property
    def name(self) -> str:
        """Name of the kind of model, for messages."""

    @property
    def num_vectors(self) -> int:
        """V: 1 for most models; UniFashion has one vector per query token."""

    @property
    def width(self) -> int:
        """D, of all vectors."""

    @property
    def composes(self) -> bool:
        """Whether it was trained on images with feedback, rather than on images and texts only."""

    def weights_hash(self) -> str:
        """Return a hash that distinguishes this model's vectors from those of every other model."""

    def embed_images(self, images: Sequence[Picture], batch_size: int = 32) -> Tensor:
        """Return (G, V, D) of files or Pillow images; raises ``ImageError`` for one that cannot be read."""

    def embed_files(
        self, paths: Sequence[Path], batch_size: int = 32, num_workers: int = 0
    ) -> tuple[Tensor, dict[Path, str]]:
        """Return (G, V, D), with zero rows for broken files, and the broken ones with the reason.

        Several processes share the work; all of them get the whole answer.
        """

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Return (M, D)."""

    def embed_queries(self, texts: Sequence[str], images: Sequence[Picture], batch_size: int = 32) -> Tensor:
        """Return (M, D): one per reference image with its feedback; only called if the encoder ``composes``."""

    def match(self, text: str, images: Sequence[Picture]) -> Tensor:
        """Return (G,): how well each image fits the text, read together with it; higher is better.

        Raises:
            UserError: a model that only makes vectors.
        """

    def remarks(self, text: str) -> list[str]:
        """Return which parts of a text the model cannot read, as sentences for the user."""
