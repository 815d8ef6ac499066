"""``blip2_cir_full``: the Q-Former with a language model that writes captions and, if configured, a diffusion model that draws.

    model = UniFashionFull.from_pretrained("runs/caption_ft")
    image = model.base.read_images(pixels)
    rows_BQH = model.query_rows(image)                 # what an image is
    rows_BQH = model.query_rows(image, ids, mask)      # what an image with feedback asks for
    captions = model.language.generate(rows_BQH)
    images_B3SS = model.diffusion.draw(rows_BQH)

A saved folder is a UniFashion folder with additional files:

    config.json  model.safetensors  tokenizer   tower, Q-Former and retrieval heads; ``UniFashion.from_pretrained`` reads them
    heads.json                                  which language model and diffusion model, and the prompt (llm/heads.py)
    heads.safetensors                           the projection, the diffusion adapter
    llm/                                        LoRA as a PEFT adapter, or a whole language model (llm/loading.py)
    unet/                                       only where the UNet was trained
    diffusion/                                  the rest of a diffusion model that was made on the spot

What is frozen beyond the tower is neither in the folder nor in ``state_dict``: ``heads.json`` names it.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from unifashion.convert.adapters import read_adapters
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.io import write_json
from unifashion.llm.diffusion_head import DiffusionHead
from unifashion.llm.heads import (
    DIFFUSION_FOLDER,
    HEAD_WEIGHTS,
    HEADS,
    LLM_FOLDER,
    UNET_FOLDER,
    Heads,
    find_heads,
    read_heads,
    rebuild_diffusion_head,
    rebuild_language_model,
)
from unifashion.llm.language_model import PrefixLanguageModel
from unifashion.llm.loading import is_kept, read_language_model, save_language_model
from unifashion.llm.tiny import TINY
from unifashion.models import pretrained
from unifashion.models.presets import UniFashionConfig
from unifashion.models.qformer import ImageMemory
from unifashion.models.unifashion import UniFashionModel
from unifashion.models.weight_files import check_finite, read_safetensors

BASE, LLM, UNET = "base.", "language.model.", "diffusion.unet."
ADAPTERS = ("language.projection.", "diffusion.adapter.")
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
# The prefix of the diffusion head in heads.safetensors: the name that it had in earlier versions.
DRAWING = "drawing."


class UniFashionFull(nn.Module):
    """A retrieval network with the heads that read its query rows."""

    def __init__(
        self,
        base: UniFashionModel,
        heads: Heads,
        language: PrefixLanguageModel | None,
        diffusion: DiffusionHead | None,
    ) -> None:
        super().__init__()
        self.base, self.language, self.diffusion = base, language, diffusion
        self.heads = heads
        # A frozen language model of gigabytes must not be saved or gathered at every checkpoint: its name is enough.
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_post_hook(_excuse_frozen)

    @property
    def config(self) -> UniFashionConfig:
        """Return the config of the retrieval network."""
        return self.base.config

    def query_rows(self, image: ImageMemory, ids_BL: Tensor | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """Return the query rows (B, Q, H) of images, or of images with feedback: what both heads read."""
        return self.base.query_rows(image, ids_BL, mask_BL)

    def choose_trained(self, parts: tuple[str, ...], losses: tuple[str, ...] = ("itg", "q2i")) -> None:
        """Let these parts learn (names as in ``LanguageModelSettings``); the image tower keeps its own setting.

        The heads of retrieval belong to the Q-Former, each where one of the losses reaches it.
        """
        for name, parameter in self.named_parameters():
            if not name.startswith("base.vision.") and parameter.is_floating_point():
                parameter.requires_grad_(part_of(name, losses) in parts)

    # Files ------------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder described at the top of this module, complete or not at all."""
        self.write(folder, self.state_dict())

    def write(self, folder: str | Path, weights: dict[str, Tensor]) -> None:
        """``save_pretrained`` with weights that were gathered from several processes, named as in ``state_dict``."""
        base = {n.removeprefix(BASE): t for n, t in weights.items() if n.startswith(BASE)}
        pretrained.save(
            folder, self.config, base, self.base.tokenizer, lambda unfinished: self._write_heads(unfinished, weights)
        )

    def _write_heads(self, folder: Path, weights: dict[str, Tensor]) -> None:
        adapters = {_on_disk(n): t.detach().cpu().contiguous() for n, t in weights.items() if n.startswith(ADAPTERS)}
        save_file(adapters, folder / HEAD_WEIGHTS, metadata={"format": "pt"})
        write_json(folder / HEADS, asdict(self.heads))
        llm = {n.removeprefix(LLM): t for n, t in weights.items() if n.startswith(LLM)}
        if self.language is not None:
            language = self.language
            save_language_model(folder / LLM_FOLDER, language.model, llm, self.heads.kept, language.tokenizer)
        if self.diffusion is not None and self.heads.diffusion_model == TINY:
            self.diffusion.save_frozen(folder / DIFFUSION_FOLDER)
        if self.diffusion is not None and self.heads.keeps_unet:
            unet = {
                n.removeprefix(UNET): t.detach().cpu().contiguous() for n, t in weights.items() if n.startswith(UNET)
            }
            self.diffusion.unet.save_config(folder / UNET_FOLDER)
            save_file(unet, folder / UNET_FOLDER / UNET_WEIGHTS, metadata={"format": "pt"})

    def read_weights(self, folder: str | Path) -> dict[str, Tensor]:
        """Return every weight of a folder that ``write`` made, named as in ``state_dict``.

        Raises:
            UserError: files that are missing or damaged, or weights that do not fit.
        """
        base = {BASE + n: t for n, t in self.base.read_weights(folder).items()}
        weights = {**base, **self._head_weights(Path(folder))}
        pretrained.check_fit(self, weights, folder)
        return weights

    def load_kept(self, folder: Path, language: bool = True, diffusion: bool = True) -> None:
        """Load what a folder keeps of these of its heads, as far as the model has them.

        Raises:
            UserError: files that are missing or damaged, or an adapter of another width than the model behind it.
        """
        heads = read_heads(folder)
        weights = self._head_weights(folder, heads)
        kinds = (("language.", language, heads.llm), ("diffusion.", diffusion, heads.diffusion_model))
        starts = tuple(
            start
            for start, wanted, named in kinds
            if wanted and (named is not None or any(name.startswith(start) for name in weights))
        )
        own = self.state_dict()
        # A U-Net that is trained from now on is not in the folder: its weights come from the diffusion model.
        others = {n: t for n, t in own.items() if not n.startswith(starts) or n.startswith(UNET)}
        chosen = {n: t for n, t in weights.items() if n.startswith(starts) and n in own}
        self._check_widths(chosen, folder)
        pretrained.load_weights(self, {**others, **chosen}, folder)

    def _check_widths(self, weights: dict[str, Tensor], source: Path) -> None:
        """Check that the adapters fit the models that were named for them."""
        own = self.state_dict()
        for name, kind, model, flag in (
            ("language.projection.weight", "language model", self.heads.llm, "--llm"),
            ("diffusion.adapter.contract.weight", "diffusion model", self.heads.diffusion_model, "--diffusion-model"),
        ):
            if name in own and name in weights and len(own[name]) != len(weights[name]):
                raise UserError(
                    f"{kind} {model!r} reads words of width {len(own[name])}, and {source} was trained with one of width "
                    f"{len(weights[name])}; name that one ({flag}), or train from a converted folder without {HEADS}, which "
                    "starts anew"
                )

    def _head_weights(self, folder: Path, heads: Heads | None = None) -> dict[str, Tensor]:
        heads = heads or self.heads
        weights = read_adapters(folder) if folder.is_file() else read_safetensors(folder / HEAD_WEIGHTS)
        unet = read_safetensors(folder / UNET_FOLDER / UNET_WEIGHTS) if heads.keeps_unet else {}
        check_finite({**weights, **unet}, folder)
        llm = read_language_model(folder / LLM_FOLDER, heads.kept)
        weights = {n.replace(DRAWING, "diffusion.", 1) if n.startswith(DRAWING) else n: t for n, t in weights.items()}
        return {**weights, **{UNET + n: t for n, t in unet.items()}, **{LLM + n: t for n, t in llm.items()}}

    @classmethod
    def with_heads_of(
        cls,
        base: UniFashionModel,
        folder: Path,
        llm: str | None = None,
        diffusion_model: str | None = None,
        language: bool = True,
    ) -> "UniFashionFull":
        """Give ``base`` the heads of a saved folder, or of an original's file, as far as their models are named.

        Args:
            base: the Q-Former's model.
            folder: with ``heads.json``.
            llm: where the frozen language model is, if not where ``heads.json`` says.
            diffusion_model: likewise, the diffusion model.
            language: False = without the language model, for drawing alone.

        Raises:
            UserError: files that are missing or damaged, or a language or diffusion model that cannot be found or has
                another width.
        """
        heads = read_heads(folder)
        heads = replace(heads, llm=llm or heads.llm, diffusion_model=diffusion_model or heads.diffusion_model)
        if not language:
            heads = replace(heads, llm=None, kept="nothing")
        width = base.config.qformer.hidden_size
        diffusion = rebuild_diffusion_head(heads, folder, width, base.config.num_queries)
        model = cls(base, heads, rebuild_language_model(heads, folder, width), diffusion)
        own = {n: t for n, t in model.state_dict().items() if n.startswith(BASE)}
        heads_of = {"language.": model.language, "diffusion.": model.diffusion}
        absent = tuple(start for start, head in heads_of.items() if head is None)
        weights = {n: t for n, t in model._head_weights(folder).items() if not n.startswith(absent)}
        model._check_widths(weights, folder)
        pretrained.load_weights(model, {**own, **weights}, folder)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        llm: str | None = None,
        diffusion_model: str | None = None,
        language: bool = True,
    ) -> "UniFashionFull":
        """Load a run folder, a saved folder, a hub id or an original's file; returns it in evaluation mode.

        Arguments as in ``with_heads_of``.

        Raises:
            UserError: nothing there, a model without heads, or one whose language or diffusion model cannot be found.
        """
        base = UniFashion.from_pretrained(name)
        folder = find_heads(name)
        if folder is None:
            raise UserError(
                f"{name} holds a {base.config.model_name} without a language model; train blip2_cir_full first"
            )
        return cls.with_heads_of(base, folder, llm, diffusion_model, language).eval()


