"""How many processes src/launch.sh starts: by a stand-in for nvidia-smi, and a Python that only prints its arguments."""

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "src" / "launch.sh"
EIGHT = "".join(f"GPU {n}: NVIDIA A100 (UUID: GPU-{n}a)\n" for n in range(8))
SPLIT = "GPU 0: NVIDIA A100 (UUID: GPU-0a)\n" + "".join(
    f"  MIG 2g.10gb     Device  {n}: (UUID: MIG-{n})\n" for n in range(3)
)


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def launch(tmp_path, listed, **variables):
    script(tmp_path / "bin" / "nvidia-smi", f"cat <<'END'\n{listed}END" if listed else "exit 9")
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV")}
    environment = {**kept, "PATH": f"{tmp_path / 'bin'}:{kept['PATH']}", **variables}
    done = subprocess.run(["bash", LAUNCH, "x.py"], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("listed", "visible", "count"),
    [
        ("", None, 1),
        (EIGHT, None, 8),
        (EIGHT, "", 1),
        (EIGHT, "0", 1),
        (EIGHT, "3,4", 2),
        (EIGHT, "3, 4,5", 3),
        (EIGHT, "-1", 1),
        (EIGHT, "0,1,-1,2", 2),
        (EIGHT, "0,9", 1),
        (EIGHT, "GPU-2a,GPU-5a", 2),
        (EIGHT, "GPU-none", 1),
        (SPLIT, None, 1),
        (SPLIT, "MIG-0,MIG-1", 1),
        (SPLIT, "0", 1),
    ],
)
def test_as_many_processes_start_as_there_are_visible_gpus(tmp_path, listed, visible, count):
    printer = script(tmp_path / "python", 'echo "$*"')
    chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    shown = launch(tmp_path, listed, PYTHON=str(printer), **chosen)
    assert shown == "x.py\n" if count == 1 else f"--multi_gpu --num_processes {count} " in shown


def test_the_environment_that_was_named_is_used(tmp_path):
    script(tmp_path / "own" / "bin" / "python", 'echo "own $*"')
    assert launch(tmp_path, "", UNIFASHION_VENV=str(tmp_path / "own"), PYTHON="") == "own x.py\n"
