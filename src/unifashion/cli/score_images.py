"""``unifashion score-images``: SSIM, LPIPS, FID, KID and CLIP-S of a folder of try-on results.

unifashion score-images runs/quickstart/results                                       what our inference drew
unifashion score-images runs/tryon/inference --profile catvton ladi hrviton --weights weights
unifashion score-images THEIR_RESULTS --dataset vitonhd --pairs unpaired              what another program drew

Results are named as ours: PERSON.png where paired, PERSON_GARMENT.png where not. scores.json and scores.csv are written into the
folder, and examples.png with the first pairs; ``unifashion report RESULTS`` shows them. Networks that are not here leave out
their metrics, and one sentence says how to get each.
"""

import argparse
import sys
from pathlib import Path

from unifashion.data.datasets import names, tryon_sets

PROFILE_NAMES = ("catvton", "ladi", "hrviton", "mgd")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="folder of the results")
    parser.add_argument(
        "--profile",
        nargs="+",
        choices=PROFILE_NAMES,
        default=["catvton"],
        help="whose way of measuring; mgd is for garment design [catvton]",
    )
    own = "[as in the folder's inference.json, else %s]"
    parser.add_argument("--dataset", choices=names(tryon_sets()), help=f"data set {own % 'vitonhd'}")
    parser.add_argument(
        "--data-root", metavar="PATH", help=f"folder that holds it {own % '$UNIFASHION_DATA or dataset/'}"
    )
    parser.add_argument("--split", choices=("train", "test"), help=f"of the data set {own % 'test'}")
    parser.add_argument("--pairs", help=f"paired, unpaired, or a pairs file {own % 'paired'}")
    parser.add_argument("--repaint", action="store_true", help="the results of another program were repainted")
    parser.add_argument("--model", default="", help="what the scores call the model [what inference.json says]")
    parser.add_argument(
        "--weights",
        metavar="DIR",
        help="folder of the networks' files [$UNIFASHION_WEIGHTS, else ~/.cache/unifashion/weights]",
    )
    parser.add_argument(
        "--max-missing", metavar="P", type=float, default=0.0, help="share of pairs without a result, percent [0]"
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="pictures at once [%(default)s]")
    parser.add_argument("--device", default="", help="cpu, cuda, ... [a GPU where there is one]")


def run(flags: argparse.Namespace) -> None:
    """Score, print, and say where the scores are and what they lack."""
    import torch

    from unifashion.data.splits import find_tryon, read_tryon
    from unifashion.data.synthetic import is_synthetic
    from unifashion.evaluation.image_networks import weights_folder
    from unifashion.evaluation.results import format_table
    from unifashion.evaluation.scores import write_scores
    from unifashion.evaluation.tryon_results import read_results, score_folder
    from unifashion.tryon.results import read_record, write_examples
    from unifashion.tryon.settings import data_root

    settings = read_record(flags.results).get("settings", {})
    dataset = flags.dataset or settings.get("dataset") or "vitonhd"
    root = data_root(dataset, flags.data_root or settings.get("data_root"))
    pairs = flags.pairs or settings.get("pairs") or "paired"
    needs = ("image", "agnostic_mask") if "mgd" in flags.profile else ("image",)
    split = read_tryon(dataset, root, flags.split or settings.get("split") or "test", needs, pairs)
    found = read_results(flags.results, split, flags.repaint, flags.model)
    scores, lacking = score_folder(
        found,
        split,
        "paired" if all(item.is_paired for item in split.items) else "unpaired",
        flags.profile,
        weights_folder(flags.weights),
        dataset=dataset,
        synthetic=is_synthetic(find_tryon(dataset, root)),
        max_missing=flags.max_missing,
        batch_size=flags.batch_size,
        device=flags.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    write_scores(flags.results, scores)
    write_examples(flags.results, found.items, [result.picture for result in found.results])
    sys.stdout.write(format_table(scores) + "\n")
    for sentence in lacking:
        sys.stdout.write(f"left out: {sentence}\n")
    sys.stdout.write(f"scores.json and scores.csv are in {flags.results}\n")
