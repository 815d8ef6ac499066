"""The data sets, one row each: how a set is read, what it is scored by, where it comes from, how it is prepared.

A new set is one file with a reader, and one row of ``DATASETS``; outside of this package it is one file that calls ``register``
(examples/add_a_dataset.py). The choices of ``--dataset`` and its help, training, validation, submissions, ``unifashion prepare``,
``unifashion doctor`` and the tables of dataset/README.md (which a test compares) all follow the row.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unifashion.data import circo, cirr, dresscode, fashion200k, fashiongen, fashioniq, own_catalogue, tryon
from unifashion.data.feedback import evaluation_feedback, training_feedback
from unifashion.data.records import ComposedSplit, PairSplit
from unifashion.data.tryon import TryOnSplit
from unifashion.errors import UserError, nearest

Kind = Literal["image-text", "composed", "try-on"]

SHORT = "Short description."
PROFESSIONAL = "Write a detail and professional description for the cloth."
KEY_POINTS = "Describe the cloth's style, color, design... and other key points."


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader besides root and split; most readers need none.

    allow_leaky_captions: accept captions that were written with the words of the queries.
    needs_images: False where the annotations suffice, such as to check the form of a submission.
    """

    allow_leaky_captions: bool = False
    needs_images: bool = True


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set. Exactly one of ``pairs``, ``composed`` and ``tryon`` reads it, which determines its kind.

    Reading:
        name: what ``--dataset`` takes.
        title: its name in dataset/README.md.
        find: data root -> the set's own folder; raises ``NoSet`` where it is not there.
        pairs: (data root, split, options) -> images with texts.
        composed: (data root, split, options) -> composed queries, one record per category.
        tryon: (data root, split, names of the maps that a pair needs, pairs) -> pairs of person and garment.
        splits: train, val and test, those that exist, and the set's own names for them.
        join_feedback: the sentences of a composed query -> the text that the model reads, in validation and in training.
        draw_feedback: instead of ``join_feedback`` in training, where the set has a rule that draws; takes a random generator.

    Training and validation:
        headline: protocol and metric that pick the best checkpoint; None = for training only, not for validation.
        server: whether a server scores its test split.
        instruction: to a language model that captions its images.
        blocks: data root -> rows of a protocol with fixed blocks, or None where the set comes without them.
        held_out: data root -> images that no training on any set below that root may see.
        vocabulary: data root -> texts that a vocabulary trained on any set below that root covers too.
        score_marks: data root -> marks that every score on it must carry, such as "leaky".

    On the disk:
        folder: its folder below the data root.
        licence, source: in a few words, as dataset/README.md lists them.
        prepare: name of the recipe of apps/prepare that fills the folder; "" = none.
        takes: what that recipe expects as ``--source``.
        moves: for the recipe "archives": what ends a file's path in the download (a regular expression), and where that goes.
        counts: sizes of the complete set, under the names that ``unifashion doctor`` uses.
        part_of: name of the set whose folder contains this one; that one is prepared and examined.
        embedded: without ``--data-root`` it is the embedded catalogue, drawn when it is missing.
    """

    name: str
    title: str
    find: Callable[[Path], Path]
    pairs: Callable[[Path, str, ReadOptions], PairSplit] | None = None
    composed: Callable[[Path, str, ReadOptions], Sequence[ComposedSplit]] | None = None
    tryon: Callable[[Path, str, Collection[str], str], TryOnSplit] | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "val": "val"})
    join_feedback: Callable[[Sequence[str]], str] = " and ".join
    draw_feedback: Callable[[Sequence[str], random.Random], str] | None = None

    headline: tuple[str, str] | None = None
    server: bool = False
    instruction: str = PROFESSIONAL
    blocks: Callable[[Path], PairSplit | None] = lambda data_root: None
    held_out: Callable[[Path], Iterable[Path]] = lambda data_root: ()
    vocabulary: Callable[[Path], Iterable[str]] | None = None
    score_marks: Callable[[Path], tuple[str, ...]] = lambda data_root: ()

    folder: str = ""
    licence: str = ""
    source: str = ""
    prepare: str = ""
    takes: str = ""
    moves: tuple[tuple[str, str], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    part_of: str = ""
    embedded: bool = False

    def __post_init__(self) -> None:
        if sum(reader is not None for reader in (self.pairs, self.composed, self.tryon)) != 1:
            raise ValueError(f"{self.name}: exactly one of pairs, composed and tryon must read it")

    @property
    def kind(self) -> Kind:
        """Return what the set holds."""
        return "image-text" if self.pairs else "composed" if self.composed else "try-on"

    def training_text(self, feedback: Sequence[str], rng: random.Random) -> str:
        """Return the text of a composed query in training; ``rng`` decides where the set's rule draws."""
        return self.draw_feedback(feedback, rng) if self.draw_feedback else self.join_feedback(feedback)


