"""Toy caption and drawing heads whose weights follow the rule of toy.py, and all that is recorded of them."""

import torch
from toy import as_float32, build, rule_weight
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaForCausalLM

from unifashion.llm.language_model import PrefixLanguageModel
from unifashion.models.context_adapter import ContextAdapter, encode_with_context
from unifashion.models.losses import language_loss

ADAPTER_NAMES = {"norm": "LayerNorm", "expand": "dense1", "contract": "dense2"}


def build_language_model(facts: dict) -> PrefixLanguageModel:
    """A small LLaMA behind its projection, with rule weights."""
    sizes = facts["llm"]
    config = LlamaConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["intermediate"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        rms_norm_eps=sizes["rms_norm_eps"],
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    llama = LlamaForCausalLM(config)
    llama.load_state_dict(
        {name: rule_weight(f"llm_model.{name}", tuple(tensor.shape)) for name, tensor in llama.state_dict().items()}
    )
    language = PrefixLanguageModel(llama, None, facts["hidden"], "<queries>{instruction}", "", "whole")
    for name, parameter in language.projection.named_parameters():
        parameter.data = rule_weight(f"llm_proj.{name}", tuple(parameter.shape))
    return language.train()


def observe_language(facts: dict, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that is recorded of the caption path. As in the original, training reads all rows of a pass with text."""
    inputs = as_float32(inputs)
    model, language = build(facts), build_language_model(facts)
    model.requires_grad_(False)
    model.query_tokens.requires_grad_(True)
    tokens = model.image_tokens(inputs["image"])
    image = model.qformer.project_image(tokens)
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    rows = model.qformer(queries, inputs["text_ids"], inputs["text_mask"], image)
    prompt = language.embed(rows, [], inputs["llm_instruct_ids"][0].tolist())
    answer, mask = inputs["llm_output_ids"][:, 1:], inputs["llm_output_mask"][:, 1:]
    logits = language.logits(prompt, answer, mask)
    length = prompt.shape[1]
    ids = torch.nn.functional.pad(answer, (length, 0))
    all_mask = torch.nn.functional.pad(mask, (length, 0))
    loss = language_loss(logits, ids, all_mask, smoothing=0.0)
    loss.backward()
    found = {
        "image_embeds": tokens,
        "query_text_hidden": rows,
        "inputs_llm": language.projection(rows),
        "generate.inputs_llm": language.projection(model.qformer(queries, image=image)),
        "llm_attention_mask": torch.nn.functional.pad(mask, (length, 0), value=1),
        "llm_inputs_embeds": torch.cat([prompt, language.words(answer)], dim=1),
        "llm_labels": ids.masked_fill(all_mask == 0, -100),
        "llm_logits": logits,
        "loss_lm": loss,
    }
    grads = {f"llm_model.{name}": parameter.grad for name, parameter in language.model.named_parameters()}
    grads |= {f"llm_proj.{name}": parameter.grad for name, parameter in language.projection.named_parameters()}
    return _named(found, {**grads, "query_tokens": model.query_tokens.grad}, facts)


def build_context(facts: dict) -> tuple[ContextAdapter, CLIPTextModel]:
    """The adapter and the text encoder, with rule weights and no dropout."""
    sizes = facts["clip"]
    config = CLIPTextConfig(
        vocab_size=sizes["vocab"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["intermediate"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        max_position_embeddings=sizes["max_position"],
        layer_norm_eps=sizes["ln_eps"],
        hidden_act="quick_gelu",
        bos_token_id=sizes["bos_id"],
        eos_token_id=sizes["eos_and_pad_id"],
    )
    adapter, encoder = (
        ContextAdapter(facts["proj_layer"]["in_dim"], sizes["hidden"], dropout=0.0),
        CLIPTextModel(config),
    )
    for name, parameter in _context_parameters(adapter, encoder).items():
        parameter.data = rule_weight(name, tuple(parameter.shape))
    return adapter.train(), encoder.train()


def _context_parameters(adapter: ContextAdapter, encoder: CLIPTextModel) -> dict[str, torch.nn.Parameter]:
    """The parameters under the names of the original."""
    found = {}
    for name, parameter in adapter.named_parameters():
        part, _, rest = name.partition(".")
        found[f"proj_layer.{ADAPTER_NAMES[part]}.{rest}"] = parameter
    for name, parameter in encoder.named_parameters():
        found[f"text_encoder.text_model.{name.removeprefix('text_model.')}"] = parameter
    return found


def observe_context(facts: dict, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that is recorded of the adapter and of the text encoder with context."""
    inputs = as_float32(inputs)
    adapter, encoder = build_context(facts)
    x = inputs["x"].requires_grad_(True)
    projected, ids = adapter(x), inputs["input_ids"]
    hidden = encode_with_context(encoder, ids, projected)
    by_row = [
        encode_with_context(encoder, ids[row : row + 1], projected[row : row + 1], insert_at=place)
        for row, place in enumerate(facts["ctx_begin_pos_second"])
    ]
    found = {
        "proj": projected,
        "last_hidden_state": hidden,
        "last_hidden_state_pos_5_2_3": torch.cat(by_row),
        "no_ctx_last_hidden_state": encode_with_context(encoder, ids, None),
        "pooled": hidden[torch.arange(len(ids)), ids.argmax(dim=1)],
        "loss_probe": (hidden * inputs["probe"]).sum() / 100,
    }
    found["loss_probe"].backward()
    grads = {name: parameter.grad for name, parameter in _context_parameters(adapter, encoder).items()}
    return {**_named(found, grads, facts), "grads.x": x.grad}


def _named(outputs: dict, grads: dict, facts: dict) -> dict[str, torch.Tensor]:
    names = facts.get("grad_norm_names", sorted(grads))
    assert {name for name, grad in grads.items() if grad is not None} == set(names), "other parameters are trained"
    norms = torch.stack([grads[name].norm() for name in names])
    found = {f"outputs.{name}": tensor.detach() for name, tensor in outputs.items()}
    return {**found, **{f"grads.{name}": grads[name] for name in names}, "grads._norms": norms}


HEAD_CASES = {"llm": observe_language, "ctxclip": observe_context}
