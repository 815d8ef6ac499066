"""Zero cross-attention and the attention total variation loss: by hand, by brute force, and what must not change."""

import itertools

import pytest
import torch

from unifashion.tryon.warp import WarpBlock, attention_total_variation, expected_position, warp_region


@pytest.fixture
def block():
    torch.manual_seed(0)
    return WarpBlock(16, 8, num_heads=2, num_groups=4)


def test_a_fresh_block_changes_nothing_and_a_trained_one_does(block):
    h, garment = torch.randn(2, 16, 4, 3), torch.randn(2, 8, 2, 5)
    assert torch.equal(block(h, garment)[0], h)
    torch.nn.init.normal_(block.zero_conv.weight)
    assert not torch.allclose(block(h, garment)[0], h)


def test_gradients_reach_the_zero_convolution_of_a_fresh_block(block):
    block(torch.randn(1, 16, 4, 3), torch.randn(1, 8, 2, 5))[0].square().sum().backward()
    assert block.zero_conv.weight.grad.abs().sum() > 0


def test_the_attention_centre_is_the_mean_position_by_brute_force(block):
    rows, columns, attention = 2, 3, block.block.attn2
    query, garment = torch.randn(2, 5, 16), torch.randn(2, rows * columns, 8)
    found = expected_position(attention, query, garment, (rows, columns))
    q, k = attention.to_q(query), attention.to_k(garment)
    for b, position in itertools.product(range(2), range(5)):
        expected = torch.zeros(2)
        for head in (slice(0, 8), slice(8, 16)):
            weight = (k[b, :, head] @ q[b, position, head] / 8**0.5).softmax(0)
            for number in range(rows * columns):
                expected += weight[number] / 2 * torch.tensor([number // columns, number % columns])
        torch.testing.assert_close(found[b, position], expected)


def test_asking_for_the_attention_centre_does_not_change_the_output(block):
    torch.nn.init.normal_(block.zero_conv.weight)
    h, garment = torch.randn(2, 16, 4, 3), torch.randn(2, 8, 2, 5)
    with_centre, where = block(h, garment, attention_centre=True)
    assert torch.equal(with_centre, block(h, garment)[0])
    assert where.shape == (2, 4, 3, 2)
    assert (where >= 0).all()
    assert (where <= torch.tensor([1.0, 4.0])).all()


def brute_force(where, region):
    totals = []
    for dy, dx in ((1, 0), (0, 1)):
        jumps = []
        for b, y, x in itertools.product(*map(range, region.shape)):
            if y + dy < region.shape[1] and x + dx < region.shape[2] and region[b, y, x] and region[b, y + dy, x + dx]:
                jumps.append((where[b, y, x] - where[b, y + dy, x + dx]).abs().sum())
        totals.append(sum(jumps) / len(jumps) if jumps else torch.tensor(0.0))
    return sum(totals)


def test_total_variation_by_hand():
    where = torch.zeros(1, 2, 2, 2)
    where[0, 0, 1] = torch.tensor([3.0, 1.0])  # to its left neighbour |3| + |1|, to the one below likewise
    region = torch.ones(1, 2, 2, dtype=torch.bool)
    assert attention_total_variation(where, region) == (4 + 0) / 2 + (4 + 0) / 2


def test_total_variation_by_brute_force():
    torch.manual_seed(1)
    where, region = torch.randn(3, 5, 4, 2), torch.rand(3, 5, 4) < 0.6
    torch.testing.assert_close(attention_total_variation(where, region), brute_force(where, region))


def test_total_variation_does_not_see_a_constant_and_grows_with_the_jumps():
    torch.manual_seed(1)
    where, region = torch.randn(2, 5, 4, 2), torch.rand(2, 5, 4) < 0.7
    base = attention_total_variation(where, region)
    torch.testing.assert_close(attention_total_variation(where + 7, region), base)
    torch.testing.assert_close(attention_total_variation(where * 3, region), base * 3)


def test_an_empty_region_gives_zero_with_zero_gradient():
    where = torch.randn(2, 4, 3, 2, requires_grad=True)
    value = attention_total_variation(where, torch.zeros(2, 4, 3, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert torch.equal(where.grad, torch.zeros_like(where))


def test_the_region_is_where_most_of_the_mask_is():
    mask = torch.zeros(1, 1, 32, 24)
    mask[..., 8:, 12:] = 1
    region = warp_region(mask, (16, 12), (8, 6))
    assert region.shape == (1, 8, 6)
    assert torch.equal(region[0], (torch.arange(8)[:, None] >= 2) & (torch.arange(6)[None] >= 3))
