"""Write the embedded catalogue:   python -m unifashion.apps.toy_catalogue dataset/catalogue"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from unifashion.apps.toy_catalogue.write import write_catalogue
from unifashion.errors import exit_with_one_sentence


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the catalogue."""
    parser = argparse.ArgumentParser(description="Write the embedded (synthetic) catalogue.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("dataset/catalogue"))
    root = write_catalogue(parser.parse_args(argv).folder)
    print(f"the embedded catalogue is in {root}")


if __name__ == "__main__":
    main()
