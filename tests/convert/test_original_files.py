"""Files of the original UniFashion, SPRC and LAVIS: read, refused, and written back."""

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from unifashion.config import DataSettings, ModelSettings
from unifashion.convert import checkpoints, convert, load_any, tower
from unifashion.convert.lavis import to_lavis
from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.models.unifashion import UniFashionModel
from unifashion.training.build import build_model

BLOCK = "visual_encoder.blocks.0."
LAYER = "Qformer.bert.encoder.layer.0."


def load(path, words, **options):
    config, weights, tokenizer = load_any(path, str(words), **options)
    model = UniFashionModel(config, tokenizer)
    model.load_state_dict(weights)
    return model.eval()


def scores(model):
    """One number of every kind that the model gives."""
    torch.manual_seed(5)
    image = model.read_images(torch.randn(2, 3, 28, 28))
    ids, mask = torch.tensor([[2, 9, 8, 3], [2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    fused, fused_image = model.fused_features(image, ids, mask)
    matched = model.match_logits(image, ids, mask)
    return [model.image_features(image), model.text_features(ids, mask), fused, fused_image, matched]


def assert_same_model(ours, other):
    for name, tensor in other.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    for left, right in zip(scores(ours), scores(other), strict=True):
        assert torch.equal(left, right)


# Reading ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eva", "clip"])
@pytest.mark.parametrize("model_name", ["blip2_cir_cls", "blip2_cir_rerank"])
def test_an_original_checkpoint_gives_the_model_that_wrote_it(make_original, save_original, words, model_name, kind):
    model = make_original(model_name, kind)
    loaded = load(save_original(model), words)
    assert loaded.config == model.config
    assert loaded.config.target_queries == "query_tokens"
    assert_same_model(loaded, model)


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("Blip2QformerCirRerank", ("blip2_cir_rerank", 1, 64)),
        ("Blip2QformerCirAlignPrompt", ("blip2_cir_rerank", 2, 32)),
        ("Blip2QformerCirFull", ("blip2_cir_full", 1, 64)),
        ("Blip2QformerCirZ", ("blip2_cir_rerank", 1, 64)),
        ("model", ("blip2_cir_rerank", 1, 64)),
        ("", ("blip2_cir_rerank", 1, 64)),
    ],
)
def test_the_class_that_wrote_a_file_tells_what_it_is(make_original, save_original, words, key, facts):
    config, _, _ = load_any(save_original(make_original("blip2_cir_rerank"), key=key), str(words))
    assert (config.model_name, config.query_passes, config.max_text_tokens) == facts


def test_a_composed_query_of_sprc_is_read_once_more_without_the_image(make_original, save_original, words):
    path = save_original(make_original("blip2_cir_rerank"), key="Blip2QformerCirAlignPrompt")
    model = load(path, words)
    ids, mask = torch.tensor([[2, 9, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1, 0]])
    image = model.read_images(torch.randn(1, 3, 28, 28))
    fused, _ = model.fused_features(image, ids, mask)
    first = model.qformer(model.query_tokens, ids, mask, image)
    second = model.qformer(first[:, :4], ids, mask)
    torch.testing.assert_close(fused, torch.nn.functional.normalize(model.text_proj(second[:, 4]), dim=-1))
    assert not torch.allclose(fused, torch.nn.functional.normalize(model.text_proj(first[:, 4]), dim=-1), atol=0.01)


@pytest.mark.parametrize("name", ["original.pt", "original.pth", "original.safetensors"])
def test_every_kind_of_file_is_read(make_original, save_original, words, name):
    model = make_original()
    assert_same_model(load(save_original(model, name, key=""), words), model)


@pytest.mark.parametrize("file", ["a.pth", "a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model._forward_module.", "ema_model.module."])
def test_what_a_trainer_has_put_around_the_model_is_left_out_of_its_names(
    make_original, save_original, words, file, prefix
):
    model, key = make_original(), "" if file == "a.safetensors" else "state_dict"

    def wrap(state):
        halves = {n.replace("visual_encoder.", "visual_encoder._fsdp_wrapped_module."): t for n, t in state.items()}
        return {prefix + name: tensor for name, tensor in halves.items()}

    assert_same_model(load(save_original(model, file, key, wrap), words), model)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda raw, mean: {"model_ema": mean, "model": raw},
            r"several sets of weights: 'model' is taken, not 'model_ema'",
        ),
        (lambda raw, mean: {"net_ema": mean, "net": raw}, r"'net' is taken, not 'net_ema'"),
        (
            lambda raw, mean: {"callbacks": {"EMA": {"ema_state_dict": mean, "decay": 0.9}}, "state_dict": raw},
            r"'state_dict' is taken, not 'ema_state_dict'",
        ),
        (
            lambda raw, mean: {**raw, **{f"ema.{n}": t for n, t in mean.items()}},
            "averaged weights .* the raw ones are taken",
        ),
        (
            lambda raw, mean: {"state_dict_ema": raw},
            "averaged weights .'state_dict_ema'. and no raw ones: they are taken",
        ),
        (
            lambda raw, mean: {
                "model": raw,
                "optimizer": {"state": {0: torch.ones(1)}},
                "schema": {"a": torch.ones(1)},
            },
            "$",
        ),
    ],
)
def test_raw_weights_are_taken_before_averaged_ones_and_it_is_said(make_original, tmp_path, words, caplog, make, told):
    model = make_original()
    raw = to_lavis(dict(model.state_dict()), model.config.vision["model_type"])
    mean = {name: tensor + 1 for name, tensor in raw.items()}
    torch.save(make(raw, mean), tmp_path / "a.pt")
    assert_same_model(load(tmp_path / "a.pt", words), model)
    assert re.search(told, caplog.text) and ("taken" in caplog.text) == ("taken" in told)


