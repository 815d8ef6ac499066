"""Captioning scores: BLEU-1..4, METEOR, ROUGE-L, CIDEr and SPICE of a file of captions against a file of references.

    cd src && python metrics.py                                              the captions of the quickstart
    cd src && python metrics.py --predictions P.jsonl --references R.jsonl --per-item items.csv

When called from src/, paths are relative to the project's top folder. Files are .json or .jsonl, with rows as in our own captions
({"id", "caption"}, {"id", "captions"}), or those of COCO, Fashion-IQ-Cap or FashionGen: unifashion/evaluation/caption_rows.py.
Needs Java. SPICE is added where its CoreNLP files are, which are a separate download.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SRC = Path(__file__).resolve().parent
sys.path.insert(0, str(SRC))  # runs from a bare clone

from unifashion.errors import exit_with_one_sentence
from unifashion.flags import parse_from_src, setting

QUICKSTART = "runs/quickstart/captions"


@dataclass(frozen=True)
class CaptionScoreSettings:
    """Captions: what is scored against what, and where the scores go."""

    predictions: str = setting(f"{QUICKSTART}/predictions.jsonl", "captions of a model, one for each id")
    references: str = setting(f"{QUICKSTART}/references.jsonl", "captions of people, one or several for each id")
    profile: Literal["standard", "unifashion-compat", "both"] = setting(
        "standard", "unifashion-compat = what the original script computes: cut to 100 characters, sides swapped"
    )
    output_dir: str | None = setting(
        None, "folder for scores.json and scores.csv; default: scores/ beside the predictions"
    )
    per_item: str | None = setting(None, "also write every item's numbers and texts to this CSV")
    max_missing: float = setting(0.0, "highest share of ids that only one of the files may have, percent", most=100)
    dataset: str = setting("captions", "what the score rows call the data")
    split: str = setting("val", "what the score rows call the split")
    model: str = setting("", "what wrote the captions; default: the file's path")


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, score, print and save."""
    (settings,) = parse_from_src((CaptionScoreSettings,), argv, __doc__.split("\n")[0], SRC)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from unifashion.evaluation.captions import PROFILES, score_files
    from unifashion.evaluation.results import format_table
    from unifashion.evaluation.scores import scoring_into, write_scores
    from unifashion.io import check_output

    predictions = Path(settings.predictions)
    folder = Path(settings.output_dir) if settings.output_dir else predictions.parent / "scores"
    check_output(folder, "--output-dir")
    if settings.per_item:
        check_output(Path(settings.per_item), "--per-item", is_file=True)
    with scoring_into(folder):
        scores = score_files(
            predictions,
            Path(settings.references),
            profiles=PROFILES if settings.profile == "both" else (settings.profile,),
            dataset=settings.dataset,
            split=settings.split,
            model=settings.model,
            max_missing=settings.max_missing,
            per_item=Path(settings.per_item) if settings.per_item else None,
        )
        write_scores(folder, scores)
    print(format_table(scores))
    print(f"scores.json and scores.csv are in {folder}")


if __name__ == "__main__":
    main()
