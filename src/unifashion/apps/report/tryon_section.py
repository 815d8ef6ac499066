"""What a try-on model drew: the last sheet of its validation, and the grid of a results folder under its scores."""

from collections.abc import Sequence
from pathlib import Path

from unifashion.apps.report import html
from unifashion.apps.report.html import text
from unifashion.apps.report.pictures import Album
from unifashion.evaluation.scores import Score
from unifashion.tryon.results import EXAMPLES

SHEET_SIDE = 1100  # pixels


def results_grid(folder: Path, scores: Sequence[Score], album: Album) -> str:
    """Return the first results of a folder as a figure; a sentence where there is no grid."""
    address = album.address(str(folder / EXAMPLES), SHEET_SIDE)
    if address is None:
        return html.soft(f"There is no {EXAMPLES} beside these scores; unifashion score-images draws it.")
    paired = all("/paired" in score.protocol for score in scores)
    return _figure(address, f"The first results: person, garment, result{', truth' if paired else ''}, in turn.")


def validation_sheet(picture: Path | None, album: Album) -> str:
    """Return the pictures that were drawn while training; nothing where there are none."""
    address = album.address(str(picture), SHEET_SIDE) if picture else None
    if picture is None or address is None:
        return ""
    step = picture.stem.replace("-", " ")
    words = f"Pictures drawn in validation, {step}: person, garment, result, truth, in turn."
    return html.heading(3, "Drawn in validation") + _figure(address, words)


def _figure(address: str, words: str) -> str:
    words = text(words)
    return f'<figure class="wide"><img src="{address}" alt="{words}"><figcaption>{words}</figcaption></figure>'
