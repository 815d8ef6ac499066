"""Index a catalogue of photos and search it."""

from unifashion.search.retriever import Hit, Retriever

__all__ = ["Hit", "Retriever"]
