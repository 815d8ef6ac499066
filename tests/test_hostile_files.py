"""Models that were damaged, or made to do harm: one sentence each, and nothing in them runs."""

import io
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.tiny_heads import write_diffusion, write_llm
from unifashion.convert import convert, load_any
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.llm.diffusion_head import load_diffusion_head
from unifashion.llm.loading import load_base
from unifashion.models.tokenizer import load_tokenizer
from unifashion.models.weight_files import check_finite, read_safetensors
from unifashion.tryon.loading import load_pipeline, save_pipeline, start_pipeline
from unifashion.tryon.sketch import Sketcher
from unifashion.tryon.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_model):
    """A folder with one small model of every kind."""
    folder = tmp_path_factory.mktemp("models")
    make_model().save_pretrained(folder / "own")
    write_llm(folder / "llm")
    write_diffusion(folder / "sd")
    torch.manual_seed(0)
    save_pipeline(tiny_pipeline(["red shirt", "blue top"], image_size=(36, 24)), folder / "tryon")
    return folder


@pytest.fixture
def copy(models, tmp_path):
    """Copy one of them, to be spoilt."""
    return lambda kind: shutil.copytree(models / kind, tmp_path / kind)


LOADERS = {
    "own": load_any,
    "llm": lambda folder: load_base(str(folder)),
    "sd": lambda folder: load_diffusion_head(str(folder), 16, 4, 16, "", False),
    "tryon": load_pipeline,
}
FILES = {
    "own": ("model.safetensors",),
    "llm": ("model.safetensors",),
    "sd": (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ),
    "tryon": ("denoiser/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"),
}
EVERY_FILE = [(kind, file) for kind, files in FILES.items() for file in files]


@pytest.mark.parametrize("kind", LOADERS)
def test_the_models_are_opened_before_they_are_spoilt(models, kind):
    LOADERS[kind](models / kind)


