"""Queries with the five answers that came first: which are shown, and how a photo gets into the page.

Shown are hits (target among the five) and misses, drawn by chance with a fixed seed, so that nobody chose them.
"""

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from unifashion.data.images import ImageError, load_image
from unifashion.evaluation.answers import NUM_SHOWN, Answer

NUM_EXAMPLES = 4
SIDE = 144  # pixels


def choose(answers: Sequence[Answer], count: int = NUM_EXAMPLES, seed: int = 0) -> tuple[list[Answer], list[Answer]]:
    """Return up to ``count`` hits and up to ``count`` misses, drawn at random; misses are sorted by rank."""
    chance = random.Random(seed)
    hits = [answer for answer in answers if answer.rank < NUM_SHOWN]
    misses = [answer for answer in answers if answer.rank >= NUM_SHOWN]
    drawn = [chance.sample(group, min(count, len(group))) for group in (hits, misses)]
    return drawn[0], sorted(drawn[1], key=lambda answer: answer.rank)


@dataclass
class Album:
    """Photos as data addresses, each made once."""

    made: dict[str, str | None] = field(default_factory=dict)

    def address(self, path: str) -> str | None:
        """Return a small JPEG as a ``data:`` address; None where the photo cannot be read any more."""
        if path not in self.made:
            try:
                image = load_image(Path(path))
            except ImageError:
                self.made[path] = None
                return None
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=80, optimize=True)
            self.made[path] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        return self.made[path]
