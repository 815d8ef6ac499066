"""Write Fashion-IQ-Cap: a LLaVA describes the garment in every FashionIQ photo (or in any folder of photos).

    cd src/llava/LLaVA && python inference.py --split train                          all GPUs, LLaVA-NeXT 8B
    python inference.py --split val --endpoint http://localhost:8000/v1              a vLLM server instead
    python inference.py --dataset images --data-root my_photos                       writes my_photos/catalogue.csv

On a laptop, after the quickstart (a toy model with random weights, which writes nonsense, to watch the pipeline run):
    python ../../../tests/apps/fashioniq_captions/tiny_llava.py ../../../runs/tiny_llava
    python inference.py --model runs/tiny_llava --data-root dataset/catalogue --output-dir runs/captions --limit 20

When called inside src/, paths are relative to the project's top folder. A run that was stopped continues with the same command.
Shoppers' sentences are not part of the prompt unless --guidance asks for them, for the train split only.
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
    photos, captioner = parse_from_src((PhotoSettings, CaptionerSettings), argv, __doc__.split("\n")[0], SRC)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from unifashion.apps.fashioniq_captions.run import run_captioning

    for path in run_captioning(photos, captioner):
        print(f"captions are in {path}")


if __name__ == "__main__":
    main()
