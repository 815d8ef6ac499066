#!/usr/bin/env bash
# Compares the project with the real LAVIS (salesforce-lavis 1.0.2) on the same random weights. By hand or nightly: it
# downloads another PyTorch and takes a minute or two. What it compares, and the figures: README.md in this folder.
#
#   bash tests/parity/lavis.sh [FOLDER]      FOLDER keeps LAVIS' environment; default: a temporary one
#
# PYTHON names the project's interpreter (default: its own environment), PYTHON_LAVIS one of Python 3.8 to 3.11 for LAVIS:
# transformers 4.26 wants tokenizers 0.13, which has no wheels for newer ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${PYTHON:-}" ] || source src/environment.sh

folder=${1:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi

if [ ! -e "$folder/env/.installed" ]; then
    torch=$("$PYTHON" -c 'import torch; print(torch.__version__.split("+")[0])')
    "${PYTHON_LAVIS:-python3.11}" -m venv "$folder/env"
    "$folder/env/bin/pip" install --quiet "torch==$torch" "numpy<2" "transformers==4.26.1" omegaconf iopath einops
    "$folder/env/bin/pip" install --quiet --no-deps "salesforce-lavis==1.0.2"
    touch "$folder/env/.installed"
fi
"$folder/env/bin/python" tests/parity/lavis_record.py "$folder/recording.pt"
PYTHONPATH=src "$PYTHON" tests/parity/lavis_compare.py "$folder/recording.pt"
