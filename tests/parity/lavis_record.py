"""Runs in the environment of lavis.sh: the real LAVIS ``Blip2Qformer`` at toy size, its inputs and outputs to one file.

    python lavis_record.py OUT.pt

Nothing of LAVIS is changed on disk. Packages that its ``__init__`` imports and that neither its Q-Former nor its image tower
computes with are replaced by stand-ins (``ABSENT``); three functions of timm that the tower does use are given here; and the
downloads of its constructor (BERT's config and weights, the vocabulary, the tower) are replaced by small random ones.
"""

import importlib.abc
import importlib.machinery
import sys
import tempfile
import types
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
WORDS = [*"abcdefghijklmnopqrstuvwxyz", *(a + b for a in "bcdfgklmnprst" for b in "aeiou")]
SIZES = {"hidden": 128, "heads": 2, "layers": 4, "intermediate": 160, "queries": 6, "embed": 24, "max_text": 12}
TOWER = {"img_size": 56, "patch_size": 14, "embed_dim": 176, "depth": 3, "num_heads": 2, "mlp_ratio": 2.5}
ROWS = 4


class AnyName(type):
    """Classes on which every attribute exists."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class StandIn(types.ModuleType):
    """A module in which every name exists and does nothing."""

    __path__: list[str] = []

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


def import_lavis():
    """Import LAVIS and replace what its constructor would download."""
    sys.meta_path.insert(0, StandInFinder())
    from lavis.models.blip2_models import blip2, blip2_qformer
    from lavis.models.eva_vit import VisionTransformer
    from transformers import BertTokenizer

    def config(*_):
        return blip2.BertConfig(
            vocab_size=5 + len(WORDS),
            hidden_size=SIZES["hidden"],
            num_hidden_layers=SIZES["layers"],
            num_attention_heads=SIZES["heads"],
            intermediate_size=SIZES["intermediate"],
            max_position_embeddings=40,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def tower(*_):
        encoder = VisionTransformer(
            **TOWER, qkv_bias=True, use_mean_pooling=False, norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6)
        )
        return encoder, blip2.LayerNorm(encoder.num_features)

    def tokenizer(*_):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
            file.flush()
            return BertTokenizer(file.name)

    blip2.BertConfig.from_pretrained = config
    blip2.BertLMHeadModel.from_pretrained = lambda _, config: blip2.BertLMHeadModel(config)
    blip2.BertTokenizer.from_pretrained = tokenizer
    blip2.Blip2Base.init_vision_encoder = tower
    return blip2_qformer.Blip2Qformer


def main(out):
    model_class = import_lavis()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
        model = model_class(num_query_token=SIZES["queries"], embed_dim=SIZES["embed"], max_txt_len=SIZES["max_text"])
        for name, parameter in model.named_parameters():
            if name != "temp":
                centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                nn.init.normal_(parameter, mean=centre, std=0.2)
        model.train()
        texts = ["ba be bi", "ka ko ku ma mi mo na ne", "ta te", "ga go gu pa pe"]
        image = torch.randn(ROWS, 3, TOWER["img_size"], TOWER["img_size"])
        words = model.tokenizer(texts, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
        # A draw would differ between versions of torch: both sides take the likeliest negative.
        torch.multinomial = lambda weights, _: weights.argmax(keepdim=True)
        losses = model({"image": image, "text_input": texts})
        losses.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        with torch.no_grad():
            query_hidden, image_embeds = model.forward_image(image)
            outputs = {
                "vit_out": model.visual_encoder(image),
                "image_embeds": image_embeds,
                "image_feats": nn.functional.normalize(model.vision_proj(query_hidden), dim=-1),
                "text_feats": nn.functional.normalize(model.text_proj(model.forward_text(words)), dim=-1),
                "compute_itm": model.compute_itm(image_embeds, words.input_ids, words.attention_mask),
                "loss_itc": losses.loss_itc.detach(),
                "loss_itm": losses.loss_itm.detach(),
                "loss_lm": losses.loss_lm.detach(),
            }
    torch.save(
        {
            "model": model.state_dict(),
            "inputs": {"image": image, "ids": words.input_ids, "mask": words.attention_mask},
            "outputs": outputs,
            "gradients": gradients,
            "versions": {"torch": torch.__version__, "transformers": sys.modules["transformers"].__version__},
        },
        out,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
