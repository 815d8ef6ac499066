"""What an original Blip2QformerCirFull puts before its language and diffusion models: kept, and used once these are named."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llm.tiny_heads import write_diffusion, write_llm
from unifashion.cli import main as unifashion
from unifashion.convert import checkpoints
from unifashion.errors import UserError
from unifashion.llm.captioner import Captioner
from unifashion.llm.designer import Designer
from unifashion.llm.heads import find_heads, read_heads
from unifashion.llm.model import UniFashionFull
from unifashion.models.generation import Decoding

WIDTH, WORDS = 128, 24  # of the toy Q-Former and CLIP, of the toy language model
SHAPES = {
    "llm_proj.weight": (WORDS, WIDTH),
    "llm_proj.bias": (WORDS,),
    "proj_layer.LayerNorm.weight": (WIDTH,),
    "proj_layer.LayerNorm.bias": (WIDTH,),
    "proj_layer.dense1.weight": (4 * WIDTH, WIDTH),
    "proj_layer.dense1.bias": (4 * WIDTH,),
    "proj_layer.dense2.weight": (WIDTH, 4 * WIDTH),
    "proj_layer.dense2.bias": (WIDTH,),
}
ADAPTERS = {name: torch.randn(shape, generator=torch.Generator().manual_seed(3)) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return write_llm(tmp_path_factory.mktemp("llm") / "llm")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return write_diffusion(tmp_path_factory.mktemp("sd") / "sd", WIDTH)


@pytest.fixture
def full(make_original, save_original, words, monkeypatch):
    """Write the file of an original with these adapters, in half precision, among weights of its other models."""
    monkeypatch.setattr(checkpoints, "TOKENIZER", str(words))

    def save(adapters=ADAPTERS):
        added = {name: tensor.half() for name, tensor in adapters.items()} | {
            "llm_model.model.norm.weight": torch.ones(2)
        }
        return save_original(
            make_original("blip2_cir_full"), "full.pt", "Blip2QformerCirFull", lambda state: {**state, **added}
        )

    return save


@pytest.fixture(params=["file", "converted folder"])
def source(request, full, tmp_path, capsys):
    """The file itself, and the folder that ``unifashion convert`` makes of it."""
    path = full()
    if request.param == "file":
        return path
    unifashion(["convert", str(path), str(tmp_path / "OUT")])
    return tmp_path / "OUT"


def rows_of(model):
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return model.query_rows(model.base.read_images(pixels))


def kept(name):
    return ADAPTERS[name].half().float()


def test_a_converted_folder_keeps_the_adapters_and_names_no_model(full, tmp_path, caplog):
    caplog.set_level("INFO")
    unifashion(["convert", str(full()), str(tmp_path / "OUT")])
    assert "llm_model." in caplog.text and "llm_proj" not in caplog.text and "proj_layer" not in caplog.text
    stored = load_file(tmp_path / "OUT" / "heads.safetensors")
    assert sorted(stored) == sorted(
        ["language.projection.weight", "language.projection.bias"]
        + [f"drawing.adapter.{part}.{kind}" for part in ("norm", "expand", "contract") for kind in ("weight", "bias")]
    )
    assert torch.equal(stored["drawing.adapter.contract.weight"], kept("proj_layer.dense2.weight"))
    assert json.loads((tmp_path / "OUT" / "heads.json").read_text()) == {"llm": None, "diffusion_model": None}
    heads = read_heads(find_heads(tmp_path / "OUT"))
    assert heads.llm is heads.diffusion_model is None


def test_the_models_that_are_named_read_the_rows_through_the_kept_adapters(source, llm, diffusion):
    model = UniFashionFull.from_pretrained(source, str(llm), str(diffusion))
    rows = rows_of(model)
    expected = torch.nn.functional.linear(rows, kept("llm_proj.weight"), kept("llm_proj.bias"))
    torch.testing.assert_close(model.language.embed(rows, [], []), expected)
    # The original: LayerNorm, dense1, quick GELU, dense2, residual.
    normed = torch.nn.functional.layer_norm(
        rows, (WIDTH,), kept("proj_layer.LayerNorm.weight"), kept("proj_layer.LayerNorm.bias"), 1e-12
    )
    hidden = torch.nn.functional.linear(normed, kept("proj_layer.dense1.weight"), kept("proj_layer.dense1.bias"))
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    adapted = rows + torch.nn.functional.linear(
        hidden, kept("proj_layer.dense2.weight"), kept("proj_layer.dense2.bias")
    )
    torch.testing.assert_close(model.diffusion.adapter(rows), adapted)


def test_one_of_the_two_models_is_enough(source, llm, diffusion):
    assert UniFashionFull.from_pretrained(source, llm=str(llm)).diffusion is None
    assert UniFashionFull.from_pretrained(source, diffusion_model=str(diffusion)).language is None


def test_it_designs_once_its_diffusion_model_is_named(source, diffusion):
    designer = Designer.from_pretrained(source, diffusion_model=str(diffusion))
    designer.head.shape = 16, 16
    (drawn,) = designer.design([Image.new("RGB", (28, 28), "red")], steps=1)
    assert drawn.size == (16, 16)


def test_it_captions_once_its_language_model_is_named(source, llm, tmp_path):
    image = tmp_path / "a.png"
    Image.new("RGB", (28, 28), "red").save(image)
    out = tmp_path / "captions.jsonl"
    words = ["--model", str(source), "--llm", str(llm), "-o", str(out), "--max-new-tokens", "16"]
    unifashion(["caption", str(image), *words])
    captioner = Captioner.from_pretrained(source, llm=str(llm))
    assert json.loads(out.read_text())["caption"] == captioner.caption([image], Decoding(max_new_tokens=16))[0]
    with pytest.raises(UserError, match=r"its language model is not named \(--llm\)"):
        Captioner.from_pretrained(source)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("llm", r"language model '.*' reads words of width 24, and .* was trained with one of width 30; name that one"),
        (
            "diffusion_model",
            r"diffusion model '.*' reads words of width 24, and .* width 128; name that one \(--diffusion",
        ),
    ],
)
def test_a_model_of_another_width_is_one_sentence(full, llm, tmp_path, named, told):
    path = full({**ADAPTERS, "llm_proj.weight": torch.ones(30, WIDTH), "llm_proj.bias": torch.ones(30)})
    model = llm if named == "llm" else write_diffusion(tmp_path / "sd")
    with pytest.raises(UserError, match=told):
        UniFashionFull.from_pretrained(path, **{named: str(model)})


def test_a_part_that_is_not_whole_is_left_out_and_named(full, caplog):
    caplog.set_level("INFO")
    path = full({name: tensor for name, tensor in ADAPTERS.items() if name.startswith("proj_layer.dense")})
    assert find_heads(path) is None
    checkpoints.load_any(path)
    assert "proj_layer.dense1.weight" in caplog.text


# Training -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train():
    """``blip_train.py`` on four one-coloured photos, from a checkpoint, with heads."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
    import blip_train

    def run(folder, source, *words):
        shop = folder / "shop"
        shop.mkdir()
        for number in range(4):
            Image.new("RGB", (28, 28), "red").save(shop / f"{number}.png")
        lines = [f"{number}.png,A red dress number {number}.,train" for number in range(4)]
        (shop / "catalogue.csv").write_text("\n".join(["image,text,split", *lines]) + "\n")
        fixed = "--blip-model-name blip2_cir_full --image-size 28 --max-text-tokens 32 --batch-size 4 --num-epochs 1"
        data = ["--dataset", "catalogue", "--data-root", str(shop), "--eval-every", "0", "--learning-rate", "1e-9"]
        out = ["--output-dir", str(folder / "run"), "--init-from", str(source)]
        blip_train.main([*fixed.split(), *data, *out, *words])
        return load_file(folder / "run" / "last" / "heads.safetensors")

    return run


def test_training_starts_from_the_kept_adapters(train, source, llm, diffusion, tmp_path):
    words = ["--llm", str(llm), "--diffusion-model", str(diffusion), "--drawing-size", "16"]
    stored = train(tmp_path, source, *words, "--trainable", "adapters")
    for name, theirs in (("language.projection", "llm_proj"), ("drawing.adapter.contract", "proj_layer.dense2")):
        torch.testing.assert_close(stored[f"{name}.weight"], kept(f"{theirs}.weight"), rtol=0, atol=1e-6)
    heads = read_heads(find_heads(tmp_path / "run"))
    assert (heads.llm, heads.diffusion_model) == (str(llm), str(diffusion))


def test_training_with_a_language_model_of_another_width_is_one_sentence(train, full, llm, tmp_path, capsys):
    path = full({**ADAPTERS, "llm_proj.weight": torch.ones(30, WIDTH), "llm_proj.bias": torch.ones(30)})
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, path, "--llm", str(llm), "--trainable", "adapters")
    assert stopped.value.code == 2 and "was trained with one of width 30" in capsys.readouterr().err


def test_training_without_a_named_model_asks_for_one(train, source, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, source)
    assert stopped.value.code == 2 and "name one with --llm" in capsys.readouterr().err