# Weights --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("kind", "file"), EVERY_FILE)
def test_weights_that_are_no_numbers_are_refused_by_name(copy, kind, file, number):
    path = copy(kind) / file
    weights = load_file(path)
    name = sorted(weights)[len(weights) // 2]
    weights[name].view(-1)[-1] = number
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{name.rpartition('.')[2]} holds NaN or infinite numbers"):
        LOADERS[kind](path.parents[file.count("/")])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_kind_of_float_is_looked_at_and_whole_numbers_are_not(dtype):
    weights = {"empty": torch.empty(0), "ids": torch.arange(3), "large": torch.full((3,), 400.0).to(dtype)}
    check_finite(weights, "file")
    weights["bad"] = torch.tensor([1.0, float("nan")]).to(dtype)
    with pytest.raises(UserError, match=r"the weights in file are damaged.*: bad holds NaN"):
        check_finite(weights, "file")


def test_a_model_of_numbers_that_are_none_is_not_converted(copy, tmp_path):
    folder = copy("own")
    weights = load_file(folder / "model.safetensors")
    weights["temperature"].fill_(float("inf"))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="temperature holds NaN or infinite"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def header(entries, data=b"\0" * 64):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


HEADERS = {
    "huge": (10**15).to_bytes(8, "little") + b"{}",
    "overlapping": header({n: {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]} for n in "ab"}),
    "beyond the end": header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}}),
    "unknown type": header({"a": {"dtype": "X9", "shape": [16], "data_offsets": [0, 64]}}),
    "no header": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_one_sentence(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"is missing or damaged|is a pointer of Git LFS"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("file", ["../../secret.safetensors", "/etc/passwd", "sub/../../x.bin", 3, None])
def test_shards_outside_the_folder_are_not_opened(tmp_path, file):
    (tmp_path / "config.json").write_text('{"model_type": "blip-2"}')
    index = {"weight_map": {"query_tokens": file}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is not an index of weight shards"):
        load_any(tmp_path)


# Code that comes with weights -----------------------------------------------------------------------------------------


class Harmful:
    """A pickle of it touches a file when it is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """What a file would touch if it could run; whoever is asked whether it may says yes."""
    path = tmp_path / "ran"
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists()


def test_the_pickle_that_the_tests_use_runs_where_it_may(tmp_path):
    torch.save(Harmful(tmp_path / "ran"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(("kind", "file"), EVERY_FILE)
@pytest.mark.parametrize("how", ["as .bin", "as .safetensors"])
def test_a_pickle_in_place_of_weights_does_not_run(copy, marker, kind, file, how):
    path = copy(kind) / file
    path.unlink()
    stem = (
        path.name.removesuffix(".safetensors").replace("model", "pytorch_model").replace("pytorch_pytorch", "pytorch")
    )
    torch.save({"a": Harmful(marker)}, path if how == "as .safetensors" else path.with_name(stem + ".bin"))
    with pytest.raises(UserError):
        LOADERS[kind](path.parents[file.count("/")])


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
def test_a_pickle_that_is_named_does_not_run(models, marker, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save({"model": {"a": Harmful(marker), "b": torch.zeros(1)}}, path)
    for load in (
        load_any,
        lambda path: load_pipeline(path, str(models / "sd")),
        lambda path: start_pipeline(str(path), str(models / "sd")),
        lambda path: Sketcher(path, trusted=True),
    ):
        with pytest.raises(UserError):
            load(path)


def test_a_network_that_is_a_program_runs_only_where_the_user_says_so(tmp_path):
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "edges.pt"))
    with pytest.raises(UserError, match=r"is a TorchScript program.*add --trust-sketch-model"):
        Sketcher(tmp_path / "edges.pt")
    assert Sketcher(tmp_path / "edges.pt", trusted=True).network is not None


def add_code(folder, marker, config, **auto_map):
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    values = json.loads((folder / config).read_text())
    (folder / config).write_text(json.dumps(values | {"auto_map": auto_map}))
    return values


def test_code_beside_a_language_model_is_not_run_even_after_a_yes(copy, marker):
    folder = copy("llm")
    add_code(folder, marker, "config.json", AutoConfig="evil.C", AutoModelForCausalLM="evil.M")
    load_base(str(folder))  # of an architecture that transformers has: its code is not needed
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"model_type": "evil"}))
    with pytest.raises(
        UserError, match="can only be opened with Python code that comes with it, and such code is never"
    ):
        load_base(str(folder))


@pytest.mark.parametrize("load", [load_tokenizer, lambda folder: load_base(folder)], ids=["bert", "llm"])
def test_code_beside_a_tokenizer_is_not_run_even_after_a_yes(copy, marker, load):
    folder = copy("llm")
    add_code(folder, marker, "tokenizer_config.json", AutoTokenizer=["evil.T", "evil.T"])
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"tokenizer_class": "EvilTokenizer"}))
    with pytest.raises(UserError):
        load(str(folder))


@pytest.mark.parametrize(
    "part", [["evil", "Evil"], ["subprocess", "Popen"], ["antigravity", "x"], ["diffusers", "AutoencoderKL", "x"]]
)
def test_a_pipeline_of_other_libraries_is_refused_before_they_are_imported(copy, marker, tmp_path, part, monkeypatch):
    folder = copy("tryon")
    monkeypatch.syspath_prepend(tmp_path)
    for place in (tmp_path, folder / "denoiser"):
        (place / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"denoiser": part}))
    with pytest.raises(UserError, match=r"names \[.*\] for its part 'denoiser'"):
        load_pipeline(folder)
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["evil", "TryOnPipeline"]}))
    with pytest.raises(UserError, match="no try-on model in"):
        load_pipeline(folder)


# Configs and tokenizers -----------------------------------------------------------------------------------------------

TOWER = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
CONFIGS = {
    "a billion layers": {"qformer": {"num_layers": 10**9}},
    "a tower of a billion layers": {"vision": {**TOWER, "depths": [10**9, 1]}},
    "a million stages": {"vision": {**TOWER, "depths": [1] * 10**5, "hidden_sizes": [8] * 10**5}},
    "a huge width": {"vision": {**TOWER, "embedding_size": 2**19, "hidden_sizes": [2**19, 2**19]}},
    "a width that is no multiple": {"qformer": {"num_heads": 5}},
    "a negative width": {"qformer": {"hidden_size": -16}},
    "a width of 0": {"embed_dim": 0},
    "a text": {"num_queries": "4"},
    "half a query": {"num_queries": 4.5},
    "yes": {"num_queries": True},
    "null": {"embed_dim": None},
    "no tower": {"vision": None},
    "an unknown tower": {"vision": {"model_type": "evil"}},
    "a tower of settings that are none": {"vision": {**TOWER, "layer_type": "evil"}},
    "an unknown choice": {"pad": "round"},
    "a billion pixels": {"image_size": 10**9},
    "not a number": {"temperature": float("nan")},
    "more settings": {"evil": 1},
    "another vocabulary": {"qformer": {"vocab_size": 20}},
    "another word": {"dec_token_id": 10**5},
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_contradicts_its_weights_is_one_sentence_and_takes_no_memory(copy, change):
    folder = copy("own")
    config = json.loads((folder / "config.json").read_text())
    qformer = {**config["qformer"], **change.get("qformer", {})}
    (folder / "config.json").write_text(json.dumps({**config, **change, "qformer": qformer}))
    with pytest.raises(UserError) as error:
        UniFashion.from_pretrained(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"{}", b"[1]", b"\xff\xfe", b'{"model": {"type": "evil"}}'], ids=repr
)
def test_a_damaged_tokenizer_is_one_sentence(copy, file, content):
    folder = copy("own")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match="tokenizer") as error:
        UniFashion.from_pretrained(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_model_without_its_tokenizer_is_one_sentence(copy):
    folder = copy("own")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(UserError, match=r"the tokenizer's files in .* are damaged .tokenizer_config.json is missing"):
        UniFashion.from_pretrained(folder)
