"""The frozen networks that FID, KID, LPIPS and CLIP-S use. Their weights are separate downloads.

    WEIGHTS/                              --weights, else $UNIFASHION_WEIGHTS, else ~/.cache/unifashion/weights
      inception-2015-12-05.pt             FID, KID     the Inception v3 that clean-fid uses (TorchScript)
      alexnet-owt-7be5be79.pth            LPIPS alex   torchvision's AlexNet
      squeezenet1_1-b8a52dc0.pth          LPIPS squeeze   torchvision's SqueezeNet 1.1
      CLIP-ViT-H-14-laion2B-s32B-b79K/    CLIP-S       OpenCLIP ViT-H/14 in Hugging Face form, with its tokenizer

AlexNet and SqueezeNet are written out here, under torchvision's names, so that no torchvision is needed; the learned weights of
LPIPS's layers come with torchmetrics. Shapes: B rows, C channels, F features.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unifashion.errors import UserError, one_line
from unifashion.models.weight_files import check_finite, load_foreign, read_torch, read_torchscript

Backbone = Literal["alex", "squeeze"]


@dataclass(frozen=True)
class WeightFile:
    """A file (or folder) that is downloaded by hand: its name, where it comes from, what needs it."""

    name: str
    source: str
    needed_for: str
    sha256: str = ""  # or its beginning

    def find(self, folder: Path) -> Path:
        """Return its path.

        Raises:
            UserError: it is missing, or cut short.
        """
        path = folder / self.name
        if not path.exists():
            raise UserError(
                f"{self.needed_for} cannot be computed without {self.name}: fetch it from {self.source} and put it into {folder} "
                "(or name its folder with --weights)"
            )
        if self.sha256 and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(self.sha256):
            raise UserError(
                f"{path} is not the file of that name (its checksum differs); fetch it again from {self.source}"
            )
        return path


INCEPTION = WeightFile(
    "inception-2015-12-05.pt",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "FID and KID",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",  # TorchScript is a program: only this one is run
)
BACKBONES: dict[Backbone, WeightFile] = {
    "alex": WeightFile(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "LPIPS (alex)",
        sha256="7be5be79",
    ),
    "squeeze": WeightFile(
        "squeezenet1_1-b8a52dc0.pth",
        "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        "LPIPS (squeeze)",
        sha256="b8a52dc0",
    ),
}
CLIP = WeightFile(
    "CLIP-ViT-H-14-laion2B-s32B-b79K", "https://huggingface.co/laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP-S"
)


def weights_folder(named: str | Path | None = None) -> Path:
    """Return the folder of the weight files."""
    return Path(named or os.environ.get("UNIFASHION_WEIGHTS") or Path.home() / ".cache/unifashion/weights")


# FID and KID ----------------------------------------------------------------------------------------------------------


class Inception(nn.Module):
    """Pictures (B, 3, 299, 299) with values 0..255 to features (B, 2048), as clean-fid runs the network."""

    num_features = 2048

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.layers = read_torchscript(path).layers
        except (RuntimeError, ValueError, AttributeError, OSError):
            raise UserError(
                f"{path} is damaged or holds another network; fetch it again from {INCEPTION.source}"
            ) from None

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return the features."""
        return self.layers((image_B3HW - 128) / 128).flatten(1)


# LPIPS ----------------------------------------------------------------------------------------------------------------


class Lpips(nn.Module):
    """Distance of two pictures in the features of a network (Zhang et al., 2018).

    The features of each position are scaled to unit length; their squared differences, weighted per channel, are averaged over
    the positions and added over the layers.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, features: nn.Sequential, taps: Sequence[int], weights: Sequence[Tensor]) -> None:
        """Put the metric together.

        Args:
            features: layers, one after the other.
            taps: indices of those whose outputs are compared, in increasing order.
            weights: for each of them, one weight per channel (C,).
        """
        super().__init__()
        self.features = features.eval()
        self.taps, self.weights = list(taps), [weight.flatten() for weight in weights]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return the distances (B,) of pictures in [-1, 1]."""
        total = torch.zeros(len(first_B3HW), device=first_B3HW.device)
        pairs = zip(self._taps(first_B3HW), self._taps(second_B3HW), self.weights, strict=True)
        for a_BCHW, b_BCHW, weight_C in pairs:
            difference_BCHW = (_unit(a_BCHW) - _unit(b_BCHW)) ** 2
            total = total + torch.einsum("bchw,c->bhw", difference_BCHW, weight_C.to(total)).mean((1, 2))
        return total

    def _taps(self, image_B3HW: Tensor) -> list[Tensor]:
        x, kept = (image_B3HW - self.shift) / self.scale, []
        for index, layer in enumerate(list(self.features)[: self.taps[-1] + 1]):
            x = layer(x)
            if index in self.taps:
                kept.append(x)
        return kept


