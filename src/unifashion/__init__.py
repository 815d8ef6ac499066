"""UniFashion: one model for fashion retrieval, captioning and try-on.

    from unifashion import Captioner, Designer, Person, Retriever, TryOn, UniFashion

    model = UniFashion.from_pretrained("runs/pretrain")
    retriever = Retriever.from_index("runs/index")
    captioner = Captioner.from_pretrained("runs/pretrain")
    designer = Designer.from_pretrained("runs/unified/cir_ft")
    tryon = TryOn.from_pretrained("runs/tryon")

The names are imported when they are first used, so that ``import unifashion`` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from unifashion.errors import require

if TYPE_CHECKING:
    from unifashion.encoders.unifashion import UniFashion
    from unifashion.llm.captioner import Captioner
    from unifashion.llm.designer import Designer
    from unifashion.search.retriever import Hit, Retriever
    from unifashion.tryon.api import Person, TryOn

__version__ = "0.2.0"
__all__ = ["Captioner", "Designer", "Hit", "Person", "Retriever", "TryOn", "UniFashion"]

_MODULES = {
    "Captioner": "unifashion.llm.captioner",
    "Designer": "unifashion.llm.designer",
    "Hit": "unifashion.search.retriever",
    "Person": "unifashion.tryon.api",
    "Retriever": "unifashion.search.retriever",
    "TryOn": "unifashion.tryon.api",
    "UniFashion": "unifashion.encoders.unifashion",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'unifashion' has no attribute {name!r}")
    if _MODULES[name] in ("unifashion.tryon.api", "unifashion.llm.designer"):
        require("diffusers", f"unifashion.{name}")
    return getattr(importlib.import_module(_MODULES[name]), name)
