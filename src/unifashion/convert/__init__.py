"""Checkpoints of others: how their files and names become ours, and back."""
