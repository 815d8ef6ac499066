#!/usr/bin/env bash
# From a bare clone to a table of recall, on a laptop's CPU, without downloads of models or data:
#   bash quickstart.sh
# Makes .venv, writes the embedded (synthetic) catalogue, runs phase 1, phase 2, captions, indexing and validation
# with tiny models.
# Finished parts are reused by the next call; to start anew: rm -r runs/quickstart dataset/catalogue
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source src/environment.sh

complete() { grep -qs '"state": "complete"' "$1/run.json"; }

echo "== the embedded catalogue"
"$PYTHON" -m unifashion.apps.toy_catalogue dataset/catalogue
for phase in pretrain cir_ft; do
    if complete "runs/quickstart/$phase"; then
        echo "== $phase: runs/quickstart/$phase is complete and is reused"
    else
        echo "== $phase"
        rm -rf runs/quickstart/index # made by an older model
        bash $phase.sh --config configs/quickstart/$phase.yaml --overwrite
    fi
done
echo "== captions of the validation photos"
"$PYTHON" -m unifashion.cli caption --dataset fashiongen --data-root dataset/catalogue \
    --model runs/quickstart/pretrain -o runs/quickstart/captions/predictions.jsonl --overwrite
if command -v java >/dev/null || [ -n "${JAVA_HOME:-}" ]; then
    (cd src && "$PYTHON" metrics.py --dataset fashiongen)
else
    echo "no Java on this machine: the captions are written, but not scored (Debian and Ubuntu: apt-get install default-jre)"
fi
echo "== an index of the photos"
"$PYTHON" -m unifashion.cli index dataset/catalogue --model runs/quickstart/cir_ft -o runs/quickstart/index
echo "== validation"
bash vail.sh --dataset fashiongen --data-root dataset/catalogue \
    --blip-model-name blip2_cir_cls --model-path runs/quickstart/pretrain
bash vail.sh --dataset fashioniq --data-root dataset/catalogue \
    --blip-model-name blip2_cir_rerank --model-path runs/quickstart/cir_ft
bin="${PYTHON%python}"
bin="${bin#"$PWD/"}"
echo "== done: the runs, their scores and their checkpoints are kept in runs/quickstart
search what was trained:  ${bin}unifashion search runs/quickstart/index \"blue shirt with long sleeves\" --sheet answers.png
or open it in a browser:  ${bin}unifashion demo runs/quickstart/index"
