import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from unifashion.models.qformer import ImageMemory, QFormer, QFormerConfig, attention_mask

CONFIG = QFormerConfig(
    vocab_size=50,
    hidden_size=16,
    num_layers=4,
    num_heads=2,
    intermediate_size=32,
    image_width=12,
    max_positions=20,
    dropout=0.0,
)


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    module = QFormer(CONFIG)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (3, 7), generator=generator)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 4:] = 0
    return torch.randn(3, 5, 16, generator=generator), ids, mask, torch.randn(3, 6, 12, generator=generator)


def test_masks_by_hand():
    text_mask = torch.tensor([[1, 1, 0]])
    assert attention_mask(2, None, causal=False) is None
    assert attention_mask(2, text_mask, causal=False).int().flatten().tolist() == [1, 1, 1, 1, 0]
    assert attention_mask(2, text_mask, causal=True)[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
    ]


def test_queries_of_the_captioning_pass_equal_those_of_the_image_pass(qformer, inputs):
    query, ids, mask, image = inputs
    memory = qformer.project_image(image)
    alone = qformer(query, image=memory)
    together = qformer(query, ids, mask, memory, causal=True)
    torch.testing.assert_close(together[:, :5], alone)


def test_causal_text_does_not_see_what_follows(qformer, inputs):
    query, ids, _, image = inputs
    memory = qformer.project_image(image)
    changed = ids.clone()
    changed[:, 4:] = 3
    ones = torch.ones_like(ids)
    before = qformer(query, ids, ones, memory, causal=True)[:, : 5 + 4]
    after = qformer(query, changed, ones, memory, causal=True)[:, : 5 + 4]
    torch.testing.assert_close(before, after)
    assert not torch.allclose(qformer(query, ids, ones, memory)[:, :9], qformer(query, changed, ones, memory)[:, :9])


def test_padding_changes_nothing(qformer, inputs):
    query, ids, mask, image = inputs
    memory = qformer.project_image(image[:1])
    short = qformer(query[:1], ids[:1, :4], mask[:1, :4], memory)
    padded = qformer(query[:1], ids[:1], mask[:1], memory)
    torch.testing.assert_close(padded[:, :9], short)


def test_a_text_pass_reads_no_image_and_no_query_weights(qformer, inputs):
    _, ids, mask, _ = inputs
    qformer(text_ids_BL=ids, text_mask_BL=mask).sum().backward()
    touched = {name for name, parameter in qformer.named_parameters() if parameter.grad is not None}
    of_images = {name for name, _ in qformer.named_parameters() if "cross_attention" in name or "query_ffn" in name}
    assert of_images and not of_images & touched
    assert any("text_ffn" in name for name in touched)


def test_memory_rows_equal_reading_these_images_again(qformer, inputs):
    query, ids, mask, image = inputs
    index = torch.tensor([2, 0, 2])
    again = qformer(query, ids, mask, qformer.project_image(image[index]))
    torch.testing.assert_close(qformer(query, ids, mask, qformer.project_image(image).rows(index)), again)
    joined = ImageMemory.concatenate([qformer.project_image(image[:1]), qformer.project_image(image[1:])])
    torch.testing.assert_close(qformer(query, image=joined), qformer(query, image=qformer.project_image(image)))


def test_query_feed_forward_starts_as_a_copy_of_the_text_feed_forward():
    for layer in QFormer(CONFIG).layers:
        for own, other in zip(layer.query_ffn.parameters(), layer.text_ffn.parameters(), strict=True):
            assert torch.equal(own, other)


def test_image_pass_equals_transformers_blip2_qformer(qformer, inputs):
    query, _, _, image = inputs
    reference = Blip2QFormerModel(
        Blip2QFormerConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            cross_attention_frequency=2,
            encoder_hidden_size=12,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="eager",
        )
    ).eval()
    reference.load_state_dict(_as_transformers(qformer), strict=False)
    expected = reference(query_embeds=query, encoder_hidden_states=image).last_hidden_state
    torch.testing.assert_close(qformer(query, image=qformer.project_image(image)), expected, rtol=1e-5, atol=1e-5)


def _as_transformers(qformer):
    """Our weights under transformers' names."""
    rules = [
        ("qformer.norm", "layernorm"),
        ("cross_attention.dense", "crossattention.output.dense"),
        ("cross_attention.norm", "crossattention.output.LayerNorm"),
        ("cross_attention.", "crossattention.attention."),
        (".attention.dense", ".attention.output.dense"),
        (".attention.norm", ".attention.output.LayerNorm"),
        ("query_ffn.expand", "intermediate_query.dense"),
        ("query_ffn.contract", "output_query.dense"),
        ("query_ffn.norm", "output_query.LayerNorm"),
        ("text_ffn.expand", "intermediate.dense"),
        ("text_ffn.contract", "output.dense"),
        ("text_ffn.norm", "output.LayerNorm"),
    ]
    renamed = {}
    for name, tensor in qformer.state_dict().items():
        name = "qformer." + name
        for ours, theirs in rules:
            if ours in name:
                name = name.replace(ours, theirs)
                break
        else:
            name = name.replace(".attention.", ".attention.attention.")
        renamed[name.replace("qformer.layers", "encoder.layer")] = tensor
    return renamed
