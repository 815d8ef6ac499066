"""The history of a search in several steps: each step is a query and its hits.

    words -> click a hit -> "longer, in blue" -> click a hit -> ...

Going back shows an earlier step again; the later ones stay until a new search from there replaces them.
The server keeps the histories of many visitors for hours: they hold ids, and neither pictures nor metadata.
"""

from dataclasses import dataclass, replace

FORGET = 6 * 3600  # seconds after which a history is dropped


@dataclass(frozen=True)
class Reference:
    """The picture that the next search starts from: a product (``item_id``) or an upload (``upload``, its id in ``Uploads``)."""

    title: str
    item_id: str | None = None
    upload: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Found:
    """A hit: which item, and its score."""

    id: str
    score: float


@dataclass(frozen=True)
class Step:
    """One search and its hits."""

    text: str
    reference: Reference | None
    hits: tuple[Found, ...]
    filter: str = ""


@dataclass(frozen=True)
class History:
    """Steps, the index of the one that is shown, and the reference of the next one."""

    steps: tuple[Step, ...] = ()
    shown: int = -1
    reference: Reference | None = None

    @property
    def current(self) -> Step | None:
        """Return the step that is shown."""
        return self.steps[self.shown] if self.steps else None

    def add(self, step: Step, limit: int) -> "History":
        """Put a step after the one that is shown; of more than ``limit`` the oldest are dropped."""
        steps = (*self.steps[: self.shown + 1], step)[-limit:]
        return History(steps, len(steps) - 1, step.reference)

    def back(self, index: int) -> "History":
        """Show step ``index`` again, with its reference; an index that does not exist changes nothing."""
        if not 0 <= index < len(self.steps):
            return self
        return replace(self, shown=index, reference=self.steps[index].reference)

    def refer(self, reference: Reference | None) -> "History":
        """Start the next search from this picture, or from words alone."""
        return replace(self, reference=reference)
