#!/usr/bin/env bash
# Start one Python program of this project: launch.sh SCRIPT ARGUMENTS...
# One GPU or none: plain Python. Several GPUs, or ACCELERATE_CONFIG=configs/accelerate/FILE.yaml: accelerate launch.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python="$root/.venv/bin/python"
fi
gpus="$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)"
if [ -n "${ACCELERATE_CONFIG:-}" ]; then
    exec "$python" -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG" "$@"
elif [ "$gpus" -gt 1 ]; then # precision and compilation are set by the program's own --precision and --compile
    exec "$python" -m accelerate.commands.launch --multi_gpu --num_processes "$gpus" --num_machines 1 \
        --mixed_precision no --dynamo_backend no "$@"
else
    exec "$python" "$@"
fi