DATASETS: list[DatasetSpec] = [
    DatasetSpec(
        name="fashiongen",
        title="FashionGen",
        find=fashiongen.find_root,
        pairs=lambda root, split, _: fashiongen.read_fashiongen(root, split),
        headline=("fashiongen/sub100", "mean"),
        blocks=lambda root: fashiongen.read_fashiongen_blocks(root) if fashiongen.has_blocks(root) else None,
        folder=fashiongen.FOLDER,
        licence="research only, on request from its authors; images may not be passed on",
        source="the FashionGen challenge, on request",
        prepare="hdf5",
        takes="its HDF5 files",
        counts={"train image-text pairs": 260_480, "val image-text pairs": 32_528},
    ),
    DatasetSpec(
        name="fashion200k",
        title="Fashion200K",
        find=fashion200k.find_root,
        pairs=lambda root, split, _: fashion200k.read_fashion200k(root, split),
        splits={"train": "train", "val": "test"},
        headline=("fashion200k/full", "mean"),
        instruction=SHORT,
        folder=fashion200k.FOLDER,
        licence="research only; photos belong to the shops",
        source="github.com/xthan/fashion-200k",
        prepare="archives",
        takes="its archives, or folders of them",
        moves=((r"(?:.*/)?((?:women|labels)/.+)", r"\1"), (r"(?:.*/)?(annotation_[^/]+\.jsonl)", r"\1")),
    ),
    DatasetSpec(
        name="fashioniq",
        title="FashionIQ",
        find=fashioniq.find_root,
        composed=lambda root, split, options: [
            fashioniq.read_fashioniq(root, category, split, options.allow_leaky_captions)
            for category in fashioniq.CATEGORIES
        ],
        splits={"train": "train", "val": "val", "test": "test"},
        join_feedback=evaluation_feedback,
        draw_feedback=training_feedback,
        headline=("fashioniq/original", "mean"),
        instruction=KEY_POINTS,
        held_out=fashioniq.val_images,
        vocabulary=fashioniq.training_texts,
        score_marks=lambda root: ("leaky",) if fashioniq.has_leaky_captions(root, "val") else (),
        folder=fashioniq.FOLDER,
        licence="annotations CDLA; photos belong to the shops and may not be passed on",
        source=(
            "annotations: github.com/XiaoxiaoGuo/fashion-iq; photos: lists of web links, "
            "github.com/hongwang600/fashion-iq-metadata, many of them dead"
        ),
        prepare="fashioniq",
        takes="folders of annotations and photos, lists of addresses",
        counts={
            f"{split} {category} {what}": count
            for what, split, counts in (
                ("queries", "train", (5_985, 5_988, 6_027)),
                ("queries", "val", (2_017, 2_038, 1_961)),
                ("queries", "test", (2_024, 2_038, 2_056)),
                ("gallery images", "train", (11_452, 19_036, 16_121)),
                ("gallery images", "val", (3_817, 6_346, 5_373)),
            )
            for category, count in zip(fashioniq.CATEGORIES, counts, strict=True)
        },
    ),
    DatasetSpec(
        name="fashioniq-cap",
        title="Fashion-IQ-Cap",
        find=fashioniq.find_root,
        pairs=lambda root, split, options: fashioniq.read_fashioniq_cap(root, split, options.allow_leaky_captions),
        instruction=KEY_POINTS,
        folder=f"{fashioniq.FOLDER}/captions_llava",
        licence="as FashionIQ",
        source="github.com/xiangyu-mm/UniFashion, or your own: `src/llava/LLaVA/inference.py`",
        part_of="fashioniq",
    ),
    DatasetSpec(
        name="cirr",
        title="CIRR",
        find=cirr.find_root,
        composed=lambda root, split, _: [cirr.read_cirr(root, split)],
        splits={"train": "train", "val": "val", "test": "test1"},
        headline=("cirr/standard", "mean"),
        server=True,
        folder="cirr_dataset",
        licence="annotations MIT; photos from NLVR2, which has its own terms",
        source="annotations: github.com/Cuberick-Orion/CIRR, branch `cirr_dataset`; photos: NLVR2, on request",
        prepare="archives",
        takes="archives or folders of its annotations and photos",
        moves=(
            (r"(?:.*/)?((?:captions|captions_ext|image_splits)/[^/]+\.json)", r"cirr/\1"),
            (r"(?:.*?/)?((?:train|dev|test1)/.+\.png)", r"\1"),
        ),
        counts={
            **{"train queries": 28_225, "val queries": 4_181, "test1 queries": 4_148},
            **{"train images": 16_939, "val images": 2_297, "test1 images": 2_315},
        },
    ),
    DatasetSpec(
        name="circo",
        title="CIRCO",
        find=circo.find_root,
        composed=lambda root, split, options: [circo.read_circo(root, split, options.needs_images)],
        splits={"val": "val", "test": "test"},
        headline=("circo/standard", "mAP@10"),
        server=True,
        folder="circo",
        licence="annotations CC BY-NC 4.0; photos from COCO, under Flickr's terms",
        source="annotations: github.com/miccunifi/CIRCO; photos: COCO 2017 unlabeled, cocodataset.org",
        prepare="archives",
        takes="archives or folders of its annotations, of COCO's photos and their list",
        moves=(
            (r"(?:.*/)?annotations/(val|test)\.json", r"annotations/\1.json"),
            (r"(?:.*/)?(image_info_unlabeled2017\.json)", rf"{circo.COCO}/annotations/\1"),
            (r"(?:.*/)?(unlabeled2017/[^/]+)", rf"{circo.COCO}/\1"),
        ),
        counts={"val queries": 220, "test queries": 800, "images": 123_403},
    ),
    DatasetSpec(
        name="vitonhd",
        title="VITON-HD",
        find=tryon.find_root,
        tryon=tryon.read_vitonhd,
        splits={"train": "train", "test": "test"},
        folder=tryon.ROOTS[0],
        licence="CC BY-NC 4.0, research only",
        source="github.com/shadow2496/VITON-HD",
        prepare="tryon",
        counts={"train pairs": 11_647, "test pairs": 2_032},
    ),
    DatasetSpec(
        name="dresscode",
        title="DressCode",
        find=dresscode.find_root,
        tryon=dresscode.read_dresscode,
        splits={"train": "train", "test": "test"},
        folder=dresscode.ROOTS[0],
        licence="academic use only, on request from its authors; images may not be passed on",
        source="github.com/aimagelab/dress-code, on request",
        prepare="tryon",
        counts={"train pairs": 48_392, "test pairs": 5_400},
    ),
    DatasetSpec(
        name="catalogue",
        title="your own",
        find=own_catalogue.find_root,
        pairs=lambda root, split, _: own_catalogue.read_own_catalogue(root, split),
        headline=("catalogue/full", "mean"),
        folder="my_catalogue",
        licence="yours",
        source="a table of your products, or a folder of images",
        prepare="table",
        takes="one table of your products, or a folder of photos",
        embedded=True,
    ),
    DatasetSpec(
        name="catalogue",
        title="embedded catalogue",
        find=tryon.find_root,
        tryon=tryon.read_vitonhd,
        splits={"train": "train", "test": "test"},
        folder="catalogue",
        licence="Apache-2.0; synthetic, and every score says so",
        source="drawn by this project: `python -m unifashion.apps.toy_catalogue dataset/catalogue`",
        part_of="vitonhd",
        embedded=True,
    ),
]


