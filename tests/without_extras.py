"""A Python in which the packages of the extras are not installed, whatever is on the disk: ``import without_extras`` first."""

import importlib.machinery
import sys

from unifashion.errors import EXTRAS


class CoreOnly(importlib.machinery.PathFinder):
    """Finds what is installed, but for the extras; a finder that raised would be noticed by ``find_spec``."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in EXTRAS else super().find_spec(fullname, path, target)


sys.meta_path[:] = [CoreOnly if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
