"""Measure a folder of try-on results: SSIM, LPIPS, FID, KID, CLIP-S and cycle consistency.

    unifashion score-images runs/quickstart/results                      what our inference drew
    unifashion score-images runs/tryon/inference --profile catvton ladi hrviton --weights weights
    unifashion score-images THEIR_RESULTS --dataset vitonhd --pairs unpaired       what another program drew
    unifashion score-images runs/quickstart/results --cycle runs/quickstart/pretrain
                                        how often this retrieval model finds the true garment by what was painted

Results are named as ours: PERSON.png where paired, PERSON_GARMENT.png where not. scores.json and scores.csv are written into the
folder, and examples.png with the first pairs; ``unifashion report RESULTS`` shows them. Metrics whose networks
are missing are left out, and one sentence says how to get each.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unifashion.data.datasets import names, tryon_sets
from unifashion.errors import require
from unifashion.flags import argument, setting

OWN = "[as in the folder's inference.json, else {}]"


@dataclass(frozen=True)
class Settings:
    """Scores: of which results, against which pairs, measured how."""

    results: Path = argument("folder of the results")
    profile: tuple[Literal["catvton", "catvton-lossless", "ladi", "hrviton", "mgd"], ...] = setting(
        ("catvton",),
        "whose way of measuring; catvton-lossless does not compress resized photos anew; mgd is for garment design",
    )
    dataset: str | None = setting(None, f"data set {OWN.format('vitonhd')}", choices=names(tryon_sets()))
    data_root: str | None = setting(None, f"folder that holds it {OWN.format('$UNIFASHION_DATA or dataset/')}")
    split: Literal["train", "test"] | None = setting(None, f"of the data set {OWN.format('test')}")
    pairs: str | None = setting(None, f"paired, unpaired, or a pairs file {OWN.format('paired')}")
    repaint: bool = setting(False, "the results of another program were repainted")
    model: str = setting("", "what the scores call the model [what inference.json says]")
    cycle: str = setting(
        "", "retrieval model that searches for the true garment by what was painted; needs garment photos and masks"
    )
    weights: str | None = setting(
        None, "folder of the networks' files [$UNIFASHION_WEIGHTS, else ~/.cache/unifashion/weights]"
    )
    max_missing: float = setting(0.0, "share of pairs without a result, percent", most=100)
    batch_size: int = setting(32, "pictures per batch", least=1, most=4096)
    device: str = setting("", "cpu, cuda, ... [a GPU if there is one]")


def run(settings: Settings) -> None:
    """Score, print, and say where the scores are and what they lack."""
    from unifashion.data.splits import find_tryon, read_tryon
    from unifashion.data.synthetic import is_synthetic
    from unifashion.distributed import choose_device
    from unifashion.evaluation.image_networks import weights_folder
    from unifashion.evaluation.results import format_table
    from unifashion.evaluation.scores import scoring_into, write_scores
    from unifashion.evaluation.tryon_results import read_results, score_folder
    from unifashion.io import check_output
    from unifashion.tryon.results import read_record, write_examples
    from unifashion.tryon.settings import data_root

    require("torchmetrics", "unifashion score-images")
    device = choose_device(settings.device)
    check_output(settings.results, "RESULTS")
    drawn = read_record(settings.results).get("settings", {})
    dataset = settings.dataset or drawn.get("dataset") or "vitonhd"
    root = data_root(dataset, settings.data_root or drawn.get("data_root"))
    pairs = settings.pairs or drawn.get("pairs") or "paired"
    needs = ["image", *(["agnostic_mask"] if "mgd" in settings.profile or settings.cycle else [])]
    needs += ["garment"] if settings.cycle else []
    split = read_tryon(dataset, root, settings.split or drawn.get("split") or "test", needs, pairs)
    with scoring_into(settings.results):
        folder = read_results(settings.results, split, settings.repaint, settings.model)
        scores, lacking = score_folder(
            folder,
            split,
            "paired" if all(item.is_paired for item in split.items) else "unpaired",
            settings.profile,
            weights_folder(settings.weights),
            dataset=dataset,
            synthetic=is_synthetic(find_tryon(dataset, root)),
            max_missing=settings.max_missing,
            cycle=settings.cycle,
            batch_size=settings.batch_size,
            device=str(device),
        )
        write_scores(settings.results, scores)
        write_examples(settings.results, folder.items, [result.picture for result in folder.results])
    sys.stdout.write(format_table(scores) + "\n")
    for sentence in lacking:
        sys.stdout.write(f"left out: {sentence}\n")
    sys.stdout.write(f"scores.json and scores.csv are in {settings.results}\n")
