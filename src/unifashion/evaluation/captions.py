"""Captioning scores: BLEU-1..4, METEOR 1.5, ROUGE-L, CIDEr-D and SPICE, as pycocoevalcap computes them.

    captions/standard            PTB tokenizer, whole captions; what to report
    captions/unifashion-compat   what the original UniFashion script computes: predictions and references cut to 100 characters,
                                 and swapped; only for a comparison with its numbers

Everything is in percent; CIDEr is multiplied by 100 as papers print it, so it may exceed 100.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from unifashion.data.skipped import missing_percent
from unifashion.data.synthetic import is_synthetic
from unifashion.errors import UserError
from unifashion.evaluation.caption_java import jars, tokenize
from unifashion.evaluation.caption_rows import CaptionTable, read_captions
from unifashion.evaluation.metrics import CaptionMetric, rows_of
from unifashion.evaluation.scores import Measurement, Score, as_scores
from unifashion.io import write_csv

log = logging.getLogger(__name__)

Profile = Literal["standard", "unifashion-compat"]
PROFILES: tuple[Profile, ...] = get_args(Profile)
COMPAT_CHARACTERS = 100
NUM_NAMED = 3  # ids that a message names


@dataclass(frozen=True)
class CaptionScores:
    """One profile's numbers: of the corpus as ``Measurement`` rows, and of every item by metric, both in percent."""

    profile: Profile
    measurements: tuple[Measurement, ...]
    items: dict[str, dict[str, float]]


def score_captions(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], profile: Profile = "standard"
) -> CaptionScores:
    """Score one caption of every item against one or several references.

    Args:
        predictions: id -> caption; an empty one scores 0.
        references: the same ids -> captions, none of them empty.
        profile: see the top of this file.

    Raises:
        UserError: ids that differ, an item without a reference, several references where the profile swaps the sides,
            no Java, no pycocoevalcap.
    """
    if profile not in PROFILES:
        raise UserError(f"unknown profile {profile!r}; known: {', '.join(PROFILES)}")
    if not predictions or predictions.keys() != references.keys():
        raise UserError(f"{len(predictions)} predictions and {len(references)} references do not cover the same items")
    for name, texts in references.items():
        if not texts or not all(text.strip() for text in texts):
            raise UserError(f"item {name} has an empty reference; remove it or write one")
    names = list(predictions)
    candidates, targets = [predictions[name] for name in names], [list(references[name]) for name in names]
    if profile == "unifashion-compat":
        candidates, targets = _cut_and_swap(names, candidates, targets)
    candidates, targets = _tokenize(candidates, targets)
    corpus, items, lacking = _measure(candidates, targets)
    note = "; ".join([*(["CIDEr of a single item is 0 by definition"] if len(names) == 1 else []), *lacking])
    protocol = f"captions/{profile}"
    return CaptionScores(
        profile,
        tuple(Measurement(protocol, name, 100 * value, len(names), None, note=note) for name, value in corpus.items()),
        {name: {metric: 100 * values[row] for metric, values in items.items()} for row, name in enumerate(names)},
    )


