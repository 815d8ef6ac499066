"""Retrieval protocols: which queries, which gallery, which metrics.

Every file in this folder is imported, and registers its protocols (registry.py): a new protocol is a file, named nowhere else.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
