"""What the tasks of both phases share: contrast over the rows of all processes, hard negatives, matching, captions, drawings.

    encode          the passes: vectors that rows are compared by, and the query rows that the heads read, each made once
    losses_of       itc, ttc, itm       between rows
    row_losses      lm, itg, q2i        of single rows: the Q-Former's own head, a language model, a diffusion model

Which of them are computed is the task's set of losses; a pass that none of them reads does not run.

Shapes: B rows, M rows of all processes, Q query tokens, D width, H hidden width, L text tokens, V words, R image-text pairs,
N image tokens of width W.

Rows of one product, or with one text, are never negatives of one another; hard negatives come from all processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unifashion.config import TrainingSettings
from unifashion.data.batches import Batch, Row, collate
from unifashion.distributed import gather, gather_padded, mean_over_ranks, rank, stack_padded
from unifashion.errors import UserError
from unifashion.models.losses import best_query_scores, contrastive_loss, language_loss, matching_loss
from unifashion.models.negatives import hard_negatives
from unifashion.models.qformer import ImageMemory
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.tasks.task import Losses, Position, Task, prepare_images


@dataclass(frozen=True, eq=False)
class Features:
    """What the passes over single rows yield; None where no loss reads it."""

    vectors: dict[str, Tensor]  # that rows are compared by
    query_BQH: Tensor | None  # of the image, or of reference and feedback: what language and diffusion model read
    logits_BLV: Tensor | None = None  # next words, by the Q-Former's own head
    tokens_BNW: Tensor | None = None  # of the images that are matched
    image: ImageMemory | None = None  # their keys and values


@dataclass(frozen=True, eq=False)
class ItmPairs:
    """Images and texts that are shown to the matching head: R = [B matches; wrong images; wrong texts]."""

    wrong_image_I: Tensor  # rows of all processes
    text_row_T: Tensor  # rows of this process that are shown with a wrong text
    ids_RL: Tensor
    mask_RL: Tensor
    num_pairs: Tensor  # mean over the processes

    def labels(self) -> Tensor:
        """Return 1 for matches, 0 for the rest."""
        num_matches = len(self.ids_RL) - len(self.wrong_image_I) - len(self.text_row_T)
        return (torch.arange(len(self.ids_RL), device=self.ids_RL.device) < num_matches).long()


class ContrastiveTask(Task):
    """A retrieval network with contrast and matching and, where it has them, the heads that caption and draw."""

    matched_image: ClassVar[str]  # the batch's name of the images that texts are matched with

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        augment_images: bool = False,
        losses: Sequence[str] | None = None,
        instructions: Sequence[str] = (),
    ) -> None:
        """Take a model that is frozen already where it must not train.

        Args:
            model: the network, or the network with its heads, which itg and q2i need.
            settings: weights of the losses, negatives, objective of composed queries.
            augment_images: flip, crop and colour the photos that the Q-Former reads.
            losses: what is minimised; default: all that the phase has without heads.
            instructions: to the language model, by the row's data set in a mixture; () = the head's own for all.

        Raises:
            UserError: none of the parameters is trained.
        """
        if losses is not None:
            self.losses = tuple(losses)
        super().__init__(model, settings.loss_weights())
        self.mining, self.augment_images = settings.itm_negatives, augment_images
        self.objective, self.instructions = settings.composed_objective, tuple(instructions)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError("trainable: nothing is left to train; name at least one part that this model has")

    @property
    def network(self) -> UniFashionModel:
        """Return the retrieval network, without heads."""
        return self.model if isinstance(self.model, UniFashionModel) else self.full.base

    @property
    def full(self) -> Any:
        """Return the model as a ``UniFashionFull``; a loss without its head is refused before a task is made (objective.py)."""
        # Not imported here: its libraries take seconds, and retrieval alone does not need them.
        return self.model

    def wants(self, *losses: str) -> bool:
        """Return whether at least one of these losses is minimised."""
        return any(name in self.losses for name in losses)

    def collate(self, rows: list[Row]) -> Batch:
        """See ``data.batches``; answers and prompts are tokens of the language and of the diffusion model."""
        answers = self.full.language.tokenize if self.wants("itg") else None
        prompts = self.full.diffusion.tokenize if self.wants("q2i") else None
        return collate(rows, self.network.tokenize, answers, prompts)

    def prepare(self, batch: Batch, position: Position) -> Batch:
        """Normalise the photos, and count the words that are predicted.

        ``num_targets`` and ``num_answers`` are means over the processes, so that the mean of their losses is the loss of the
        whole batch; they are counted here because a gradient cache shows ``encode`` only a part of the batch.
        """
        self.network.clamp_temperature()
        batch = prepare_images(batch, position, self.augment_images)
        if self.wants("lm"):
            # The first token of a text is never predicted: it opens the text.
            batch["num_targets"] = mean_over_ranks(batch["text_mask"][:, 1:].sum())
        if self.wants("itg"):
            batch["num_answers"] = mean_over_ranks(batch["answer_mask"].sum())
        batch["num_rows"] = torch.tensor(len(batch["product"]), device=batch["product"].device)
        return batch

    def encode(self, batch: Batch) -> Features:
        """Run the passes over the rows of a batch, or of a part of one."""
        raise NotImplementedError

    def contrastive_losses(self, vectors: dict[str, Tensor], batch: Batch) -> tuple[Losses, ItmPairs | None]:
        """Return the losses between the vectors of all rows, and the pairs for ``itm_loss`` where it is minimised."""
        raise NotImplementedError

    def losses_of(self, features: Features, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        losses, pairs = self.contrastive_losses(features.vectors, batch) if features.vectors else ({}, None)
        if pairs is not None:
            losses = losses | {"itm": self.itm_loss(features, pairs)}
        return losses | self.row_losses(features, batch)

    def row_losses(self, features: Features, batch: Batch) -> Losses:
        """Return the losses that need no other row, as this part's share of the whole batch."""
        losses: Losses = {}
        if features.logits_BLV is not None:
            words = batch["text_ids"], batch["text_mask"]
            losses["lm"] = language_loss(features.logits_BLV.float(), *words, num_targets=batch["num_targets"])
        if self.wants("itg"):
            losses["itg"] = self._itg(features, batch)
        if self.wants("q2i"):
            share = len(batch["drawing"]) / batch["num_rows"]
            pixels = batch["drawing"].float() / 127.5 - 1
            losses["q2i"] = self.full.diffusion(features.query_BQH, pixels, batch["prompt_ids"]) * share
        return losses

    def _itg(self, features: Features, batch: Batch) -> Tensor:
        """Return the language model's loss; data sets with instructions of their own go through it one after the other."""
        assert features.query_BQH is not None
        given = features.query_BQH, batch["answer_ids"], batch["answer_mask"]
        if len(set(self.instructions)) < 2:
            return self.full.language(*given, batch["num_answers"])[0]
        losses = []
        for index in batch["set"].unique().tolist():
            chosen = batch["set"] == index
            part = (tensor[chosen] for tensor in given)
            losses.append(self.full.language(*part, batch["num_answers"], self.instructions[index])[0])
        return torch.stack(losses).sum()

    def itm_loss(self, features: Features, pairs: ItmPairs) -> Tensor:
        """Return the matching loss, all pairs in one pass."""
        image = features.image
        assert image is not None and features.tokens_BNW is not None
        tokens_MNW = gather(features.tokens_BNW)
        if len(tokens_MNW) == len(features.tokens_BNW):
            own_B = torch.arange(len(tokens_MNW), device=tokens_MNW.device)
            images = image.rows(torch.cat([own_B, pairs.wrong_image_I, pairs.text_row_T]))
        else:
            # Keys and values are many times larger than the tokens they come from: it is cheaper to exchange tokens and project
            # the few wrong images again.
            wrong_images = self.network.qformer.project_image(tokens_MNW[pairs.wrong_image_I])
            images = ImageMemory.concatenate([image, wrong_images, image.rows(pairs.text_row_T)])
        logits_R2 = self.network.match_logits(images, pairs.ids_RL, pairs.mask_RL)
        return matching_loss(logits_R2.float(), pairs.labels(), pairs.num_pairs)

    def write(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write a folder that ``from_pretrained`` of the model reads."""
        self.full.write(folder, {name.removeprefix("model."): tensor for name, tensor in weights.items()})

    def read_weights(self, folder: Path) -> dict[str, Tensor]:
        """Read a folder that ``write`` made."""
        return {f"model.{name}": tensor for name, tensor in self.full.read_weights(folder).items()}

    def _similarities(self, image_BQD: Tensor, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return image-to-text and text-to-image similarities over the temperature, both (B, M)."""
        image_BQD, text_BD = image_BQD.float(), text_BD.float()  # bf16 scores are too coarse to tell near ties apart
        temperature = self.network.temperature
        image_to_text_BM = best_query_scores(image_BQD, gather(text_BD)) / temperature
        text_to_image_BM = best_query_scores(gather(image_BQD), text_BD).T / temperature
        return image_to_text_BM, text_to_image_BM

    def _itc(self, image_to_text_BM: Tensor, text_to_image_BM: Tensor, exclude_mask_BM: Tensor) -> Tensor:
        """Return the contrastive loss, the sum of both directions."""
        offset = rank() * len(exclude_mask_BM)
        return contrastive_loss(image_to_text_BM, exclude_mask_BM, offset) + contrastive_loss(
            text_to_image_BM, exclude_mask_BM, offset
        )

    def _choose_pairs(
        self,
        texts: tuple[Tensor, Tensor],
        wrong_texts: tuple[Tensor, Tensor],
        similarities: tuple[Tensor, Tensor],
        exclude_mask_BM: Tensor,
    ) -> ItmPairs:
        """Choose the wrong image and the wrong text of every row.

        Args:
            texts: ids and mask of the texts that match.
            wrong_texts: ids and mask of the texts that wrong ones are taken from.
            similarities: image-to-text, text-to-image.
            exclude_mask_BM: True where a row and a candidate belong together.
        """
        # BLIP-2 looks for row b's wrong text among the texts near image b; the original UniFashion code uses the two matrices the
        # other way round (convert/QUIRKS.md).
        image_to_text_BM, text_to_image_BM = similarities if self.mining == "multinomial" else similarities[::-1]
        wrong_image_B, has_image_B = hard_negatives(text_to_image_BM, exclude_mask_BM, self.mining)
        wrong_text_B, has_text_B = hard_negatives(image_to_text_BM, exclude_mask_BM, self.mining)
        (ids_BL, mask_BL), chosen_T = texts, wrong_text_B[has_text_B]
        ids_RL = stack_padded([ids_BL, ids_BL[has_image_B], gather_padded(wrong_texts[0])[chosen_T]])
        mask_RL = stack_padded([mask_BL, mask_BL[has_image_B], gather_padded(wrong_texts[1])[chosen_T]])
        return ItmPairs(
            wrong_image_B[has_image_B],
            has_text_B.nonzero()[:, 0],
            ids_RL,
            mask_RL,
            # A row without a candidate has fewer pairs; the mean over the processes keeps every pair's weight the same.
            mean_over_ranks(torch.tensor(float(len(ids_RL)), device=ids_RL.device)),
        )
