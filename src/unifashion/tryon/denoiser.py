"""The denoiser of UNIStableVITON: Stable Diffusion's U-Net with 13 input channels, a garment encoder, and warp blocks between.

    x13        noisy latent 4 | agnostic person latent 4 | agnostic mask 1 (1 = keep, 0 = paint) | densepose latent 4
    hint       latent of the garment: its photo (StableVITON), a sketch of that photo (UniFashion), or one of it as worn (MGD)
    context    text states of the garment's caption, and, if there is an adapter, rows of the Q-Former: mapped and put after
               them (linear), or inserted among the words before the text encoder, as the diffusion head does (clip)

    garment encoder    a ControlNet without zero convolutions: conv_in(x13) + zero_conv(hint), the U-Net's down blocks and
                       middle; its feature maps have the shapes of the U-Net's skips
    decoder            every up block after those of the lowest resolution first attends to the garment feature that has the
                       index of its skip (warp.py)

Shapes: B rows, H x W latent positions, L context tokens, D context width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unifashion.models.context_adapter import ContextAdapter, encode_with_context
from unifashion.tryon.settings import Adapter, Control, Trainable
from unifashion.tryon.warp import WarpBlock, zero

LATENT_CHANNELS = 4
INPUT_CHANNELS = 3 * LATENT_CHANNELS + 1


@dataclass(frozen=True)
class Denoised:
    """The output of one pass: the predicted noise (B, 4, H, W), and, if asked for, the attention centres (B, h, w, 2)."""

    noise: Tensor
    attention_centre: Tensor | None = None


class TryOnDenoiser(ModelMixin, ConfigMixin):
    """Predicts the noise in a person's latent, given the person without the garment, the pose, the garment and its words."""

    _supports_gradient_checkpointing = True
    # Parts that are always called whole; not the U-Net's up blocks, whose parts ``forward`` calls one by one, nor the
    # transformer block inside a warp block.
    _no_split_modules = ("WarpBlock", "Transformer2DModel", "ResnetBlock2D")

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        num_heads: int = 8,
        norm_num_groups: int = 32,
        adapter_width: int | None = None,
        adapter_kind: Adapter = "linear",
        retriever: str | None = None,
        control: Control = "garment",
        image_size: tuple[int, int] = (512, 384),
    ) -> None:
        """Build the network with fresh weights.

        Args:
            block_out_channels: widths of the levels, finest first; the last level has no attention.
            layers_per_block: residual blocks per level of the down path (one more on the up path).
            cross_attention_dim: width of the context.
            num_heads: attention heads, everywhere.
            norm_num_groups: groups of every normalisation; must divide all widths.
            adapter_width: width of the Q-Former rows that join the text; None = no adapter.
            adapter_kind: how they join it, see the top of this file.
            retriever: hash of the weights of the retrieval model that the rows come from; None = not known (older models).
            control: what the hint is (settings.py); stored for users of the model.
            image_size: height and width of the pictures in training, likewise.
        """
        super().__init__()
        levels = len(block_out_channels)
        sizes = {
            "in_channels": INPUT_CHANNELS,
            "block_out_channels": tuple(block_out_channels),
            "layers_per_block": layers_per_block,
            "cross_attention_dim": cross_attention_dim,
            "attention_head_dim": num_heads,  # diffusers keeps the old, wrong name for the number of heads
            "norm_num_groups": norm_num_groups,
            "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        }
        self.unet = UNet2DConditionModel(
            **sizes,
            out_channels=LATENT_CHANNELS,
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        )
        self.garment_encoder = _without_zero_convolutions(ControlNetModel(**sizes))
        skips = _skip_widths(block_out_channels, layers_per_block)
        decoder = _decoder_widths(block_out_channels, layers_per_block)
        plain = layers_per_block + 1
        self.warp_blocks = nn.ModuleList(
            WarpBlock(width, skip, num_heads, norm_num_groups)
            for width, skip in list(zip(decoder, reversed(skips), strict=True))[plain:]
        )
        self.unconditional = nn.Parameter(torch.randn(1, 1, cross_attention_dim) * 0.02)
        self.adapter: nn.Module | None = None
        if adapter_width:
            kind = ContextAdapter if adapter_kind == "clip" else nn.Linear
            self.adapter = kind(adapter_width, cross_attention_dim)
        self.gradient_checkpointing = False

    def forward(
        self, x13_BCHW: Tensor, t_B: Tensor, context_BLD: Tensor, hint_BCHW: Tensor, attention_centre: bool = False
    ) -> Denoised:
        """Predict the noise.

        Args:
            x13_BCHW: see the top of this file.
            t_B: timestep of each row, 0..999.
            context_BLD: context of each row.
            hint_BCHW: garment latent, of the same size.
            attention_centre: also return where attention is centred, for the total variation loss.
        """
        garment = self.garment_features(x13_BCHW, t_B, context_BLD, hint_BCHW)
        h, time_BE, skips = self._encode(x13_BCHW, t_B, context_BLD)
        plain = len(skips) - len(self.warp_blocks)
        centre = None
        for up_block in self.unet.up_blocks:
            attentions = getattr(up_block, "attentions", [None] * len(up_block.resnets))
            for resnet, attention in zip(up_block.resnets, attentions, strict=True):
                index = len(garment) - len(skips) - plain
                if index >= 0:
                    # One block's centres are enough for the loss, and they cost an attention matrix in float32.
                    with_centre = attention_centre and index == self.attention_block
                    h, block_centre = self._run(self.warp_blocks[index], h, garment[len(skips) - 1], with_centre)
                    centre = block_centre if with_centre else centre
                h = self._run(resnet, torch.cat([h, skips.pop()], dim=1), time_BE)
                if attention is not None:
                    h = self._run(attention, h, context_BLD, return_dict=False)[0]
            for upsampler in up_block.upsamplers or []:
                h = upsampler(h, skips[-1].shape[-2:])
        unet = self.unet
        return Denoised(unet.conv_out(unet.conv_act(unet.conv_norm_out(h))), centre)

    @property
    def attention_block(self) -> int:
        """Return the warp block of the total variation loss: the second of the second level, 4 in Stable Diffusion."""
        return self.config.layers_per_block + 2

    def garment_features(self, x13_BCHW: Tensor, t_B: Tensor, context_BLD: Tensor, hint_BCHW: Tensor) -> list[Tensor]:
        """Return the garment encoder's feature maps, one per skip of the U-Net, finest first."""
        return self.garment_encoder(x13_BCHW, t_B, context_BLD, hint_BCHW, return_dict=False)[0]

    def _encode(self, x13_BCHW: Tensor, t_B: Tensor, context_BLD: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Run the U-Net down to its middle; without gradients if its down path is frozen, as in the original."""
        unet = self.unet
        # A frozen down path still feeds the trained decoder blocks, but no gradient ends in it: its activations need not be kept.
        trains = unet.conv_in.weight.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(trains):
            time_BE = unet.time_embedding(unet.get_time_embed(x13_BCHW, t_B))
            h = unet.conv_in(x13_BCHW)
            skips = [h]
            for down_block in unet.down_blocks:
                words = (
                    {"encoder_hidden_states": context_BLD} if getattr(down_block, "has_cross_attention", False) else {}
                )
                h, more = down_block(h, time_BE, **words)
                skips += more
            return unet.mid_block(h, time_BE, encoder_hidden_states=context_BLD), time_BE, skips

    def _run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False, **kwargs)
        return module(*args, **kwargs)

    # Training ---------------------------------------------------------------------------------------------------------

    @property
    def inserts_rows(self) -> bool:
        """Return whether the adapter's rows go among the words, so that the text encoder has to read them."""
        return isinstance(self.adapter, ContextAdapter)

    def context(
        self, text: Tensor, rows_BQH: Tensor | None = None, drop_B: Tensor | None = None, text_encoder: Any = None
    ) -> Tensor:
        """Assemble the context.

        Args:
            text: text states (B, L, D); for a denoiser that inserts rows, the ids (B, L) of ``TryOnPipeline.words``.
            rows_BQH: rows of the Q-Former, for a denoiser with an adapter.
            drop_B: true for the rows whose whole context becomes the learned unconditional vector.
            text_encoder: reads the ids.
        """
        if (rows_BQH is None) != (self.adapter is None):
            raise ValueError("rows of the Q-Former need an adapter, and an adapter needs them")
        text_BLD = text
        if rows_BQH is not None and self.adapter is not None:
            # The adapter may be offloaded to another device, and so may the text encoder.
            rows_BQD = self.adapter(rows_BQH.to(next(self.adapter.parameters()).device))
            if self.inserts_rows:
                where = text_encoder.device
                text_BLD = encode_with_context(text_encoder, text.to(where), rows_BQD.to(where)).to(text.device)
            else:
                text_BLD = torch.cat([text, rows_BQD.to(text)], dim=1)
        if drop_B is None:
            return text_BLD
        return torch.where(drop_B[:, None, None], self.unconditional.to(text_BLD), text_BLD)

    def freeze(self, trainable: Trainable = "paper") -> None:
        """Choose what trains: "paper" = garment encoder, warp blocks, adapter, unconditional vector; "all" = also the U-Net.

        What the output does not depend on (the garment encoder below its last used feature) never trains.
        """
        self.requires_grad_(True)
        self.unet.requires_grad_(trainable.startswith("all"))
        encoder, levels = self.garment_encoder, len(self.config.block_out_channels)
        # DDP waits for the gradient of every trained parameter, and these would never get one.
        encoder.mid_block.requires_grad_(False)
        encoder.down_blocks[levels - 1].requires_grad_(False)
        for downsampler in encoder.down_blocks[levels - 2].downsamplers or []:
            downsampler.requires_grad_(False)

    @torch.no_grad()
    def copy_encoder(self) -> None:
        """Initialise the garment encoder with the U-Net's down path and middle, like a ControlNet."""
        own = self.garment_encoder.state_dict()
        own.update({name: tensor for name, tensor in self.unet.state_dict().items() if name in own})
        self.garment_encoder.load_state_dict(own)


def _without_zero_convolutions(control: ControlNetModel) -> ControlNetModel:
    """Turn a ControlNet into the garment encoder: unprojected features, and a latent as hint."""
    for index in range(len(control.controlnet_down_blocks)):
        control.controlnet_down_blocks[index] = nn.Identity()
    control.controlnet_mid_block = nn.Identity()
    width = control.config.block_out_channels[0]
    control.controlnet_cond_embedding = zero(nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1))
    return control


def _skip_widths(widths: tuple[int, ...], layers: int) -> list[int]:
    """Return the widths of the U-Net's skips, in the order in which they are computed."""
    skips = [widths[0]]
    for level, width in enumerate(widths):
        skips += [width] * (layers + (level < len(widths) - 1))
    return skips


def _decoder_widths(widths: tuple[int, ...], layers: int) -> list[int]:
    """Return the input width of each residual block of the up path, before its skip is concatenated."""
    entering = [widths[-1]]
    for width in reversed(widths):
        entering += [width] * (layers + 1)
    return entering[:-1]
