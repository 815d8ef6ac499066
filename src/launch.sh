#!/usr/bin/env bash
# Start one Python program of this project: launch.sh SCRIPT ARGUMENTS...
# One GPU or none: plain Python. Several GPUs, or ACCELERATE_CONFIG=configs/accelerate/FILE.yaml: accelerate launch.
# GPUs are those that CUDA_VISIBLE_DEVICES leaves; of a GPU that is split (MIG), CUDA gives a process one part, so one is started.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${UNIFASHION_VENV:-$root/.venv}"
python="${PYTHON:-python3}"
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$venv/bin/python" ]; then
    python="$venv/bin/python"
fi

count_gpus() {
    local listed all visible=0 entry
    listed="$(nvidia-smi --list-gpus 2>/dev/null || true)"
    all="$(grep -c '^GPU ' <<<"$listed" || true)"
    for entry in $(tr ',' ' ' <<<"${CUDA_VISIBLE_DEVICES-$(seq -s ' ' 0 $((all - 1)))}"); do
        case "$entry" in
            GPU-* | MIG-*) grep -qF "UUID: $entry" <<<"$listed" || break ;;
            *) [[ "$entry" =~ ^[0-9]+$ && "$entry" -lt "$all" ]] || break ;; # CUDA, too, ignores all after the first that is none
        esac
        visible=$((visible + 1))
    done
    if [ "$visible" -gt 1 ] && grep -q '^ *MIG ' <<<"$listed"; then
        visible=1
    fi
    echo "$visible"
}

gpus="$(count_gpus)"
if [ -n "${ACCELERATE_CONFIG:-}" ]; then
    exec "$python" -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG" "$@"
elif [ "$gpus" -gt 1 ]; then # precision and compilation are set by the program's own --precision and --compile
    exec "$python" -m accelerate.commands.launch --multi_gpu --num_processes "$gpus" --num_machines 1 \
        --mixed_precision no --dynamo_backend no "$@"
else
    exec "$python" "$@"
fi
