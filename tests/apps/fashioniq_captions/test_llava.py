"""The model on this machine: real LLaVA-NeXT and LLaVA 1.5 classes of a few thousand weights."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from unifashion.apps.fashioniq_captions.backend import messages
from unifashion.apps.fashioniq_captions.llava import LlavaBackend
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings
from unifashion.errors import UserError
from unifashion.models import hub

IMAGES = [
    Image.new("RGB", (40, 90), "red"),
    Image.effect_noise((120, 50), 80).convert("RGB"),
    Image.new("RGB", (33, 33), "blue"),
]
DIALOGUES = [
    ("Describe the dress.",),
    ("What?",),
    ("List it.", "- colour: blue", "Now write a caption of the garment."),
]


def backend(folder, **changes) -> LlavaBackend:
    return LlavaBackend(
        CaptionerSettings(model=str(folder), **{"max_new_tokens": 16, "batch_size": 3} | changes), "cpu"
    )


@pytest.mark.parametrize("version", ["tiny_llava", "tiny_llava_15"])
def test_a_batch_answers_as_its_photos_one_by_one(request, version):
    model = backend(request.getfixturevalue(version))
    together = model.answer(IMAGES, DIALOGUES)
    alone = [model.answer([image], [dialogue])[0] for image, dialogue in zip(IMAGES, DIALOGUES, strict=True)]
    assert together == alone and len({reply.text for reply in alone}) == 3
    other = model.answer([Image.new("RGB", (40, 90), "green"), *IMAGES[1:]], DIALOGUES)
    assert other[0] != together[0] and other[1:] == together[1:]


def test_an_answer_that_reaches_the_token_limit_is_unfinished_and_one_that_ends_is_not(tiny_llava):
    model = backend(tiny_llava, max_new_tokens=5)
    assert not model.answer(IMAGES[:1], DIALOGUES[:1])[0].finished
    first = model.processor.tokenizer.convert_tokens_to_ids("M")
    head = model.model.lm_head
    with torch.no_grad():
        head.weight.zero_()
        model.model.generation_config.eos_token_id = [first, 0]  # all logits are equal: argmax is token 0
    reply = model.answer(IMAGES[:2], DIALOGUES[:2])
    assert [r.finished for r in reply] == [True, True] and reply[0].text == ""


def test_the_photo_belongs_to_the_first_turn_and_turns_alternate():
    turns = messages(DIALOGUES[2], {"type": "image"})
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [len(turn["content"]) for turn in turns] == [2, 1, 1] and turns[0]["content"][0] == {"type": "image"}


def test_a_batch_that_does_not_fit_is_halved_and_answers_the_same(tiny_llava, monkeypatch):
    model = backend(tiny_llava)
    expected = model.answer(IMAGES, DIALOGUES)
    generate = model._generate

    def small_memory(inputs):
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(inputs)

    monkeypatch.setattr(model, "_generate", small_memory)
    assert model.answer(IMAGES, DIALOGUES) == expected and model.batch_size == 1
    monkeypatch.setattr(model, "_generate", lambda inputs: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(UserError, match="does not fit into GPU memory"):
        model.answer(IMAGES[:1], DIALOGUES[:1])


def test_what_an_old_checkpoint_keeps_in_its_config_is_filled_in(tiny_llava, tmp_path):
    expected = backend(tiny_llava).answer(IMAGES, DIALOGUES)
    folder = shutil.copytree(tiny_llava, tmp_path / "old")
    (folder / "processor_config.json").unlink()
    old = backend(folder)
    assert old.processor.patch_size == 14 and old.answer(IMAGES, DIALOGUES) == expected


def test_bf16_is_taken_where_it_is_asked_for(tiny_llava):
    assert backend(tiny_llava, precision="bf16").model.dtype == torch.bfloat16
    assert backend(tiny_llava).model.dtype == torch.float32


BROKEN = {
    "no processor": (["preprocessor_config.json", "processor_config.json"], "processor"),
    "no template": (["chat_template.json"], "no chat template"),
    "no tokenizer": (["tokenizer.json", "tokenizer_config.json"], "its processor cannot be loaded|has no processor"),
    "no weights": (["model.safetensors"], "its model cannot be loaded"),
    "no config": (
        ["config.json", "processor_config.json", "preprocessor_config.json"],
        "without config.json, but a LLaVA in Hugging Face form is needed",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_folder_that_lacks_a_part_is_one_sentence(tiny_llava, tmp_path, case):
    files, sentence = BROKEN[case]
    folder = shutil.copytree(tiny_llava, tmp_path / "model")
    for name in files:
        (folder / name).unlink()
    with pytest.raises(UserError, match=sentence):
        backend(folder)


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"--model .*nothing: no model at .*: there is no such file or folder"):
        backend(tmp_path / "nothing")


def test_what_is_not_a_llava_is_told_and_so_is_what_keeps_the_hub_away(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(
        UserError, match=r"--model .* is a LoRA without its base, but a LLaVA in Hugging Face form is needed"
    ):
        backend(tmp_path)

    def refuse(*_, **__):
        raise GatedRepoError("no", response=SimpleNamespace(status_code=403, headers={}, request=None))

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"--model owner/name: .* is gated: accept the terms"):
        backend("owner/name")
