"""Writes the recordings beside this file: toy cases small enough to keep, computed with our model and rule weights.

    PYTHONPATH=src python tests/golden/record.py

The model was equal to the original, number by number, when they were made (tests/convert/test_parity.py checks that against
recordings of the original code, in original/). Make new ones only when that test passes.
``full_size.json`` lists names and shapes of the published sizes; tests/parity/lavis.sh compares them with LAVIS itself.
"""

import json

import torch
from safetensors.torch import save_file
from toy import GOLDEN, as_float32, build, fold, full_size_shapes, observe, training_batch, training_task

from unifashion.convert.lavis import our_name, to_lavis

ROWS, LENGTH, SEP = 3, 7, 2
SIZES = {
    "vit": {"image": 28, "patch": 14, "width": 16, "depth": 2, "heads": 2, "mlp_hidden": 24, "ln_eps": 1e-6},
    "vocab": 40,
    "hidden": 16,
    "layers": 3,
    "heads": 2,
    "intermediate": 24,
    "cross_attention_freq": 2,
    "max_position": 16,
    "bert_ln_eps": 1e-12,
    "num_query_token": 3,
    "embed_dim": 6,
    "bos_id": 39,
    "max_txt_len": LENGTH,
    "adamw": {"steps": 5, "lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-7, "weight_decay": 0.05},
}
CASES = {
    "cls": {"model": "Blip2QformerCirCls", "loss_order": ["loss_itc", "loss_itm", "loss_lm"]},
    "rerank": {"model": "Blip2QformerCirRerank", "loss_order": ["loss_itc", "loss_itm", "loss_ttc"]},
}
FULL_SIZE = [("blip2_cir_cls", "vitg"), ("blip2_cir_rerank", "vitg"), ("blip2_cir_cls", "vitl")]
# Of gradients and trained parameters a few are kept whole; of all gradients the norms are.
WHOLE = ("temp", "query_tokens", "vision_proj.weight", "Qformer.bert.encoder.layer.0.crossattention.self.key.weight")


def sentences(rows: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [cls] words [sep], of different lengths, and their mask."""
    ids = torch.randint(3, SIZES["bos_id"], (rows, length), generator=generator)
    num_tokens = torch.arange(rows) % (length - 3) + 4
    ids[:, 0] = 1
    ids[torch.arange(rows), num_tokens - 1] = SEP
    mask = (torch.arange(length) < num_tokens[:, None]).long()
    return ids * mask, mask


def make_inputs(composed: bool) -> dict[str, torch.Tensor]:
    """Pictures, sentences and the pairs that are scored at test."""
    generator = torch.Generator().manual_seed(7)
    side = SIZES["vit"]["image"]
    inputs = {"image": torch.randn(ROWS, 3, side, side, generator=generator)}
    texts = {"text": ROWS, "longest_text": ROWS, **({"target_caption": ROWS} if composed else {"inference_text": 4})}
    for name, rows in texts.items():
        inputs[f"{name}_ids"], inputs[f"{name}_mask"] = sentences(
            rows, LENGTH + 2 * (name == "longest_text"), generator
        )
    inputs["itm_text_ids_48"], inputs["itm_text_mask_48"] = sentences(ROWS, LENGTH + 4, generator)
    if composed:
        inputs["target"] = torch.randn(ROWS, 3, side, side, generator=generator)
    inputs["itm_image_index"] = torch.tensor([0, 1, 2, 0, 2, 1])
    inputs["rr_target_index"] = torch.tensor([2, 0, 1, 1, 0, 2])
    # Pictures are stored in half precision; what the model sees is exactly what is stored.
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def trained_parameters(facts: dict, inputs: dict) -> list[str]:
    """LAVIS' names of the parameters that a training step reaches."""
    model = build(facts)
    names = [name for name in to_lavis(model.state_dict(), "blip_2_vision_model") if our_name(name)]
    losses = training_task(model)(training_batch(as_float32(inputs)))
    sum(losses.values()).backward()
    parameters = dict(model.named_parameters())
    return sorted(name for name in names if parameters[our_name(name)].grad is not None)


def is_kept(key: str) -> bool:
    """All outputs and the gradient norms, and of the rest what ``WHOLE`` names."""
    for prefix in ("grads.", "outputs.adamw_after5."):
        if key.startswith(prefix):
            return key.removeprefix(prefix) in (*WHOLE, "_norms")
    return True


def main() -> None:
    torch.set_num_threads(1)
    for name, case in CASES.items():
        facts = {**SIZES, **case}
        inputs = make_inputs(composed="ttc" in str(case))
        facts["grad_norm_names"] = trained_parameters(facts, inputs)
        found = observe(facts, inputs)
        for key in ("outputs.sim_i2t", "outputs.sim_t2i"):
            best, second = found[key].masked_fill(torch.eye(ROWS, dtype=torch.bool), -torch.inf).topk(2)[0].T
            assert (best - second).min() > 0.1, f"{name}: two negatives are equally hard; change the seed"
        kept = {key: tensor.contiguous() for key, tensor in found.items() if is_kept(key)}
        tensors = {**{f"inputs.{key}": tensor for key, tensor in inputs.items()}, **kept}
        save_file(tensors, GOLDEN / f"{name}.safetensors")
        (GOLDEN / f"{name}.json").write_text(json.dumps(facts) + "\n")
    full_size = {f"{preset} {name}": fold(full_size_shapes(name, preset)) for name, preset in FULL_SIZE}
    (GOLDEN / "full_size.json").write_text(json.dumps(full_size).replace("]], ", "]],\n") + "\n")


if __name__ == "__main__":
    main()
