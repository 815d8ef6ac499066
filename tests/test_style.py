"""House rules that no linter has, such as which way imports run."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "unifashion"
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# A topological order: a room may import those before it, and nothing behind it. Rooms of one line do not import each other.
ORDER = (
    ("errors",),
    ("io", "distributed", "seeding"),
    ("flags",),
    ("data",),
    ("config",),  # above data: the names of the data sets are choices of a setting
    ("models",),
    ("convert",),
    ("encoders",),
    ("llm", "tryon"),
    ("evaluation",),
    ("training",),
    ("search",),
    ("apps",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def modules_imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, at its top or inside a function, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.ImportFrom) and node.module == "unifashion":
            names = [f"unifashion.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("unifashion.") for name in names if name.startswith("unifashion.")}
    return found


def room_of(module: str) -> str:
    """The room of a module; every app is a room of its own."""
    first, _, rest = module.partition(".")
    return f"apps.{rest.partition('.')[0]}" if first == "apps" else first


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    if module == "__init__":
        return
    own = room_of(module)
    for other in {room_of(name) for name in modules_imported(path)} - {own}:
        assert LEVEL[other.partition(".")[0]] < LEVEL[own.partition(".")[0]], f"{own} must not import {other}"


def test_no_import_hides_behind_type_checking():
    hidden = [path for path in SOURCES if "TYPE_CHECKING" in path.read_text() and path != PACKAGE / "__init__.py"]
    assert hidden == []


def test_test_files_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}, "pytest takes two files of one name for one module"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_in_the_default_install_needs_torchvision(path):
    assert not re.search(r"^\s*(import|from) torchvision", path.read_text(), re.MULTILINE)


def test_bytes_from_outside_reach_pillow_in_one_place():
    opening = [
        path.relative_to(PACKAGE).as_posix() for path in SOURCES if re.search(r"with Image\.open\(", path.read_text())
    ]
    assert sorted(opening) == ["apps/demo/uploads.py", "data/images.py"], "use load_image, load_stored or read_info"
