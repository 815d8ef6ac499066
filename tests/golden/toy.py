"""Toy models whose weights follow a rule by name, and everything that is recorded of them.

A recording is NAME.json (sizes, and how exact each number is) and NAME.safetensors (``inputs.*``, ``outputs.*``, ``grads.*``).
``observe`` computes all of it with our model, in training mode with dropout 0 and the original's choice of negatives.
"""

import json
import math
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from unifashion.config import DataSettings, TrainingSettings
from unifashion.convert.lavis import from_lavis, our_name, to_lavis
from unifashion.models.generation import Decoding, generate
from unifashion.models.losses import best_query_scores
from unifashion.models.negatives import hard_negatives
from unifashion.models.presets import UniFashionConfig, build_config
from unifashion.models.qformer import ImageMemory, QFormerConfig, attention_mask
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.tasks import RETRIEVAL_TASKS
from unifashion.training.tasks.task import Position

GOLDEN = Path(__file__).resolve().parent
ORIGINALS = GOLDEN / "original"
NAMES = {
    "Blip2QformerCirCls": "blip2_cir_cls",
    "Blip2QformerCirRerank": "blip2_cir_rerank",
    "Blip2QformerCirFull": "blip2_cir_full",
}


@dataclass(frozen=True)
class Recording:
    """One case: its sizes and its tensors, by kind."""

    facts: dict
    inputs: dict
    outputs: dict
    grads: dict

    @classmethod
    def read(cls, folder: Path, name: str) -> "Recording":
        tensors = load_file(folder / f"{name}.safetensors")
        kinds = {kind: {} for kind in ("inputs", "outputs", "grads")}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            kinds[kind][rest] = tensor
        return cls(json.loads((folder / f"{name}.json").read_text()), **kinds)

    def tolerance(self, key: str, largest: float) -> float:
        """Return how far a number may be off.

        Ten times the distance of float32 to float64 and a millionth of the largest magnitude, where that distance was
        recorded; else 4e-5 of the largest magnitude: processors add in different orders (2.3e-5 was seen between two).
        """
        if key in self.facts.get("precision", {}):
            return 10 * self.facts["precision"][key][0] + 1e-6 * largest
        return 4e-5 * largest


def rule_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight of a parameter with this name in the original."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    x = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    if name.endswith("temp"):
        return torch.full(shape, 0.07)
    if x.ndim >= 2:
        return torch.from_numpy(x / np.float32(math.sqrt(math.prod(shape[1:]))))
    return torch.from_numpy(np.asarray(np.float32(name.endswith("weight")) + np.float32(0.1) * x, dtype=np.float32))


def fold(shapes: dict) -> dict:
    """Names and shapes with the layer numbers of each kind as a range: {"blocks.{}.norm1.bias": [[0, 39, 1], [1408]]}."""
    kinds: dict[str, tuple[list, list]] = {}
    for name, shape in shapes.items():
        kind, number = re.sub(r"\.\d+\.", ".{}.", name), re.search(r"\.(\d+)\.", name)
        numbers, _ = kinds.setdefault(kind, ([], list(shape)))
        assert kinds[kind][1] == list(shape), f"{name} has another shape than the layers before it"
        numbers.append(int(number[1]) if number else 0)
    return {kind: [_as_range(numbers), shape] for kind, (numbers, shape) in sorted(kinds.items())}


def _as_range(numbers: list[int]) -> list[int]:
    numbers = sorted(numbers)
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    assert numbers == list(range(numbers[0], numbers[-1] + 1, step)), numbers
    return [numbers[0], numbers[-1] + 1, step]


def full_size_shapes(model_name: str, preset: str) -> dict[str, tuple[int, ...]]:
    """LAVIS' names and shapes of one of our presets at full size; nothing is allocated."""
    with torch.device("meta"):
        model = UniFashionModel(build_config(model_name, preset, 30523, 30522, DataSettings()))
        weights = to_lavis(model.state_dict(), model.config.vision["model_type"])
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def build(facts: dict) -> UniFashionModel:
    """The model of these sizes, with rule weights."""
    vit = facts["vit"]
    tower = {
        "model_type": "blip_2_vision_model",
        "hidden_size": vit["width"],
        "num_hidden_layers": vit["depth"],
        "num_attention_heads": vit["heads"],
        "intermediate_size": vit["mlp_hidden"],
        "patch_size": vit["patch"],
        "image_size": vit["image"],
        "layer_norm_eps": vit["ln_eps"],
        "hidden_act": "gelu",
    }
    qformer = QFormerConfig(
        vocab_size=facts["vocab"],
        hidden_size=facts["hidden"],
        num_layers=facts["layers"],
        num_heads=facts["heads"],
        intermediate_size=facts["intermediate"],
        cross_attention_freq=facts["cross_attention_freq"],
        image_width=vit["width"],
        max_positions=facts["max_position"],
        dropout=0.0,
        layer_norm_eps=facts["bert_ln_eps"],
    )
    config = UniFashionConfig(
        model_name=NAMES[facts["model"]],
        vision=tower,
        qformer=qformer,
        num_queries=facts["num_query_token"],
        embed_dim=facts["embed_dim"],
        dec_token_id=facts["bos_id"],
        image_size=vit["image"],
        max_text_tokens=facts["max_txt_len"],
    )
    model = UniFashionModel(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in to_lavis(model.state_dict(), "blip_2_vision_model").items()}
    weights, unknown = from_lavis({name: rule_weight(name, shape) for name, shape in shapes.items()})
    assert not unknown
    model.load_state_dict(weights)
    model.vision.freeze()
    return model.train()


