"""UniFashion: one model for fashion retrieval, captioning and try-on.

    from unifashion import Captioner, Person, Retriever, TryOn, UniFashion

    model = UniFashion.from_pretrained("runs/pretrain")
    retriever = Retriever.from_index("runs/index")
    captioner = Captioner.from_pretrained("runs/pretrain")
    tryon = TryOn.from_pretrained("runs/tryon")

The names are imported when they are first used, so that ``import unifashion`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unifashion.llm.captioner import Captioner
    from unifashion.models.unifashion import UniFashion
    from unifashion.serving.retriever import Hit, Retriever
    from unifashion.tryon.put_on import Person, TryOn

__version__ = "0.1.0"
__all__ = ["Captioner", "Hit", "Person", "Retriever", "TryOn", "UniFashion"]

_PLACES = {
    "Captioner": "unifashion.llm.captioner",
    "Hit": "unifashion.serving.retriever",
    "Person": "unifashion.tryon.put_on",
    "Retriever": "unifashion.serving.retriever",
    "TryOn": "unifashion.tryon.put_on",
    "UniFashion": "unifashion.models.unifashion",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'unifashion' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
