"""Which queries are shown with their answers, and how a photo gets into the page.

Shown are queries whose target is among the first five, and others, drawn by chance with a fixed seed: nobody chose them.
"""

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from unifashion.data.images import ImageError, load_image
from unifashion.evaluation.ranked_lists import NUM_SHOWN, Answer

NUM_EXAMPLES = 4
SEED = 0
SIDE = 160  # pixels


def choose(answers: Sequence[Answer], count: int = NUM_EXAMPLES, seed: int = SEED) -> tuple[list[Answer], list[Answer]]:
    """Return up to ``count`` hits and up to ``count`` misses, drawn at random, each sorted by rank."""
    chance = random.Random(seed)
    hits = [answer for answer in answers if answer.rank < NUM_SHOWN]
    misses = [answer for answer in answers if answer.rank >= NUM_SHOWN]
    drawn = [chance.sample(group, min(count, len(group))) for group in (hits, misses)]
    return sorted(drawn[0], key=_rank), sorted(drawn[1], key=_rank)


def _rank(answer: Answer) -> int:
    return answer.rank


@dataclass
class Album:
    """Photos as data addresses, each made once."""

    made: dict[tuple[str, int], str | None] = field(default_factory=dict)

    def address(self, path: str, side: int = SIDE) -> str | None:
        """Return a JPEG of at most ``side`` pixels as a ``data:`` address; None where the photo cannot be read any more."""
        if (path, side) not in self.made:
            try:
                self.made[path, side] = _jpeg(load_image(Path(path)), side)
            except ImageError:
                self.made[path, side] = None
        return self.made[path, side]


def _jpeg(image: Image.Image, side: int) -> str:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