def test_weights_that_are_there_twice_are_refused(make_original, save_original, words):
    path = save_original(make_original(), change=lambda state: {**state, "module.temp": state["temp"] + 1})
    with pytest.raises(
        UserError, match=r"holds temp twice, one of them as module\.temp; save the state dict of one model"
    ):
        load(path, words)


def test_half_precision_towers_come_out_as_float32(make_original, save_original, words):
    def halve(state):
        return {name: tensor.half() if name.startswith("visual_encoder.") else tensor for name, tensor in state.items()}

    model = make_original()
    loaded = load(save_original(model, change=halve), words)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    name = "vision.encoder.encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[name].half().float())


def test_query_feed_forward_starts_as_the_text_feed_forward_where_it_is_missing(
    make_original, save_original, words, caplog
):
    def drop(state):
        return {name: tensor for name, tensor in state.items() if "_query." not in name}

    loaded = load(save_original(make_original(), change=drop), words)
    for layer in loaded.qformer.layers:
        for query, text in zip(layer.query_ffn.parameters(), layer.text_ffn.parameters(), strict=True):
            assert torch.equal(query, text)
    assert "has no query feed-forward: a copy of the text feed-forward" in caplog.text


def test_what_is_left_out_is_listed_and_unused_heads_are_no_reason_to_warn(make_original, save_original, words, caplog):
    caplog.set_level("INFO")
    extra = {
        "query_proj.weight": torch.ones(2),
        "llm_model.model.norm.weight": torch.ones(2),
        "odd.thing": torch.ones(2),
    }
    load(save_original(make_original(), change=lambda state: {**state, **extra}), words)
    told = {record.levelname: record.getMessage() for record in caplog.records}
    assert "query_proj.weight, llm_model.model.norm.weight" in told["INFO"]
    assert "odd.thing" in told["WARNING"]


