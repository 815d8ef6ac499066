"""The denoiser: what trains, what the context does, and that depth and memory tricks change nothing."""

import copy

import pytest
import torch

from unifashion.llm.diffusion_head import DiffusionHead
from unifashion.models.blocks_vae import BlockAutoencoder
from unifashion.tryon.denoiser import TryOnDenoiser


@pytest.fixture
def denoiser(pipe):
    return copy.deepcopy(pipe.denoiser).train()


def inputs(rows=2, height=8, width=6):
    torch.manual_seed(5)
    return (
        torch.randn(rows, 13, height, width),
        torch.tensor([5, 900])[:rows],
        torch.randn(rows, 7, 32),
        torch.randn(rows, 4, height, width),
    )


def reached(denoiser):
    denoiser(*inputs()).noise.square().sum().backward()
    return {name for name, parameter in denoiser.named_parameters() if parameter.grad is not None}


def test_in_the_papers_setting_only_the_garment_branch_trains(denoiser):
    denoiser.freeze("paper")
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert trained - {"unconditional"} == reached(denoiser), "every trained parameter matters, or DDP would wait for it"
    assert {name.split(".")[0] for name in trained} == {"garment_encoder", "warp_blocks", "unconditional"}


def test_in_the_toy_setting_the_unet_trains_too(denoiser):
    denoiser.freeze("all")
    trained = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert trained - {"unconditional"} == reached(denoiser)
    assert any(name.startswith("unet.down_blocks") for name in trained)


def test_the_unets_way_down_sees_no_gradient_when_it_is_frozen(denoiser):
    denoiser.freeze("paper")
    context = inputs()[2].requires_grad_(True)
    with torch.no_grad():
        for block in denoiser.warp_blocks:
            block.zero_conv.weight.zero_()  # the garment branch is cut off, only the decoder reads the context
    x13, t, _, hint = inputs()
    denoiser(x13, t, context, hint).noise.sum().backward()
    assert context.grad.abs().sum() > 0
    middle = denoiser.unet.mid_block.attentions[0]
    assert all(parameter.grad is None for parameter in middle.parameters())


def test_dropped_rows_have_the_unconditional_vector_everywhere(denoiser):
    text = torch.randn(3, 5, 32)
    context = denoiser.context(text, drop_B=torch.tensor([False, True, False]))
    assert torch.equal(context[[0, 2]], text[[0, 2]])
    assert torch.equal(context[1], denoiser.unconditional[0].expand(5, -1))
    (context[1].sum()).backward()
    assert torch.equal(denoiser.unconditional.grad, torch.full((1, 1, 32), 5.0))


def test_many_copies_of_the_unconditional_vector_are_as_one(denoiser):
    x13, t, _, hint = inputs()
    few, many = (denoiser(x13, t, denoiser.unconditional.expand(2, count, -1), hint).noise for count in (1, 24))
    torch.testing.assert_close(few, many, atol=1e-5, rtol=1e-5)


def test_rows_of_the_retrieval_model_join_the_text(pipe):
    torch.manual_seed(0)
    config = {**pipe.denoiser.config, "adapter_width": 10}
    denoiser = TryOnDenoiser.from_config(config)
    text, rows = torch.randn(2, 5, 32), torch.randn(2, 4, 10)
    context = denoiser.context(text, rows)
    assert context.shape == (2, 9, 32)
    torch.testing.assert_close(context[:, 5:], denoiser.adapter(rows))
    with pytest.raises(ValueError, match="need an adapter"):
        denoiser.context(text)


