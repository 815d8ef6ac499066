"""The table of all metrics: what each means, which way is better, how many digits are shown, how it is computed.

    metric_row("t2i R@10")    the row "R@k": .sentence, .higher_is_better, .digits, .compute
    register(PairMetric(...)) a metric of your own; examples/add_a_metric.py

A metric is added here, with a function and a row; score tables, reports and the programs that measure read the rows. There are
four kinds, by what a metric is computed from: the ranks of queries, captions, one picture beside its photo, a set of pictures.
Shapes: Q queries, P right answers of a query, B rows.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from unifashion.evaluation import caption_java
from unifashion.evaluation.image_distances import NUM_SUBSETS, frechet_distance, kernel_distance
from unifashion.evaluation.image_inputs import BORDER, Pair, Pictures, Profile, ProfileName, painted_box, to_pixels
from unifashion.evaluation.image_networks import INCEPTION, Inception, open_clip_scorer, open_lpips
from unifashion.evaluation.ranks import average_precision_at

TRYON_PROFILES: tuple[ProfileName, ...] = ("catvton", "catvton-lossless", "ladi", "hrviton")
SET_PROFILES: tuple[ProfileName, ...] = ("catvton", "catvton-lossless", "ladi", "mgd")
FEW = 2048  # pictures; below, the covariance of Inception's 2048 features is singular and FID comes out too high


@dataclass(frozen=True)
class Metric:
    """What every metric has, whatever it is computed from. A metric without ``compute`` is computed by its protocol."""

    name: str  # in score files; "R@k" is the row of "R@1", "i2t R@10" and so on
    sentence: str  # for readers of a report
    higher_is_better: bool = True
    digits: int = 1  # after the point in a report; the table in the terminal shows one more


@dataclass(frozen=True, kw_only=True)
class RankMetric(Metric):
    """Computed from ranks.

    compute(ranks_QP, num_positives_Q, k) -> (Q,) from 0 to 1: 0-based ranks of a query's right answers, best first; how many
    there are; the k of the name.
    """

    compute: Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class CaptionMetric(Metric):
    """Computed from tokenized captions.

    compute(candidates, references) -> by name, the value of the corpus and of every caption, from 0 to 1 (CIDEr: to 10);
    ``lacks`` says what is missing to compute it, "" = nothing.
    """

    compute: Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, tuple[float, list[float]]]]
    lacks: Callable[[], str] = str


@dataclass(frozen=True, kw_only=True)
class ImageMetric(Metric):
    """Computed from generated images: which profiles report it, and what opens the network that it uses, if any."""

    profiles: tuple[ProfileName, ...]
    open_network: Callable[[Profile, Path], nn.Module] | None = None


@dataclass(frozen=True, kw_only=True)
class PairMetric(ImageMetric):
    """compute(pair, network) -> the value of one result beside its photo. For paired results only."""

    compute: Callable[[Pair, Any], float]


@dataclass(frozen=True)
class SetValue:
    """The value of a set of pictures, and what must be reported with it."""

    value: float
    std: float | None = None
    seeds: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SetMetric(ImageMetric):
    """compute(pictures, network) -> the value of all results together."""

    compute: Callable[[Pictures, Any], SetValue]


# Retrieval ------------------------------------------------------------------------------------------------------------


def recall(ranks_QP: Tensor, num_positives_Q: Tensor, k: int) -> Tensor:
    """Return which queries have a right answer among the first k, as (Q,) zeros and ones."""
    return (ranks_QP[:, 0] < k).double()


RETRIEVAL = (
    RankMetric(
        "R@k",
        "Recall at k: how many of 100 queries have a right answer among the first k of their list.",
        compute=recall,
    ),
    RankMetric(
        "Rs@k", "Recall at k when only the reference photo's own set of similar photos is searched.", compute=recall
    ),
    RankMetric(
        "mAP@k",
        "Mean average precision at k: 100 when right answers fill the first k places, or all come first if there are fewer.",
        compute=average_precision_at,
    ),
    Metric("mean", "The mean of the recalls that the protocol averages."),
)


# Captions -------------------------------------------------------------------------------------------------------------


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, list[float]]]:
    """Return BLEU-1 to BLEU-4."""
    from pycocoevalcap.bleu.bleu import Bleu

    hypotheses = {row: [text] for row, text in enumerate(candidates)}
    corpus, items = Bleu(4).compute_score(dict(enumerate(references)), hypotheses, verbose=0)
    return {
        f"BLEU-{n}": (float(value), list(map(float, values)))
        for n, (value, values) in enumerate(zip(corpus, items, strict=True), 1)
    }


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, list[float]]]:
    """Return METEOR 1.5."""
    return {"METEOR": caption_java.meteor(candidates, references)}


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, list[float]]]:
    """Return ROUGE-L."""
    from pycocoevalcap.rouge.rouge import Rouge

    scorer, pairs = Rouge(), list(zip(candidates, references, strict=True))
    bar = tqdm(pairs, desc="ROUGE-L", unit="caption", disable=len(pairs) < caption_java.MIN_SHOWN)
    items = [scorer.calc_score([text], list(texts)) for text, texts in bar]
    return {"ROUGE-L": (float(np.mean(items)), items)}


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, list[float]]]:
    """Return CIDEr-D, whose word weights come from these references; of a single item it is 0 by definition."""
    from pycocoevalcap.cider.cider import Cider

    hypotheses = {row: [text] for row, text in enumerate(candidates)}
    items = [float(value) for value in Cider().compute_score(dict(enumerate(references)), hypotheses)[1]]
    return {"CIDEr": (float(np.mean(items)), items)}


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, tuple[float, list[float]]]:
    """Return SPICE."""
    return {"SPICE": caption_java.spice(candidates, references)}


CAPTIONS = (
    CaptionMetric(
        "BLEU-k",
        "How many of the caption's runs of up to k words are also in captions by people; short captions lose points.",
        compute=bleu,
    ),
    CaptionMetric(
        "METEOR",
        "How well the caption's words match those of captions by people; word stems and synonyms count too.",
        compute=meteor,
    ),
    CaptionMetric(
        "ROUGE-L",
        "The longest sequence of words, gaps allowed, that the caption shares with captions by people.",
        compute=rouge_l,
    ),
    CaptionMetric(
        "CIDEr",
        "Agreement with captions by people, where rare words weigh more; times 100, so it may exceed 100.",
        compute=cider,
    ),
    CaptionMetric(
        "SPICE",
        "Agreement in the objects, attributes and relations that a parser finds in the captions.",
        compute=spice,
        lacks=caption_java.spice_lacks,
    ),
    Metric(
        "accuracy", "How many of 100 words of the true caption the model predicts from the image and the words before."
    ),
    Metric(
        "perplexity",
        "How many equally likely words the model chooses between, on average, at each word of the true caption.",
        higher_is_better=False,
    ),
)


# Generated images -----------------------------------------------------------------------------------------------------


def ssim(first_BCHW: Tensor, second_BCHW: Tensor, inner: bool = False) -> Tensor:
    """Return the structural similarity (B,) of pictures in [0, 1] (Wang et al., 2004): a Gaussian window, sigma 1.5.

    ``inner`` leaves out the 5 pixels at each edge, where the window hangs over, as scikit-image does.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # In the precision of the pictures. Variances are differences of nearly equal numbers, so that in single precision even equal
    # pictures may get up to 0.0001 less than 1 in flat areas.
    similarity = structural_similarity_index_measure(
        first_BCHW, second_BCHW, data_range=1.0, reduction="none", return_full_image=inner
    )
    if not isinstance(similarity, tuple):
        return similarity.reshape(len(first_BCHW))
    return similarity[1][..., BORDER:-BORDER, BORDER:-BORDER].flatten(1).mean(1)