def _cut_and_swap(
    names: Sequence[str], candidates: Sequence[str], targets: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    for name, texts, caption in zip(names, targets, candidates, strict=True):
        if len(texts) > 1:
            raise UserError(
                f"unifashion-compat swaps the sides, so it takes one reference per item; {name} has {len(texts)}"
            )
        if not caption.strip():
            raise UserError(f"unifashion-compat swaps the sides, so no prediction may be empty; that of {name} is")
    return [texts[0][:COMPAT_CHARACTERS] for texts in targets], [[text[:COMPAT_CHARACTERS]] for text in candidates]


def _tokenize(candidates: Sequence[str], targets: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Tokenize both sides in one call of the tokenizer: starting Java costs more than thousands of captions."""
    tokens = iter(tokenize([*candidates, *chain.from_iterable(targets)]))
    return [next(tokens) for _ in candidates], [[next(tokens) for _ in texts] for texts in targets]


def _measure(
    candidates: list[str], targets: list[list[str]]
) -> tuple[dict[str, float], dict[str, list[float]], list[str]]:
    """Return every metric of the corpus, and of every item, of tokenized captions, all as fractions; and why some are missing."""
    jars()
    corpus: dict[str, float] = {}
    items: dict[str, list[float]] = {}
    lacking = []
    for row in rows_of(CaptionMetric):
        reason = row.lacks()
        if reason:
            lacking.append(reason)
            continue
        for name, (value, values) in row.compute(candidates, targets).items():
            corpus[name], items[name] = value, values
    return corpus, items, lacking


def score_files(
    predictions: Path,
    references: Path,
    *,
    profiles: Sequence[Profile] = ("standard",),
    dataset: str = "captions",
    split: str = "val",
    model: str = "",
    max_missing: float = 0.0,
    per_item: Path | None = None,
) -> list[Score]:
    """Score a file of predictions against a file of references (forms: caption_rows.py) and return score rows.

    Args:
        predictions: one caption per id.
        references: one or several captions per id.
        profiles: which profiles to compute.
        dataset: what score rows call the data.
        split: what they call the split.
        model: what wrote the captions; by default the path of the predictions.
        max_missing: highest share of references that may lack a prediction, and the other way round, percent; the scores
            then cover what both files have, and are marked incomplete.
        per_item: CSV to write with every item's numbers and texts.

    Raises:
        UserError: a malformed file, ids that do not match, an id with two different predictions, and as ``score_captions``.
    """
    given, truth = read_captions(predictions), read_captions(references)
    shared = _matched(given, truth, max_missing)
    chosen = {name: _only(given, name) for name in shared}
    num_empty = sum(not text for text in chosen.values())
    if num_empty:
        log.warning("%s: %d of %d captions are empty and score 0", predictions, num_empty, len(chosen))
    wanted = {name: [text for text in truth.captions[name] if text] for name in shared}
    for name, texts in wanted.items():
        if not texts:
            raise UserError(f"{references}: every reference of {name} is empty; remove the row or write one")
    results = [score_captions(chosen, wanted, profile) for profile in profiles]
    if per_item is not None:
        write_items(per_item, results, chosen, wanted)
    missing = missing_percent(len(shared), len(truth.captions))
    marks = [name for name, holds in (("incomplete", missing > 0), ("leaky", given.guided)) if holds]
    if _is_synthetic(given) or _is_synthetic(truth):
        marks.append("synthetic")
    rows = chain.from_iterable(result.measurements for result in results)
    name = model or str(predictions)
    scores = as_scores(rows, dataset=dataset, split=split, model=name, missing=missing, marks=tuple(marks))
    return [replace(score, ties="no ranks") for score in scores]


def _matched(given: CaptionTable, truth: CaptionTable, max_missing: float) -> list[str]:
    """Return the ids of both files, in the order of the references."""
    shared = [name for name in truth.captions if name in given.captions]
    lacking = [name for name in truth.captions if name not in given.captions]
    unknown = [name for name in given.captions if name not in truth.captions]
    if not shared:
        raise UserError(
            f"no id of {given.path} is in {truth.path}: the first are {_named(unknown)} and {_named(lacking)}; "
            "both files must use the same id for an item"
        )
    differences = []
    if lacking:
        differences.append(f"{len(lacking)} of {len(truth.captions)} references have no prediction ({_named(lacking)})")
    if unknown:
        differences.append(f"{len(unknown)} of {len(given.captions)} predictions have no reference ({_named(unknown)})")
    shares = (100 * len(lacking) / len(truth.captions), 100 * len(unknown) / len(given.captions))
    if max(shares) > max_missing:
        raise UserError(
            f"{given.path} against {truth.path}: {', '.join(differences)}; complete the files, or score what both have with "
            f"--max-missing {math.ceil(max(shares))}"
        )
    if differences:
        log.warning("%s", ", ".join(differences))
    return shared


def _only(table: CaptionTable, name: str) -> str:
    texts = table.captions[name]
    if len(texts) != 1:
        how_many = "no caption" if not texts else f"{len(texts)} different captions"
        raise UserError(f"{table.path}: {name} has {how_many}; a prediction is one caption")
    return texts[0]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", ..." if len(names) > NUM_NAMED else "")


def _is_synthetic(table: CaptionTable) -> bool:
    """Return whether the images, or the file itself, lie in the embedded catalogue."""
    image = next(iter(table.images.values()), "")
    return any(is_synthetic(folder) for folder in (*Path(image).parents, *table.path.parents))


def write_items(
    path: Path,
    results: Sequence[CaptionScores],
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
) -> None:
    """Write a CSV with one row per item and profile: its numbers, its caption, its references (separated by " | ")."""
    names = list(next(iter(results[0].items.values())))
    rows = (
        {
            "id": name,
            "profile": result.profile,
            **{metric: f"{value:.4f}" for metric, value in values.items()},
            "prediction": predictions[name],
            "references": " | ".join(references[name]),
        }
        for result in results
        for name, values in result.items.items()
    )
    write_csv(path, ["id", "profile", *names, "prediction", "references"], rows)