def test_rows_among_the_words_go_the_diffusion_heads_way_and_only_the_adapter_learns_from_them(pipe):
    torch.manual_seed(0)
    denoiser = TryOnDenoiser.from_config({**pipe.denoiser.config, "adapter_width": 10, "adapter_kind": "clip"}).train()
    adapter, encoder = denoiser.adapter, pipe.text_encoder.requires_grad_(False)
    adapter.dropout = 0.0
    ids, rows = torch.randint(5, 20, (2, 20)), torch.randn(2, 4, 10)
    drop = torch.tensor([False, True])
    context = denoiser.context(ids, rows, drop, encoder)
    head = DiffusionHead(10, 4, encoder, pipe.tokenizer, torch.nn.Identity(), torch.nn.Identity())
    head.adapter.load_state_dict(adapter.state_dict())
    head.adapter.dropout = 0.0
    torch.testing.assert_close(context[0], head.condition(rows, ids)[0])
    assert torch.equal(context[1], denoiser.unconditional[0].expand(24, -1))
    context[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapter.parameters())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_gradient_checkpointing_changes_no_gradient(denoiser):
    denoiser.freeze("all")
    grads = []
    for use in (False, True):
        if use:
            denoiser.enable_gradient_checkpointing()
            assert denoiser.gradient_checkpointing
        denoiser.zero_grad()
        found = denoiser(*inputs(), attention_centre=True)
        (found.noise.square().sum() + found.attention_centre.sum()).backward()
        grads.append({name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


def test_sizes_that_do_not_halve_evenly_are_accepted(denoiser):
    assert denoiser(*inputs(height=9, width=7)).noise.shape == (2, 4, 9, 7)


def test_a_row_does_not_depend_on_the_others(denoiser):
    x13, t, context, hint = inputs()
    both = denoiser(x13, t, context, hint).noise
    alone = denoiser(x13[1:], t[1:], context[1:], hint[1:]).noise
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


def test_the_garment_arrives_only_through_the_warp_blocks(denoiser):
    x13, t, context, hint = inputs()
    first, second = (denoiser(x13, t, context, h).noise for h in (hint, -hint))
    assert not torch.allclose(first, second)
    with torch.no_grad():
        for block in denoiser.warp_blocks:
            block.zero_conv.weight.zero_()
    first, second = (denoiser(x13, t, context, h).noise for h in (hint, -hint))
    assert torch.equal(first, second)


def test_a_saved_denoiser_is_the_same_again(denoiser, tmp_path):
    denoiser.eval().save_pretrained(tmp_path)
    again = TryOnDenoiser.from_pretrained(tmp_path)
    assert torch.equal(denoiser(*inputs()).noise, again(*inputs()).noise)
    assert again.config.control == "garment"


def test_blocks_of_one_colour_come_back_and_a_detail_as_far_as_one_number_can_say():
    torch.manual_seed(0)
    vae = BlockAutoencoder(patch=2)
    flat = torch.randn(6, 3, 4, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)  # one colour per block
    vae.fit(flat + 0.01 * torch.randn_like(flat))
    latent = vae.encode(flat).latent_dist
    assert latent.mode().shape == (6, 4, 4, 3)
    torch.testing.assert_close(vae.decode(latent.mode()).sample, flat, atol=0.03, rtol=0)
    torch.testing.assert_close(latent.mode()[:, :3].std((0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(vae.components @ vae.components.T, torch.eye(4), atol=1e-4, rtol=0)
    stripes = torch.zeros(6, 3, 8, 6)
    stripes[:, :, ::2] = torch.randn(6, 1, 1, 1)  # lines across: the one detail that there is
    assert vae.fit(flat + stripes) > 0.999
    again = BlockAutoencoder(patch=2)
    again.fit(flat + stripes)
    assert torch.equal(vae.components, again.components)


@pytest.mark.parametrize("error", [1e-6, -1e-6])
def test_components_have_the_same_signs_whatever_lapack_returns(error, monkeypatch):
    image = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fitted = [BlockAutoencoder(), BlockAutoencoder()]
    fitted[0].fit(image)
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (eigh(matrix)[0], error - eigh(matrix)[1]))
    fitted[1].fit(image)
    torch.testing.assert_close(fitted[1].components, fitted[0].components, atol=1e-4, rtol=0)