def observe(facts: dict, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that a recording may hold, by its full name."""
    model = build(facts)
    inputs = as_float32(inputs)
    outputs = {**_pieces(model, inputs), **_at_test(model, inputs, facts), **_losses(model, inputs, facts)}
    found = {f"outputs.{name}": tensor.detach() for name, tensor in outputs.items()}
    found |= {f"grads.{name}": tensor for name, tensor in _gradients(model, facts).items()}
    found |= {f"outputs.{name}": tensor for name, tensor in _adamw(build(facts), inputs, facts).items()}
    return found


def as_float32(inputs: dict) -> dict:
    """Return the inputs with pictures in single precision; they are stored in half."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def training_batch(inputs: dict) -> dict:
    """The batch of a training step: every row a product and a text of its own."""
    rows = torch.arange(len(inputs["image"]))
    batch = {"text_ids": inputs["text_ids"], "text_mask": inputs["text_mask"], "product": rows, "text": rows}
    if "target" not in inputs:
        return {**batch, "image": inputs["image"]}
    captions = {"caption_ids": inputs["target_caption_ids"], "caption_mask": inputs["target_caption_mask"]}
    return {**batch, **captions, "reference": inputs["image"], "target": inputs["target"]}


def _pieces(model: UniFashionModel, inputs: dict) -> dict:
    """Towers, passes and similarities."""
    ids, mask = inputs["text_ids"], inputs["text_mask"]
    tokens = model.image_tokens(inputs["image"])
    image = model.qformer.project_image(tokens)
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    found = {"vit_out": model.vision(inputs["image"]), "image_embeds": tokens}
    if "target" not in inputs:
        text = model.text_features(ids, mask)
        _, found["lm_logits"] = model.caption_pass(image, ids, mask)
        found["query_hidden"] = model.qformer(queries, image=image)
        found["text_hidden"] = model.qformer(text_ids_BL=ids, text_mask_BL=mask)
        allowed = attention_mask(model.config.num_queries, mask, causal=True)
        found["lm_attention_mask"] = allowed[:, 0, model.config.num_queries :].to(torch.uint8)
        found["sim_i2t"] = best_query_scores(model.image_features(image), text) / model.temperature
    else:
        found["target_embeds"] = model.image_tokens(inputs["target"])
        target = model.qformer.project_image(found["target_embeds"])
        found["fusion_hidden"] = model.qformer(queries, ids, mask, image)
        prompts = model.prompt_tokens.expand(len(tokens), -1, -1)
        found["target_query_hidden"] = model.qformer(prompts, image=target)
        caption = inputs["target_caption_ids"], inputs["target_caption_mask"]
        found["target_caption_hidden"] = model.qformer(text_ids_BL=caption[0], text_mask_BL=caption[1])
        fused, fused_image = model.fused_features(image, ids, mask)
        target_features = model.project_queries(found["target_query_hidden"])
        found["sim_i2t"] = best_query_scores(target_features, fused) / model.temperature
        found["sim_t2t"] = best_query_scores(fused_image, model.text_features(*caption)) / model.temperature
    found["sim_t2i"] = found["sim_i2t"].T
    same = torch.eye(len(tokens), dtype=torch.bool)
    for kind, scores in (("image", "sim_i2t"), ("text", "sim_t2i")):
        found[f"neg_{kind}_idx"], _ = hard_negatives(found[scores], same, "unifashion")
    return found


def greedy_captions(model: UniFashionModel, image: ImageMemory, facts: dict) -> torch.Tensor:
    """Greedy captions as the original returns them: [DEC], words and, where one ends before the limit, [SEP], then padding.

    The limits count [DEC]; the shortest counts no [SEP]. Rows are as long as the longest caption.
    """
    end, limits = facts.get("sep_id", 2), facts.get("generate", {"max_length": 10, "min_length": 4})
    longest, shortest = limits["max_length"], limits["min_length"]
    captions = generate(model, image, end, Decoding(max_new_tokens=longest - 1, min_new_tokens=shortest - 1))
    rows = [torch.tensor([facts["bos_id"], *ids, end][:longest]) for ids in captions]
    return pad_sequence(rows, batch_first=True, padding_value=facts.get("pad_id", 0))


@torch.no_grad()
def _at_test(model: UniFashionModel, inputs: dict, facts: dict) -> dict:
    """The original's scores at test: every image is read by ``query_tokens``, as a loaded checkpoint says."""
    ids, mask = inputs["text_ids"], inputs["text_mask"]
    reference = model.image_tokens(inputs["image"])
    target = model.image_tokens(inputs["target"]) if "target" in inputs else reference
    gallery = model.qformer.project_image(target)
    features = model.image_features(gallery)
    sentence = torch.arange(len(inputs["itm_image_index"])) * len(ids) // len(inputs["itm_image_index"])
    itm_ids, itm_mask = inputs["itm_text_ids_48"][sentence], inputs["itm_text_mask_48"][sentence]
    pairs = model.qformer.project_image(reference).rows(sentence), gallery.rows(inputs["rr_target_index"])
    reranked = model.match_two_images(*pairs, ids[sentence], mask[sentence])
    longest = inputs["longest_text_ids"], inputs["longest_text_mask"]
    queries = model.query_tokens.expand(len(reference), -1, -1)
    found = {
        "extract_target_features.embeds": target,
        "extract_target_features.feats": features,
        "compute_itm": model.match_logits(gallery.rows(inputs["itm_image_index"]), itm_ids, itm_mask)[:, 1],
        "inference_rerank": reranked.softmax(dim=1)[:, 1],
        "extract_features_multimodal": model.qformer(queries, *longest, model.qformer.project_image(reference))[
            :, : queries.shape[1]
        ],
    }
    if "target" not in inputs:
        text = model.text_features(inputs["inference_text_ids"], inputs["inference_text_mask"])
        scores = best_query_scores(features, text)
        greedy = greedy_captions(model, gallery, facts)
        return {**found, "inference.rows_image": scores, "inference.rows_text": scores.T, "generate_greedy_ids": greedy}
    fused, _ = model.fused_features(model.qformer.project_image(reference), ids, mask)
    captions = model.text_features(inputs["target_caption_ids"], inputs["target_caption_mask"])
    scores = best_query_scores(features, fused).T
    return {
        **found,
        "extract_caption_features": captions,
        "inference_no_captions": scores,
        "inference_with_captions.sim_t2q": scores,
        "inference_with_captions.sim_all": scores + fused @ captions.T,
    }


def training_task(model: UniFashionModel):
    """The task that trains the model, with the original's negatives."""
    if hasattr(model, "prompt_tokens"):
        model.config = replace(model.config, target_queries="prompt_tokens")
    return RETRIEVAL_TASKS[model.config.model_name](model, replace(TrainingSettings(), itm_negatives="unifashion"))


def _losses(model: UniFashionModel, inputs: dict, facts: dict) -> dict:
    """Losses of a training step, with the logits of matching; gradients stay in the model."""
    task, seen = training_task(model), []
    hook = model.itm_head.register_forward_hook(lambda _, given, logits: seen.extend([given[0], logits]))
    losses = task(task.prepare(training_batch(inputs), Position(0, 0, 0, 0)))
    hook.remove()
    total = sum(losses.values())
    total.backward()
    rows = len(inputs["image"])
    found = {f"loss_{name}": loss for name, loss in losses.items()}
    found |= {"loss_total": total, "itm_hidden": seen[0], "itm_logits": seen[1].mean(dim=1)}
    return {**found, "itm_labels": (torch.arange(3 * rows) < rows).long()}


def _gradients(model: UniFashionModel, facts: dict) -> dict:
    parameters = dict(model.named_parameters())
    grads = {name: parameters[our_name(name)].grad for name in facts["grad_norm_names"]}
    trained = {name for name, parameter in parameters.items() if parameter.grad is not None}
    assert trained == {our_name(name) for name in grads}, "other parameters are trained than those of the original"
    return {**grads, "_norms": torch.stack([grad.norm() for grad in grads.values()])}


def _adamw(model: UniFashionModel, inputs: dict, facts: dict) -> dict:
    """Losses before each of five steps, and some parameters after them."""
    task, settings = training_task(model), facts["adamw"]
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    trace = []
    for _ in range(settings["steps"]):
        losses = task(task.prepare(training_batch(inputs), Position(0, 0, 0, 0)))
        trace.append(torch.stack([losses[name.removeprefix("loss_")].detach() for name in facts["loss_order"]]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    after = to_lavis({name: tensor.detach() for name, tensor in model.state_dict().items()}, "blip_2_vision_model")
    return {"adamw_losses": torch.stack(trace), **{f"adamw_after5.{name}": tensor for name, tensor in after.items()}}
