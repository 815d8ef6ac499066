"""Our heads against recordings: the project's own (tests/golden), and those of the original code (tests/golden/original)."""

import pytest
import torch
from toy import GOLDEN, ORIGINALS, Recording
from toy_heads import HEAD_CASES

CASES = [
    pytest.param((GOLDEN, "llm", "llm"), id="own-llm"),
    pytest.param((GOLDEN, "ctxclip", "ctxclip"), id="own-ctxclip"),
    pytest.param((ORIGINALS, "full_llm", "llm"), id="original-llm"),
    pytest.param((ORIGINALS, "ctxclip", "ctxclip"), id="original-ctxclip"),
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A recording, and the same numbers computed now."""
    folder, name, kind = request.param
    recording = Recording.read(folder, name)
    return recording, HEAD_CASES[kind](recording.facts, recording.inputs)


@pytest.mark.parametrize("kind", ["outputs", "grads"])
def test_our_heads_give_the_recorded_numbers(case, kind):
    recording, found = case
    recorded = {name: tensor for name, tensor in getattr(recording, kind).items() if name != "_norms"}
    assert len(recorded) >= 3
    for name, tensor in recorded.items():
        ours = found[f"{kind}.{name}"]
        assert ours.shape == tensor.shape, name
        if not tensor.is_floating_point():
            assert torch.equal(ours.long(), tensor.long()), name
            continue
        largest = tensor.abs().max().item()
        assert largest > 0, f"{name} proves nothing"
        tolerance = recording.tolerance(f"{kind}.{name}", largest)
        torch.testing.assert_close(ours, tensor, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


def test_every_single_gradient_has_the_recorded_norm(case):
    recording, found = case
    names = recording.facts["grad_norm_names"]
    for name, ours, recorded in zip(names, found["grads._norms"], recording.grads["_norms"], strict=True):
        assert ours.item() == pytest.approx(recorded.item(), rel=2e-5, abs=1e-5), name
