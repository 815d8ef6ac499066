"""Put a garment on a person, as a diffusers pipeline.

    pipe = TryOnPipeline.from_pretrained("runs/tryon").to("cuda")
    drawn = pipe(person, garment, agnostic_mask=mask, densepose=pose, prompt="striped t-shirt", generator=pipe.seeded([0]))
    drawn.images[0].save("result.png")

``garment`` is what the denoiser was trained to read: a photo of the garment, or its sketch (``pipe.denoiser.config.control``).
Other diffusers schedulers work as well: ``pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)``.
For memory: ``pipe.enable_model_cpu_offload()``, ``pipe.vae.enable_slicing()``, ``pipe.vae.enable_tiling()``.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, PNDMScheduler
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from unifashion.errors import UserError
from unifashion.models.blocks_vae import BlockAutoencoder
from unifashion.models.context_adapter import INSERT_AT
from unifashion.tryon import encode
from unifashion.tryon.denoiser import TryOnDenoiser
from unifashion.tryon.maps import read_maps, to_share, to_unit
from unifashion.tryon.qformer_context import QFORMER
from unifashion.tryon.settings import Start

Pictures = Image.Image | Sequence[Image.Image] | Tensor
STEPS = 50
NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}  # Stable Diffusion's


class TryOnPipeline(DiffusionPipeline):
    """VAE, text encoder with its tokenizer, denoiser and scheduler."""

    model_cpu_offload_seq = "text_encoder->denoiser->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: AutoencoderKL | BlockAutoencoder,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        denoiser: TryOnDenoiser,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, denoiser=denoiser, scheduler=scheduler
        )
        self._interrupt = False
        # Weights of the retrieval model's Q-Former, where it trained with the denoiser.
        self.qformer: dict[str, Tensor] = {}

    @property
    def vae_scale(self) -> int:
        """Return how many pixels a latent position covers in each direction."""
        config = self.vae.config
        return config.patch if "patch" in config else 2 ** (len(config.block_out_channels) - 1)

    @staticmethod
    def seeded(seeds: Sequence[int]) -> list[torch.Generator]:
        """Return one generator per picture: its result then does not depend on what else is in the batch."""
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def check(self, height: int, width: int, num_inference_steps: int) -> None:
        """Raise ``UserError`` for a size that the VAE cannot encode, or a number of steps that the scheduler cannot take."""
        step, most = self.vae_scale, self.scheduler.config.num_train_timesteps
        if height % step or width % step:
            raise UserError(f"height and width must be multiples of {step}, got {height} and {width}")
        if not 1 <= num_inference_steps <= most:
            raise UserError(f"inference steps: the sampler takes 1 to {most} steps, got {num_inference_steps}")

    def save_with(
        self, folder: str | Path, weights: dict[str, Tensor], qformer: dict[str, Tensor] | None = None
    ) -> None:
        """``save_pretrained`` with other weights of denoiser and Q-Former: their moving average, or those of all FSDP shards."""
        with torch.device("meta"):  # no second copy in memory
            denoiser = TryOnDenoiser.from_config(self.denoiser.config)
        denoiser.load_state_dict(weights, assign=True)
        pipe = TryOnPipeline(self.vae, self.text_encoder, self.tokenizer, denoiser, self.scheduler)
        pipe.qformer = qformer or self.qformer
        pipe.save_pretrained(folder)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> None:
        """See diffusers. Leaves out where parts were loaded from, and how the tokenizer was called last.

        So a run that was stopped and resumed writes the same files as one that was not.
        """
        for part in self.components.values():
            if isinstance(part, ModelMixin):
                part.register_to_config(_name_or_path="")
        for name in ("is_local", "local_files_only"):
            self.tokenizer.init_kwargs.pop(name, None)
        if self.tokenizer.is_fast:
            self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.no_padding()
        super().save_pretrained(save_directory, *args, **options)
        if self.qformer:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.qformer.items()}
            save_file(tensors, Path(save_directory) / QFORMER, metadata={"format": "pt"})

    @torch.no_grad()
    def __call__(
        self,
        person: Pictures,
        garment: Pictures,
        agnostic_mask: Pictures,
        densepose: Pictures,
        agnostic: Pictures | None = None,
        prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = STEPS,
        guidance_scale: float = 1.0,
        repaint: bool = False,
        start: Start = "noise",
        generator: torch.Generator | list[torch.Generator] | None = None,
        rows: Tensor | None = None,
        output_type: Literal["pil", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> Any:
        """Draw each person in the garment at the same index.

        Args:
            person: photos: a picture, a list, or a tensor (B, 3, H, W) in [-1, 1].
            garment: photos or sketches of the garments.
            agnostic_mask: what is painted: white in pictures; 0 in a tensor (B, 1, H, W), where 1 = keep.
            densepose: surface maps of the persons.
            agnostic: the persons without garment; by default the photos with grey where the mask is white.
            prompt: captions of the garments.
            height: of the result, pixels; by default the photo's. Of photos in another aspect ratio a window is drawn.
            width: likewise.
            num_inference_steps: steps of the scheduler.
            guidance_scale: 1 = no unconditional pass; above 1, the difference from it is amplified.
            repaint: put back the person's pixels where the mask says keep.
            start: noise; noise added to the agnostic latent; or to that of ``person``, as the original code does, which
                shows the network the answer in paired tests.
            generator: of the noise; a list gives every picture its own (see ``seeded``).
            rows: rows of the Q-Former (B, Q, H), for a denoiser with an adapter.
            output_type: "pil", "pt" (B, 3, H, W in [0, 1]) or "latent".
            return_dict: return an ``ImagePipelineOutput``, else a tuple.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents"}) after each step; what it returns
                replaces the latents. Setting ``pipeline._interrupt`` in it ends the loop.

        Raises:
            UserError: numbers or sizes of the inputs that do not fit, a picture that is no map of its photo (``read_maps``).
        """
        device = self._execution_device
        size = self._size(person, height, width, num_inference_steps)
        given = {"image": person, "garment": garment, "keep": agnostic_mask, "densepose": densepose}
        tensors = _to_tensors(given if agnostic is None else {**given, "agnostic": agnostic}, size)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        keep, count = tensors["keep"], len(tensors["keep"])
        hidden = tensors["agnostic"] if agnostic is not None else tensors["image"] * (keep >= 0.5)
        context = self._context(prompt, count, rows, guidance_scale)
        agnostic_latent, pose_latent, hint = (
            encode.latents(self.vae, encode.posterior(self.vae, image))
            for image in (hidden, tensors["densepose"], tensors["garment"])
        )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        noise = randn_tensor(agnostic_latent.shape, generator, torch.device(device), torch.float32)
        x = self._first(noise, start, agnostic_latent, tensors["image"])
        x = self._denoise(
            x, (agnostic_latent, keep, pose_latent), context, hint, guidance_scale, generator, callback_on_step_end
        )
        images: Any = x if output_type == "latent" else self._pixels(x, tensors["image"], keep if repaint else None)
        images = [_picture(image) for image in images] if output_type == "pil" else images
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _pixels(self, x: Tensor, person: Tensor, keep: Tensor | None) -> Tensor:
        """Return the pictures of latents in [0, 1]; with ``keep`` the person's pixels are put back there."""
        pixels = encode.decode(self.vae, x)
        if keep is not None:
            pixels = person * keep + pixels * (1 - keep)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def _denoise(
        self,
        x: Tensor,
        fixed: tuple[Tensor, Tensor, Tensor],
        contexts: list[Tensor],
        hint: Tensor,
        guidance_scale: float,
        generator: Any,
        callback: Callable[..., dict[str, Any]] | None,
    ) -> Tensor:
        """Denoise from x_T to the latent: one pass per context and timestep."""
        self._interrupt = False
        accepts = inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if "generator" in accepts else {}
        dtype = self.denoiser.dtype
        timesteps = self.scheduler.timesteps
        for index, t in enumerate(self.progress_bar(timesteps)):
            # Only the noisy latent is scaled for samplers over sigmas; agnostic latent, mask and surface carry no noise.
            x13 = encode.denoiser_input(self.scheduler.scale_model_input(x, t), *fixed).to(dtype)
            t_B = t.expand(len(x))
            passes = [self.denoiser(x13, t_B, context.to(dtype), hint.to(dtype)).noise.float() for context in contexts]
            # The unconditional pass keeps the garment encoder's hint: guidance acts on the context alone.
            noise = passes[0] if len(passes) == 1 else passes[1] + guidance_scale * (passes[0] - passes[1])
            x = self.scheduler.step(noise, t, x, return_dict=False, **extra)[0]
            if callback is not None:
                x = (callback(self, index, t, {"latents": x}) or {}).get("latents", x)
            if self._interrupt:
                break
        return x

    def _first(self, noise: Tensor, start: Start, agnostic_latent: Tensor, person: Tensor) -> Tensor:
        """Return the x_T that the steps start from."""
        if start not in get_args(Start):
            raise UserError(f"start: {start!r} is not one of {', '.join(get_args(Start))}")
        if start == "noise":
            return noise * self.scheduler.init_noise_sigma
        latent = agnostic_latent
        if start == "ground-truth":
            latent = encode.latents(self.vae, encode.posterior(self.vae, person))
        last = self.scheduler.config.num_train_timesteps - 1
        # Samplers over sigmas look their first timestep up in a table; the others take the last step of training.
        t = (
            self.scheduler.timesteps[:1]
            if hasattr(self.scheduler, "sigmas")
            else torch.tensor([last], device=noise.device)
        )
        return self.scheduler.add_noise(latent, noise, t.expand(len(noise)))

    def _context(
        self, prompt: str | Sequence[str], count: int, rows: Tensor | None, guidance_scale: float
    ) -> list[Tensor]:
        """Return the context, and the unconditional one where guidance needs it."""
        texts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(texts) != count:
            raise UserError(f"{len(texts)} prompts for {count} persons; give one, or one each")
        if (rows is None) != (self.denoiser.adapter is None):
            relation = "has no adapter for" if rows is not None else "was trained with"
            raise UserError(
                f"this denoiser {relation} rows of a retrieval model; {'leave out' if rows is not None else 'name'} the retriever"
            )
        device, dtype = self._execution_device, self.denoiser.dtype
        text = self.words(texts, 0 if rows is None else rows.shape[1]).to(device)
        rows = None if rows is None else rows.to(device, dtype)
        context = self.denoiser.context(text, rows, text_encoder=self.text_encoder).to(dtype)
        if guidance_scale == 1.0:
            return [context]
        return [context, self.denoiser.unconditional.expand(count, -1, -1)]

    @torch.no_grad()
    def words(self, texts: Sequence[str], num_rows: int = 0) -> Tensor:
        """Return what ``TryOnDenoiser.context`` takes: text states (B, L, D), or ids (B, L) that leave room for rows among them.

        Raises:
            UserError: the text encoder has no room for so many rows.
        """
        if not self.denoiser.inserts_rows:
            return encode.text_states(self.tokenizer, self.text_encoder, texts).float()
        positions = self.text_encoder.config.max_position_embeddings
        if positions - num_rows <= INSERT_AT:
            raise UserError(
                f"the text encoder reads {positions} positions, too few for {num_rows} rows of the retrieval model and words; "
                "train with --adapter linear"
            )
        return encode.text_ids(self.tokenizer, texts, positions - num_rows)

    def _size(self, person: Pictures, height: int | None, width: int | None, steps: int) -> tuple[int, int]:
        first = person if isinstance(person, Tensor | Image.Image) else person[0]
        own = first.shape[-2:] if isinstance(first, Tensor) else (first.height, first.width)
        size = (height or own[0], width or own[1])
        self.check(*size, steps)
        return size


