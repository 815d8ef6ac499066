"""Read a folder of try-on results (tryon/results.py), match it with its data set, and score it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unifashion.data.image_files import list_images
from unifashion.data.skipped import check_missing, missing_percent
from unifashion.data.tryon import TryOnItem, TryOnSplit
from unifashion.encoders.protocol import Encoder
from unifashion.encoders.unifashion import load_encoder
from unifashion.errors import UserError
from unifashion.evaluation.cycle import cycle_scores
from unifashion.evaluation.image_inputs import PROFILES, Pairing, ProfileName, Result, painted_region
from unifashion.evaluation.images import Networks, open_networks, score_images, suffixes, wanted_metrics
from unifashion.evaluation.scores import Measurement, Score, as_scores
from unifashion.tryon.results import check_names, read_record

log = logging.getLogger(__name__)

NUM_NAMED = 5  # of the pairs that lack a file


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
        split: read with "image" among its needs (and "agnostic_mask" for CLIP-S and cycle consistency, "garment" for this).
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
    cycle: str = "",
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
        cycle: name of the retrieval model that measures cycle consistency (cycle.py); empty = it is not measured.
        batch_size: pictures that a network sees at once.
        device: where the networks run.
        progress: show bars.

    Returns:
        score rows, and one sentence for everything that could not be computed because its network is missing.

    Raises:
        UserError: too much missing, nothing that can be computed, or what ``score_images`` raises.
    """
    for line in split.missing[:NUM_NAMED]:
        log.warning("left out: %s", line)
    retriever = _open_retriever(cycle, device) if cycle else None
    listed = len(split.items) + len(split.missing)
    note = check_missing(len(results.results), listed, max_missing, "pairs")
    missing = missing_percent(len(results.results), listed)
    marks = [*(["synthetic"] if synthetic else []), *(["incomplete"] if missing else []), *results.marks]
    measurements: list[Measurement] = []
    lacking: list[str] = []
    for name in profiles:
        profile = PROFILES[name]
        given = (networks or {}).get(name)
        opened, sentences = (given, []) if given is not None else open_networks(profile, pairing, weights)
        lacking += sentences
        if not any(map(opened.can, wanted_metrics(profile, pairing))):
            continue
        measurements += score_images(
            results.results, profile, pairing, opened,
            repaint=results.repaint, batch_size=batch_size, device=device, progress=progress,
        )  # fmt: skip
    if retriever is not None:
        measurements += _cycle_scores(results, split, pairing, retriever, f"searched by {cycle}", batch_size, progress)
    if not measurements:
        raise UserError(
            "nothing could be computed: " + "; ".join(dict.fromkeys(lacking)) if lacking else _empty(profiles)
        )
    scores = as_scores(
        measurements, dataset=dataset, split=split.split, model=results.model, missing=missing, marks=marks, note=note
    )
    return [score if score.gallery else replace(score, ties="") for score in scores], list(dict.fromkeys(lacking))


def _open_retriever(name: str, device: str) -> Encoder:
    try:
        return load_encoder(name, device)
    except UserError as error:
        raise UserError(f"--cycle takes a retrieval model: {error}") from None


def _cycle_scores(
    results: ResultFolder,
    split: TryOnSplit,
    pairing: Pairing,
    retriever: Encoder,
    note: str,
    batch_size: int,
    progress: bool,
) -> list[Measurement]:
    """Search for the garment of every result among those of the whole split, also of pairs without a result."""
    pairs = [(result, item.maps["agnostic_mask"]) for result, item in zip(results.results, results.items, strict=True)]
    photos = (painted_region(result.truth, mask) for result, mask in pairs)
    return cycle_scores(
        (painted_region(result.picture, mask) for result, mask in pairs),
        [item.maps["garment"].as_posix() for item in results.items],
        {item.maps["garment"].as_posix(): item.maps["garment"] for item in split.items},
        retriever,
        protocol="+".join([f"cycle/tryon/{pairing}", *suffixes(results.results, results.repaint)]),
        photos=photos if pairing == "paired" else None,
        note=note,
        batch_size=batch_size,
        progress=progress,
    )


def _empty(profiles: Sequence[str]) -> str:
    return f"{', '.join(profiles)} has no metric for unpaired results; name another --profile"