def register(spec: DatasetSpec) -> None:
    """Add a data set; if called before the settings are imported, ``--help`` names it too.

    Raises:
        ValueError: the name is taken (a try-on set may have the name of a retrieval set).
    """
    if any(spec.name == other.name and _is_tryon(spec) == _is_tryon(other) for other in DATASETS):
        raise ValueError(f"there is already a data set {spec.name!r}")
    DATASETS.append(spec)


def retrieval_sets(kind: Kind | None = None) -> list[DatasetSpec]:
    """Return the rows that ``--dataset`` of retrieval and captions names, or those of one kind."""
    return [spec for spec in DATASETS if not _is_tryon(spec) and kind in (None, spec.kind)]


def tryon_sets() -> list[DatasetSpec]:
    """Return the rows that ``--dataset`` of try-on names."""
    return list(filter(_is_tryon, DATASETS))


def names(specs: Iterable[DatasetSpec]) -> tuple[str, ...]:
    """Return what ``--dataset`` takes for these rows."""
    return tuple(spec.name for spec in specs)


def spec_of(name: str, among: Sequence[DatasetSpec] | None = None) -> DatasetSpec:
    """Return the row of a data set, by default of retrieval and captions.

    Raises:
        UserError: there is none; names the nearest one.
    """
    among = retrieval_sets() if among is None else among
    known = names(among)
    if name not in known:
        raise UserError(f"unknown data set {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return among[known.index(name)]


def _is_tryon(spec: DatasetSpec) -> bool:
    return spec.kind == "try-on"
