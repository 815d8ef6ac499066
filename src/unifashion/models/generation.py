"""Captions from the Q-Former's own language head: greedy, beam search, nucleus sampling.

    memory = model.read_images(pixels)                     # the image is projected once
    ids = generate(model, memory, end_id=tokenizer.sep_token_id, num_beams=3)
    captions = [to_caption(model.tokenizer, row) for row in ids]

The query rows do not see text, so their keys and values in self-attention are computed once, like those of the image; of the
text, each step reads one new token and keeps its keys and values. Unless sampled, a caption does not depend on its batch.

Shapes: R rows (B images times K beams), Q query tokens, T tokens so far, H hidden width, A heads, V words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unifashion.errors import UserError
from unifashion.models.qformer import ImageMemory, QFormerLayer
from unifashion.models.unifashion import UniFashionModel

_CLOSING, _JOINED = re.compile(r"\s+([,?])"), re.compile(r"\s*([-/'])\s*")


@dataclass(frozen=True)
class Decoding:
    """How words are chosen.

    num_beams: 1 = the likeliest word at each step; more = beam search.
    sample: draw words instead, from the likeliest ones that together hold ``top_p`` of the probability.
    length_penalty: a hypothesis of beam search counts its log-probability divided by its length to this power.
    """

    max_new_tokens: int = 48
    min_new_tokens: int = 0
    num_beams: int = 1
    sample: bool = False
    top_p: float = 0.9
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new_tokens < 1:
            raise UserError("--num-beams and --max-new-tokens must be at least 1")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must be above 0 and at most 1, got {self.top_p:g}")
        if self.sample and self.num_beams > 1:
            raise UserError("--sample and --num-beams cannot be combined; leave one of them out")


class _Decoder:
    """Reads one token after the other; holds the keys and values of the queries and of the text so far."""

    def __init__(self, model: UniFashionModel, image: ImageMemory, repeats: int) -> None:
        self.model = model
        self.qformer = model.qformer
        self.layers = [layer for layer in self.qformer.layers if isinstance(layer, QFormerLayer)]
        self.cache: list[tuple[Tensor, Tensor]] = []
        self.num_tokens = 0
        num_images = image.keys[0].shape[0]
        # The queries do not see the text (causal mask), so one pass gives their keys and values for all words to come.
        x_BQH = self.qformer.norm(model.query_tokens).expand(num_images, -1, -1)
        keys_values = iter(zip(image.keys, image.values, strict=True))
        for layer in self.layers:
            keys, values = layer.attention.project(x_BQH)
            self.cache.append((keys.repeat_interleave(repeats, 0), values.repeat_interleave(repeats, 0)))
            key_value = next(keys_values) if layer.cross_attention is not None else None
            x_BQH = layer(x_BQH, x_BQH.shape[1], None, key_value, reads=True)

    def step(self, token_R: Tensor) -> Tensor:
        """Read the next token of every row; returns the log-probabilities (R, V) of the one after it."""
        position = self.qformer.position_embeddings.weight[self.num_tokens]
        x_R1H = self.qformer.norm(self.qformer.word_embeddings(token_R)[:, None] + position)
        for index, layer in enumerate(self.layers):
            key, value = layer.attention.project(x_R1H)
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.cache[index], (key, value), strict=True))
            self.cache[index] = keys, values
            x_R1H = layer.text_ffn(layer.attention(x_R1H, keys, values))
        self.num_tokens += 1
        logits_R1V = self.model.language_head(x_R1H, self.qformer.word_embeddings.weight)
        return logits_R1V[:, 0].float().log_softmax(dim=-1)

    def reorder(self, rows_R: Tensor) -> None:
        """Let row r continue from the cache of row ``rows_R[r]``."""
        self.cache = [(keys[rows_R], values[rows_R]) for keys, values in self.cache]


@torch.inference_mode()
def generate(
    model: UniFashionModel,
    image: ImageMemory,
    end_id: int,
    decoding: Decoding | None = None,
    banned_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Return the token ids of one caption per image, without the opening [DEC] and the closing ``end_id``.

    Args:
        model: in evaluation mode.
        image: from ``model.read_images``.
        end_id: the token that closes a caption, [SEP].
        decoding: how words are chosen; by default greedily. Its length is cut to the model's text positions.
        banned_ids: tokens that are never generated.
        generator: for sampling, on the CPU; default: torch's own.
    """
    decoding = decoding or Decoding()
    longest = min(decoding.max_new_tokens, model.config.qformer.max_positions - 1)
    if decoding.num_beams > 1:
        return _beam_search(model, image, end_id, decoding, banned_ids, longest)
    decoder = _Decoder(model, image, repeats=1)
    token_R = _start(model, image)
    open_R = torch.ones_like(token_R, dtype=torch.bool)
    chosen: list[Tensor] = []
    while len(chosen) < longest and open_R.any():
        scores_RV = _allowed(decoder.step(token_R), banned_ids, end_id, len(chosen) < decoding.min_new_tokens)
        token_R = _draw(scores_RV, decoding.top_p, generator) if decoding.sample else scores_RV.argmax(dim=-1)
        token_R = token_R.masked_fill(~open_R, end_id)
        open_R &= token_R != end_id
        chosen.append(token_R)
    return [_until(row, end_id) for row in torch.stack(chosen, dim=1).tolist()]


