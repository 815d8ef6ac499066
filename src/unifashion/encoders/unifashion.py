"""UniFashion as an encoder: the network, loaded from a checkpoint of any known kind, that turns files and texts into vectors.

    model = UniFashion.from_pretrained("runs/quickstart/pretrain")
    image_GQD = model.embed_images(["front.png", "back.png"])
    text_MD = model.embed_texts(["a red dress", "a blue shirt"])
    scores_GM = best_query_scores(image_GQD, text_MD)

Shapes: G images, Q query tokens, M texts or composed queries, D embedding width.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import HfApi
from torch import Tensor
from typing_extensions import Self

from unifashion.convert import load_any
from unifashion.data.feedback import MAX_WORDS, prepare_text
from unifashion.distributed import choose_device
from unifashion.encoders.embedder import Embedder
from unifashion.encoders.protocol import Encoder, Picture
from unifashion.errors import UserError
from unifashion.models.presets import VARIANTS
from unifashion.models.pretrained import weights_hash
from unifashion.models.unifashion import UniFashionModel


class UniFashion(UniFashionModel):
    """The network as an ``Encoder`` of files and texts; everything it computes is in ``UniFashionModel``."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Load a run folder, a saved model folder, a checkpoint of LAVIS or SPRC, a BLIP-2, or a hub id of any of them.

        Returns:
            the model in evaluation mode.

        Raises:
            UserError: nothing there, or what is there is not a model of this kind.
        """
        return cls.from_parts(load_any(name), name)

    @property
    def name(self) -> str:
        """Return the name of the preset."""
        return self.config.model_name

    @property
    def num_vectors(self) -> int:
        """Return Q."""
        return self.config.num_queries

    @property
    def width(self) -> int:
        """Return D."""
        return self.config.embed_dim

    @property
    def composes(self) -> bool:
        """Return whether it is a phase 2 model, trained on images with feedback."""
        return VARIANTS[self.config.model_name].has_prompt_tokens

    def weights_hash(self) -> str:
        """Return a hash of all weights, their names and shapes."""
        return weights_hash(self.state_dict())

    def embed_images(self, images: Sequence[Picture], batch_size: int = 32) -> Tensor:
        """Return unit vectors (G, Q, D) of images, files or Pillow images, on the CPU.

        >>> model.embed_images(["front.png", "back.png"]).shape
        torch.Size([2, 4, 12])

        Raises:
            ImageError: an image that cannot be read.
        """
        return self._embedder(batch_size).pictures(images)

    def embed_files(
        self, paths: Sequence[Path], batch_size: int = 32, num_workers: int = 0
    ) -> tuple[Tensor, dict[Path, str]]:
        """Return unit vectors (G, Q, D), with zero rows for broken files, and the broken ones with the reason."""
        return Embedder(self, batch_size, num_workers, progress=False).images(paths)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Return one unit vector (M, D) per text, on the CPU.

        >>> scores = best_query_scores(model.embed_images(["front.png"]), model.embed_texts(["a red dress", "a shirt"]))
        >>> scores.shape  # one image, two texts
        torch.Size([1, 2])
        """
        return self._embedder(batch_size).texts(texts)

    def embed_queries(self, texts: Sequence[str], images: Sequence[Picture], batch_size: int = 32) -> Tensor:
        """Return one unit vector (M, D) per reference image with its feedback, on the CPU.

        >>> model.embed_queries(["is longer"], ["front.png"]).shape
        torch.Size([1, 12])

        Raises:
            ImageError: an image that cannot be read.
            UserError: not as many texts as images.
        """
        if len(texts) != len(images):
            raise UserError(f"{len(texts)} texts for {len(images)} images: give one feedback text per reference image")
        return self._embedder(batch_size).composed(images, texts)

    def match(self, text: str, images: Sequence[Picture]) -> Tensor:
        """Return the matching head's logit (G,) that each image shows what the text says.

        >>> model.match("a red dress", ["front.png", "back.png"]).shape
        torch.Size([2])

        Raises:
            ImageError: an image that cannot be read.
        """
        pairs_G2 = torch.tensor([[0, row] for row in range(len(images))]).view(-1, 2)
        return self._embedder(batch_size=32).match([text], images, pairs_G2)

    def remarks(self, text: str) -> list[str]:
        """Return which parts of a text the model cannot read, as sentences: words beyond its limit, or no known word at all."""
        remarks = []
        num_words = len(prepare_text(text, max_words=len(text) + 1).split())
        if num_words > MAX_WORDS:
            remarks.append(f"the text has {num_words} words; the model reads the first {MAX_WORDS}")
        ids, _ = self.tokenize([prepare_text(text)])
        assert self.tokenizer is not None
        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.pad_token_id}
        if {int(token) for token in ids[0]} - special <= {self.tokenizer.unk_token_id}:
            remarks.append(f"the model knows none of the words in {text[:40]!r}: its results are arbitrary")
        return remarks

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


def load_encoder(name: str | Path, device: str | torch.device | None = None) -> Encoder:
    """Load a model to embed with, in evaluation mode; the one place that decides which class reads it.

    Args:
        name: as for ``UniFashion.from_pretrained``, which also documents the errors.
        device: as torch names it; default: the GPU where there is one.
    """
    where = choose_device(device)
    return UniFashion.from_pretrained(name).to(where)
