"""Runs in the project's environment: our model on the weights and inputs of ``lavis_record.py``.

    python tests/parity/lavis_compare.py RECORDING.pt

Prints one line per quantity, the largest difference over the largest magnitude, and fails above ``LIMIT``.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import BertWordPieceTokenizer
from transformers import PreTrainedTokenizerFast

from unifashion.config import DataSettings, TrainingSettings
from unifashion.convert import load_any
from unifashion.convert.lavis import from_lavis, our_name, to_lavis
from unifashion.convert.sizes import tower_config
from unifashion.models.losses import best_query_scores
from unifashion.models.presets import build_config
from unifashion.models.unifashion import UniFashionModel
from unifashion.models.vision import VisionTower
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Position

LIMIT = 2e-5


def save_tokenizer(words, folder):
    """Write the tokenizer of the recording, without [DEC]: the loader adds it as LAVIS does."""
    vocabulary = {word: index for index, word in enumerate(words)}
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = BertWordPieceTokenizer(vocabulary)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **names).save_pretrained(folder)


def load(recording):
    """Our model, through the loader that reads ``blip2_*.pth`` files."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(recording["words"], folder)
        torch.save({"model": recording["model"]}, Path(folder) / "blip2.pth")
        config, weights, tokenizer = load_any(Path(folder) / "blip2.pth", tokenizer=folder)
    config = replace(
        config, qformer=replace(config.qformer, dropout=0.0)
    )  # a rate leaves no trace in a file of weights
    model = UniFashionModel(config, tokenizer)
    model.load_state_dict(weights)
    return model


def compare(recording):
    """Yield (name, ours, theirs)."""
    model = load(recording).eval()
    inputs, outputs = recording["inputs"], recording["outputs"]
    ids, mask = inputs["ids"], inputs["mask"]
    yield "token ids", model.tokenize(recording["texts"])[0], ids[:, : mask.sum(1).max()]
    with torch.no_grad():
        tokens = model.image_tokens(inputs["image"])
        image = model.qformer.project_image(tokens)
        yield "EVA tower", model.vision(inputs["image"]), outputs["vit_out"]
        yield "image embeddings", tokens, outputs["image_embeds"]
        yield "image features", model.image_features(image), outputs["image_feats"]
        yield "text features", model.text_features(ids, mask), outputs["text_feats"]
        yield "compute_itm", model.match_logits(image, ids, mask)[:, 1], outputs["compute_itm"]
        weights, _ = from_lavis(recording["clip_model"])
        tower = VisionTower(tower_config(weights, "CLIP tower")).eval()
        tower.load_state_dict({name.removeprefix("vision."): tensor for name, tensor in weights.items()})
        yield "CLIP tower", tower(inputs["image"]), outputs["clip_out"]
    yield from _training(model, recording)


def _training(model, recording):
    inputs, outputs = recording["inputs"], recording["outputs"]
    task = CrossModalTask(model, TrainingSettings()).train()
    model.vision.freeze()
    torch.multinomial = lambda weights, _, generator=None: weights.argmax(dim=1, keepdim=True)
    rows = torch.arange(len(inputs["ids"]))
    batch = {
        "image": inputs["image"],
        "text_ids": inputs["ids"],
        "text_mask": inputs["mask"],
        "product": rows,
        "text": rows,
    }
    losses = task(task.prepare(batch, Position(0, 0, 0, 0)))
    yield "ITM loss", losses["itm"], outputs["loss_itm"]
    yield "LM loss", losses["lm"], outputs["loss_lm"]

    # LAVIS' ITC halves the sum, smooths its labels, and lets no gradient through the gathered side; UniFashion's does none
    # of that.
    image = model.image_features(model.read_images(inputs["image"]))
    text = model.text_features(inputs["ids"], inputs["mask"])
    scores = best_query_scores(image, text.detach()), best_query_scores(image.detach(), text).T
    itc = sum(F.cross_entropy(s / model.temperature, rows, label_smoothing=0.1) for s in scores) / 2
    yield "ITC loss", itc, outputs["loss_itc"]
    (losses["itm"] + losses["lm"] + itc).backward()
    ours = dict(model.named_parameters())
    largest = max(gradient.abs().max() for gradient in recording["gradients"].values())
    for name, gradient in recording["gradients"].items():
        yield f"gradient {name}", ours[our_name(name)].grad / largest, gradient / largest


def check_full_size(shapes, preset):
    """Our preset has the names and shapes of LAVIS' model at its published size."""
    (vocabulary,) = shapes["Qformer.cls.predictions.bias"]
    with torch.device("meta"):
        model = UniFashionModel(build_config("blip2_cir_cls", preset, vocabulary, vocabulary - 1, DataSettings()))
        ours = to_lavis(model.state_dict(), model.config.vision["model_type"])
    assert {name: list(tensor.shape) for name, tensor in ours.items()} == shapes, preset
    print(f"{preset:20} all {len(shapes)} names and shapes equal")


def main(path):
    recording = torch.load(path, weights_only=True)
    print("LAVIS side:", *(f"{name} {version}" for name, version in recording["versions"].items()))
    worst, gradients = 0.0, []
    for name, ours, theirs in compare(recording):
        # Gradients share one scale: those of key biases are zero up to rounding.
        scale = 1.0 if name.startswith("gradient") else theirs.abs().max().item()
        difference = (ours.detach().float() - theirs.float()).abs().max().item() / scale
        worst = max(worst, difference)
        if name.startswith("gradient"):
            gradients.append(difference)
        else:
            print(f"{name:20} {difference:.1e}")
    print(f"{f'{len(gradients)} gradients':20} {max(gradients):.1e}")
    for preset, shapes in recording["full_size"].items():
        check_full_size(shapes, preset)
    if worst > LIMIT:
        raise SystemExit(f"the largest difference, {worst:.1e}, is above {LIMIT:.0e}")


if __name__ == "__main__":
    main(sys.argv[1])
