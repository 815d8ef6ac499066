"""Records what every training does, step by step: the loss to its last bit, the metrics, and a hash of the trained weights.

    python tests/golden/steps.py                               all trainings; writes steps.json beside this file
    python tests/golden/steps.py cir_ft --output found.json    only cir_ft and its variants, elsewhere

A change of the code that shall change no training proves it with tests/training/test_golden_steps.py, which runs this again. A
change that shall writes new records, and its commit says why.

It takes the way of a user: the entry points, quickstart configs and flags, one process per run, on the sets of small_sets.py.
Nothing of the package is imported, so its files may move. The losses are what reaches ``accelerate.Accelerator.backward`` (the
gradient cache goes its own way: there the metrics must do). Whole trainings run twice, the second time with a SIGTERM at half
of their steps and then ``--resume``; both ways must give the same.

All bits depend on the processor, the number of threads and the versions of the libraries: ``machine`` in steps.json names them.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_suffix(".json")
RETRIEVAL, TRYON = "src/blip_train.py", "src/UNIStableVITON/train.py"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
}
LIBRARIES = ("torch", "transformers", "diffusers", "accelerate", "peft", "tokenizers", "numpy", "pillow")
# Imported once, and not in every run, to save time: by all, and by the runs of a family.
HEAVY = ("accelerate", "torch.distributed.checkpoint.state_dict", "transformers.models.blip_2.modeling_blip_2")
HEAVY_OF = {"caption_ft": ("peft",), "tryon": ("diffusers.models.autoencoders", "torchmetrics")}
STEPS, FEW, STOP = 20, 5, 10
INTERRUPTED = 130  # the exit status
RESUMED = ", resumed"

SMALL = "--image-size 32 --batch-size 8 --num-epochs 3 --warmup-epochs 1"
SMALL_TRYON = (
    "--dataset vitonhd --height 24 --width 18 --batch-size 4 --warmup-steps 2 --decay-steps 3 --log-steps 1 --save-steps 0 "
    "--validate-steps 0 --num-validation-images 1 --validation-inference-steps 1"
)
QUICK = "--eval-every 0"
VALIDATED = "--eval-every 1 --num-queries 8 --num-draws 1 --num-negatives 4"


@dataclass(frozen=True)
class Training:
    """One training: its entry point, its quickstart config, its flags.

    ``init_from`` names the training whose weights it starts from. ``stops``: it is also run with a stop in the middle.
    """

    script: str
    config: str
    flags: str
    init_from: str = ""
    stops: bool = False


def retrieval(config: str, steps: int, flags: str, **more: Any) -> Training:
    return Training(RETRIEVAL, config, f"{SMALL} --max-steps {steps} {flags}", **more)


def tryon(steps: int, flags: str, **more: Any) -> Training:
    return Training(TRYON, "tryon", f"{SMALL_TRYON} --max-steps {steps} {flags}", **more)


START = retrieval("pretrain", 2, QUICK)  # what the trainings that go on from phase 1 start from
# By family, which is recorded and tested together; the training with the name of its family is the whole one.
TRAININGS: dict[str, dict[str, Training]] = {
    "pretrain": {
        "pretrain": retrieval("pretrain", STEPS, VALIDATED, stops=True),
        "start": START,
        "pretrain, grad_cache_chunk": retrieval(
            "pretrain", FEW, f"{QUICK} --freeze-vision --grad-cache-chunk 3", init_from="start"
        ),
        "pretrain, feature_cache": retrieval(
            "pretrain", FEW, f"{QUICK} --freeze-vision --no-augment --feature-cache FOLDER/features", init_from="start"
        ),
        "pretrain, mixture": retrieval("pretrain", FEW, f"{QUICK} --dataset fashiongen:1+fashioniq-cap:0.5"),
    },
    "cir_ft": {
        "start": START,
        "cir_ft": retrieval("cir_ft", STEPS, QUICK, init_from="start", stops=True),
        "cir_ft, accumulation_steps": retrieval("cir_ft", FEW, f"{QUICK} --accumulation-steps 2", init_from="start"),
        "cir_ft, length_buckets": retrieval("cir_ft", FEW, f"{QUICK} --length-buckets 3", init_from="start"),
        "cir_ft, itm_negatives": retrieval("cir_ft", FEW, f"{QUICK} --itm-negatives unifashion", init_from="start"),
    },
    "caption_ft": {
        "start": START,
        "caption_ft": retrieval("caption_ft", STEPS, QUICK, init_from="start", stops=True),
    },
    "tryon": {
        "tryon": tryon(STEPS, "", stops=True),
        "tryon, ema_decay": tryon(FEW, "--ema-decay 0"),
        "tryon, no cache_latents": tryon(FEW, "--no-cache-latents --colour --move"),
        "tryon, accumulation_steps": tryon(FEW, "--accumulation-steps 2"),
        "tryon, atv_weight": tryon(FEW, "--atv-weight 0.001"),
    },
}


# One run --------------------------------------------------------------------------------------------------------------


def run_script(script: str, flags: Sequence[str], losses: Path, stop_at: int) -> None:
    """Run an entry point in this process; append every loss to a file, and send SIGTERM to itself at call ``stop_at``."""
    from accelerate import Accelerator

    backward, calls = Accelerator.backward, 0

    def recorded(self: Accelerator, loss: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        with losses.open("a") as file:
            file.write(float(loss.detach()).hex() + "\n")
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        backward(self, loss, **kwargs)

    Accelerator.backward = recorded
    with losses.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(ROOT)
    sys.argv = [script, *flags]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def in_a_process(script: str, flags: Sequence[str], losses: Path, stop_at: int = 0) -> None:
    """``run_script`` in a child; raises ``SystemExit`` with the end of its output when it does not end as it should."""
    process = multiprocessing.get_context("fork").Process(target=run_script, args=(script, flags, losses, stop_at))
    process.start()
    process.join()
    if process.exitcode != (INTERRUPTED if stop_at else 0):
        output = losses.with_suffix(".log").read_text()[-3000:]
        raise SystemExit(f"{output}\n{script} {' '.join(flags)} left with {process.exitcode}")


def train(training: Training, name: str, folder: Path, stop: bool = False) -> dict[str, Any]:
    """Run one training below ``folder``, with a stop in the middle or without; return what is recorded of it."""
    run = folder / f"{name}{RESUMED * stop}"
    losses = run.with_name(f"{run.name}.losses")
    config = f"configs/quickstart/{training.config}.yaml"
    data = ["--data-root", str(folder / "data")]
    flags = ["--config", config, *data, "--output-dir", str(run)]
    flags += training.flags.replace("FOLDER", str(folder)).split()
    if training.init_from:
        flags += ["--init-from", str(folder / training.init_from)]
    in_a_process(training.script, flags, losses, STOP * stop)
    if stop:
        in_a_process(training.script, ["--resume", str(run), *data], losses)
    found = losses.read_text().split() if losses.is_file() else []
    return {"losses": found, "metrics": read_metrics(run / "train_metrics.csv"), "weights": hash_weights(run / "last")}


def read_metrics(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV, all but the seconds."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0] if name != "seconds"}


def hash_weights(folder: Path) -> str:
    """Return a hash of all tensors in the safetensors files of a folder: names, types, shapes and bytes."""
    import torch
    from safetensors.torch import load_file

    digest, tensors = hashlib.blake2b(digest_size=16), []
    for path in folder.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            content = hashlib.blake2b(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
            tensors.append((name, str(tensor.dtype), str(tuple(tensor.shape)), content))
    for tensor in sorted(tensors):
        digest.update("\0".join((*tensor, "")).encode())
    return f"{digest.hexdigest()} of {len(tensors)} tensors"


# All runs -------------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the last bits depend on."""
    import torch

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))
    units = sorted(flag for flag in facts.get("flags", "").split() if re.match("avx|amx|fma", flag))
    return {
        "cpu": ", ".join(facts.get(name, "") for name in ("model name", "cpu family", "model")),
        "units": " ".join(units),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in LIBRARIES},
    }