def _unit(x_BCHW: Tensor) -> Tensor:
    # The epsilon is inside the root, as in torchmetrics; outside, flat areas would get other distances.
    return x_BCHW / (x_BCHW.square().sum(1, keepdim=True) + 1e-8).sqrt()


def alexnet() -> nn.Sequential:
    """Return the convolutions of AlexNet, with torchvision's layout."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


class Fire(nn.Module):
    """A block of SqueezeNet: 1 x 1 down, then 1 x 1 and 3 x 3 side by side."""

    def __init__(self, width: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, 2 * expanded, H, W)."""
        x_BCHW = self.squeeze(x_BCHW).relu()
        return torch.cat([self.expand1x1(x_BCHW), self.expand3x3(x_BCHW)], dim=1).relu()


def squeezenet() -> nn.Sequential:
    """Return the convolutions of SqueezeNet 1.1, with torchvision's layout."""

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


NETWORKS = {"alex": (alexnet, (1, 4, 7, 9, 11)), "squeeze": (squeezenet, (1, 4, 7, 9, 10, 11, 12))}


def layer_weights(backbone: Backbone) -> list[Tensor]:
    """Return LPIPS's learned weights per channel and layer, from the files that torchmetrics ships."""
    import torchmetrics  # here, so that reading the table of metrics does not need it

    path = Path(torchmetrics.__file__).parent / f"functional/image/lpips_models/{backbone}.pth"
    weights: dict[str, Tensor] = read_torch(path)
    return [weights[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(NETWORKS[backbone][1]))]


def open_lpips(backbone: Backbone, folder: Path) -> Lpips:
    """Open LPIPS over one of its networks.

    Raises:
        UserError: the network's weights are not in ``folder``, or belong to another network.
    """
    file = BACKBONES[backbone]
    path = file.find(folder)
    build, taps = NETWORKS[backbone]
    features = build()
    try:
        weights: dict[str, Tensor] = read_torch(path)
        prefix = "features."
        features.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        check_finite(features.state_dict(), path)
    except Exception:  # a damaged file can raise anything
        raise UserError(f"{path} is damaged or holds another network; fetch it again from {file.source}") from None
    return Lpips(features, taps, layer_weights(backbone))


# CLIP-S ---------------------------------------------------------------------------------------------------------------


class ClipScorer(nn.Module):
    """100 times the cosine of picture and text in a CLIP model of transformers."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        from unifashion.data.images import MEAN, STD

        self.model, self.tokenizer = model.eval(), tokenizer
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    @property
    def side(self) -> int:
        """Return the side of the pictures it takes, pixels."""
        return int(self.model.config.vision_config.image_size)

    @torch.no_grad()
    def forward(self, image_B3SS: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the scores (B,) of pictures in [0, 1] and their texts."""
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        words = {name: words[name].to(image_B3SS.device) for name in ("input_ids", "attention_mask")}
        output = self.model(pixel_values=(image_B3SS - self.mean) / self.std, **words)
        return 100 * torch.cosine_similarity(output.image_embeds.float(), output.text_embeds.float(), dim=-1)


def open_clip_scorer(folder: Path) -> ClipScorer:
    """Open CLIP-S.

    Raises:
        UserError: the model is not in ``folder``, or cannot be read.
    """
    path = CLIP.find(folder)
    from transformers import AutoTokenizer, CLIPModel

    try:
        return ClipScorer(load_foreign(CLIPModel, path), load_foreign(AutoTokenizer, path))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); fetch it again from {CLIP.source}") from None
