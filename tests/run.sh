#!/usr/bin/env bash
# Make the environment with the test extras and run every check: ruff, mypy, pytest.
#   bash tests/run.sh                     all
#   bash tests/run.sh -k retrieval        arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source src/environment.sh test
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 "$@"
