"""For people who use it: index a catalogue, search it, show it."""

from unifashion.search.retriever import Hit, Retriever

__all__ = ["Hit", "Retriever"]
