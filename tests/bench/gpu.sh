#!/usr/bin/env bash
# Everything that only a GPU can show, in about six minutes:   bash tests/bench/gpu.sh [FOLDER]
# The gpu tests, a training step at ViT-g size (time, memory, share of the peak), FashionIQ evaluation, and the scripts of both
# phases in bf16, through accelerate too. A part that fails does not stop the others; logs, and a table of what failed, are kept
# in FOLDER (default runs/gpu). SMALL=1: the same on a CPU at toy size, to try this script.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out="$(mkdir -p "${1:-runs/gpu}" && cd "${1:-runs/gpu}" && pwd)"
python="${PYTHON:-python3}"
export PYTHON="$python" PYTHONPATH=src:. PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore HF_HUB_OFFLINE=1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
data=(--data-root "$work/catalogue")
step=(--device cuda --precision bf16 --turns 5)
sizes=(--image-tokens 64x256 257x1408 --batch-size 8 128) largest=(--image-tokens 257x1408 --batch-size 128)
epochs=(--precision bf16 --num-workers 8 --num-epochs 4 --eval-every 2) marker=gpu tower=vitg rows=128
fashioniq=(--device cuda --scored 0)
if [ -n "${SMALL:-}" ]; then
    step=(--precision bf16 --turns 1 --layers 1) sizes=(--image-tokens 16x64 --batch-size 2)
    largest=("${sizes[@]}")
    epochs=(--precision bf16 --max-steps 2 --num-epochs 1) marker="not gpu" tower=tiny rows=8
    fashioniq=(--gallery 300 --queries 40 --turns 1)
fi

part() { # NAME SECONDS COMMAND...: run it, show its last lines, note how it ended
    local name="$1" seconds="$2" started=$SECONDS code
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    code=$?
    echo "== $name: exit $code, $((SECONDS - started)) s" | tee -a "$out/parts.txt"
    tr '\r' '\n' <"$out/$name.log" | grep -v '^ *$\|%|' | tail -n "${LINES_SHOWN:-14}"
}

: >"$out/parts.txt"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null
"$python" -c 'import accelerate, torch, transformers as t; print(torch.__version__, t.__version__, accelerate.__version__)'
"$python" -m unifashion.apps.toy_catalogue "$work/catalogue" >"$out/catalogue.log" 2>&1 &
part tests 100 "$python" -m pytest -q -m "$marker" --durations 5 tests/training/test_devices.py
wait
part pretrain 60 bash pretrain.sh --config configs/quickstart/pretrain.yaml "${data[@]}" "${epochs[@]}" --output-dir "$work/pre"
ACCELERATE_CONFIG=configs/accelerate/one_gpu.yaml part cir_ft 60 bash cir_ft.sh --config configs/quickstart/cir_ft.yaml \
    "${data[@]}" "${epochs[@]}" --init-from "$work/pre" --output-dir "$work/cir"
part vail 60 bash vail.sh --dataset fashioniq "${data[@]}" --blip-model-name blip2_cir_rerank --model-path "$work/cir"
part fashioniq 60 "$python" -m tests.bench.bench_fashioniq "${fashioniq[@]}"
LINES_SHOWN=40 part step 240 "$python" -m tests.bench.bench_step "${step[@]}" "${sizes[@]}"
LINES_SHOWN=20 part compiled 120 "$python" -m tests.bench.bench_step "${step[@]}" "${largest[@]}" --compile
part start 90 "$python" -c "
from unifashion.config import DataSettings, ModelSettings
from unifashion.data.splits import training_texts
from unifashion.training.build import build_model
data = DataSettings(data_root='$work/catalogue', dataset='fashiongen')
model = ModelSettings(architecture='$tower', tokenizer='train', freeze_vision=False)
build_model(model, data, lambda: training_texts(data)).save_pretrained('$work/start')"
part paper 90 bash pretrain.sh "${data[@]}" --init-from "$work/start" --output-dir "$work/paper" --batch-size "$rows" \
    --max-steps 12 --eval-every 0 --precision bf16
tail -n 3 "$work"/{pre,cir,paper}/train_metrics.csv
echo "== all parts"
cat "$out/parts.txt"
! grep -vq 'exit 0,' "$out/parts.txt"
