"""Files are data: nothing in the package runs what a file brings along, and every door to that is known."""

import ast
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "src" / "unifashion").rglob("*.py"))
DOORS = "models/weight_files.py"
LIBRARIES = ("transformers", "diffusers", "peft")
FORBIDDEN = ("pickle", "dill", "joblib", "marshal", "shelve", "runpy")


def calls(tree):
    """The calls in a file, each with its dotted name."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keywords(call):
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def foreign_names(tree):
    """What a file imports from libraries whose ``from_pretrained`` might run code."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES
        for alias in node.names
    }


def safe_loaders(tree):
    """The classes of a file that are YAML loaders of plain values."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name for node in classes if "yaml.SafeLoader" in map(ast.unparse, node.bases)}


def is_harmless(name, call, foreign, path):
    """Whether a call opens nothing, or only data."""
    owner, _, method = name.rpartition(".")
    if name == "torch.jit.load" or (owner in foreign and method == "from_pretrained"):
        return path.endswith(DOORS) or owner == "LoraConfig"  # a plain JSON file
    if name == "torch.load":
        return keywords(call).get("weights_only") == "True"
    if method == "from_config" and owner.startswith("Auto"):
        return keywords(call).get("trust_remote_code") == "False"
    if name in ("np.load", "numpy.load"):
        return "allow_pickle" not in keywords(call)
    if name == "yaml.load":
        return [ast.unparse(loader) in foreign for loader in call.args[1:]] == [True]
    return name not in ("eval", "exec", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_no_file_is_opened_in_a_way_that_could_run_it(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = foreign_names(tree) | safe_loaders(tree)
    assert [name for name, call in calls(tree) if not is_harmless(name, call, foreign, path.as_posix())] == []
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & set(FORBIDDEN)


def test_the_check_finds_what_it_looks_for():
    code = """
from transformers import AutoModel
AutoModel.from_pretrained(x)
AutoModel.from_config(x)
torch.load(x)
torch.jit.load(x)
np.load(x, allow_pickle=True)
yaml.load(x)
yaml.load(x, Loader)
"""
    tree = ast.parse(code)
    assert not any(is_harmless(name, call, foreign_names(tree), "cli/index.py") for name, call in calls(tree))
