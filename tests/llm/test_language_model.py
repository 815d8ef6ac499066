"""The language model behind the query rows: its loss, its words, what of it is trained and kept."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from tiny_heads import write_diffusion, write_llm

from unifashion.config import PAPER_PARTS, LanguageModelSettings
from unifashion.convert import convert
from unifashion.data.datasets import KEY_POINTS, PROFESSIONAL, SHORT
from unifashion.errors import UserError
from unifashion.llm.build import Learned, add_heads
from unifashion.llm.captioner import Captioner
from unifashion.llm.model import UniFashionFull, part_of
from unifashion.llm.prompts import instruction_for, prompt_ids
from unifashion.models.generation import Decoding

ANSWERS = ["A red dress.", "A blue striped shirt with short sleeves."]
LEARNED = Learned(lambda: ANSWERS, lambda: torch.rand(8, 3, 24, 18) * 2 - 1)


@pytest.fixture(scope="module", params=["llama", "qwen"])
def llm(request, tmp_path_factory):
    return write_llm(tmp_path_factory.mktemp("llm") / request.param, request.param)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return write_diffusion(tmp_path_factory.mktemp("sd") / "sd")


@pytest.fixture
def build(make_model, llm):
    def make(**changes):
        settings = LanguageModelSettings(**{"llm": str(llm), "lora_r": 4, "lora_alpha": 8, **changes})
        losses = ("itg", "q2i") if settings.diffusion_model else ("itg",)
        return add_heads(make_model("blip2_cir_full"), settings, SHORT, LEARNED, None, losses)

    return make


def some_rows(model, number=3):
    pixels = torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model.query_rows(model.base.read_images(pixels))


def test_every_data_set_has_the_instruction_of_the_paper():
    assert instruction_for("fashion200k") == SHORT and instruction_for("fashiongen") == PROFESSIONAL
    assert instruction_for("fashioniq-cap") == instruction_for("fashioniq") == KEY_POINTS
    assert instruction_for("fashion200k:0.5+fashiongen") == SHORT and instruction_for("catalogue") == PROFESSIONAL


def test_the_loss_is_that_of_the_answers_alone(build):
    model = build().eval()
    language, rows = model.language, some_rows(model, 2)
    ids, mask = language.tokenize(ANSWERS)
    loss = language(rows, ids, mask)[0]
    before, after = prompt_ids(language.tokenizer, language.template, language.instruction)
    total, count = 0.0, 0
    for row, answer in zip(rows, ANSWERS, strict=True):
        said = [*language.tokenizer(answer, add_special_tokens=False)["input_ids"], language.tokenizer.eos_token_id]
        prompt = language.embed(row[None], before, after)
        whole = torch.cat([prompt, language.words(torch.tensor([said]))], dim=1)
        scores = language.model(inputs_embeds=whole).logits[0].log_softmax(dim=-1)
        for place, token in enumerate(said):
            total, count = total - scores[prompt.shape[1] - 1 + place, token].item(), count + 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


def test_an_empty_answer_and_padding_teach_nothing(build):
    model = build().eval()
    rows = some_rows(model, 2)
    ids, mask = model.language.tokenize([ANSWERS[0], ""])
    alone = model.language.tokenize(ANSWERS[:1])
    assert model.language(rows, ids, mask)[0].item() == pytest.approx(
        model.language(rows[:1], *alone)[0].item(), rel=1e-4
    )


@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=8), Decoding(max_new_tokens=8, num_beams=3)])
def test_a_batch_writes_what_its_rows_write_alone_whatever_they_are_asked(build, decoding):
    model = build().eval()
    rows, asked = some_rows(model), ["Short.", "Describe this dress with its sleeves.", "A shirt."]
    together = model.language.generate(rows, decoding, asked)
    alone = [model.language.generate(rows[n : n + 1], decoding, asked[n : n + 1])[0] for n in range(3)]
    assert together == alone and len(set(together)) > 1


def test_a_narrow_nucleus_writes_what_greedy_writes(build):
    model = build().eval()
    greedy = model.language.generate(some_rows(model), Decoding(max_new_tokens=8))
    narrow = Decoding(max_new_tokens=8, sample=True, top_p=1e-6)
    wide = Decoding(max_new_tokens=8, sample=True, top_p=0.99)
    assert model.language.generate(some_rows(model), narrow) == greedy
    assert model.language.generate(some_rows(model), wide) != greedy


def test_checkpointed_activations_give_the_same_loss_and_gradients(build):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build(gradient_checkpointing=checkpointing, lora_dropout=0.0).train()
        loss = model.language(some_rows(model, 2), *model.language.tokenize(ANSWERS))[0]
        loss.backward()
        found.append((loss, model.base.query_tokens.grad))
    assert found[0][0].item() == pytest.approx(found[1][0].item(), rel=1e-6)
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("trainable", ["all", "paper-s1", "paper-s3", "qformer+adapters+llm", "adapters", "diffusion"])
def test_exactly_the_named_parts_get_gradients(build, diffusion, trainable):
    model = build(trainable=trainable, diffusion_model=str(diffusion), drawing_size=16).train()
    torch.manual_seed(0)
    rows = some_rows(model, 2)
    loss = model.language(rows, *model.language.tokenize(ANSWERS))[0]
    (loss + model.diffusion(rows, torch.rand(2, 3, 20, 20) * 2 - 1, model.diffusion.tokenize(ANSWERS))).backward()
    moved = {part_of(name) for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved - {""} == set(PAPER_PARTS.get(trainable, trainable.split("+")))


def test_drawing_loss_is_the_error_of_the_predicted_noise(build, diffusion):
    model = build(diffusion_model=str(diffusion), drawing_size=16).eval()
    drawing, rows, image = model.diffusion, some_rows(model, 2), torch.rand(2, 3, 16, 16) * 2 - 1
    torch.manual_seed(3)
    prompt = drawing.tokenize(ANSWERS)
    loss = drawing(rows, image, prompt)
    torch.manual_seed(3)
    latents = drawing.vae.encode(image).latent_dist.sample() * drawing.vae.config.scaling_factor
    noise, step = torch.randn_like(latents), torch.randint(1000, (2,))
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - beta, 0)[step].view(-1, 1, 1, 1)
    predicted = drawing.unet(
        kept.sqrt() * latents + (1 - kept).sqrt() * noise, step, drawing.condition(rows, prompt)
    ).sample
    assert loss.item() == pytest.approx((predicted - noise).pow(2).mean().item(), rel=1e-4)
    assert drawing.draw(rows, ["", ""], steps=2).shape == (2, 3, 16, 16)
    changed = drawing.tokenize(ANSWERS[::-1])
    torch.manual_seed(3)
    assert drawing(rows, image, changed).item() != pytest.approx(loss.item(), rel=1e-6), "the row's words are read"


def seeded(number=2):
    return [torch.Generator().manual_seed(row) for row in range(number)]


def test_a_tiny_diffusion_model_draws_in_the_asked_shape_and_is_kept_whole(build, tmp_path):
    model = build(diffusion_model="tiny", drawing_size="24x18").eval()
    rows = some_rows(model, 2)
    first = model.diffusion.draw(rows, ANSWERS, steps=2, generators=seeded())
    assert first.shape == (2, 3, 24, 18)
    model.save_pretrained(tmp_path / "saved")
    loaded = UniFashionFull.from_pretrained(tmp_path / "saved")
    again = loaded.diffusion.draw(rows, ANSWERS, steps=2, generators=seeded())
    torch.testing.assert_close(again, first)
    with pytest.raises(UserError, match="blocks of 3 pixels"):
        build(diffusion_model="tiny", drawing_size="25x18")
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        build(diffusion_model="tiny", drawing_size="24 by 18")


def test_a_checkpoint_is_small_and_lies_on_top_of_the_language_model(build, llm, tmp_path):
    model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    model.eval().save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved/llm").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    kept = [name for name in model.state_dict() if name.startswith("language.model.")]
    assert kept and all("lora_" in name for name in kept)
    loaded = UniFashionFull.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(some_rows(loaded), some_rows(model))
    inputs = model.language.tokenize(ANSWERS)
    torch.testing.assert_close(
        loaded.language(some_rows(model, 2), *inputs), model.language(some_rows(model, 2), *inputs)
    )
    moved = llm.parent / f"moved_{llm.name}"
    moved.symlink_to(llm)
    assert UniFashionFull.from_pretrained(tmp_path / "saved", llm=str(moved)).heads.llm == str(moved)
    moved.unlink()
    with pytest.raises(UserError, match="language model '/nowhere' could not be loaded"):
        UniFashionFull.from_pretrained(tmp_path / "saved", llm="/nowhere")


@pytest.mark.parametrize("loaded_in", ["8bit", "4bit"])
def test_quantised_loading_without_bitsandbytes_is_one_sentence(build, loaded_in, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(UserError, match=f"--load-in {loaded_in} needs the package bitsandbytes"):
        build(load_in=loaded_in)


def test_unusable_settings_are_one_sentence(build, tmp_path):
    for changes, sentence in (
        ({"llm": None}, "itg needs a language model"),
        ({"llm": str(tmp_path)}, "could not be loaded"),
        ({"lora_targets": "nothing_like_it"}, "lora_targets 'nothing_like_it'"),
        ({"llm": "tiny"}, "tiny starts from random weights"),
        ({"trainable": "qformer+adapter"}, "did you mean 'adapters'"),
        ({"trainable": "llm+llm_lora"}, "choose one"),
        ({"template": "no place"}, "<queries> exactly once"),
        (
            {"diffusion_model": str(tmp_path)},
            "is a folder without unet and vae .* Stable Diffusion 1.x in diffusers form",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            build(**changes)
    assert replace(LanguageModelSettings(), trainable="paper-s1").parts() == ("qformer",)


def test_a_copy_by_convert_keeps_the_heads(build, tmp_path):
    model = build()
    model.eval().save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "copy")
    copy = UniFashionFull.from_pretrained(tmp_path / "copy")
    own = model.state_dict()
    assert copy.heads == model.heads
    assert all(torch.equal(tensor, own[name]) for name, tensor in copy.state_dict().items())


def test_a_language_model_for_a_model_without_a_head_is_refused(make_model, llm, tmp_path):
    make_model().save_pretrained(tmp_path / "cls")
    with pytest.raises(UserError, match="has no head for a language model"):
        Captioner.from_pretrained(tmp_path / "cls", llm=str(llm))
