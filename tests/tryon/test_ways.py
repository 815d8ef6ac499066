"""The ways to train and draw that are not the default: bf16, a retrieval model, and the scripts as a user starts them."""

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import save_file

from unifashion.data.feedback import prepare_text
from unifashion.data.images import ImageTransform, normalise
from unifashion.errors import UserError
from unifashion.models.context_adapter import TRAINED, ContextAdapter
from unifashion.training.train_tryon import train
from unifashion.tryon.api import TryOn
from unifashion.tryon.inference import run_inference
from unifashion.tryon.loading import load_pipeline, save_pipeline
from unifashion.tryon.qformer_context import QFormerContext
from unifashion.tryon.settings import (
    TryOnDataSettings,
    TryOnInferenceSettings,
    TryOnModelSettings,
    TryOnTrainingSettings,
)
from unifashion.tryon.tiny import CLIP_WIDTH

FOLDER = Path(__file__).resolve().parents[2] / "src/UNIStableVITON"
SHORT = {"max_steps": 2, "batch_size": 2, "num_validation_images": 1, "validation_inference_steps": 2, "colour": False}


def trained(root, out, precision="fp32", **changes):
    data = TryOnDataSettings(data_root=str(root), height=24, width=18)
    names = [field.name for field in fields(TryOnModelSettings)]
    chosen = {"trainable": "all", **{name: changes.pop(name) for name in names if name in changes}}
    model = TryOnModelSettings(architecture="tiny", **chosen)
    AcceleratorState._reset_state(True)  # as if in a process of its own: precision is fixed for one
    training = TryOnTrainingSettings(output_dir=str(out), precision=precision, ema_decay=0.5, **{**SHORT, **changes})
    return train(data, model, training)


def drawn(run, root, out, **changes):
    values = {"num_inference_steps": 2, "limit": 1, **changes}
    settings = TryOnInferenceSettings(data_root=str(root), model_path=str(run), output_dir=str(out), **values)
    (picture,) = run_inference(settings).glob("0*.png")
    return np.asarray(Image.open(picture), dtype=float)


def test_bf16_trains_weights_of_full_precision_and_draws_nearly_the_same(tryon_root, tmp_path):
    runs = {kind: trained(tryon_root, tmp_path / kind, kind) for kind in ("fp32", "bf16")}
    weights = [load_pipeline(run).denoiser.state_dict() for run in runs.values()]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights[1].values())
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    pictures = [
        drawn(runs["fp32"], tryon_root, tmp_path / f"results-{kind}", precision=kind) for kind in ("fp32", "bf16")
    ]
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 8, "grey levels of 255"


@pytest.mark.parametrize("cache", [False, True])
def test_the_adapter_trains_with_a_retrieval_model_and_goes_on_exactly(make_model, tryon_root, tmp_path, cache):
    make_model().save_pretrained(tmp_path / "retriever")
    name = str(tmp_path / "retriever")
    whole = trained(tryon_root, tmp_path / "whole", retriever=name, cache_latents=cache, save_steps=1)
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    shutil.rmtree(parts / "checkpoints" / "step_00000002")
    before = load_pipeline(parts / "checkpoints" / "step_00000001" / "model").denoiser.adapter.weight
    trained(tryon_root, parts, retriever=name, cache_latents=cache, save_steps=1, resume=str(parts))
    after = [load_pipeline(run).denoiser.adapter.weight for run in (whole, parts)]
    assert torch.equal(*after)
    assert not torch.equal(before, after[0])
    drawn(whole, tryon_root, tmp_path / "results", retriever=name)


@pytest.fixture
def drawing(make_model, tmp_path):
    """A retrieval model with a diffusion head beside it: the head's adapter, as its checkpoint keeps it."""
    model = make_model()
    model.save_pretrained(tmp_path / "drawing")
    torch.manual_seed(5)
    adapter = ContextAdapter(model.config.qformer.hidden_size, CLIP_WIDTH)
    save_file(
        {f"drawing.adapter.{name}": t for name, t in adapter.state_dict().items()}, tmp_path / "drawing" / TRAINED
    )
    return tmp_path / "drawing", adapter.state_dict()


