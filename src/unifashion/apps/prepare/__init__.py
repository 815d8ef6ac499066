"""From original downloads to what training reads: ``prepare(name, sources, root)``, resumable, with a manifest at its end."""

from unifashion.apps.prepare.sets import PLANS, Options, check, prepare

__all__ = ["PLANS", "Options", "check", "prepare"]
