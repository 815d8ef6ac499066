"""Our models against recordings: the project's own (tests/golden), and those of the original code (tests/golden/original)."""

import dataclasses

import pytest
import torch
from toy import GOLDEN, ORIGINALS, Recording, as_float32, build, greedy_captions, observe, rule_weight

CASES = [
    pytest.param((folder, name), id=f"{owner}-{name}")
    for owner, folder, names in (
        ("own", GOLDEN, ("cls", "rerank")),
        ("original", ORIGINALS, ("cls_a", "cls_b", "rerank_a")),
    )
    for name in names
]
GROUPS = {
    "image tower": ("vit_out", "image_embeds", "target_embeds", "extract_target_features.embeds"),
    "Q-Former passes": (
        "query_",
        "text_",
        "fusion_",
        "target_query",
        "target_caption",
        "extract_features",
        "itm_hidden",
    ),
    "similarities": ("sim_",),
    "choice of negatives": ("neg_", "itm_labels"),
    "matching logits": ("itm_logits", "compute_itm", "inference_rerank"),
    "captioning": ("lm_", "generate"),
    "retrieval scores at test": ("inference", "extract_target_features.feats", "extract_caption"),
    "losses": ("loss_",),
    "five steps of AdamW": ("adamw",),
}


def group_of(name):
    """The first group that a recorded output belongs to; longer prefixes win."""
    fitting = [
        (len(prefix), group) for group, prefixes in GROUPS.items() for prefix in prefixes if name.startswith(prefix)
    ]
    assert fitting, f"{name} is compared by no test"
    return max(fitting)[1]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A recording, and the same numbers computed now."""
    folder, name = request.param
    recording = Recording.read(folder, name)
    return recording, observe(recording.facts, recording.inputs)


@pytest.mark.parametrize("group", GROUPS)
def test_our_model_gives_the_recorded_numbers(case, group):
    recording, found = case
    names = [name for name in recording.outputs if group_of(name) == group]
    if not names and group == "captioning":
        pytest.skip("this preset has no captioning loss")
    assert names, f"the recording has no {group}"
    for name in names:
        compare(recording, f"outputs.{name}", found[f"outputs.{name}"], recording.outputs[name])


def test_our_gradients_are_the_recorded_ones(case):
    recording, found = case
    assert len(recording.grads) > 3
    for name, gradient in recording.grads.items():
        compare(recording, f"grads.{name}", found[f"grads.{name}"], gradient)


def test_every_single_gradient_has_the_recorded_norm(case):
    recording, found = case
    names = recording.facts["grad_norm_names"]
    # Gradients of key biases are zero up to rounding: a constant added to all keys leaves the softmax alone.
    for name, ours, recorded in zip(names, found["grads._norms"], recording.grads["_norms"], strict=True):
        assert ours.item() == pytest.approx(recorded.item(), rel=2e-5, abs=1e-5), name


def test_the_language_model_of_the_full_preset_would_read_the_recorded_rows():
    """Its prefix is a linear map of Q-Former rows: with the text in training, without it in generation."""
    recording = Recording.read(ORIGINALS, "full_llm")
    model, inputs = build(recording.facts).eval(), as_float32(recording.inputs)
    tokens = model.image_tokens(inputs["image"])
    image = model.qformer.project_image(tokens)
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    with_text = model.qformer(queries, inputs["text_ids"], inputs["text_mask"], image)
    sizes = recording.facts["llm"]["hidden"], recording.facts["hidden"]
    weight, bias = rule_weight("llm_proj.weight", sizes), rule_weight("llm_proj.bias", sizes[:1])
    found = {
        "image_embeds": tokens,
        "query_text_hidden": with_text,
        "inputs_llm": torch.nn.functional.linear(with_text, weight, bias),
        "generate.inputs_llm": torch.nn.functional.linear(model.qformer(queries, image=image), weight, bias),
    }
    for name, ours in found.items():
        compare(recording, f"outputs.{name}", ours, recording.outputs[name])


@pytest.mark.parametrize("name", ["cls_a", "cls_b"])
def test_captions_that_end_early_are_the_recorded_ones_up_to_their_end(name):
    """No recorded caption reaches [SEP]. With one of its words as the end it would have stopped there, and padding follows."""
    recording = Recording.read(ORIGINALS, name)
    recorded, facts = recording.outputs["generate_greedy_ids"], recording.facts
    model = build(facts).eval()
    image = model.read_images(as_float32(recording.inputs)["image"])
    first = facts["generate"]["min_length"]  # no end can stand before it
    lengths = set()
    for end in set(recorded[:, first:].flatten().tolist()) - set(recorded[:, :first].flatten().tolist()):
        after = (recorded == end).cumsum(dim=1) - (recorded == end).long() > 0
        expected = recorded.masked_fill(after, facts["pad_id"])[:, ~after.all(dim=0)]
        assert torch.equal(greedy_captions(model, image, {**facts, "sep_id": end}), expected), end
        lengths |= set((~after).sum(dim=1).tolist())
    assert len(lengths) >= 3, "too few captions end early"


def compare(recording, key, ours, recorded):
    assert ours.shape == recorded.shape, key
    if not recorded.is_floating_point():
        assert torch.equal(ours.long(), recorded.long()), key
        return
    largest = recorded.abs().max().item()
    assert largest > 0, f"{key} proves nothing"
    torch.testing.assert_close(
        ours, recorded, rtol=0, atol=recording.tolerance(key, largest), msg=lambda m: f"{key}: {m}"
    )


def test_reading_targets_with_the_other_queries_would_be_noticed():
    """The original trains prompt tokens and tests with query tokens; the two give far apart scores."""
    recording = Recording.read(GOLDEN, "rerank")
    model = build(recording.facts).eval()
    inputs = as_float32(recording.inputs)
    scores = {}
    for queries in ("query_tokens", "prompt_tokens"):
        model.config = dataclasses.replace(model.config, target_queries=queries)
        target = model.image_features(model.read_images(inputs["target"]))
        fused, _ = model.fused_features(model.read_images(inputs["image"]), inputs["text_ids"], inputs["text_mask"])
        scores[queries] = (target @ fused.T).amax(dim=1).T
    recorded = recording.outputs["inference_no_captions"]
    torch.testing.assert_close(scores["query_tokens"], recorded, rtol=0, atol=1e-5)
    assert (scores["prompt_tokens"] - recorded).abs().max() > 0.1
