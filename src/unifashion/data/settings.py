"""The data settings. They are in this package because the names of the data sets are the choices of ``--dataset``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.data.datasets import names, retrieval_sets, spec_of
from unifashion.errors import UserError, nearest
from unifashion.flags import Range, read_number, read_text, setting

ALL = "all"  # every set below the data root, in validation
WEIGHTS = Range(above=0, most=1000)  # of the sets of a mixture: how often an epoch passes over each


def default_root() -> Path:
    """Return the folder that holds the data sets where no flag names it: $UNIFASHION_DATA, else dataset/.

    Raises:
        UserError: a text that no folder is called.
    """
    return Path(read_text("$UNIFASHION_DATA", os.environ.get("UNIFASHION_DATA") or "dataset"))


def _known(kind: Literal["image-text", "composed"]) -> str:
    return ", ".join(names(retrieval_sets(kind)))


@dataclass(frozen=True)
class DataSettings:
    """Data: what is read, from where, and how images and words are prepared."""

    data_root: str | None = setting(
        None,
        "folder that holds the data sets; default: $UNIFASHION_DATA, else dataset/ "
        "(for --dataset catalogue: dataset/catalogue)",
    )
    dataset: str = setting(
        "fashiongen",
        f"data set to use: {_known('image-text')} (any folder of images with a catalogue.csv), {_known('composed')}; "
        "a mixture to train on is a+b, with weights a:1+b:0.5 (half of b each epoch); all = everything there is, for validation",
    )
    include_val: bool = setting(
        False, "also train on the validation split; the checkpoint's scores are then marked trained-on-val"
    )
    image_size: int = setting(224, "side of the square that the image tower sees, pixels", least=16, most=1024)
    pad: Literal["target", "square", "none"] = setting("target", "how a photo is padded before it is resized")
    pad_ratio: float = setting(
        1.25, "largest side ratio that is not padded; longer photos are padded to it (pad: target)", least=1, most=100
    )
    max_text_tokens: int = setting(64, "texts are cut to this many tokens, of which two are marks", least=3, most=512)
    augment: bool = setting(
        False, "random mirroring, shift and brightness of training images, for towers trained from scratch"
    )
    num_workers: int = setting(0, "processes that load images, per training process", most=256)
    cache_images: bool = setting(False, "decode every image once and keep the resized pixels in memory")
    feature_cache: str | None = setting(
        None,
        "folder that keeps the frozen image tower's tokens of each image, computed once; needs --freeze-vision",
    )
    feature_form: Literal["fp16", "int8"] = setting(
        "fp16", "number format of the feature cache; int8 takes half the space"
    )
    max_missing: float = setting(1.0, "highest share of missing or broken images that is accepted, percent", most=100)
    allow_leaky_captions: bool = setting(
        False, "accept generated captions that were written with the query's own words; marks every score"
    )

    def __post_init__(self) -> None:
        if self.dataset == ALL:
            return
        chosen = self.mixture()
        if len({spec.kind for spec in retrieval_sets() if spec.name in chosen}) > 1:
            raise UserError(
                f"dataset: {self.dataset!r} mixes images with texts ({_known('image-text')}) and composed queries "
                f"({_known('composed')}); choose sets of one kind"
            )

    def mixture(self) -> dict[str, float]:
        """Return the weight of every data set named by ``dataset``, in that order: how often an epoch passes over it.

        Raises:
            UserError: an unknown name (names the nearest known one), a name given twice, a weight that is not above 0.
        """
        known = (*names(retrieval_sets("image-text")), *names(retrieval_sets("composed")))
        if self.dataset == ALL:
            raise UserError("dataset: all is for validation (vail.sh); name the sets to train on, joined by +")
        weights: dict[str, float] = {}
        for part in self.dataset.split("+"):
            name, _, weight = part.strip().partition(":")
            if name not in known:
                raise UserError(f"dataset: {name!r} is not one of {', '.join(known)}{nearest(name, known)}")
            if name in weights:
                raise UserError(f"dataset: {name!r} occurs twice in {self.dataset!r}; name it once, with a weight")
            weight = weight if ":" in part else "1"
            weights[name] = read_number(f"dataset: the weight in {part.strip()!r}", float, weight, WEIGHTS)
        return weights

    def root(self) -> Path:
        """Return the data root that the flag, the environment or the default names."""
        if self.data_root is not None:
            return Path(self.data_root)
        base = default_root()
        is_embedded = any(spec.embedded and spec.name == self.dataset for spec in retrieval_sets())
        return base / self.dataset if is_embedded else base

    def wants_embedded(self) -> bool:
        """Return whether the embedded catalogue is asked for, which programs draw where it is missing."""
        return self.data_root is None and any(spec.embedded for spec in map(spec_of, self.mixture()))
