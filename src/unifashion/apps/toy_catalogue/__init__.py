"""The embedded catalogue: procedural garments, written in the layouts of real data sets. Synthetic, seeded, no downloads."""

from dataclasses import replace

from unifashion.apps.toy_catalogue.tryon import TryOnSizes, write_tryon
from unifashion.apps.toy_catalogue.write import Sizes, write_catalogue
from unifashion.config import DataSettings
from unifashion.data.datasets import spec_of
from unifashion.data.tryon import ROOTS
from unifashion.tryon.settings import data_root

__all__ = ["Sizes", "TryOnSizes", "provide", "provide_tryon", "write_catalogue", "write_tryon"]


def provide(data: DataSettings) -> None:
    """Draw the catalogue that ``--dataset catalogue`` asks for where no ``--data-root`` names another folder."""
    for name in data.mixture():
        if spec_of(name).embedded:
            write_catalogue(replace(data, dataset=name).root())


def provide_tryon(dataset: str, root: str | None) -> None:
    """Draw the try-on set that ``--dataset catalogue`` asks for; ``root`` is what ``--data-root`` says."""
    write_tryon(data_root(dataset, root) / ROOTS[0])
