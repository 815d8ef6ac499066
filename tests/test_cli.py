"""The ``unifashion`` command, from the outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from unifashion.cli import COMMANDS, main
from unifashion.convert.checkpoints import save_lavis
from unifashion.encoders.unifashion import UniFashion
from unifashion.models.presets import EVA_VIT_G, UniFashionConfig
from unifashion.models.qformer import QFormerConfig
from unifashion.models.tokenizer import train_wordpiece
from unifashion.models.unifashion import UniFashionModel

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def model(tmp_path):
    """A model that LAVIS has a place for, saved as ``ours`` and as ``theirs.pt``."""
    tokenizer = train_wordpiece(["a red dress", "is longer"])
    sizes = {
        "hidden_size": 88,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "image_size": 14,
    }
    config = UniFashionConfig(
        model_name="blip2_cir_cls",
        vision={**EVA_VIT_G, **sizes},
        qformer=QFormerConfig(len(tokenizer), 64, 1, 1, 16, 1, 88, 24),
        num_queries=2,
        embed_dim=4,
        dec_token_id=tokenizer.convert_tokens_to_ids("[DEC]"),
        image_size=14,
    )
    torch.manual_seed(0)
    model = UniFashionModel(config, tokenizer).eval()
    model.save_pretrained(tmp_path / "ours")
    save_lavis(tmp_path / "theirs.pt", config, dict(model.state_dict()))
    return model


def refused(capsys, *words):
    """The one sentence that a command line is refused with."""
    with pytest.raises(SystemExit) as raised:
        main([str(word) for word in words])
    assert raised.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("error: ") and sentence.count("\n") == 1
    return sentence


def assert_same(folder, model):
    converted = UniFashion.from_pretrained(folder)
    assert converted.config == model.config
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in converted.state_dict().items())


def test_an_original_file_becomes_a_model_folder(model, tmp_path, capsys):
    main(["convert", str(tmp_path / "theirs.pt"), str(tmp_path / "new"), "--tokenizer", str(tmp_path / "ours")])
    assert capsys.readouterr().out == f"written to {tmp_path / 'new'}\n"
    assert_same(tmp_path / "new", model)


def test_a_model_folder_becomes_a_file_for_lavis(model, tmp_path):
    main(["convert", str(tmp_path / "ours"), str(tmp_path / "new.pt"), "--to", "lavis"])
    written, expected = (torch.load(tmp_path / name, weights_only=True) for name in ("new.pt", "theirs.pt"))
    assert set(written) == set(expected) == {"epoch", "Blip2QformerCirCls", "unifashion_config"}
    ours, theirs = written["Blip2QformerCirCls"], expected["Blip2QformerCirCls"]
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_command_runs_as_a_module(model, tmp_path):
    command = [sys.executable, "-m", "unifashion.cli", "convert", "theirs.pt", "new", "--tokenizer", "ours"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "written to new\n"
    assert_same(tmp_path / "new", model)


def test_what_exists_is_replaced_only_on_demand(model, tmp_path, capsys):
    words = ["convert", tmp_path / "theirs.pt", tmp_path / "ours", "--tokenizer", tmp_path / "ours"]
    assert "ours exists; give another name, or --overwrite" in refused(capsys, *words)
    main([*map(str, words), "--overwrite"])
    assert_same(tmp_path / "ours", model)


def test_help_names_every_command_and_every_flag(capsys):
    for words, expected in ((["--help"], COMMANDS), (["convert", "--help"], ["--to", "--tokenizer", "--vision-tower"])):
        with pytest.raises(SystemExit) as raised:
            main(words)
        assert raised.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in expected)


def test_help_of_every_command_is_answered_without_loading_a_heavy_library():
    code = """
import sys
from unifashion.cli import COMMANDS, main
for words in ([], *([name] for name in COMMANDS)):
    try:
        main([*words, "--help"])
    except SystemExit as left:
        assert left.code == 0
print("loaded:", *({"torch", "numpy", "PIL", "transformers", "accelerate", "diffusers"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert done.stdout.count("usage: unifashion") == 1 + len(COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 130


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a command; see unifashion --help"),
        (["convrt"], "unknown command 'convrt' (did you mean 'convert'?); see unifashion --help"),
        (["convert", "a"], "OUT is required: model folder to write"),
        (["convert", "a", "--tokeniser", "c"], "unknown flag --tokeniser (did you mean '--tokenizer'?)"),
        (["convert", "a", "b", "c"], "unexpected argument 'c'; see unifashion convert --help"),
        (["convert", "a", "b", "--to", "onnx"], "--to: 'onnx' is not one of unifashion, lavis"),
        (["convert", "a", "b", "--to"], "argument --to: expected one argument; see unifashion convert --help"),
        (["convert", "no/such/file.pt", "b"], "no model at 'no/such/file.pt'"),
        (["convert", "a", "b", "--to", "lavis"], "b: a LAVIS checkpoint is one file, name it with .pt or .pth"),
    ],
)
def test_a_wrong_command_line_is_one_clear_sentence(capsys, words, sentence):
    assert sentence in refused(capsys, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [["index", ".", "--model", "none", "-o", "index"], ["score-images", "results"]])
def test_a_gpu_where_there_is_none_is_one_sentence(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main([*words, "--device", "cuda"])
    assert left.value.code == 2 and not any(tmp_path.iterdir())
    assert capsys.readouterr().err.startswith("error: --device cuda: there is no such device here (torch finds 0 GPUs)")


def test_names_that_a_terminal_cannot_show_are_escaped(tmp_path):
    folder = tmp_path / "ph\xf6tos"
    folder.mkdir()
    Image.new("RGB", (20, 30), "red").save(folder / "\u65e5.png")
    (folder / "\u65e5.txt").write_text("r\xf6t", encoding="utf-8")
    (folder / "\xfc.pdf").write_text("x")
    ascii_terminal = {**os.environ, "PYTHONPATH": str(SOURCE), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "unifashion.cli", "doctor", "ph\xf6tos"]
    done = subprocess.run(words, cwd=tmp_path, env=ascii_terminal, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert b"ph\\xf6tos" in done.stdout and b"'\\xfc.pdf'" in done.stdout