def test_model_path_takes_an_original_file_directly(make_original, save_original, words, monkeypatch):
    monkeypatch.setattr(checkpoints, "TOKENIZER", str(words))
    model = make_original("blip2_cir_rerank")
    assert_same_model(UniFashion.from_pretrained(save_original(model)), model)


def test_phase_2_starts_from_a_phase_1_file_with_prompt_tokens_equal_to_its_queries(
    make_original, save_original, words, monkeypatch
):
    monkeypatch.setattr(checkpoints, "TOKENIZER", str(words))
    original = make_original()
    settings = ModelSettings(blip_model_name="blip2_cir_rerank", init_from=str(save_original(original)))
    model = build_model(settings, DataSettings(dataset="fashioniq", image_size=28, max_text_tokens=40), lambda: [])
    assert model.config.target_queries == "prompt_tokens"
    assert torch.equal(model.prompt_tokens, original.query_tokens)
    assert torch.equal(model.vision_proj.weight, original.vision_proj.weight)


# The image tower ----------------------------------------------------------------------------------------------------------


def without_tower(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("visual_encoder.")}


def only_tower(model, prefix="", extra_blocks=0):
    state = to_lavis(dict(model.state_dict()), model.config.vision["model_type"])
    bare = {name.removeprefix("visual_encoder."): t for name, t in state.items() if name.startswith("visual_encoder.")}
    for number in range(extra_blocks):
        last = {name: t for name, t in bare.items() if "blocks.1." in name}
        bare |= {name.replace("blocks.1.", f"blocks.{2 + number}."): t for name, t in last.items()}
    return {prefix + name: tensor for name, tensor in bare.items()}


def test_a_checkpoint_without_tower_says_where_to_get_one(make_original, save_original, words):
    path = save_original(make_original(), "blip2_pretrained.pth", key="model", change=without_tower)
    with pytest.raises(UserError, match=r"blip2_pretrained\.pth holds no image tower; put LAVIS' eva_vit_g\.pth"):
        load_any(path, str(words))


@pytest.mark.parametrize(("kind", "file"), [("eva", "eva_vit_g.pth"), ("clip", "clip_vit_L.pth")])
def test_the_tower_file_beside_a_checkpoint_is_used(make_original, save_original, words, monkeypatch, kind, file):
    model = make_original(tower=kind)
    path = save_original(model, "blip2_pretrained.pth", key="model", change=without_tower)
    # The files have more blocks than BLIP-2 uses of them.
    monkeypatch.setattr(tower, "_USED_BLOCKS", {model.config.vision["hidden_size"]: 2})
    torch.save(only_tower(model, extra_blocks=2), path.parent / file)
    assert_same_model(load(path, words), model)


@pytest.mark.parametrize("source", ["file", "original", "own folder"])
def test_a_tower_is_taken_from_whatever_has_one(make_original, save_original, words, tmp_path, source):
    model = make_original()
    path = save_original(model, "blip2_pretrained.pth", key="model", change=without_tower)
    if source == "file":
        torch.save(only_tower(model), tmp_path / "tower")
    elif source == "original":
        torch.save({"Blip2QformerCirCls": only_tower(model, "visual_encoder.")}, tmp_path / "tower")
    else:
        model.save_pretrained(tmp_path / "tower")
    assert_same_model(load(path, words, vision_tower=str(tmp_path / "tower")), model)


def test_a_tower_of_another_width_is_refused(make_original, save_original, words, tmp_path):
    path = save_original(make_original(), "blip2_pretrained.pth", key="model", change=without_tower)
    torch.save(only_tower(make_original(tower="clip")), tmp_path / "clip.pth")
    with pytest.raises(UserError, match=r"clip\.pth does not fit: .* reads images of width 176"):
        load_any(path, str(words), str(tmp_path / "clip.pth"))


