"""Runs in the environment of lavis.sh: the real LAVIS ``Blip2Qformer`` at toy size, its inputs and outputs to one file.

    python tests/parity/lavis_record.py RECORDING.pt

Nothing of LAVIS is changed on disk. Packages that its ``__init__`` imports, and that neither its Q-Former nor its image towers
compute with, are replaced by stand-ins (``ABSENT``); three functions of timm that the EVA tower does use are given here; and
what its constructor would download (BERT's config and weights, the vocabulary, the tower) is replaced by small random ones.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import torch
import torch.distributed as dist
from torch import nn

ABSENT = {
    "cv2",
    "decord",
    "fairscale",
    "ftfy",
    "matplotlib",
    "pandas",
    "PIL",
    "pycocoevalcap",
    "pycocotools",
    "scipy",
    "skimage",
    "spacy",
    "timm",
    "torchvision",
    "webdataset",
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *(a + b for a in "bcdfgklmnprst" for b in "aeiou")]
TEXTS = ["ba be bi", "ka ko ku ma mi mo na ne", "ta te", "ga go gu pa pe"]

# Arguments of LAVIS' BertConfig, and of its two towers: (side, patch, width, depth, heads).
TOY_BERT = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TOY_EVA, TOY_CLIP = (56, 14, 176, 3, 2), (56, 14, 128, 4, 2)
FULL_EVA, FULL_CLIP = (224, 14, 1408, 39, 16), (224, 14, 1024, 22, 16)


class AnyName(type):
    """Classes on which every attribute exists."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class StandIn(types.ModuleType):
    """A module in which every name exists and does nothing."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = AnyName(name, (), {}) if name[0].isupper() else MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        if module.__name__ == "timm.models.layers":
            module.drop_path = None  # the rate is 0
            module.to_2tuple = lambda x: (x, x)
            module.trunc_normal_ = nn.init.trunc_normal_
        if module.__name__ == "timm.models.registry":
            module.register_model = lambda function: function


def eva_tower(side, patch, width, depth, heads):
    from lavis.models.eva_vit import VisionTransformer

    return VisionTransformer(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4.3637,
        qkv_bias=True,
        use_mean_pooling=False,
        norm_layer=lambda size: nn.LayerNorm(size, eps=1e-6),
    )


def clip_tower(*sizes):
    from lavis.models.clip_vit import VisionTransformer

    return VisionTransformer(*sizes, use_grad_checkpointing=False)


def build(tower, bert, device=None, **options):
    """Construct LAVIS' model with a given tower and BERT sizes in place of what it would download."""
    from lavis.models.blip2_models import blip2, blip2_qformer
    from transformers import BertTokenizer

    def tokenizer(*_):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(WORDS))
            file.flush()
            return BertTokenizer(file.name)

    blip2.BertConfig.from_pretrained = lambda _: blip2.BertConfig(vocab_size=len(WORDS), **bert)
    blip2.BertLMHeadModel.from_pretrained = lambda _, config: blip2.BertLMHeadModel(config)
    blip2.BertTokenizer.from_pretrained = tokenizer
    blip2.Blip2Base.init_vision_encoder = lambda *_: (tower, blip2.LayerNorm(tower.num_features))
    with torch.device(device) if device else nullcontext():
        return blip2_qformer.Blip2Qformer(**options)


def spread_weights(module):
    """Random weights that keep activations near one, so that rounding stays small and no part is idle."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name != "temp":
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)


def full_size_shapes():
    """Names and shapes of the published sizes, but for the vocabulary; nothing is allocated."""
    shapes = {}
    torch.linspace = functools.partial(torch.linspace, device="cpu")  # the EVA tower reads its values
    for preset, tower, sizes in (("vitg", eva_tower, FULL_EVA), ("vitl", clip_tower, FULL_CLIP)):
        with torch.device("meta"):
            encoder = tower(*sizes)
        model = build(encoder, {}, "meta")
        shapes[preset] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return shapes


def main(out):
    sys.meta_path.insert(0, StandInFinder())
    import transformers

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        model = build(eva_tower(*TOY_EVA), TOY_BERT, num_query_token=6, embed_dim=24, max_txt_len=12).train()
        clip = clip_tower(*TOY_CLIP)
        for module in (model, clip):
            spread_weights(module)
        image = torch.randn(len(TEXTS), 3, 56, 56)
        words = model.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
        # A draw would differ between versions of torch: both sides take the likeliest negative.
        torch.multinomial = lambda weights, _: weights.argmax(keepdim=True)
        losses = model({"image": image, "text_input": TEXTS})
        losses.loss.backward()
        with torch.no_grad():
            query_hidden, image_embeds = model.forward_image(image)
            outputs = {
                "vit_out": model.visual_encoder(image),
                "clip_out": clip(image),
                "image_embeds": image_embeds,
                "image_feats": nn.functional.normalize(model.vision_proj(query_hidden), dim=-1),
                "text_feats": nn.functional.normalize(model.text_proj(model.forward_text(words)), dim=-1),
                "compute_itm": model.compute_itm(image_embeds, words.input_ids, words.attention_mask),
                "loss_itc": losses.loss_itc.detach(),
                "loss_itm": losses.loss_itm.detach(),
                "loss_lm": losses.loss_lm.detach(),
            }
    recording = {
        "model": model.state_dict(),
        "clip_model": {f"visual_encoder.{name}": tensor for name, tensor in clip.state_dict().items()},
        "texts": TEXTS,
        "words": WORDS,
        "inputs": {"image": image, "ids": words.input_ids, "mask": words.attention_mask},
        "outputs": outputs,
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "full_size": full_size_shapes(),
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
    }
    torch.save(recording, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
