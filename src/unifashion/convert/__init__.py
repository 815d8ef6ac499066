"""Other projects' checkpoints: converting their files and names to ours, and back."""

from unifashion.convert.checkpoints import convert, load_any

__all__ = ["convert", "load_any"]
