"""``python -m unifashion.cli``: the ``unifashion`` command of a clone that is not installed."""

from unifashion.cli import main

main()
