#!/usr/bin/env bash
# Try-on with UNIStableVITON. Paths are relative to the project's top folder, wherever this is called from.
#   bash inference.sh --model-path runs/tryon                                       paired test set of dataset/vitonhd
#   bash inference.sh --model-path runs/tryon --pairs unpaired                      every person in another garment
#   bash inference.sh --model-path VITONHD.ckpt --base SD_FOLDER                    weights of StableVITON
#   bash inference.sh --model-path MGD.ckpt --base SD_FOLDER --control garment-sketch     weights of UNIStableVITON
#   bash inference.sh --dataset catalogue --model-path runs/quickstart/tryon        on a laptop, after the quickstart
# Any setting can be given as a flag: bash inference.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec bash src/launch.sh src/UNIStableVITON/inference.py "$@"
