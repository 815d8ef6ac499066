"""A causal language model that reads the Q-Former's query rows as the start of its text.

    [opening] USER: <Img> [queries] </Img> instruction Assistant: | answer [end]
    prompt, no loss                                               | loss

The rows pass through one linear map into the width of the word embeddings. In training answers are padded on the right; for
generation prompts are padded on the left, so that generation starts right after every prompt.

Shapes: B rows, P query rows, L answer tokens, T tokens of prompt and answer, H Q-Former width, E word width, V words.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from unifashion.llm.loading import Kept
from unifashion.llm.prompts import prompt_ids
from unifashion.models.generation import Decoding
from unifashion.models.losses import language_loss


class PrefixLanguageModel(nn.Module):
    """The projection and the language model behind it."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        width: int,
        template: str,
        instruction: str,
        kept: Kept = "nothing",
        max_answer_tokens: int = 128,
    ) -> None:
        """Put a projection from ``width`` before ``model``.

        Args:
            model: a transformers causal language model, plain or with PEFT.
            tokenizer: its tokenizer.
            width: of the Q-Former's rows.
            template: prompt with <queries> and {instruction}.
            instruction: the default instruction.
            kept: which weights of ``model`` a checkpoint keeps.
            max_answer_tokens: longer answers are cut; the closing token stays.
        """
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.template, self.instruction, self.kept = template, instruction, kept
        self.max_answer_tokens = max_answer_tokens
        self.projection = nn.Linear(width, self.words.weight.shape[-1])

    @property
    def words(self) -> nn.Embedding:
        """Return the word embeddings."""
        embeddings: nn.Embedding = self.model.get_input_embeddings()
        return embeddings

    @property
    def pad_id(self) -> int:
        """Return an id for padded positions, which the mask hides."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def tokenize(self, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask (B, L) of answers, without opening and with closing token, padded on the right.

        An empty answer has an empty mask: there is nothing to learn from it.
        """
        rows = [
            list(self.tokenizer(text, add_special_tokens=False)["input_ids"])[: self.max_answer_tokens - 1]
            for text in (" ".join(answer.split()) for answer in answers)
        ]
        ids = [torch.tensor([*row, self.tokenizer.eos_token_id]) for row in rows]
        mask = [torch.full((len(row) + 1,), int(bool(row))) for row in rows]
        return pad_sequence(ids, True, self.pad_id), pad_sequence(mask, True, 0)

    def embed(self, rows_BPH: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
        """Return the prompt (B, T, E): the words ``before``, the projected rows, the words ``after``."""
        prefix_BPE = self.projection(rows_BPH).to(self.words.weight.dtype)
        parts = []
        for ids in (before, after):
            words_E = self.words(torch.tensor(list(ids), dtype=torch.long, device=rows_BPH.device))
            parts.append(words_E.expand(len(rows_BPH), -1, -1))
        return torch.cat([parts[0], prefix_BPE, parts[1]], dim=1)

    def logits(self, prompt_BTE: Tensor, answer_ids_BL: Tensor, answer_mask_BL: Tensor, num_last: int = 0) -> Tensor:
        """Return next-word logits (B, T, V) over prompt and answer, or only those of the last ``num_last`` positions."""
        embeds_BTE = torch.cat([prompt_BTE, self.words(answer_ids_BL)], dim=1)
        prompt_mask = answer_mask_BL.new_ones(prompt_BTE.shape[:2])
        mask_BT = torch.cat([prompt_mask, answer_mask_BL], dim=1)
        logits: Tensor = self.model(
            inputs_embeds=embeds_BTE, attention_mask=mask_BT, use_cache=False, logits_to_keep=num_last
        ).logits
        return logits

    def forward(
        self,
        rows_BPH: Tensor,
        answer_ids_BL: Tensor,
        answer_mask_BL: Tensor,
        num_targets: Tensor | None = None,
        instruction: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, mean over the answers' tokens (or their sum over ``num_targets``), and their logits (B, L, V).

        ``instruction`` takes the place of the head's own.
        """
        prompt_BTE = self.embed(rows_BPH, *prompt_ids(self.tokenizer, self.template, instruction or self.instruction))
        num_positions = answer_ids_BL.shape[1] + 1  # the prompt's last position predicts the first token
        logits_BLV = self.logits(prompt_BTE, answer_ids_BL, answer_mask_BL, num_positions).float()
        # language_loss compares position i with token i + 1; the pad stands for the prompt's last position.
        ids_BL = nn.functional.pad(answer_ids_BL, (1, 0))
        mask_BL = nn.functional.pad(answer_mask_BL, (1, 0))
        loss = language_loss(logits_BLV, ids_BL, mask_BL, smoothing=0.0, num_targets=num_targets)
        return loss, logits_BLV[:, :-1]

    @torch.inference_mode()
    def generate(
        self, rows_BPH: Tensor, decoding: Decoding | None = None, instructions: Sequence[str] | None = None
    ) -> list[str]:
        """Return one caption per row.

        Args:
            rows_BPH: query rows.
            decoding: greedy by default. Sampling draws from torch's global generator.
            instructions: one per row; default: ``self.instruction`` for all.
        """
        decoding = decoding or Decoding()
        all_instructions = list(instructions) if instructions is not None else [self.instruction] * len(rows_BPH)
        prompts = [
            self.embed(row_PH[None], *prompt_ids(self.tokenizer, self.template, instruction))[0]
            for row_PH, instruction in zip(rows_BPH, all_instructions, strict=True)
        ]
        # On the left, because generate() appends after the last position of every row.
        embeds_BTE = pad_sequence(prompts, True, padding_side="left")
        mask_BT = pad_sequence([torch.ones(len(p), device=p.device) for p in prompts], True, padding_side="left").long()
        sampling = {"top_p": decoding.top_p, "top_k": 0, "temperature": 1.0} if decoding.sample else {}
        beams = {"length_penalty": decoding.length_penalty} if decoding.num_beams > 1 else {}
        ids = self.model.generate(
            inputs_embeds=embeds_BTE,
            attention_mask=mask_BT,
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=decoding.min_new_tokens or None,
            num_beams=decoding.num_beams,
            do_sample=decoding.sample,
            pad_token_id=self.pad_id,
            eos_token_id=self.tokenizer.eos_token_id,
            **sampling,
            **beams,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
