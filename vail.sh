#!/usr/bin/env bash
# Validation: recall of a checkpoint on one data set, as a table, scores.csv and scores.json.
#   bash vail.sh --dataset fashiongen --blip-model-name blip2_cir_cls --model-path runs/pretrain
#   bash vail.sh --dataset fashioniq --blip-model-name blip2_cir_rerank --model-path runs/cir_ft
# Any setting can be given as a flag: bash vail.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec bash src/launch.sh src/blip_validate.py "$@"