def default_scheduler() -> PNDMScheduler:
    """Return the sampler of the original: PLMS over Stable Diffusion's schedule."""
    return PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def _to_tensors(given: dict[str, Pictures], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return (B, 3 or 1, H, W) by name: images in [-1, 1], the keep mask in [0, 1]; pictures are read as ``read_maps`` does."""
    counts = {name: 1 if isinstance(value, Image.Image) else len(value) for name, value in given.items()}
    if len(set(counts.values())) > 1:
        sizes = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UserError(f"all inputs must have the same number of rows, got {sizes}")
    tensors: dict[str, Tensor] = {}
    listed: dict[str, Sequence[Image.Image]] = {}
    for name, value in given.items():
        if isinstance(value, Tensor):
            tensors[name] = _checked(value, name, size)
        else:
            listed[name] = [value] if isinstance(value, Image.Image) else value
    rows = [read_maps(dict(zip(listed, row, strict=True)), *size)[0] for row in zip(*listed.values(), strict=True)]
    for name in listed:
        stacked = torch.stack([maps[name] for maps in rows])
        tensors[name] = to_share(stacked) if name == "keep" else to_unit(stacked)
    return tensors


def _checked(tensor: Tensor, name: str, size: tuple[int, int]) -> Tensor:
    expected = (1 if name == "keep" else 3, *size)
    if tuple(tensor.shape[1:]) != expected:
        raise UserError(
            f"{name}: expected a tensor of (rows, {', '.join(map(str, expected))}), got {tuple(tensor.shape)}"
        )
    return tensor.float()


def _picture(image_3HW: Tensor) -> Image.Image:
    return Image.fromarray((image_3HW.permute(1, 2, 0).cpu() * 255).round().to(torch.uint8).numpy())
