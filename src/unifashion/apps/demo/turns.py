"""The history of a search in several steps: each turn is a query and what it found.

    words -> click a hit -> "longer, in blue" -> click a hit -> ...

Going back shows an earlier turn again; the later ones stay until something new is asked from there, which replaces them.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Reference:
    """The picture that the next search starts from: a product (``item_id``) or an upload (``jpeg``)."""

    title: str
    item_id: str | None = None
    jpeg: bytes | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Turn:
    """One search and its hits."""

    text: str
    reference: Reference | None
    hits: tuple[Any, ...]
    filter: str = ""


@dataclass(frozen=True)
class History:
    """Turns, which of them is shown, and the reference of the next one."""

    turns: tuple[Turn, ...] = ()
    shown: int = -1
    reference: Reference | None = None

    @property
    def turn(self) -> Turn | None:
        """Return the turn that is shown."""
        return self.turns[self.shown] if self.turns else None

    def add(self, turn: Turn, limit: int) -> "History":
        """Put a turn after the one that is shown; of more than ``limit`` the oldest are forgotten."""
        turns = (*self.turns[: self.shown + 1], turn)[-limit:]
        return History(turns, len(turns) - 1, turn.reference)

    def back(self, number: int) -> "History":
        """Show turn ``number`` again, with its reference; a number that does not exist changes nothing."""
        if not 0 <= number < len(self.turns):
            return self
        return replace(self, shown=number, reference=self.turns[number].reference)

    def refer(self, reference: Reference | None) -> "History":
        """Start the next search from this picture, or from words alone."""
        return replace(self, reference=reference)
