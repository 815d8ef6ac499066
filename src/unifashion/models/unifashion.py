"""The UniFashion network: an image tower, a Q-Former and its heads. The three named models are presets of this one class.

    model = UniFashionModel.from_pretrained("runs/quickstart/pretrain")
    image = model.read_images(pixels)                       # tower, ln_vision, keys and values: once per image
    image_BQD = model.image_features(image)                 # one vector per query token
    text_BD = model.text_features(ids, mask)                # one vector per text
    fused_BD, _ = model.fused_features(image, ids, mask)    # reference image + feedback
    scores = best_query_scores(image_BQD, text_BD)

Shapes: B rows, Q query tokens, L text tokens, N image tokens, W image width, H hidden width, D embedding width, V words.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from typing_extensions import Self

from unifashion.data.images import ImageTransform
from unifashion.errors import UserError
from unifashion.models import pretrained
from unifashion.models.presets import VARIANTS, UniFashionConfig
from unifashion.models.qformer import ImageMemory, QFormer, QFormerConfig
from unifashion.models.vision import VisionTower

TEMPERATURE_RANGE = (0.001, 0.5)


class LanguageHead(nn.Module):
    """BERT's word predictor: dense, GELU, LayerNorm, and the word embeddings as decoder."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_BLH: Tensor, word_embeddings_VH: Tensor) -> Tensor:
        """Return logits (B, L, V)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden_BLH))), word_embeddings_VH, self.bias)


class UniFashionModel(nn.Module):
    """The model. Weights only; losses are in ``models.losses`` and are combined in ``training.tasks``."""

    def __init__(self, config: UniFashionConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        sizes = config.qformer
        self.vision = VisionTower(config.vision)
        self.ln_vision = nn.LayerNorm(sizes.image_width, eps=1e-5)
        self.qformer = QFormer(sizes)
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, sizes.hidden_size).normal_(std=0.02))
        if VARIANTS[config.model_name].has_prompt_tokens:
            self.prompt_tokens = nn.Parameter(self.query_tokens.detach().clone())
        self.vision_proj = nn.Linear(sizes.hidden_size, config.embed_dim)
        self.text_proj = nn.Linear(sizes.hidden_size, config.embed_dim)
        self.itm_head = nn.Linear(sizes.hidden_size, 2)
        self.language_head = LanguageHead(sizes)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))

    @property
    def image_transform(self) -> ImageTransform:
        """Return the transform from a photo to the pixels that the model was trained on, before ``data.images.normalise``."""
        return ImageTransform(self.config.image_size, pad=self.config.pad, ratio=self.config.pad_ratio)

    @property
    def target_tokens(self) -> Tensor:
        """Return the queries (1, Q, H) that read target and gallery images."""
        return self.prompt_tokens if self.config.target_queries == "prompt_tokens" else self.query_tokens

    def clamp_temperature(self) -> None:
        """Keep the temperature positive; called before each training step."""
        # A temperature near 0 lets one pair dominate the gradient; the range is BLIP's.
        with torch.no_grad():
            self.temperature.clamp_(*TEMPERATURE_RANGE)

    # Reading images ---------------------------------------------------------------------------------------------------

    def image_tokens(self, image: Tensor) -> Tensor:
        """Return the image tokens (B, N, W) that the Q-Former reads.

        Args:
            image: normalised pixels (B, 3, S, S), or the tower's tokens for them (B, N, W), from a feature cache.
        """
        tokens_BNW = self.vision(image) if image.ndim == 4 else image
        # LAVIS computes this LayerNorm in float32, under autocast as well.
        with torch.autocast(tokens_BNW.device.type, enabled=False):
            return self.ln_vision(tokens_BNW.float())

    def read_images(self, pixels_B3SS: Tensor) -> ImageMemory:
        """Return the keys and values of the images, computed once for every pass that follows."""
        return self.qformer.project_image(self.image_tokens(pixels_B3SS))

    # Passes -----------------------------------------------------------------------------------------------------------

    def image_features(self, image: ImageMemory) -> Tensor:
        """Return unit vectors (B, Q, D) of target or gallery images."""
        return self.project_queries(self.qformer(self._queries(self.target_tokens, image), image=image))

    def text_features(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return one unit vector (B, D) per text, from its [CLS] row."""
        hidden_BLH = self.qformer(text_ids_BL=ids_BL, text_mask_BL=mask_BL)
        return F.normalize(self.text_proj(hidden_BLH[:, 0]), dim=-1)

    def fused_features(self, reference: ImageMemory, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composed query: its text vector (B, D) and its query vectors (B, Q, D), all of unit length."""
        fused_BD, query_BQH = self.fused_pass(reference, ids_BL, mask_BL)
        return fused_BD, self.project_queries(query_BQH)

    def fused_pass(self, reference: ImageMemory, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composed query: its text vector (B, D), of unit length, and its hidden query rows (B, Q, H)."""
        queries_BQH = self._queries(self.query_tokens, reference)
        query_BQH, text_BLH = self._split(self.qformer(queries_BQH, ids_BL, mask_BL, reference))
        # SPRC reads the feedback once more, with the query rows of the first pass and without the image.
        if self.config.query_passes == 2:
            _, text_BLH = self._split(self.qformer(query_BQH, ids_BL, mask_BL))
        return F.normalize(self.text_proj(text_BLH[:, 0]), dim=-1), query_BQH

    def query_rows(self, image: ImageMemory, ids_BL: Tensor | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """Return the hidden query rows (B, Q, H) of images, or of images with texts: what generating heads read."""
        return self._split(self.qformer(self._queries(self.query_tokens, image), ids_BL, mask_BL, image))[0]

    def match_logits(self, image: ImageMemory, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, 2) logits, [no match, match], of target image and text, averaged over the query rows."""
        hidden_BTH = self.qformer(self._queries(self.target_tokens, image), ids_BL, mask_BL, image)
        return self.itm_head(self._split(hidden_BTH)[0]).mean(dim=1)

    def match_two_images(self, reference: ImageMemory, target: ImageMemory, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, 2) logits, [no match, match], of composed queries and targets: both images in one memory, and the feedback.

        It is the original's ``inference_rerank``, whose score is the probability of a match. No loss, there or here, shows the
        matching head two images at once.
        """
        return self.match_logits(reference.beside(target), ids_BL, mask_BL)

    def caption_pass(self, image: ImageMemory, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Read image and caption at once: hidden query rows (B, Q, H) and next-word logits (B, L, V).

        The first token of each text, [CLS], is read as [DEC]. The query rows do not see the text, so they equal those of
        ``query_rows`` without one.
        """
        # [CLS] opens a text that is understood, [DEC] one that is generated; the weights of BLIP-2 tell them apart by it.
        ids_BL = torch.cat([torch.full_like(ids_BL[:, :1], self.config.dec_token_id), ids_BL[:, 1:]], dim=1)
        queries_BQH = self._queries(self.query_tokens, image)
        query_BQH, text_BLH = self._split(self.qformer(queries_BQH, ids_BL, mask_BL, image, causal=True))
        return query_BQH, self.language_head(text_BLH, self.qformer.word_embeddings.weight)

    def project_queries(self, query_BQH: Tensor) -> Tensor:
        """Return unit vectors (B, Q, D)."""
        return F.normalize(self.vision_proj(query_BQH), dim=-1)

    def _queries(self, tokens_1QH: Tensor, image: ImageMemory) -> Tensor:
        return tokens_1QH.expand(image.keys[0].shape[0], -1, -1)

    def _split(self, hidden_BTH: Tensor) -> tuple[Tensor, Tensor]:
        num_queries = self.config.num_queries
        return hidden_BTH[:, :num_queries], hidden_BTH[:, num_queries:]

    # Words and files --------------------------------------------------------------------------------------------------

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Return ids and mask, both (B, L), of prepared texts, cut to the model's limit and padded to the longest."""
        assert self.tokenizer is not None, "the model was built without a tokenizer"
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.config.max_text_tokens, return_tensors="pt"
        )
        return batch["input_ids"], batch["attention_mask"]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and the tokenizer; the folder appears complete or not at all."""
        self.write(folder, self.state_dict())

    def write(self, folder: str | Path, weights: dict[str, Tensor]) -> None:
        """``save_pretrained`` with weights that were gathered from several processes, named as in ``state_dict``."""
        pretrained.save(folder, self.config, weights, self.tokenizer)

    def read_weights(self, folder: str | Path) -> dict[str, Tensor]:
        """Return the weights that ``write`` put into a folder, named as in ``state_dict``."""
        return pretrained.load(folder)[1]

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Load a run folder, a saved model folder or a hub id of this project; returns it in evaluation mode.

        Checkpoints of others are read by ``encoders.UniFashion.from_pretrained``.

        Raises:
            UserError: nothing there, or what is there is not a UniFashion model.
        """
        return cls.from_parts(pretrained.load(name), name)

    @classmethod
    def from_parts(cls, parts: pretrained.Loaded, source: str | Path) -> Self:
        """Build the model of a config, weights and tokenizer, in evaluation mode; ``source`` is how messages name them.

        Raises:
            UserError: the weights do not fit the config.
        """
        config, weights, tokenizer = parts
        pretrained.check_fit(
            skeleton(config, source), weights, source
        )  # before memory is taken for what the config says
        model = cls(config, tokenizer)
        pretrained.load_weights(model, weights, source)
        return model.eval()


def skeleton(config: UniFashionConfig, source: str | Path) -> UniFashionModel:
    """Return the model of a config without memory for its weights: the names and shapes that these must have.

    Raises:
        UserError: a config that no model can be built from.
    """
    try:
        with torch.device("meta"):
            return UniFashionModel(config)
    except (
        Exception
    ) as error:  # for settings that do not fit one another, transformers and torch raise all kinds of errors
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"no model can be built from the config of {source} ({reason}); copy the model again") from None
