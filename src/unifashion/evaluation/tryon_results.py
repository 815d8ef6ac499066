"""Read a folder of try-on results (tryon/results.py), match it with its data set, and score it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unifashion.data.image_files import list_images
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.tryon import TryOnItem, TryOnSplit
from unifashion.errors import UserError
from unifashion.evaluation.image_inputs import PROFILES, Pairing, ProfileName, Result
from unifashion.evaluation.images import Networks, open_networks, score_images, wanted_metrics
from unifashion.evaluation.scores import Score, as_scores
from unifashion.tryon.results import check_names, read_record


@dataclass(frozen=True)
class ResultFolder:
    """The results that exist with their pairs, the names of the missing ones, and how they were made."""

    path: Path
    results: tuple[Result, ...]
    items: tuple[TryOnItem, ...]
    lacking: tuple[str, ...]
    marks: tuple[str, ...]
    repaint: bool
    model: str


def read_results(folder: Path, split: TryOnSplit, repaint: bool = False, model: str = "") -> ResultFolder:
    """Match the pictures of a folder with the pairs of a split.

    Args:
        folder: of the results.
        split: read with "image" among its needs (and "agnostic_mask" for CLIP-S).
        repaint: whether pixels of the photo were pasted back; for results without ``inference.json``.
        model: what drew them; for results without ``inference.json``.

    Raises:
        UserError: there is no result of the split, two files for one, a damaged ``inference.json``.
    """
    record = read_record(folder)
    check_names(split.items)
    files = _pictures(folder)
    items = tuple(item for item in split.items if item.name in files)
    if not items:
        raise UserError(
            f"{folder} holds no result of the {split.split} split: expected {split.items[0].name}.png and so on; "
            "check --dataset, --split and --pairs"
        )
    marks = [str(mark) for mark in record.get("marks", ())]
    return ResultFolder(
        folder,
        tuple(_result(files[item.name], item) for item in items),
        items,
        tuple(item.name for item in split.items if item.name not in files),
        tuple(mark for mark in marks if mark != "repaint"),
        bool(record["settings"].get("repaint")) if record else repaint,
        model or str(record.get("settings", {}).get("model_path") or folder),
    )


def _pictures(folder: Path) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in list_images(folder, below=False):
        if path.stem in by_name:
            raise UserError(f"{folder} holds {by_name[path.stem].name} and {path.name}; keep one of them")
        by_name[path.stem] = path
    return by_name


def _result(picture: Path, item: TryOnItem) -> Result:
    return Result(picture, item.maps["image"], item.maps.get("agnostic_mask"), item.text)


def score_folder(
    results: ResultFolder,
    split: TryOnSplit,
    pairing: Pairing,
    profiles: Sequence[ProfileName],
    weights: Path,
    *,
    dataset: str,
    synthetic: bool = False,
    max_missing: float = 0.0,
    networks: dict[ProfileName, Networks] | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[list[Score], list[str]]:
    """Score a folder by one or several profiles.

    Args:
        results: the folder, read.
        split: that they belong to.
        pairing: of the pairs.
        profiles: names in ``image_inputs.PROFILES``.
        weights: folder of the networks' weights.
        dataset: what the rows call the data.
        synthetic: whether the data set was drawn by a program.
        max_missing: highest share of pairs that may lack a result or a file, percent.
        networks: to use instead of the profiles' own, by profile.
        batch_size: pictures that a network sees at once.
        device: where the networks run.
        progress: show bars.

    Returns:
        score rows, and one sentence for everything that could not be computed because its network is missing.

    Raises:
        UserError: too much missing, nothing that can be computed, or what ``score_images`` raises.
    """
    listed = len(split.items) + len(split.missing)
    note = check_missing(len(results.results), listed, max_missing, "pairs")
    missing = missing_percent(len(results.results), listed)
    marks = [*(["synthetic"] if synthetic else []), *(["incomplete"] if missing else []), *results.marks]
    scores: list[Score] = []
    lacking: list[str] = []
    for name in profiles:
        profile = PROFILES[name]
        given = (networks or {}).get(name)
        opened, sentences = (given, []) if given is not None else open_networks(profile, pairing, weights)
        lacking += sentences
        if not any(map(opened.can, wanted_metrics(profile, pairing))):
            continue
        metrics = score_images(
            results.results, profile, pairing, opened,
            repaint=results.repaint, batch_size=batch_size, device=device, progress=progress,
        )  # fmt: skip
        scores += as_scores(
            metrics,
            dataset=dataset,
            split=split.split,
            model=results.model,
            missing=missing,
            marks=tuple(dict.fromkeys(marks)),
            note=note,
        )
    if not scores:
        raise UserError(
            "nothing could be computed: " + "; ".join(dict.fromkeys(lacking)) if lacking else _empty(profiles)
        )
    return [replace(score, ties="") for score in scores], list(dict.fromkeys(lacking))


def _empty(profiles: Sequence[str]) -> str:
    return f"{', '.join(profiles)} has no metric for unpaired results; name another --profile"
