#!/usr/bin/env bash
# The paper's ablation: base, + language model, + captions, + diffusion, each through both phases, and the table of their scores.
#   bash src/ablation.sh                                                 tiny, on a laptop's CPU, on the embedded catalogue
#   bash src/ablation.sh --size paper --diffusion-model SD_FOLDER        the unified configs of the paper's size (GPU)
#   bash src/ablation.sh --seeds 3                                       three seeds: means and their deviations
# Finished trainings are reused, a stopped one goes on: call it again. bash src/ablation.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source src/environment.sh
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" # an environment that clones share names one of them
exec "$PYTHON" -m unifashion.apps.ablation "$@"