def ssim_of_pair(pair: Pair, network: None) -> float:
    """Return SSIM as the pair's profile computes it: in colour, or grey without the edges and in double precision."""
    if not pair.profile.grey:
        return float(ssim(*pair.pixels()))
    first, second = pair.pixels(grey=True)
    return float(ssim(first.double(), second.double(), inner=True))


def lpips_of_pair(pair: Pair, network: nn.Module) -> float:
    """Return LPIPS at the profile's size; the network takes pictures in [-1, 1]."""
    first, second = pair.pixels(size=pair.profile.lpips_size)
    return float(network(2 * first - 1, 2 * second - 1))


def fid(pictures: Pictures, network: nn.Module) -> SetValue:
    """Return the Frechet distance of the features of results and photos."""
    drawn_NF, real_MF = pictures.features(network)
    few = min(len(drawn_NF), len(real_MF)) < FEW
    note = f"FID of fewer than {FEW} pictures is biased upwards" if few else ""
    return SetValue(frechet_distance(drawn_NF, real_MF), note=note)


def kid(pictures: Pictures, network: nn.Module) -> SetValue:
    """Return the kernel distance of the features, times 1000."""
    mean, std = kernel_distance(*pictures.features(network), seed=pictures.seed)
    if std is None:
        return SetValue(1000 * mean, note="KID has no deviation here: each of its subsets would be the whole set")
    note = f"the deviation of KID is over its {NUM_SUBSETS} subsets of the pictures"
    return SetValue(1000 * mean, 1000 * std, (pictures.seed,), note)


