#!/usr/bin/env bash
# MGD / try-on fine-tuning of UNIStableVITON. Paths are relative to the project's top folder, wherever this is called from.
#   bash train.sh --init-from SD_FOLDER                            the paper's settings (GPU), on dataset/vitonhd
#   bash train.sh --config configs/quickstart/tryon.yaml           tiny, on a laptop's CPU, on the embedded set
# Any setting can be given as a flag: bash train.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec bash src/launch.sh src/UNIStableVITON/train.py --config configs/tryon.yaml "$@"