# Writing back -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eva", "clip"])
@pytest.mark.parametrize(
    ("model_name", "changes", "key"),
    [
        ("blip2_cir_cls", {}, "Blip2QformerCirCls"),
        ("blip2_cir_rerank", {"target_queries": "prompt_tokens", "pad": "square"}, "Blip2QformerCirRerank"),
        ("blip2_cir_rerank", {"query_passes": 2}, "Blip2QformerCirAlignPrompt"),
        ("blip2_cir_full", {}, "Blip2QformerCirFull"),
    ],
)
def test_there_and_back_again_is_the_same_to_the_last_bit(
    make_original, words, tmp_path, kind, model_name, changes, key
):
    model = make_original(model_name, kind, **changes)
    model.save_pretrained(tmp_path / "ours")
    file = convert(tmp_path / "ours", tmp_path / "theirs.pt", "lavis")
    assert key in torch.load(file, weights_only=True)
    convert(file, tmp_path / "again", tokenizer=str(words))
    again = UniFashion.from_pretrained(tmp_path / "again")
    assert again.config == model.config
    assert_same_model(again, model)


def test_a_written_file_names_every_parameter_of_lavis(make_original, tmp_path):
    checkpoints.save_lavis(tmp_path / "a.pt", (model := make_original()).config, dict(model.state_dict()))
    state = torch.load(tmp_path / "a.pt", weights_only=True)["Blip2QformerCirCls"]
    tied = state["Qformer.cls.predictions.decoder.weight"], state["Qformer.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(*tied)
    assert state["Qformer.bert.embeddings.position_ids"].tolist() == [list(range(40))]
    assert {f"{BLOCK}attn.q_bias", f"{BLOCK}attn.v_bias"} <= set(state) and f"{BLOCK}attn.qkv.bias" not in state


def test_a_trained_k_bias_cannot_be_written_and_says_so(make_original, tmp_path):
    weights = dict(make_original().state_dict())
    weights["vision.encoder.encoder.layers.1.self_attn.qkv.bias"] = torch.ones(3 * 176)
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.qkv\.bias has a k part that is not zero"):
        checkpoints.save_lavis(tmp_path / "a.pt", make_original().config, weights)
    assert not list(tmp_path.iterdir())


def test_a_tower_that_lavis_does_not_have_is_refused(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "tiny")
    with pytest.raises(UserError, match="LAVIS has no image tower of type 'resnet'"):
        convert(tmp_path / "tiny", tmp_path / "a.pt", "lavis")


# Refusing -----------------------------------------------------------------------------------------------------------------


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (torch.save, r"holds more than weights \(its pickle needs .*system\) and was not opened"),
        (
            lambda x, path: path.write_bytes(pickle.dumps(x, 2)),
            r"holds more than weights \(its pickle needs .*system\)",
        ),
        (lambda x, path: path.write_bytes(pickle.dumps(x, 4)), "is not a PyTorch weight file"),
    ],
    ids=["saved by torch", "old pickle", "new pickle"],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, words, write, sentence):
    write({"Blip2QformerCirCls": {"query_tokens": 1.0}, "epoch": Attack(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt {sentence}"):
        load_any(tmp_path / "a.pt", str(words))
    assert not (tmp_path / "ran").exists()


def shorten(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = {
    "a truncated file": (
        "a.pt",
        lambda path, state: (torch.save({"model": state}, path), shorten(path)),
        "is cut short",
    ),
    "a text file": ("a.pt", lambda path, state: path.write_text("not found"), "is not a PyTorch weight file"),
    "an empty file": ("a.pt", lambda path, state: path.write_bytes(b""), "is not a PyTorch weight file"),
    "a truncated safetensors": (
        "a.safetensors",
        lambda path, state: (save_file({"x": torch.ones(9)}, path), shorten(path)),
        r"a\.safetensors is missing or damaged",
    ),
    "a single tensor": (
        "a.pt",
        lambda path, state: torch.save(torch.ones(2), path),
        "holds a Tensor, not a state dict",
    ),
    "no tensors at all": (
        "a.pt",
        lambda path, state: torch.save({"epoch": 3}, path),
        r"holds no weights \(its keys: epoch",
    ),
    "a language model": (
        "a.safetensors",
        lambda path, state: save_file(
            {"model.layers.0.mlp.up_proj.weight": torch.ones(2), "lm_head.weight": torch.ones(2)}, path
        ),
        r"is not a BLIP-2 style checkpoint: it has no Q-Former with query tokens, but lm_head\.weight",
    ),
    "CLIP": (
        "a.safetensors",
        lambda path, state: save_file({"vision_model.embeddings.class_embedding": torch.ones(2)}, path),
        "is not a BLIP-2 style checkpoint",
    ),
    "an image tower alone": (
        "a.pt",
        lambda path, state: torch.save({"cls_token": torch.ones(2), "blocks.0.norm1.bias": torch.ones(2)}, path),
        "is not a BLIP-2 style checkpoint",
    ),
    "SPRC's re-ranker": (
        "a.pt",
        lambda path, state: torch.save({"Blip2QformerCirRerank": {**state, "Fformer.bert.x": torch.ones(1)}}, path),
        "is SPRC's second-stage re-ranker",
    ),
    "a wrong shape": (
        "a.pt",
        lambda path, state: torch.save({"model": {**state, "itm_head.weight": torch.ones(3, 128)}}, path),
        r"do not fit one another: itm_head\.weight has shape \(3, 128\), expected \(2, 128\)",
    ),
    "a layer without its key": (
        "a.pt",
        lambda path, state: torch.save(
            {"model": {k: v for k, v in state.items() if k != LAYER + "attention.self.key.bias"}}, path
        ),
        r"is incomplete, it lacks 1 parameters: qformer\.layers\.\*\.attention\.key\.bias",
    ),
    "half a feed-forward": (
        "a.pt",
        lambda path, state: torch.save(
            {"model": {k: v for k, v in state.items() if k != LAYER + "intermediate.dense.bias"}}, path
        ),
        r"is incomplete, it lacks 1 parameters: qformer\.layers\.\*\.text_ffn\.expand\.bias",
    ),
    "half a tower": (
        "a.pt",
        lambda path, state: torch.save({"model": {k: v for k, v in state.items() if "patch_embed" not in k}}, path),
        "is neither EVA-ViT nor CLIP ViT",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_clear_sentence(make_original, words, tmp_path, kind):
    name, write, sentence = BAD_FILES[kind]
    model = make_original()
    write(tmp_path / name, to_lavis(dict(model.state_dict()), "blip_2_vision_model"))
    with pytest.raises(UserError, match=sentence) as raised:
        load_any(tmp_path / name, str(words))
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_width_without_whole_heads_is_one_clear_sentence(make_original, save_original, words):
    def widen(state):
        return {**state, "query_tokens": torch.ones(1, 4, 100)}

    with pytest.raises(UserError, match="a width of 100 is not a whole number of 64-wide attention heads"):
        load_any(save_original(make_original(), change=widen), str(words))


# Tokenizers ---------------------------------------------------------------------------------------------------------------


def test_a_tokenizer_with_another_number_of_words_is_refused(make_original, save_original, words):
    def drop_words(state):
        tables = ("word_embeddings", "predictions.bias", "predictions.decoder")
        return {
            name: tensor[:-5] if any(table in name for table in tables) else tensor for name, tensor in state.items()
        }

    path = save_original(make_original(), change=drop_words)
    with pytest.raises(UserError, match=r"\(\d+ words\) is not that of .*original\.pt \(\d+\); give the tokenizer"):
        load_any(path, str(words))


def test_an_unreachable_hub_is_one_clear_sentence(make_original, save_original, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(checkpoints, "TOKENIZER", "nobody/such-tokenizer-anywhere")
    path = save_original(make_original())
    with pytest.raises(UserError, match=r"original\.pt needs the tokenizer 'nobody/such.*--tokenizer FOLDER$"):
        load_any(path)
