"""The embedded catalogue: procedural garments, written in the layouts of real data sets. Synthetic, seeded, no downloads."""

from unifashion.data.catalogue.write import is_synthetic, write_catalogue

__all__ = ["is_synthetic", "write_catalogue"]
