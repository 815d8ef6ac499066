#!/usr/bin/env bash
# Phase 1, cross-modal pre-training: images and their descriptions, losses ITC + ITM + LM.
#   bash pretrain.sh                                             the paper's settings (GPU), on dataset/fashionGen
#   bash pretrain.sh --config configs/quickstart/pretrain.yaml   tiny, on a laptop's CPU, on the embedded catalogue
# Any setting can be given as a flag: bash pretrain.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec bash src/launch.sh src/blip_train.py --config configs/pretrain.yaml "$@"