def clip_s(pictures: Pictures, network: Any) -> SetValue:
    """Return CLIP-S: how well the painted region and the caption agree, averaged over the results, and not below 0.

    The mean is clamped and not each picture, as torchmetrics does it.

    Raises:
        UserError: a result without caption or mask, or whose mask is empty.
    """
    values: list[float] = []
    size = max(pictures.batch_size, 1)
    with tqdm(total=len(pictures.results), desc="CLIP-S", disable=not pictures.progress, dynamic_ncols=True) as bar:
        for start in range(0, len(pictures.results), size):
            batch = pictures.results[start : start + size]
            boxes = [to_pixels(painted_box(result, network.side), pictures.device) for result in batch]
            values += network(torch.cat(boxes), [result.text for result in batch]).tolist()
            bar.update(len(batch))
    return SetValue(max(float(np.mean(values)), 0.0))


def profile_lpips(profile: Profile, folder: Path) -> nn.Module:
    """Open LPIPS over the profile's network."""
    return open_lpips(profile.backbone, folder)


def inception(profile: Profile, folder: Path) -> nn.Module:
    """Open the Inception network of FID and KID."""
    return Inception(INCEPTION.find(folder))


def clip_scorer(profile: Profile, folder: Path) -> nn.Module:
    """Open the CLIP model of CLIP-S."""
    return open_clip_scorer(folder)


PICTURES = (
    PairMetric(
        "SSIM",
        "Structural similarity of the result and the photo of the same person in the same garment; 1 = equal.",
        digits=3,
        compute=ssim_of_pair,
        profiles=TRYON_PROFILES,
    ),
    PairMetric(
        "LPIPS",
        "How different the result and that photo look to a network trained on human judgements; 0 = equal.",
        higher_is_better=False,
        digits=3,
        compute=lpips_of_pair,
        profiles=TRYON_PROFILES,
        open_network=profile_lpips,
    ),
    SetMetric(
        "FID",
        "Distance of the results, as a set, from the photos in the features of Inception; it falls with more pictures.",
        higher_is_better=False,
        compute=fid,
        profiles=SET_PROFILES,
        open_network=inception,
    ),
    SetMetric(
        "KID x1000",
        "Another distance of the two sets in the same features, times 1000, which does not depend on how many there are.",
        higher_is_better=False,
        compute=kid,
        profiles=SET_PROFILES,
        open_network=inception,
    ),
    SetMetric(
        "CLIP-S",
        "How well the painted region fits the words, by CLIP: 100 times the cosine.",
        compute=clip_s,
        profiles=("mgd",),
        open_network=clip_scorer,
    ),
)


# The table ------------------------------------------------------------------------------------------------------------

METRICS: dict[str, Metric] = {row.name: row for row in (*RETRIEVAL, *CAPTIONS, *PICTURES)}
Row = TypeVar("Row", bound=Metric)


def register(row: Row) -> Row:
    """Add a metric to the table and return it; a name that is taken raises ``ValueError``."""
    if row.name in METRICS:
        raise ValueError(f"there is already a metric {row.name!r}")
    METRICS[row.name] = row
    return row


def rows_of(kind: type[Row]) -> list[Row]:
    """Return the metrics of one kind, in the order of the table."""
    return [row for row in METRICS.values() if isinstance(row, kind)]


def metric_row(name: str) -> Metric:
    """Return the row of a metric as score files name it: "i2t R@10" and "Rs@2" are of the families "R@k" and "Rs@k".

    A name that is in no row, such as a custom metric in an old score file, gets a row without a sentence.
    """
    family = re.sub(r"(?<=[@-])\d+$", "k", re.sub(r"^(i2t|t2i) ", "", name))
    return METRICS.get(name) or METRICS.get(family) or Metric(name, "")


def query_values(name: str, ranks: Tensor, num_positives_Q: Tensor | None = None) -> Tensor:
    """Return what every query contributes to a retrieval metric, from 0 to 1, as (Q,) in double precision on the CPU.

    Args:
        name: of the metric, such as "R@10".
        ranks: 0-based, (Q,) of a query's best right answer, or (Q, P) of all of them, best first.
        num_positives_Q: how many right answers each query has; None = as many as there are ranks.

    Raises:
        ValueError: not a metric of ranks, or no queries.
    """
    row = metric_row(name)
    if not isinstance(row, RankMetric):
        raise ValueError(
            f"{name!r} is not computed from ranks; known: {', '.join(row.name for row in rows_of(RankMetric))}"
        )
    if ranks.numel() == 0:
        raise ValueError(f"{name} of no queries is undefined")
    ranks_QP = ranks.cpu() if ranks.dim() == 2 else ranks.cpu()[:, None]
    counts_Q = torch.full((len(ranks_QP),), ranks_QP.shape[1]) if num_positives_Q is None else num_positives_Q.cpu()
    match = re.search(r"@(\d+)$", name)
    return row.compute(ranks_QP, counts_Q, int(match[1]) if match else sys.maxsize).double()