def test_the_diffusion_heads_adapter_starts_the_denoisers_and_trains_on_exactly(drawing, tryon_root, tmp_path):
    folder, weights = drawing
    given = {"retriever": str(folder), "adapter": "clip", "cache_latents": True, "save_steps": 1}
    whole = trained(tryon_root, tmp_path / "whole", adapter_from=str(folder), **given)
    first = load_pipeline(whole / "checkpoints" / "step_00000001" / "model").denoiser.adapter.state_dict()
    for name, tensor in weights.items():
        torch.testing.assert_close(first[name], tensor, atol=2e-4, rtol=0)  # one step of 1e-4 from where it started
        assert not torch.equal(first[name], tensor), name
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    shutil.rmtree(parts / "checkpoints" / "step_00000002")
    trained(tryon_root, parts, adapter_from=str(tmp_path / "gone"), resume=str(parts), **given)
    runs = [load_pipeline(run).denoiser.state_dict() for run in (whole, parts)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    picture = drawn(whole, tryon_root, tmp_path / "results", retriever=str(folder))
    assert picture.std() > 0
    with pytest.raises(
        UserError, match="has a clip adapter for rows of width 16, --retriever and --adapter ask for a linear"
    ):
        trained(tryon_root, tmp_path / "other", retriever=str(folder), init_from=str(whole))


@pytest.mark.parametrize("adapter", ["linear", "clip"])
def test_the_q_former_trains_with_the_denoiser_and_its_weights_are_kept_with_it(
    make_model, tryon_root, tmp_path, adapter
):
    name = str(tmp_path / "retriever")
    make_model().save_pretrained(name)
    loaded = QFormerContext(name)
    given = {"retriever": name, "adapter": adapter, "trainable": "paper+qformer", "save_steps": 1}
    whole = trained(tryon_root, tmp_path / "whole", **given)
    pipe = load_pipeline(whole)
    before = loaded.model.state_dict()
    moved = {part for part, tensor in pipe.qformer.items() if not torch.equal(tensor, before[part])}
    assert "query_tokens" in moved and any("cross" in part for part in moved), moved
    assert all(part == "query_tokens" or part.startswith("qformer.") for part in pipe.qformer)
    assert pipe.denoiser.config.retriever == loaded.weights_hash, "of the model that --retriever names"
    parts = Path(shutil.copytree(whole, tmp_path / "parts"))
    shutil.rmtree(parts / "checkpoints" / "step_00000002")
    trained(tryon_root, parts, resume=str(parts), **given)
    again = load_pipeline(parts)
    assert all(torch.equal(pipe.qformer[part], again.qformer[part]) for part in pipe.qformer)
    garment = torch.randint(0, 256, (1, 3, 24, 18)).to(torch.uint8)
    rows = TryOn(pipe, QFormerContext(name)).context(garment, ["red shirt"])
    assert not torch.equal(rows, loaded(garment, ["red shirt"]))
    more = {"retriever": name, "adapter": adapter, "init_from": str(whole), "max_steps": 1}
    kept = load_pipeline(trained(tryon_root, tmp_path / "second", **more)).qformer
    assert all(torch.equal(pipe.qformer[part], kept[part]) for part in pipe.qformer)


def test_a_q_former_that_cannot_train_is_one_sentence(make_model, tryon_root, tmp_path):
    name = str(tmp_path / "retriever")
    make_model().save_pretrained(name)
    with pytest.raises(UserError, match=r"paper\+qformer changes what is cached .* add --no-cache-latents"):
        trained(tryon_root, tmp_path / "run", retriever=name, trainable="paper+qformer", cache_latents=True)
    with pytest.raises(UserError, match="trains the Q-Former of a retrieval model: name one with --retriever"):
        trained(tryon_root, tmp_path / "run", trainable="paper+qformer")


def test_an_adapter_that_cannot_start_the_denoisers_is_one_sentence(drawing, make_model, tryon_root, tmp_path):
    folder, _ = drawing
    make_model().save_pretrained(tmp_path / "plain")
    save_file({"drawing.adapter.norm.weight": torch.ones(7)}, tmp_path / "narrow.safetensors")
    narrow = Path(shutil.copytree(folder, tmp_path / "narrow"))
    shutil.move(tmp_path / "narrow.safetensors", narrow / TRAINED)
    for source, sentence in (
        (tmp_path / "plain", "has no diffusion head"),
        (narrow, "rows of width 16 to texts of width 64"),
    ):
        with pytest.raises(UserError, match=sentence):
            trained(tryon_root, tmp_path / "run", retriever=str(folder), adapter="clip", adapter_from=str(source))
    with pytest.raises(UserError, match="add --adapter clip"):
        trained(tryon_root, tmp_path / "run", retriever=str(folder), adapter_from=str(folder))
    with pytest.raises(UserError, match="name one with --retriever"):
        trained(tryon_root, tmp_path / "run", adapter="clip")
    assert not (tmp_path / "run").exists()


def test_a_model_draws_and_trains_on_with_the_retrieval_model_it_was_trained_with_and_no_other(
    make_model, tryon_root, tmp_path
):
    own, other = (str(tmp_path / name) for name in ("own", "other"))
    make_model().save_pretrained(own)
    changed = make_model()
    with torch.no_grad():
        changed.query_tokens.add_(0.1)
    changed.save_pretrained(other)
    run = trained(tryon_root, tmp_path / "run", retriever=own, max_steps=1)
    hash = QFormerContext(own).weights_hash
    assert load_pipeline(run).denoiser.config.retriever == hash != QFormerContext(other).weights_hash
    moved = str(Path(shutil.copytree(own, tmp_path / "moved")))
    drawn(run, tryon_root, tmp_path / "results", retriever=moved)
    sentence = "another retrieval model than this try-on model was trained with"
    with pytest.raises(UserError, match=sentence):
        drawn(run, tryon_root, tmp_path / "none", retriever=other)
    with pytest.raises(UserError, match=sentence):
        trained(tryon_root, tmp_path / "second", retriever=other, init_from=str(run))
    shutil.rmtree(own)
    shutil.copytree(other, own)
    with pytest.raises(UserError, match=sentence):
        trained(tryon_root, run, retriever=own, resume=str(run))
    old = load_pipeline(run)
    old.denoiser.register_to_config(retriever=None)  # as earlier versions wrote it
    save_pipeline(old, tmp_path / "old")
    drawn(tmp_path / "old", tryon_root, tmp_path / "old-results", retriever=other)


@pytest.mark.parametrize("pad", ["target", "square", "none"])
def test_the_retrieval_model_sees_a_garment_as_its_own_encoder_shows_it(make_model, tmp_path, pad):
    make_model(pad=pad).save_pretrained(tmp_path / "retriever")
    context = QFormerContext(tmp_path / "retriever")
    model = context.model
    garment = torch.randint(0, 256, (1, 3, 64, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    photo = Image.fromarray(garment[0].permute(1, 2, 0).numpy())
    pixels = normalise(ImageTransform(model.config.image_size, pad=pad)(photo)[None])
    words = model.tokenize([prepare_text("red shirt")])
    expected = model.query_rows(model.read_images(pixels), *words)
    torch.testing.assert_close(context(garment, ["red shirt"]), expected)


def script(name, *flags):
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", name, *flags], cwd=FOLDER, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_scripts_run_from_their_own_folder(tryon_root, tmp_path):
    run, out = str(tmp_path / "run"), str(tmp_path / "results")
    data = ["--data-root", str(tryon_root), "--dataset", "vitonhd"]
    toy = ["--config", "configs/quickstart/tryon.yaml", "--height", "24", "--width", "18", "--max-steps", "2"]
    toy += ["--batch-size", "2", "--warmup-steps", "0", "--decay-steps", "0", "--num-validation-images", "1"]
    said = script("train.sh", *data, *toy, "--output-dir", run)
    assert f"the run is kept in {run}" in said
    assert "paired SSIM of 1 test pairs: " in said
    said = script("inference.sh", *data, "--model-path", run, "--output-dir", out, "--num-inference-steps", "2")
    assert f"the results are in {out}" in said
    assert (tmp_path / "results" / "examples.png").is_file()
