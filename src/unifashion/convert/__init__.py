"""Checkpoints of others: how their files and names become ours, and back."""

from unifashion.convert.checkpoints import convert, load_any

__all__ = ["convert", "load_any"]
