"""Writes the recordings of the caption and drawing heads beside this file, with our modules and rule weights.

    PYTHONPATH=src python tests/golden/record_heads.py

As record.py: make new ones only when tests/llm/test_heads_parity.py passes.
"""

import json

import torch
from record import SIZES, sentences
from safetensors.torch import save_file
from toy import GOLDEN
from toy_heads import HEAD_CASES

LLM = {
    **{key: value for key, value in SIZES.items() if key != "adamw"},
    "model": "Blip2QformerCirFull",
    "llm": {"vocab": 30, "hidden": 16, "intermediate": 24, "layers": 2, "heads": 2, "rms_norm_eps": 1e-6},
}
CONTEXT = {
    "clip": {
        **{"vocab": 30, "hidden": 16, "intermediate": 24, "layers": 2, "heads": 2, "max_position": 20, "ln_eps": 1e-5},
        **{"bos_id": 28, "eos_and_pad_id": 29},
    },
    "proj_layer": {"in_dim": 16},
    "ctx_begin_pos_second": [4, 2, 3],
}
WHOLE = {
    "llm": ("query_tokens", "llm_proj.weight", "llm_model.model.layers.0.self_attn.q_proj.weight"),
    "ctxclip": ("x", "proj_layer.LayerNorm.weight", "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.weight"),
}


def make_inputs(name: str) -> dict[str, torch.Tensor]:
    """Pictures and token ids; what the models see is exactly what is stored, in half precision."""
    generator = torch.Generator().manual_seed(11)
    if name == "ctxclip":
        ids = torch.randint(1, 28, (3, 6), generator=generator)
        ids[:, 0], ids[0, 4:], ids[1, 5:], ids[2, 5:] = 28, 29, 29, 29
        x, probe = (torch.randn(3, rows, 16, generator=generator) for rows in (3, 9))
        return {"input_ids": ids, "x": x.half(), "probe": probe.half()}
    side = SIZES["vit"]["image"]
    text_ids, text_mask = sentences(3, SIZES["max_txt_len"], generator)
    answer_ids, answer_mask = sentences(3, 7, generator)
    return {
        "image": torch.randn(3, 3, side, side, generator=generator).half(),
        "text_ids": text_ids,
        "text_mask": text_mask,
        "llm_instruct_ids": torch.tensor([[1, 7, 12, 5]]).expand(3, -1).contiguous(),
        "llm_output_ids": answer_ids % 30,
        "llm_output_mask": answer_mask,
    }


def main() -> None:
    torch.set_num_threads(1)
    for name, facts in (("llm", LLM), ("ctxclip", CONTEXT)):
        inputs = make_inputs(name)
        found = HEAD_CASES[name](facts, inputs)
        trained = [key.removeprefix("grads.") for key in found if key.startswith("grads.")]
        facts["grad_norm_names"] = sorted(key for key in trained if key not in ("_norms", "x"))
        kept = {k: t for k, t in found.items() if k.startswith("outputs.") or k[6:] in (*WHOLE[name], "_norms")}
        tensors = {**{f"inputs.{key}": tensor for key, tensor in inputs.items()}, **kept}
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, GOLDEN / f"{name}.safetensors")
        (GOLDEN / f"{name}.json").write_text(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
