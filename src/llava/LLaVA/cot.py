"""Caption garments by a chain of thought: the model first lists the attributes, then writes one caption from its list.

    cd src/llava/LLaVA && python cot.py --dataset fashiongen --split val             FashionGen
    python cot.py --dataset vitonhd --split test                                     the garments of VITON-HD
    python cot.py --dataset vitonhd --endpoint http://localhost:8000/v1 --split train

When called inside src/, paths are relative to the project's top folder. The settings are those of inference.py; a run that was
stopped continues with the same command. For VITON-HD, captions.SPLIT.json has the form of MGD's captions.json.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

SRC = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SRC))  # runs from a bare clone

from unifashion.apps.fashioniq_captions.settings import CaptionerSettings, PhotoSettings
from unifashion.errors import exit_with_one_sentence
from unifashion.flags import parse_from_src


@exit_with_one_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, caption, print where the captions are."""
    groups, title = (PhotoSettings, CaptionerSettings), __doc__.split("\n")[0]
    photos, captioner = parse_from_src(groups, argv, title, SRC, dataset="fashiongen", chain=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from unifashion.apps.fashioniq_captions.run import run_captioning

    for path in run_captioning(photos, captioner):
        print(f"captions are in {path}")


if __name__ == "__main__":
    main()