# Which losses reach the retrieval network's own heads.
REACHED_BY = {
    "base.vision_proj.": {"itc", "itm", "ttc"},
    "base.text_proj.": {"itc", "itm", "ttc"},
    "base.temperature": {"itc", "ttc"},
    "base.prompt_tokens": {"itc", "itm"},
    "base.itm_head.": {"itm"},
    "base.language_head.": {"lm"},
}


def part_of(name: str, losses: tuple[str, ...] = ("itg", "q2i")) -> str:
    """Return the part (``LANGUAGE_PARTS``) that a parameter belongs to, or "" where none of the losses reaches it."""
    if name.startswith(LLM):
        return "llm_lora" if "lora_" in name else "llm"
    if name.startswith(ADAPTERS):
        return "adapters"
    if name.startswith(UNET):
        return "diffusion"
    if any(name.startswith(head) and reaching & set(losses) for head, reaching in REACHED_BY.items()):
        return "qformer"
    return "qformer" if name.startswith(("base.qformer.", "base.query_tokens", "base.ln_vision.")) else ""


def _on_disk(name: str) -> str:
    return name.replace("diffusion.", DRAWING, 1) if name.startswith("diffusion.") else name


def _is_stored(model: Any, name: str) -> bool:
    if name.startswith(LLM):
        return is_kept(name, model.heads.kept)
    if name.startswith("diffusion."):
        return name.startswith(ADAPTERS) or (model.heads.keeps_unet and name.startswith(UNET))
    return True


def _leave_out_frozen(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Drop the frozen language and diffusion models from a state dict: gigabytes that never change."""
    for name in list(state):
        if name.startswith(prefix) and not _is_stored(model, name.removeprefix(prefix)):
            del state[name]


# load_state_dict(strict=True) would otherwise ask for the weights that _leave_out_frozen keeps out.
def _excuse_frozen(model: nn.Module, keys: Any) -> None:
    """Do not report as missing what ``state_dict`` leaves out; the names carry a prefix that is not known here."""
    for name in list(keys.missing_keys):
        starts = [start for start in (name.find(LLM), name.find("diffusion.")) if start >= 0]
        if starts and not _is_stored(model, name[min(starts) :]):
            keys.missing_keys.remove(name)
