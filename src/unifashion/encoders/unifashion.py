"""UniFashion as an encoder: the network, opened from a checkpoint of any known kind, with files and words in and vectors out.

    model = UniFashion.from_pretrained("runs/quickstart/pretrain")
    image_GQD = model.embed_images(["front.png", "back.png"])
    text_MD = model.embed_texts(["a red dress", "a blue shirt"])
    scores_GM = best_query_scores(image_GQD, text_MD)

Shapes: G images, Q query tokens, M texts or composed queries, D embedding width.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from unifashion.convert import load_any
from unifashion.data.images import open_image
from unifashion.encoders.embedder import Embedder
from unifashion.errors import UserError
from unifashion.models.unifashion import UniFashionModel


class UniFashion(UniFashionModel):
    """The network with a door for files and words; what it computes is all in ``UniFashionModel``."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Load a run folder, a saved model folder, a checkpoint of LAVIS or SPRC, a BLIP-2, or a hub id of any of them.

        Returns:
            the model in evaluation mode.

        Raises:
            UserError: nothing there, or what is there is not a model of this kind.
        """
        return cls.from_parts(load_any(name), name)

    def embed_images(self, images: Sequence[str | Path | Image.Image], batch_size: int = 32) -> Tensor:
        """Return unit vectors (G, Q, D) of images, files or Pillow images, on the CPU.

        >>> model.embed_images(["front.png", "back.png"]).shape
        torch.Size([2, 4, 12])

        Raises:
            ImageError: an image that cannot be read.
        """
        return self._embedder(batch_size).pictures(images)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Return one unit vector (M, D) per text, on the CPU.

        >>> scores = best_query_scores(model.embed_images(["front.png"]), model.embed_texts(["a red dress", "a shirt"]))
        >>> scores.shape  # one image, two texts
        torch.Size([1, 2])
        """
        return self._embedder(batch_size).texts(texts)

    def embed_queries(
        self, texts: Sequence[str], images: Sequence[str | Path | Image.Image], batch_size: int = 32
    ) -> Tensor:
        """Return one unit vector (M, D) per reference image with its feedback, on the CPU.

        >>> model.embed_queries(["is longer"], ["front.png"]).shape
        torch.Size([1, 12])

        Raises:
            ImageError: an image that cannot be read.
            UserError: not as many texts as images.
        """
        if len(texts) != len(images):
            raise UserError(f"{len(texts)} texts for {len(images)} images: give one feedback text per reference image")
        return self._embedder(batch_size).composed([open_image(image) for image in images], texts)

    def _embedder(self, batch_size: int) -> Embedder:
        return Embedder(self, batch_size, progress=False)

    def push_to_hub(self, repo_id: str, private: bool = False, commit_message: str | None = None) -> str:
        """Upload the saved form to ``repo_id`` and return the address of the commit; needs a hub login."""
        api = HfApi()
        api.create_repo(repo_id, exist_ok=True, private=private)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            done = api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model", commit_message=commit_message)
        return str(done)
