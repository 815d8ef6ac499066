"""The table of retrieval protocols: one row each, registered by the file of this folder that defines it.

    protocols_of("fashioniq", ComposedProtocol)   the rows that apply to a data set, the main one first
    register(PairProtocol(...))                   a protocol of your own; examples/add_a_protocol.py

The main protocol of a data set is the one whose gallery and right answers the report's ranked lists and re-ranking use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from unifashion.data.records import ComposedSplit
from unifashion.errors import UserError
from unifashion.evaluation.protocols.inputs import EmbeddedPairs, ScoredSplit
from unifashion.evaluation.scores import Measurement


@dataclass(frozen=True)
class Protocol:
    """What every protocol has, whatever it measures."""

    name: str  # of its scores, such as "fashioniq/union"; "{dataset}" stands for the name of a data set
    sentence: str  # for readers of a report
    datasets: tuple[str, ...]  # that it measures; empty = every set of its kind


@dataclass(frozen=True, kw_only=True)
class PairProtocol(Protocol):
    """A protocol for images with texts: ``evaluate`` gets the embedded split."""

    evaluate: Callable[[EmbeddedPairs], list[Measurement]]


@dataclass(frozen=True, kw_only=True)
class ComposedProtocol(Protocol):
    """A protocol for composed queries: ``evaluate`` gets every split (FashionIQ: category) with its scores."""

    evaluate: Callable[[Sequence[ScoredSplit]], list[Measurement]]
    without_reference: bool = False  # a query's reference is not in its gallery
    all_targets: bool = False  # every right answer counts, not only the one that was annotated first


def for_each_split(
    evaluate: Callable[[ComposedSplit, Tensor], list[Measurement]],
) -> Callable[[Sequence[ScoredSplit]], list[Measurement]]:
    """Return the ``evaluate`` of a row from a function of one split and its scores."""
    return lambda scored: [one for each in scored for one in evaluate(each.split, each.scores)]


Row = TypeVar("Row", bound=Protocol)
PROTOCOLS: dict[str, Protocol] = {}


def register(row: Row) -> Row:
    """Add a protocol to the table and return it; a name that is taken raises ``ValueError``."""
    if row.name in PROTOCOLS:
        raise ValueError(f"there is already a protocol {row.name!r}")
    PROTOCOLS[row.name] = row
    return row


def protocols_of(dataset: str, kind: type[Row]) -> list[Row]:
    """Return the protocols of a data set: its own, then those of its kind, unless one of its own has the same name.

    Raises:
        UserError: there is none.
    """
    rows = [row for row in PROTOCOLS.values() if isinstance(row, kind)]
    own = {row.name: row for row in rows if dataset in row.datasets}
    general = (replace(row, name=row.name.format(dataset=dataset)) for row in rows if not row.datasets)
    chosen = [*own.values(), *(row for row in general if row.name not in own)]
    if not chosen:
        raise UserError(f"{dataset} has no protocol; register one (unifashion/evaluation/protocols)")
    return chosen


def protocol_sentence(name: str) -> str:
    """Return what a protocol measures, for readers; "" for an unknown one. A suffix such as "+itm50" is ignored."""
    base = name.split("+")[0]
    for row in PROTOCOLS.values():
        if base == row.name.format(dataset=base.split("/")[0]):
            return row.sentence
    return ""
