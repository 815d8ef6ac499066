"""For people who use it: index a catalogue, search it, show it."""

from unifashion.serving.retriever import Hit, Retriever

__all__ = ["Hit", "Retriever"]