class _Hypotheses:
    """The hypotheses of one image in beam search: ``words`` of the unfinished ones, and the best finished ones."""

    def __init__(self, decoding: Decoding, longest: int, end_id: int) -> None:
        self.beams, self.longest, self.end_id = decoding.num_beams, longest, end_id
        self.penalty = decoding.length_penalty
        self.words: list[list[int]] = [[] for _ in range(self.beams)]
        self.finished: list[tuple[float, list[int]]] = []
        self.done = False

    def advance(self, candidates: list[tuple[float, int, int]], length: int) -> list[tuple[float, int, int]]:
        """Split (score, beam, token), best first, into finished and unfinished; returns ``num_beams`` unfinished ones."""
        alive: list[tuple[float, int, int]] = []
        for score, beam, token in candidates:
            if score == -torch.inf:
                break
            if token == self.end_id or length == self.longest:
                ending = self.words[beam] if token == self.end_id else [*self.words[beam], token]
                self.finished.append((score / length**self.penalty, ending))
            elif len(alive) < self.beams:
                alive.append((score, beam, token))
        self.finished = sorted(self.finished, key=lambda entry: -entry[0])[: self.beams]
        best_yet_to_come = alive[0][0] / self.longest**self.penalty if alive else -torch.inf
        self.done = not alive or (len(self.finished) == self.beams and best_yet_to_come <= self.finished[-1][0])
        alive += [(-torch.inf, 0, self.end_id)] * (self.beams - len(alive))
        self.words = [[*self.words[beam], token] for _, beam, token in alive]
        return alive


def _beam_search(
    model: UniFashionModel, image: ImageMemory, end_id: int, decoding: Decoding, banned_ids: Sequence[int], longest: int
) -> list[list[int]]:
    """Keep the best ``num_beams`` unfinished hypotheses of every image; return the best finished one.

    A hypothesis is finished by ``end_id`` or at the length limit. An image is done when none of its unfinished hypotheses can
    beat its ``num_beams`` best finished ones.
    """
    num_images, beams = image.keys[0].shape[0], decoding.num_beams
    decoder = _Decoder(model, image, repeats=beams)
    token_R = _start(model, image).repeat_interleave(beams)
    score_BK = torch.full((num_images, beams), -torch.inf, device=token_R.device)
    score_BK[:, 0] = 0.0
    images = [_Hypotheses(decoding, longest, end_id) for _ in range(num_images)]
    for length in range(1, longest + 1):
        scores_RV = _allowed(decoder.step(token_R), banned_ids, end_id, length <= decoding.min_new_tokens)
        total_BC = (score_BK[:, :, None] + scores_RV.unflatten(0, (num_images, beams))).flatten(1)
        # Twice as many candidates as beams: if half of them end here, the other half can still fill all beams.
        best_BC, index_BC = total_BC.topk(min(2 * beams, total_BC.shape[1]), dim=-1)
        chosen: list[tuple[float, int, int]] = []
        for hypotheses, scores, indices in zip(images, best_BC.tolist(), index_BC.tolist(), strict=True):
            beam_and_token = (divmod(index, scores_RV.shape[1]) for index in indices)
            candidates = [(score, *pair) for score, pair in zip(scores, beam_and_token, strict=True)]
            chosen += hypotheses.advance(candidates, length)
        if all(hypotheses.done for hypotheses in images):
            break
        score_BK = torch.tensor([score for score, _, _ in chosen], device=token_R.device).view(num_images, beams)
        first_row_R = torch.arange(len(chosen), device=token_R.device) // beams * beams
        decoder.reorder(first_row_R + torch.tensor([beam for _, beam, _ in chosen], device=token_R.device))
        token_R = torch.tensor([token for _, _, token in chosen], device=token_R.device)
    return [hypotheses.finished[0][1] if hypotheses.finished else [] for hypotheses in images]


def _start(model: UniFashionModel, image: ImageMemory) -> Tensor:
    return torch.full((image.keys[0].shape[0],), model.config.dec_token_id, device=image.keys[0].device)


def _allowed(scores_RV: Tensor, banned_ids: Sequence[int], end_id: int, too_short: bool) -> Tensor:
    banned = [*banned_ids, end_id] if too_short else list(banned_ids)
    scores_RV[:, banned] = -torch.inf
    return scores_RV


def _draw(scores_RV: Tensor, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Draw one token per row among the likeliest that together reach ``top_p``; the likeliest always stays."""
    ordered_RV, ids_RV = scores_RV.softmax(dim=-1).sort(dim=-1, descending=True)
    before_RV = ordered_RV.cumsum(dim=-1) - ordered_RV
    kept_RV = ordered_RV.masked_fill(before_RV >= top_p, 0.0)
    drawn_R1 = torch.multinomial(kept_RV.cpu(), 1, generator=generator).to(ids_RV.device)
    return ids_RV.gather(1, drawn_R1)[:, 0]


def _until(ids: list[int], end_id: int) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids


def to_caption(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the words of token ids, with hyphens and commas spaced as usual: "a v-neck, in red"."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    return _JOINED.sub(r"\1", _CLOSING.sub(r"\1", text)).strip()
