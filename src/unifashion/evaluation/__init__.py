"""Ranks, recall, protocols and score files."""
