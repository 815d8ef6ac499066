"""The pipeline: samplers against recordings, seeds, guidance, starts, repainting, callbacks, and what it refuses."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file
from toy import ORIGINALS

from unifashion.errors import UserError
from unifashion.tryon import encode
from unifashion.tryon.denoiser import Denoised
from unifashion.tryon.pipeline import TryOnPipeline, default_scheduler

HEIGHT, WIDTH, STEPS = 36, 24, 3


def scene(rows=2):
    generator = torch.Generator().manual_seed(3)
    images = {
        name: torch.rand(rows, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1
        for name in ("person", "garment", "densepose")
    }
    keep = torch.ones(rows, 1, HEIGHT, WIDTH)
    keep[..., 8:24, 6:18] = 0
    return {**images, "agnostic_mask": keep, "num_inference_steps": STEPS, "output_type": "pt", "prompt": "a red shirt"}


def rows_of(inputs, chosen):
    return {name: value[chosen] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def draw(pipe, inputs=None, seeds=(0, 1), **changes):
    return pipe(**{**(inputs or scene()), "generator": pipe.seeded(seeds), **changes}).images


def test_the_same_seed_draws_the_same_picture_and_another_does_not(pipe):
    first, second, third = (draw(pipe, seeds=seeds) for seeds in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(first, second)
    assert torch.equal(first[0], third[0])
    assert not torch.allclose(first[1], third[1], atol=1e-2)


def test_a_picture_does_not_depend_on_what_else_is_drawn(pipe):
    both = draw(pipe)
    alone = draw(pipe, rows_of(scene(), slice(1, 2)), seeds=(1,))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)


def test_drawing_takes_the_mean_of_the_posterior(pipe, monkeypatch):
    """A posterior of any width gives the same picture; StableVITON would sample it. Training does (tryon/losses.py)."""
    expected, posterior = draw(pipe), encode.posterior

    def wide(vae, images):
        mean, log_variance = posterior(vae, images).chunk(2, dim=1)
        return torch.cat([mean, torch.full_like(log_variance, 3.0)], dim=1)

    monkeypatch.setattr(encode, "posterior", wide)
    assert torch.equal(draw(pipe), expected)
    wide_B8hw = wide(pipe.vae, torch.zeros(1, 3, HEIGHT, WIDTH))
    noise = torch.ones_like(wide_B8hw[:, :4])
    assert not torch.allclose(encode.latents(pipe.vae, wide_B8hw, noise), encode.latents(pipe.vae, wide_B8hw))


def test_guidance_one_is_the_conditional_pass_and_more_enlarges_the_difference(pipe, monkeypatch):
    calls, forward = [], pipe.denoiser.forward

    def count(x13, t, context, hint, attention_centre=False):
        calls.append(context)
        return forward(x13, t, context, hint, attention_centre)

    monkeypatch.setattr(pipe.denoiser, "forward", count)
    plain = draw(pipe)
    per_pass = len(calls)
    draw(pipe, guidance_scale=1.0 + 1e-6)
    assert len(calls) == 3 * per_pass
    assert calls[-1].shape[1] == 1, "the unconditional pass needs one token"
    torch.testing.assert_close(draw(pipe, guidance_scale=1.0 + 1e-6), plain, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(draw(pipe, guidance_scale=5.0), plain, atol=1e-3)


def test_repainting_keeps_the_persons_pixels_and_only_those(pipe):
    inputs = scene()
    plain, repainted = draw(pipe, inputs), draw(pipe, inputs, repaint=True)
    keep = inputs["agnostic_mask"].bool().expand(-1, 3, -1, -1)
    person = inputs["person"] / 2 + 0.5
    torch.testing.assert_close(repainted[keep], person[keep])
    torch.testing.assert_close(repainted[~keep], plain[~keep])
    assert not torch.allclose(plain[keep], person[keep], atol=0.05)


def test_the_truth_is_seen_by_the_ground_truth_start_alone(pipe):
    """What the person wears in the photo must not reach the result, unless the compatible start asks for it."""
    inputs = {**scene(), "agnostic": torch.zeros(2, 3, HEIGHT, WIDTH)}
    other = {**inputs, "person": -inputs["person"]}
    for start in ("noise", "agnostic"):
        assert torch.equal(draw(pipe, inputs, start=start), draw(pipe, other, start=start))
    assert not torch.equal(draw(pipe, inputs, start="ground-truth"), draw(pipe, other, start="ground-truth"))


def test_without_an_agnostic_picture_grey_is_put_where_the_mask_says(pipe):
    inputs = scene()
    grey = inputs["person"] * inputs["agnostic_mask"]
    assert torch.equal(draw(pipe, inputs), draw(pipe, inputs, agnostic=grey))
    hidden = inputs["person"].clone()
    hidden[..., 8:24, 6:18] = 1
    assert torch.equal(draw(pipe, inputs), draw(pipe, {**inputs, "person": hidden}))


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler]
)
@pytest.mark.parametrize("start", ["noise", "agnostic"])
def test_other_samplers_draw_too_and_each_row_from_its_own_seed(pipe, kind, start):
    other = TryOnPipeline(**{**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config)})
    other.set_progress_bar_config(disable=True)
    both = draw(other, start=start)
    alone = draw(other, rows_of(scene(), slice(1, 2)), seeds=(1,), start=start)
    assert torch.isfinite(both).all()
    torch.testing.assert_close(both[1:], alone, atol=1e-3, rtol=1e-3)


def test_a_callback_sees_every_step_may_change_the_latents_and_may_stop(pipe):
    seen = []

    def watch(pipe, number, t, tensors):
        seen.append((number, int(t), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    found = draw(pipe, callback_on_step_end=watch, output_type="latent")
    assert [number for number, *_ in seen] == list(range(len(pipe.scheduler.timesteps)))
    assert seen[0][2] == (2, 4, HEIGHT // 3, WIDTH // 3)
    assert not found.any()

    def stop(pipe, number, t, tensors):
        seen.append(number)
        pipe._interrupt = number == 1
        return {}

    seen.clear()
    draw(pipe, callback_on_step_end=stop)
    assert seen == [0, 1]


def test_pictures_and_tensors_are_the_same_to_it(pipe):
    inputs = scene(1)
    pictures = {}
    for name in ("person", "garment", "densepose"):
        array = ((inputs[name][0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
        pictures[name] = Image.fromarray(array.numpy())
        inputs[name] = (array.float() / 127.5 - 1).permute(2, 0, 1)[None]
    white = Image.fromarray(((1 - inputs["agnostic_mask"][0, 0]) * 255).to(torch.uint8).numpy())
    found = draw(pipe, {**inputs, **pictures, "agnostic_mask": white}, seeds=(0,))
    torch.testing.assert_close(found, draw(pipe, inputs, seeds=(0,)))
    out = draw(pipe, {**inputs, **pictures, "agnostic_mask": white, "output_type": "pil"}, seeds=(0,))
    assert out[0].size == (WIDTH, HEIGHT)


def test_a_saved_pipeline_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    again = TryOnPipeline.from_pretrained(tmp_path / "p")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe), draw(again))
    assert again.scheduler.config.prediction_type == "v_prediction"


BAD = {
    "two persons and one garment": (lambda s: {**s, "garment": s["garment"][:1]}, "1 of garment"),
    "two persons and three prompts": (lambda s: {**s, "prompt": ["a", "b", "c"]}, "3 prompts for 2 persons"),
    "a mask of another size": (lambda s: {**s, "agnostic_mask": s["agnostic_mask"][..., :8]}, "keep: expected a tensor"),
    "an odd size": (lambda s: {**s, "height": 34}, "must be multiples of 3"),
    "an unknown start": (lambda s: {**s, "start": "truth"}, "'truth' is not one of noise, agnostic, ground-truth"),
    "rows without an adapter": (lambda s: {**s, "rows": torch.zeros(2, 3, 4)}, "has no adapter for rows"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_inputs_that_do_not_fit_are_one_sentence(pipe, what):
    change, sentence = BAD[what]
    with pytest.raises(UserError, match=sentence):
        draw(pipe, change(scene()))


# Samplers against recordings of the original -----------------------------------------------------------------------


class ClosedForm:
    """A denoiser that is a formula: tanh(x) cos(t / 1000), or tanh(x / 2) cos(t / 1000) without condition."""

    dtype = torch.float32

    def __init__(self):
        self.evaluated = []

    def __call__(self, x13, t_B, context, hint, attention_centre=False):
        self.evaluated.append(int(t_B[0]))
        x = x13[:, :4]
        return Denoised(torch.tanh(x / (2 if context == "without" else 1)) * torch.cos(t_B / 1000)[:, None, None, None])


@pytest.mark.parametrize(("name", "steps", "guidance"), [
    ("plms10", 10, 1.0), ("plms10_guided5", 10, 5.0), ("plms50", 50, 1.0),
    ("ddim10", 10, 1.0), ("ddim10_guided5", 10, 5.0), ("ddim50", 50, 1.0),
])  # fmt: skip
def test_sampling_follows_the_recorded_trajectory(pipe, name, steps, guidance):
    recorded = load_file(ORIGINALS / "samplers.safetensors")
    walker = copy.copy(pipe)
    walker.__dict__ = {**pipe.__dict__}
    formula = ClosedForm()
    scheduler = default_scheduler()
    if name.startswith("ddim"):
        scheduler = DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    scheduler.set_timesteps(steps)
    x = recorded["inputs.x_T"].float()
    object.__setattr__(walker, "denoiser", formula)
    object.__setattr__(walker, "scheduler", scheduler)
    fixed = (x, torch.ones(2, 1, 6, 4), x)
    contexts = [_Context("with"), _Context("without")][: 1 if guidance == 1.0 else 2]
    found = walker._denoise(x, fixed, contexts, x, guidance, None, None)
    bound = 2e-6 * float(recorded[f"outputs.{name}.x_final"].abs().max()) + 3e-5
    torch.testing.assert_close(found, recorded[f"outputs.{name}.x_final"], atol=bound, rtol=0)
    assert formula.evaluated == recorded[f"outputs.{name}.evaluated_t"].tolist()


class _Context(str):
    def to(self, *_):
        return self


def test_the_start_of_the_original_is_the_noised_latent_at_the_last_timestep(pipe):
    recorded = load_file(ORIGINALS / "samplers.safetensors")
    latent = recorded["inputs.x_T"].float()
    walker = copy.copy(pipe)
    pipe.scheduler.set_timesteps(10)
    found = walker._first(latent.flip(0), "agnostic", latent, None)
    torch.testing.assert_close(found, recorded["outputs.start_code"], atol=1e-5, rtol=0)


def test_masks_are_reduced_to_shares():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    small = encode.to_latent_size(mask, (2, 2))
    assert small.shape == (1, 1, 2, 2)
    assert small[..., 0].min() > 0.8
    assert small[..., 1].max() < 0.2
    for value in (0.0, 1.0):
        whole = encode.to_latent_size(torch.full((1, 1, 8, 8), value), (3, 2))
        torch.testing.assert_close(whole, torch.full((1, 1, 3, 2), value))
