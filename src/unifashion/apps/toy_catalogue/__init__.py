"""The embedded catalogue: procedural garments, written in the layouts of real data sets. Synthetic, seeded, no downloads."""

from dataclasses import replace

from unifashion.apps.toy_catalogue.tryon import write_tryon
from unifashion.apps.toy_catalogue.write import write_catalogue
from unifashion.config import DataSettings
from unifashion.data.datasets import spec_of, tryon_sets
from unifashion.data.tryon import ROOTS
from unifashion.tryon.settings import data_root

__all__ = ["provide", "provide_tryon", "write_catalogue", "write_tryon"]


def provide(data: DataSettings) -> None:
    """Draw the catalogue where ``--dataset catalogue`` asks for it and no ``--data-root`` names another folder."""
    for name in data.mixture() if data.data_root is None else ():
        if spec_of(name).embedded:
            write_catalogue(replace(data, dataset=name).root())


def provide_tryon(dataset: str, root: str | None) -> None:
    """Draw the try-on set where ``--dataset catalogue`` asks for it; ``root`` is what ``--data-root`` says."""
    if spec_of(dataset, tryon_sets()).embedded:
        write_tryon(data_root(dataset, root) / ROOTS[0])
