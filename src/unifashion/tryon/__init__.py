"""UNIStableVITON: a diffusion model that puts a garment (photo or sketch, and words) on a person.

``from unifashion.tryon import TryOn, Person`` is the short way to a picture (put_on.py).
"""

from typing import Any

__all__ = ["Person", "TryOn"]


def __getattr__(name: str) -> Any:
    """Import the two names above when they are asked for: the settings are read without the libraries that draw."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unifashion.tryon import api as put_on

    return getattr(put_on, name)
