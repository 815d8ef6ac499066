"""The try-on sets by the name that ``--dataset`` takes, all read in one way."""

from collections.abc import Callable, Collection
from pathlib import Path

from unifashion.data import dresscode, tryon
from unifashion.data.tryon import TryOnSplit

Read = Callable[[Path, str, Collection[str], str], TryOnSplit]
SETS: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "vitonhd": (tryon.find_root, tryon.read_vitonhd),
    "catalogue": (tryon.find_root, tryon.read_vitonhd),
    "dresscode": (dresscode.find_root, dresscode.read_dresscode),
}


def find_tryon(dataset: str, root: Path) -> Path:
    """Return the set's own folder at or below a data root; ``NoSplit`` where it is not there."""
    return SETS[dataset][0](root)


def read_tryon(dataset: str, root: Path, split: str, needs: Collection[str], pairs: str = "paired") -> TryOnSplit:
    """Read one split of a set: see ``read_vitonhd`` and ``read_dresscode``, whose arguments and errors these are."""
    return SETS[dataset][1](root, split, needs, pairs)
