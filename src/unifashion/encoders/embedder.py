"""Run a UniFashion network over lists of images, texts and composed queries, in batches and on several processes.

Shapes: G images, V vectors an image (one per query token), D width, M texts, Q queries.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageError, ImageTransform, image_name, normalise, open_image
from unifashion.distributed import gather_rows, is_main_process, merge_dicts, shard_batches
from unifashion.encoders.protocol import Picture
from unifashion.models.qformer import ImageMemory
from unifashion.models.unifashion import UniFashionModel

log = logging.getLogger(__name__)


class Embedder:
    """Runs a model over data in batches, without gradients, on the model's device; several processes share the batches."""

    def __init__(
        self, model: UniFashionModel, batch_size: int = 128, num_workers: int = 0, progress: bool = True
    ) -> None:
        self.model = model.eval()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = progress and is_main_process()
        self.device = next(model.parameters()).device
        self.transform = model.image_transform

    def find_broken(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Return the images that cannot be decoded, with the reason."""
        loaded = self._loader(paths, "checking images")
        return merge_dicts({paths[index]: bad for batch in loaded for index, _, bad in batch if bad})

    def images(self, paths: Sequence[Path]) -> tuple[Tensor, dict[Path, str]]:
        """Embed gallery images.

        Returns:
            image_GVD, on the CPU in float32, with zero rows for broken images, and the broken ones with the reason.
        """
        image_GVD, broken = self._features(paths)
        return image_GVD, {paths[index]: reason for index, reason in broken.items()}

    def pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Embed images, all of which must be readable; returns image_GVD like ``images``.

        Raises:
            ImageError: one cannot be read.
        """
        image_GVD, broken = self._features(pictures)
        _check_all_read(pictures, broken)
        return image_GVD

    def _features(self, pictures: Sequence[Picture]) -> tuple[Tensor, dict[int, str]]:
        """Return image_GVD, and the indices of the broken ones, whose rows are zero, with the reason."""
        parts = []
        broken: dict[int, str] = {}
        with torch.inference_mode():
            for batch in self._loader(pictures, "embedding images"):
                features = self.model.image_features(self.model.read_images(self._pixels(batch))).float().cpu()
                for row, (index, _, reason) in enumerate(batch):
                    if reason:
                        broken[index] = reason
                        features[row] = 0  # rows stay aligned with paths; callers drop the zeros
                parts.append(([index for index, _, _ in batch], features))
        config = self.model.config
        shape = (len(pictures), config.num_queries, config.embed_dim)
        return gather_rows(parts, shape, self.device), merge_dicts(broken)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, as given by the data set; returns text_MD on the CPU in float32."""
        parts = []
        words = [prepare_text(text) for text in texts]
        with torch.inference_mode():
            for rows in self._batches(len(words), "embedding texts"):
                ids, mask = (x.to(self.device) for x in self.model.tokenize([words[row] for row in rows]))
                parts.append((rows, self.model.text_features(ids, mask).float().cpu()))
        return gather_rows(parts, (len(words), self.model.config.embed_dim), self.device)

    def composed(self, references: Sequence[Picture], feedback: Sequence[str]) -> Tensor:
        """Embed composed queries from reference images and joined feedback; returns fused_QD like ``texts``.

        Raises:
            ImageError: one of the images cannot be read.
        """
        parts = []
        broken: dict[int, str] = {}
        words = [prepare_text(text) for text in feedback]
        with torch.inference_mode():
            for batch in self._loader(references, "embedding queries"):
                image = self.model.read_images(self._pixels(batch))
                broken |= {index: reason for index, _, reason in batch if reason}
                rows = [index for index, _, _ in batch]
                ids, mask = (x.to(self.device) for x in self.model.tokenize([words[row] for row in rows]))
                parts.append((rows, self.model.fused_features(image, ids, mask)[0].float().cpu()))
        _check_all_read(references, merge_dicts(broken))
        return gather_rows(parts, (len(words), self.model.config.embed_dim), self.device)

    def match(
        self,
        texts: Sequence[str],
        paths: Sequence[Picture],
        pairs_P2: Tensor,
        references: Sequence[Picture] | None = None,
    ) -> Tensor:
        """Score (text, image) pairs, given as indices, with the matching head.

        Args:
            texts: words, or the feedback of composed queries.
            paths: images.
            pairs_P2: indices of both.
            references: of composed queries, to be read beside the image (``match_two_images``); None = the image alone.

        Returns:
            (P,): the positive logit, averaged over the query tokens; with references the probability of a match, as the
            original gives it.

        Raises:
            ImageError: one of the images cannot be read.
        """
        words = [prepare_text(text) for text in texts]
        # Sorted by image, so that the tower, the expensive part, runs once for all pairs of an image in a batch.
        order_P = pairs_P2[:, 1].argsort(stable=True)
        parts: list[tuple[list[int], Tensor]] = []
        broken: dict[int, str] = {}
        broken_references: dict[int, str] = {}
        with torch.inference_mode():
            for rows in self._batches(len(order_P), "re-ranking"):
                chosen = order_P[rows]
                text_P, image_P = pairs_P2[chosen].unbind(dim=1)
                image = self._memory(paths, image_P, broken)
                ids, mask = (
                    x.to(self.device) for x in self.model.tokenize([words[index] for index in text_P.tolist()])
                )
                if references is None:
                    score_P = self.model.match_logits(image, ids, mask)[:, 1]
                else:
                    reference = self._memory(references, text_P, broken_references)
                    score_P = self.model.match_two_images(reference, image, ids, mask).softmax(dim=1)[:, 1]
                parts.append((chosen.tolist(), score_P.float().cpu()))
        _check_all_read(paths, merge_dicts(broken))
        _check_all_read(references or (), merge_dicts(broken_references))
        return gather_rows(parts, (len(pairs_P2),), self.device)

    def _memory(self, paths: Sequence[Picture], index_P: Tensor, broken: dict[int, str]) -> ImageMemory:
        """Read these images, each once; adds those that cannot be decoded to ``broken``, with the reason."""
        images, row_P = index_P.unique(return_inverse=True)
        pixels = _Pixels(paths, self.transform)
        batch = [pixels[index] for index in images.tolist()]
        broken |= {index: reason for index, _, reason in batch if reason}
        return self.model.read_images(self._pixels(batch)).rows(row_P.to(self.device))

    def _pixels(self, batch: list[tuple[int, Tensor, str]]) -> Tensor:
        return normalise(torch.stack([pixels for _, pixels, _ in batch]).to(self.device))

    def _loader(self, paths: Sequence[Picture], description: str) -> Iterator[list[tuple[int, Tensor, str]]]:
        loader: DataLoader[Any] = DataLoader(
            _Pixels(paths, self.transform),
            batch_sampler=shard_batches(len(paths), self.batch_size),
            num_workers=self.num_workers,
            collate_fn=list,
        )
        return iter(tqdm(loader, desc=description, disable=not self.progress, dynamic_ncols=True, leave=False))

    def _batches(self, num_rows: int, description: str) -> Iterator[list[int]]:
        batches = shard_batches(num_rows, self.batch_size)
        return iter(tqdm(batches, desc=description, disable=not self.progress, dynamic_ncols=True, leave=False))


def _check_all_read(pictures: Sequence[Picture], broken: Mapping[int, str]) -> None:
    """Raise ``ImageError`` for the first broken image, on all processes."""
    if broken:
        first = min(broken)
        raise ImageError(image_name(pictures[first]), broken[first])


class _Pixels(Dataset[tuple[int, Tensor, str]]):
    """(index, uint8 pixels, why it is broken or '')."""

    def __init__(self, paths: Sequence[Picture], transform: ImageTransform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor, str]:
        try:
            return index, self.transform(open_image(self.paths[index])), ""
        except ImageError as error:
            size = self.transform.size
            return index, torch.zeros(3, size, size, dtype=torch.uint8), error.reason