def record(families: Sequence[str]) -> dict[str, Any]:
    """Run the trainings of some families; return the records of both ways, and of the machine."""
    from small_sets import draw_sets

    runs: dict[str, Any] = {}
    for family in families:
        for name in (*HEAVY, *HEAVY_OF.get(family, ())):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with tempfile.TemporaryDirectory() as place:
            draw_sets(Path(place) / "data")
            for name, training in TRAININGS[family].items():
                runs[name] = train(training, name, Path(place))
                if training.stops:
                    runs[f"{name}{RESUMED}"] = train(training, name, Path(place), stop=True)
    runs.pop("start", None)
    return {"machine": machine(), "runs": runs}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return one sentence for the first loss, for every column of the metrics, and for the weights that are not equal."""
    words = []
    losses = list(itertools.zip_longest(found["losses"], wanted["losses"], fillvalue="nan"))
    at = next((number for number, pair in enumerate(losses) if len(set(pair)) > 1), None)
    if at is not None:
        ours, theirs = map(float.fromhex, losses[at])
        words.append(f"loss {at + 1} of {len(losses)} is {ours!r} and not {theirs!r}, by {ours - theirs:g}")
    for name in sorted({*found["metrics"], *wanted["metrics"]}):
        ours, theirs = (side["metrics"].get(name) for side in (found, wanted))
        if ours != theirs:
            words.append(f"{name} in train_metrics.csv is {ours} and not {theirs}")
    if found["weights"] != wanted["weights"]:
        words.append(f"the weights are {found['weights']} and not {wanted['weights']}")
    return words


def as_text(found: dict[str, Any]) -> str:
    """Return JSON with one run a line."""
    runs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in found["runs"].items())
    return f'{{\n "machine": {json.dumps(found["machine"])},\n "runs": {{\n{runs}\n }}\n}}\n'


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(TRAININGS)}; default: all")
    parser.add_argument("--output", type=Path, default=RECORD)
    given = parser.parse_args(argv)
    os.environ |= ENVIRONMENT
    found = record(given.families or list(TRAININGS))
    given.output.write_text(as_text(found), encoding="utf-8")


if __name__ == "__main__":
    main()
