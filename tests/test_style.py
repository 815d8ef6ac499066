"""House rules that no linter has: which way imports run, the size of files, and that the README's paths exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "unifashion"
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# What each room may import, besides itself.
BASE = {"errors", "flags", "config"}
ALLOWED = {
    "errors": set(),
    "flags": {"errors"},
    "config": {"errors", "flags"},
    "data": BASE,
    "models": BASE | {"data", "convert"},
    "convert": BASE | {"data", "models", "tryon"},
    "llm": BASE | {"data", "models", "convert", "evaluation"},
    "training": BASE | {"data", "models", "llm", "evaluation"},
    "evaluation": BASE | {"data", "models"},
    "tryon": BASE | {"data", "models", "convert", "training", "evaluation"},
    "captioning": BASE | {"data", "evaluation"},
    "serving": BASE | {"data", "models", "llm", "tryon", "evaluation"},
    "cli": None,
}


def rooms_imported(path: Path) -> set[str]:
    """Rooms of this package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.ImportFrom) and node.module == "unifashion":
            names = [f"unifashion.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("unifashion.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in ALLOWED, f"{room} is a new room: say here what it may import"
    if ALLOWED[room] is not None:
        assert rooms_imported(path) <= ALLOWED[room] | {room}


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}, "pytest takes two files of one name for one module"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_small(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 70, f"{node.name} is too long"


def test_paths_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), f"README.md links to {target}"
    for script in re.findall(r"bash ([\w./]+\.sh)", text):
        assert (ROOT / script).is_file(), f"README.md calls {script}"
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), f"README.md names {config}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_in_the_default_install_needs_torchvision(path):
    assert not re.search(r"^\s*(import|from) torchvision", path.read_text(), re.MULTILINE)
