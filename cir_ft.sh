#!/usr/bin/env bash
# Phase 2, composed fine-tuning: reference image + feedback -> target image, losses ITC + ITM (+ TTC with captions).
#   bash cir_ft.sh --init-from runs/pretrain                                              the paper's settings (GPU)
#   bash cir_ft.sh --config configs/quickstart/cir_ft.yaml --init-from runs/pretrain      tiny, on a laptop's CPU
# Any setting can be given as a flag: bash cir_ft.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec bash src/launch.sh src/blip_train.py --config configs/cir_ft.yaml "$@"
