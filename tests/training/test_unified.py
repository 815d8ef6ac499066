"""All losses together: each is what it is alone, a sum has the sum of gradients, every pass runs once, and what is refused."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "llm"))  # for tiny_heads.py

from tiny_heads import write_diffusion, write_llm

from unifashion.config import LanguageModelSettings, ModelSettings, TrainingSettings
from unifashion.data.batches import ComposedRows, PairRows
from unifashion.data.records import ComposedQuery, ComposedSplit, ImageText
from unifashion.errors import UserError
from unifashion.llm.build import Learned, add_heads
from unifashion.seeding import seed_everything
from unifashion.training.grad_cache import GradCache
from unifashion.training.objective import choose_losses
from unifashion.training.tasks.composed import ComposedTask
from unifashion.training.tasks.cross_modal import CrossModalTask
from unifashion.training.tasks.task import Position

TEXTS = ["a red dress with short sleeves", "a blue striped shirt", "is longer and has dots"]
HERE = Position(0, 0, 0, 0)
SETTINGS = dataclasses.replace(TrainingSettings(), itm_negatives="unifashion")
TASKS = {"blip2_cir_cls": CrossModalTask, "blip2_cir_rerank": ComposedTask}
PHASES = {"blip2_cir_cls": ("itc", "itm", "lm", "itg", "q2i"), "blip2_cir_rerank": ("itc", "ttc", "itm", "itg", "q2i")}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads")
    return {"llm": str(write_llm(folder / "llm")), "diffusion_model": str(write_diffusion(folder / "sd"))}


@pytest.fixture
def build(make_model, heads):
    def make(name, losses=("itg", "q2i"), trainable="all"):
        named = {key: heads[key] for key, loss in (("llm", "itg"), ("diffusion_model", "q2i")) if loss in losses}
        settings = LanguageModelSettings(**named, drawing_size=16, lora_r=4, lora_alpha=8, trainable=trainable)
        learned = Learned(lambda: TEXTS, lambda: torch.zeros(0))
        model = add_heads(make_model(name), settings, "Describe it.", learned, None, losses).eval()
        with torch.no_grad():  # fresh LoRA passes nothing on
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        return model

    return make


def batch_of(model, name, rows=3):
    base = model.base if hasattr(model, "base") else model
    ids, mask = base.tokenize(TEXTS[:rows])
    image = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {"text_ids": ids, "text_mask": mask, "product": torch.arange(rows), "text": torch.arange(rows)}
    batch |= {"set": torch.zeros(rows, dtype=torch.long)}
    batch |= {"image": image} if name == "blip2_cir_cls" else {"reference": image, "target": image.flip(-1) * 0.5}
    if name == "blip2_cir_rerank":
        batch["caption_ids"], batch["caption_mask"] = base.tokenize(TEXTS[::-1][:rows])
    if getattr(model, "language", None) is not None:
        batch["answer_ids"], batch["answer_mask"] = model.language.tokenize(TEXTS[:rows])
    if getattr(model, "diffusion", None) is not None:
        batch["prompt_ids"] = model.diffusion.tokenize(TEXTS[:rows])
        batch["drawing"] = torch.randint(256, (rows, 3, 16, 16), dtype=torch.uint8)
    return batch


def losses_of(model, name, losses, batch, settings=SETTINGS, **more):
    task = TASKS[name](model, settings, False, losses, **more)
    prepared = task.prepare(dict(batch), HERE)
    features = task.encode(prepared)
    seed_everything(*HERE)  # so that q2i draws the same, whatever is computed beside it
    found = {}
    if features.vectors:
        found, pairs = task.contrastive_losses(features.vectors, prepared)
        found |= {"itm": task.itm_loss(features, pairs)} if pairs is not None else {}
    seed_everything(*HERE)
    return found | task.row_losses(features, prepared)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", PHASES)
def test_every_loss_is_the_same_alone_and_a_sum_has_the_sum_of_gradients(build, name):
    model, losses = build(name), PHASES[name]
    model.choose_trained(("qformer", "adapters", "llm_lora", "diffusion"), losses)
    batch = batch_of(model, name)
    expected = {loss: value.item() for loss, value in losses_of(model, name, losses, batch).items()}
    assert set(expected) == set(losses)
    summed: dict[str, torch.Tensor] = {}
    for loss in losses:
        (alone,) = losses_of(model, name, (loss,), batch).items()
        assert alone[0] == loss
        # A matching pass of other rows beside it, or a causal text behind the query rows, may round differently.
        assert alone[1].item() == pytest.approx(expected[loss], rel=1e-6, abs=1e-6)
        for key, gradient in gradients(model, alone[1]).items():
            summed[key] = summed.get(key, 0) + gradient
    found = gradients(model, torch.stack(list(losses_of(model, name, losses, batch).values())).sum())
    assert found.keys() == summed.keys()
    for key, gradient in summed.items():
        assert (found[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-5, key


@pytest.mark.parametrize(("name", "count"), [("blip2_cir_cls", 3), ("blip2_cir_rerank", 4)])
def test_every_pass_runs_once_whatever_reads_it(build, monkeypatch, name, count):
    """Phase 1: image with causal text, text, matching. Phase 2: fused, target, caption, matching. Heads add none."""
    model, passes, projected = build(name), [], []
    forward, project = model.base.qformer.forward, model.base.qformer.project_image
    monkeypatch.setattr(
        model.base.qformer, "forward", lambda *given, **named: passes.append(1) or forward(*given, **named)
    )
    monkeypatch.setattr(model.base.qformer, "project_image", lambda tokens: projected.append(1) or project(tokens))
    losses_of(model, name, PHASES[name], batch_of(model, name))
    assert len(passes) == count and len(projected) == (1 if name == "blip2_cir_cls" else 2)
    passes.clear()
    losses_of(model, name, ("itg", "q2i"), batch_of(model, name))
    assert len(passes) == 1, "captions and drawings read the same query rows"


@pytest.mark.parametrize("name", PHASES)
@pytest.mark.parametrize("loss", ["itg", "q2i"])
def test_gradients_reach_the_q_former_through_frozen_models(build, name, loss):
    model = build(name, (loss,), trainable="paper-s1")
    assert (model.language is None) == (loss == "q2i"), "drawing does without a language model"
    found = gradients(model, losses_of(model, name, (loss,), batch_of(model, name))[loss])
    assert found["base.query_tokens"].abs().max() > 0
    assert all(key.startswith("base.") for key in found)


@pytest.mark.parametrize("name", PHASES)
def test_a_gradient_cache_takes_the_heads_too(build, monkeypatch, name):
    model, losses = build(name), PHASES[name]
    model.choose_trained(("qformer", "adapters", "llm_lora"), losses)
    model.base.vision.freeze()
    # In place of random noise, which chunks draw otherwise.
    monkeypatch.setattr(
        model.diffusion, "forward", lambda rows, pixels, _: (rows.mean((1, 2)) - pixels.mean((1, 2, 3))).square().mean()
    )
    batch = batch_of(model, name)
    task = TASKS[name](model, SETTINGS, False, losses)
    prepared = task.prepare(dict(batch), HERE)
    seed_everything(*HERE)
    whole = task(prepared)
    expected = gradients(model, task.total(whole))
    model.zero_grad()
    cache = GradCache(task, 2, Accelerator(cpu=True), is_sharded=False)
    chunked = cache.backward(task.prepare(dict(batch), HERE), HERE)
    torch.testing.assert_close({k: v.detach() for k, v in chunked.items()}, {k: v.detach() for k, v in whole.items()})
    for key, gradient in expected.items():
        assert (model.get_parameter(key).grad - gradient).norm() <= 2e-4 * gradient.norm() + 2e-5, key


def test_rows_of_a_mixture_are_asked_as_their_own_data_set_asks(build):
    model, name = build("blip2_cir_cls", ("itg",)), "blip2_cir_cls"
    batch = batch_of(model, name)
    batch["set"] = torch.tensor([0, 1, 0])
    asked = ("Short.", "Describe this garment in every detail.")
    both = losses_of(model, name, ("itg",), batch, instructions=asked)["itg"]
    counts, sums = batch["answer_mask"].sum(1), []
    for row, index in enumerate(batch["set"].tolist()):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        model.language.instruction = asked[index]
        sums.append(losses_of(model, name, ("itg",), one)["itg"] * counts[row])
    torch.testing.assert_close(both, torch.stack(sums).sum() / counts.sum(), rtol=1e-5, atol=1e-5)


def test_the_printed_equation_compares_the_fused_vector_and_matches_the_feedback(make_model, monkeypatch):
    model = make_model("blip2_cir_rerank").eval()
    batch, seen = batch_of(model, "blip2_cir_rerank"), []
    match_logits = model.match_logits
    monkeypatch.setattr(model, "match_logits", lambda *given: seen.append(given[1][:3]) or match_logits(*given))
    settings = dataclasses.replace(SETTINGS, composed_objective="paper")
    losses = losses_of(model, "blip2_cir_rerank", ("itc", "ttc", "itm"), batch, settings)
    fused, _ = model.fused_features(model.read_images(batch["reference"]), batch["text_ids"], batch["text_mask"])
    caption = model.text_features(batch["caption_ids"], batch["caption_mask"])
    expected = torch.nn.functional.cross_entropy(fused @ caption.T / model.temperature, torch.arange(3))
    torch.testing.assert_close(losses["ttc"], expected)
    length = batch["text_ids"].shape[1]
    assert torch.equal(seen[0][:, :length], batch["text_ids"])


# What is refused -------------------------------------------------------------------------------------------------------------

PAIRS = PairRows([ImageText(Path("a.png"), "a dress", "1")], lambda _: torch.zeros(3, 8, 8))
WORDLESS = PairRows([ImageText(Path("a.png"), " ", "1")], lambda _: torch.zeros(3, 8, 8))


def composed(captions):
    images = {"a": Path("a.png"), "b": Path("b.png")}
    split = ComposedSplit(
        "fashioniq", "train", "dress", (ComposedQuery("a", "b", ("x",)),), ("a", "b"), images, captions
    )
    return ComposedRows([split], lambda _: torch.zeros(3, 8, 8))


CAPTIONED, BARE = composed({"b": "a dress"}), composed({})
CLS, RERANK, FULL = "blip2_cir_cls", "blip2_cir_rerank", "blip2_cir_full"
BOTH = {"llm": "tiny", "diffusion_model": "tiny", "trainable": "qformer+adapters+llm+diffusion"}
CHOSEN = [
    (CLS, PAIRS, {}, {}, ("itc", "itm", "lm")),
    (RERANK, CAPTIONED, {}, {}, ("itc", "ttc", "itm")),
    (RERANK, BARE, {}, {}, ("itc", "itm")),
    (FULL, PAIRS, {}, BOTH, ("itg", "q2i")),
    (FULL, BARE, {}, {"diffusion_model": "sd"}, ("q2i",)),
    (FULL, PAIRS, {"losses": "q2i+itc+itm+itg"}, BOTH, ("itc", "itm", "itg", "q2i")),
    (CLS, PAIRS, {"losses": "itc+q2i"}, {"diffusion_model": "sd"}, ("itc", "q2i")),
    (FULL, CAPTIONED, {"losses": "itc+ttc+itm+itg+q2i"}, BOTH, ("itc", "ttc", "itm", "itg", "q2i")),
]


@pytest.mark.parametrize(("name", "rows", "training", "language", "expected"), CHOSEN)
def test_the_losses_are_those_named_or_those_of_the_model_that_the_data_feeds(name, rows, training, language, expected):
    assert chosen(name, rows, training, language) == expected


REFUSED = {
    "an unknown loss": (CLS, PAIRS, {"losses": "itc+imt"}, {}, "losses: 'imt' is not one of .*did you mean 'itm'"),
    "a loss twice": (CLS, PAIRS, {"losses": "itc+itc"}, {}, "losses: itc is named twice"),
    "ttc of pairs": (CLS, PAIRS, {"losses": "itc+ttc"}, {}, "losses: ttc compares composed queries"),
    "ttc without captions": (RERANK, BARE, {"losses": "itc+ttc"}, {}, "losses: ttc needs a caption for every target"),
    "lm of queries": (RERANK, BARE, {"losses": "itc+lm"}, {}, "losses: lm reads images with their own texts"),
    "itg without captions": (FULL, BARE, {"losses": "itc+itg"}, BOTH, "losses: itg needs captions to learn from"),
    "itg of blank texts": (FULL, WORDLESS, {"losses": "itg"}, BOTH, "losses: itg needs captions to learn from"),
    "itg without a model": (CLS, PAIRS, {"losses": "itc+itg"}, {}, "losses: itg needs a language model; name one with --llm"),
    "q2i without a model": (CLS, PAIRS, {"losses": "q2i"}, {}, "losses: q2i needs a diffusion model; name one with --diff"),
    "full without anything": (FULL, PAIRS, {}, {}, "blip2_cir_full needs a language model: name one with --llm"),
    "a weight of no loss": (CLS, PAIRS, {"q2i_weight": 2.0}, {}, "--q2i-weight has no effect: q2i is not among the losses"),
    "itc's weight of captions": (FULL, PAIRS, {"itc_weight": 2.0}, {"llm": "llama"}, "--itc-weight has no effect"),
    "negatives of nothing": (CLS, PAIRS, {"losses": "itc", "itm_negatives": "unifashion"}, {}, "--itm-negatives has no effect"),
    "an objective of phase 1": (CLS, PAIRS, {"composed_objective": "paper"}, {}, "--composed-objective has no effect"),
    "a language model": (CLS, PAIRS, {}, {"llm": "llama"}, "--llm has no effect: itg is not among the losses"),
    "a diffusion model": (RERANK, BARE, {}, {"diffusion_model": "sd"}, "--diffusion-model has no effect: q2i is not"),
    "what is trainable": (CLS, PAIRS, {}, {"trainable": "qformer"}, "--trainable has no effect: there is neither"),
    "a drawing prompt": (CLS, PAIRS, {}, {"drawing_prompt": "x"}, "--drawing-prompt has no effect"),
    "LoRA that is not trained": (FULL, PAIRS, {}, {"llm": "a", "trainable": "qformer", "lora_r": 4}, "--lora-r has no effect"),
    "the U-Net of no loss": (FULL, PAIRS, {}, {"llm": "a", "trainable": "qformer+diffusion"}, "diffusion has no effect"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_minimised_and_what_has_no_effect_is_one_sentence(what):
    name, rows, training, language, sentence = REFUSED[what]
    with pytest.raises(UserError, match=sentence):
        chosen(name, rows, training, language)


def chosen(name, rows, training, language):
    settings = TrainingSettings(**training), LanguageModelSettings(**language)
    return choose_losses(ModelSettings(blip_model_name=name), *settings, rows, None)


def test_a_head_that_is_kept_keeps_its_own_prompt_and_one_that_is_left_out_is_said(monkeypatch, caplog):
    kept = SimpleNamespace(llm="llama", diffusion_model=None)
    monkeypatch.setattr("unifashion.llm.heads.read_heads", lambda _: kept)
    model, training = ModelSettings(blip_model_name=FULL), TrainingSettings()
    assert choose_losses(model, training, LanguageModelSettings(), PAIRS, Path("run")) == ("itg",)
    with caplog.at_level("WARNING"):
        choose_losses(model, dataclasses.replace(training, losses="itc"), LanguageModelSettings(), PAIRS, Path("run"))
    assert "run: it has a language model, which this run leaves out, as itg is not among the losses" in caplog.text
    with pytest.raises(UserError, match="--template has no effect: the language model of run keeps its own"):
        choose_losses(model, training, LanguageModelSettings(template="<queries> x"), PAIRS, Path("run"))
