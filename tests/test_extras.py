"""Installed without extras, the project trains, validates, captions and searches; what needs an extra says so in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unifashion.errors import EXTRAS

toy = pytest.importorskip("unifashion.apps.toy_catalogue")  # an app, which the core can do without

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_ALL = {"all", "test", "quantized", "tensorboard", "wandb"}
SMALL = toy.Sizes(12, 40, 4, 4, 2, 20, 8, side=48)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in requirements}


def run_without_extras(code: str, *arguments: str) -> str:
    """Run code in a process without the extras, and return what it printed."""
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", f"import without_extras, sys\n{code}", *arguments]
    done = subprocess.run(command, cwd=ROOT / "src", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pyproject_declares_every_extra_and_the_pins_have_all_that_the_commands_use():
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(extras) - {"test", "all"} == set(EXTRAS.values())
    imported = {"faiss-cpu": "faiss", "milvus-lite": "milvus_lite"}
    for extra in set(extras) - {"test", "all"}:
        for name in names(extras[extra]) - {"jinja2"}:  # torch itself brings jinja2
            assert EXTRAS[imported.get(name, name)] == extra
    assert names(extras["all"]) == {"unifashion"}
    assert set(re.split(r"[\[\],]", extras["all"][0])[1:-1]) == set(extras) - NOT_IN_ALL
    used = names(project["dependencies"]).union(*(names(extras[extra]) for extra in set(extras) - NOT_IN_ALL))
    pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert names(pins) == used


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return toy.write_catalogue(tmp_path_factory.mktemp("data") / "catalogue", SMALL, progress=False)


CORE = """
import blip_train, blip_validate
from unifashion.cli import main
root, work = sys.argv[1:]
data = ["--dataset", "fashiongen", "--data-root", root]
flags = ["--max-steps", "1", "--batch-size", "8", "--image-size", "32", "--num-queries", "9", "--num-draws", "1"]
blip_train.main(["--config", "../configs/quickstart/pretrain.yaml", *data, *flags, "--output-dir", work + "/run"])
blip_validate.main([*data, "--model-path", work + "/run", "--num-queries", "9", "--num-draws", "1"])
main(["caption", *data, "--model", work + "/run", "-o", work + "/captions.jsonl", "--limit", "2"])
main(["index", root, "--model", work + "/run", "-o", work + "/index"])
main(["search", work + "/index", "a red dress", "--k", "2"])
"""


def test_training_validation_captions_and_exact_search_need_no_extra(catalogue, tmp_path):
    said = run_without_extras(CORE, str(catalogue), str(tmp_path))
    assert f"the run is kept in {tmp_path / 'run'}" in said and "fashiongen/sub100" in said
    assert "2 of 2 images have captions" in said and re.search(r"^  2  0\.\d+  ", said, re.MULTILINE)


def test_help_of_training_needs_no_extra():
    code = "import runpy; sys.argv[1:] = ['--help']; runpy.run_path('blip_train.py', run_name='__main__')"
    assert "--batch-size" in run_without_extras(code)


DOORS = {
    'command("index", "x", "--ann", "ivf")': ("--ann ivf", "faiss", "search"),
    'command("index", "x", "--uri", "http://localhost:1")': ("--uri", "pymilvus", "milvus"),
    'command("demo", "x")': ("unifashion demo", "gradio", "demo"),
    'command("report", "x")': ("this command", "matplotlib", "report"),
    'command("score-images", "x")': ("unifashion score-images", "torchmetrics", "tryon"),
    'command("convert", "a.ckpt", "b", "--base", "c")': ("this command", "diffusers", "tryon"),
    'script("../src/UNIStableVITON/train.py")': ("this command", "(diffusers|torchmetrics)", "tryon"),
    'script("../src/UNIStableVITON/inference.py")': ("this command", "diffusers", "tryon"),
    'script("metrics.py", "--predictions", "c.jsonl", "--references", "c.jsonl")': (
        "scoring captions",
        "pycocoevalcap",
        "captions",
    ),
    "unifashion.TryOn": ("unifashion.TryOn", "diffusers", "tryon"),
    'load_diffusion_head("sd", 8, 4, 64, "", True)': ("the diffusion model 'sd'", "diffusers", "tryon"),
    "add_lora(None, LanguageModelSettings())": ("LoRA", "peft", "captions"),
    'load_base("llama", "8bit")': ("--load-in 8bit", "bitsandbytes", "quantized"),
    'open_hdf5(Path("a.h5"))': ("a.h5", "h5py", "data"),
    'write_catalogue(Path("new"))': ("drawing the embedded catalogue", "h5py", "data"),
    'to_track("tensorboard")': ("--tracker tensorboard", "tensorboard", "tensorboard"),
    'to_track("wandb")': ("--tracker wandb", "wandb", "wandb"),
}
KNOCK = """
import io, json, os, runpy
from contextlib import redirect_stderr
from pathlib import Path
import unifashion
from unifashion.apps.toy_catalogue import write_catalogue
from unifashion.cli import main
from unifashion.config import LanguageModelSettings
from unifashion.data.hdf5_images import open_hdf5
from unifashion.errors import UserError
from unifashion.llm.diffusion_head import load_diffusion_head
from unifashion.llm.loading import add_lora, load_base
from unifashion.training.tracking import to_track

here = Path.cwd()
os.chdir(sys.argv[1])
Path("c.jsonl").write_text('{"id": "1", "caption": "a red dress"}')

def command(*words):
    main(words)

def script(path, *words):
    sys.argv[1:] = words
    runpy.run_path(str(here / path), run_name="__main__")

answers = {}
for door in json.loads(sys.argv[2]):
    heard = io.StringIO()
    try:
        with redirect_stderr(heard):
            eval(door)
    except UserError as error:
        answers[door] = f"error: {error}\\n"
    except SystemExit as left:
        answers[door] = heard.getvalue() if left.code == 2 else f"left with {left.code}"
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    said = json.loads(run_without_extras(KNOCK, str(folder), json.dumps(list(DOORS))).splitlines()[-1])
    assert [path.name for path in folder.iterdir()] == ["c.jsonl"]
    return said


@pytest.mark.parametrize("door", DOORS)
def test_a_missing_extra_is_one_sentence_with_the_line_that_installs_it(answers, door):
    what, package, extra = DOORS[door]
    assert re.fullmatch(
        rf"error: {re.escape(what)}.* needs the package {package}: pip install 'unifashion\[{extra}\]'\n",
        answers[door],
    )
