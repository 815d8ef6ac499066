"""From original downloads to what training reads: ``prepare(name, sources, root)``, resumable, with a manifest at its end."""

from unifashion.apps.prepare.sets import Options, check, prepare, prepared_sets

__all__ = ["Options", "check", "prepare", "prepared_sets"]
