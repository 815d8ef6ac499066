"""The core stands without the apps: each of them, and all together, can be deleted."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
APPS = sorted(path.name for path in (ROOT / "src/unifashion/apps").iterdir() if (path / "__init__.py").is_file())
IMPORT_THE_CORE = """
import importlib, pkgutil, unifashion
names = [module.name for module in pkgutil.walk_packages(unifashion.__path__, "unifashion.")]
core = [name for name in names if not name.startswith(("unifashion.apps", "unifashion.cli.__main__"))]
assert len(core) > 100
for name in core:
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def without_apps(tmp_path_factory):
    """The source tree without any app."""
    src = tmp_path_factory.mktemp("core") / "src"
    shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.rmtree(src / "unifashion/apps")
    return src


def test_every_module_of_the_core_and_of_the_command_imports_without_the_apps(without_apps):
    subprocess.run([sys.executable, "-c", IMPORT_THE_CORE], cwd=without_apps, check=True)


def test_training_and_validation_run_without_the_apps(without_apps, tmp_path):
    lines = ["image,text,split"]
    for index in range(8):
        Image.new("RGB", (40, 40), (30 * index, 90, 200 - 20 * index)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,garment number {index},{'val' if index > 5 else 'train'}")
    (tmp_path / "catalogue.csv").write_text("\n".join(lines) + "\n")
    data = ["--dataset", "catalogue", "--data-root", str(tmp_path)]
    run, tiny = str(tmp_path / "run"), "--image-size 32 --architecture tiny --tokenizer train --no-freeze-vision"
    train = [*tiny.split(), "--num-epochs", "1", "--warmup-epochs", "0.5", "--batch-size", "4", "--output-dir", run]
    subprocess.run([sys.executable, str(without_apps / "blip_train.py"), *data, *train], check=True)
    subprocess.run([sys.executable, str(without_apps / "blip_validate.py"), *data, "--model-path", run], check=True)
    assert (tmp_path / "run/validate/catalogue/scores.json").is_file()


@pytest.mark.parametrize("app", APPS)
def test_no_app_imports_another_one(app):
    files = sorted((ROOT / "src/unifashion/apps" / app).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            others = [name for name in names if name.startswith("unifashion.apps.") and name.split(".")[2] != app]
            assert not others, path
