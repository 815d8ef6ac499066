"""BLIP-2 of transformers: our model equals theirs on the weights that the loader carried over."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer, models
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from unifashion.convert import checkpoints, load_any
from unifashion.convert.complete import read_bert
from unifashion.errors import UserError
from unifashion.models import hub
from unifashion.models.losses import best_query_scores
from unifashion.models.unifashion import UniFashionModel

NUM_WORDS = 30
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small BERT with its tokenizer, which does not know [DEC]."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    BertForMaskedLM(BertConfig(vocab_size=NUM_WORDS, **SIZES)).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(NUM_WORDS - len(special)))])}
    names = {f"{word.strip('[]').lower()}_token": word for word in special}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=BertWordPieceTokenizer(vocabulary)._tokenizer, **names)
    tokenizer.save_pretrained(folder)
    return folder


def blip2_config(**options):
    vision = Blip2VisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=14
    )
    qformer = Blip2QFormerConfig(
        vocab_size=NUM_WORDS + 1,
        encoder_hidden_size=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZES,
        **options,
    )
    language = OPTConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16)
    return Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=language.to_dict(),
        num_query_tokens=5,
        image_text_hidden_size=12,
    )


def random(model):
    torch.manual_seed(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3)
    for layer in model.vision_model.encoder.layers:
        layer.self_attn.qkv.bias.data.chunk(3)[1].zero_()
    return model.eval()


@pytest.fixture(scope="module")
def retrieval():
    return random(Blip2ForImageTextRetrieval(blip2_config(use_qformer_text_input=True)))


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, NUM_WORDS, (4, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 5, 4, 6])[:, None]).long()
    return torch.randn(4, 3, 28, 28, generator=generator), ids * mask, mask


def load(folder, bert):
    config, weights, tokenizer = load_any(folder, str(bert))
    model = UniFashionModel(config, tokenizer)
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def test_itc_and_itm_scores_equal_those_of_blip2_for_image_text_retrieval(retrieval, bert, inputs, tmp_path):
    retrieval.save_pretrained(tmp_path)
    model = load(tmp_path, bert)
    pixels, ids, mask = inputs
    # LAVIS trained this LayerNorm with 1e-5, transformers uses the tower's 1e-6: ours is LAVIS'.
    assert retrieval.vision_model.post_layernorm.eps == 1e-6
    retrieval.vision_model.post_layernorm.eps = 1e-5
    image = model.read_images(pixels)

    itc = retrieval(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=False)
    ours = best_query_scores(model.image_features(image), model.text_features(ids, mask))
    torch.testing.assert_close(ours, itc.logits_per_image, rtol=0, atol=1e-5)

    itm = retrieval(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True)
    torch.testing.assert_close(model.match_logits(image, ids, mask), itm.logits_per_image, rtol=0, atol=1e-5)
    assert itm.logits_per_image.std() > 0.01


@pytest.mark.parametrize("form", ["shards", "bin", "sharded bin"])
def test_every_form_of_the_weights_is_read(retrieval, bert, tmp_path, form):
    if form == "shards":
        retrieval.save_pretrained(tmp_path, max_shard_size="50KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        retrieval.config.save_pretrained(tmp_path)
        state = retrieval.state_dict()
        parts = {"pytorch_model.bin": state}
        if form == "sharded bin":
            names = list(state)
            parts = {f"pytorch_model-{i}.bin": {name: state[name] for name in names[i::2]} for i in range(2)}
            files = {name: file for file, part in parts.items() for name in part}
            (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
        for file, part in parts.items():
            torch.save(part, tmp_path / file)
    model = load(tmp_path, bert)
    assert torch.equal(model.query_tokens, retrieval.query_tokens)
    assert torch.equal(model.itm_head.weight, retrieval.itm_head.weight)


def test_parts_that_hugging_face_dropped_come_from_bert(retrieval, bert, tmp_path, caplog):
    retrieval.save_pretrained(tmp_path)
    model = load(tmp_path, bert)
    source = BertForMaskedLM.from_pretrained(bert).state_dict()
    assert torch.equal(model.language_head.dense.weight, source["cls.predictions.transform.dense.weight"])
    assert torch.equal(model.language_head.bias[:NUM_WORDS], source["cls.predictions.bias"])
    assert model.language_head.bias.shape == (NUM_WORDS + 1,)
    assert model.config.dec_token_id == NUM_WORDS
    assert model.temperature.item() == pytest.approx(0.07)
    assert f"has no language head: taken from {bert}" in caplog.text
    assert "has no temperature: new" in caplog.text


def without_weights(bert, folder):
    return shutil.copytree(bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))


def test_a_bert_that_cannot_be_fetched_is_not_taken_for_none(retrieval, bert, tmp_path, monkeypatch):
    cache = without_weights(bert, tmp_path / "cache")

    def without_network(repo, allow_patterns):
        if "*.json" in allow_patterns:
            return str(cache)
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(hub, "snapshot_download", without_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    retrieval.save_pretrained(tmp_path / "blip2")
    told = (
        r"blip2 has no language head, which .* from BERT \(no model at 'bert-base-uncased': .* cannot be reached; check"
    )
    with pytest.raises(UserError, match=told):
        load_any(tmp_path / "blip2")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(cache))
    with pytest.raises(UserError, match=r"\(no weights in bert-base-uncased: expected"):
        load_any(tmp_path / "blip2")


def test_a_folder_of_a_tokenizer_alone_is_no_bert_and_a_damaged_one_is_told(retrieval, bert, tmp_path, caplog):
    retrieval.save_pretrained(tmp_path / "blip2")
    words = without_weights(bert, tmp_path / "words")
    load_any(tmp_path / "blip2", str(words))
    assert "has no language head: new" in caplog.text
    (words / "pytorch_model.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"from BERT \(.*pytorch_model\.bin is not a PyTorch weight file"):
        load_any(tmp_path / "blip2", str(words))


def test_bert_is_read_under_its_oldest_names(bert, tmp_path):
    state = BertForMaskedLM.from_pretrained(bert).state_dict()
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor for name, tensor in state.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in old.items()}
    torch.save(old, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    found, expected = read_bert(str(tmp_path)), read_bert(str(bert))
    assert len(expected) > 40 and set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_blip2_with_a_language_model_gives_its_q_former(bert, inputs, tmp_path, caplog):
    original = random(Blip2ForConditionalGeneration(blip2_config()))
    original.save_pretrained(tmp_path)
    model = load(tmp_path, bert)
    source = BertForMaskedLM.from_pretrained(bert).state_dict()
    words = model.qformer.word_embeddings.weight
    assert torch.equal(words[:NUM_WORDS], source["bert.embeddings.word_embeddings.weight"])
    assert words[NUM_WORDS].abs().max() < 0.2, "[DEC] is a new row"
    ffn = model.qformer.layers[1].text_ffn
    assert torch.equal(ffn.expand.weight, source["bert.encoder.layer.1.intermediate.dense.weight"])
    for part in ("image projection", "text projection", "matching head"):
        assert f"has no {part}: new, train before you rely on it" in caplog.text
    with torch.no_grad():
        original.vision_model.post_layernorm.eps = 1e-5
        image = original.vision_model(inputs[0]).last_hidden_state
        theirs = original.qformer(
            original.query_tokens.expand(4, -1, -1), encoder_hidden_states=image
        ).last_hidden_state
        ours = model.qformer(model.query_tokens.expand(4, -1, -1), image=model.read_images(inputs[0]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_without_bert_text_parts_are_new_and_the_same_every_time(bert, tmp_path, caplog):
    random(Blip2ForConditionalGeneration(blip2_config())).save_pretrained(tmp_path / "blip2")
    words = tmp_path / "words"
    PreTrainedTokenizerFast.from_pretrained(bert).save_pretrained(words)
    first, second = load(tmp_path / "blip2", words), load(tmp_path / "blip2", words)
    assert "has no word embeddings: new, train before you rely on it" in caplog.text
    assert torch.equal(first.qformer.word_embeddings.weight, second.qformer.word_embeddings.weight)
    assert torch.equal(first.text_proj.weight, second.text_proj.weight)


def test_the_language_model_is_not_even_read(bert, tmp_path):
    random(Blip2ForConditionalGeneration(blip2_config())).save_pretrained(tmp_path, max_shard_size="30KB")
    files = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in files.items() if not name.startswith("language_")}
    for file in set(files.values()) - needed:
        (tmp_path / file).unlink()
    load(tmp_path, bert)
    (tmp_path / min(needed)).unlink()
    with pytest.raises(UserError, match=r"is missing, though .*index\.json names it"):
        load(tmp_path, bert)


def test_a_lavis_checkpoint_takes_the_tower_of_a_folder_and_keeps_its_own_norm(
    make_original, save_original, words, tmp_path
):
    def without_tower(state):
        return {name: tensor for name, tensor in state.items() if not name.startswith("visual_encoder.")}

    model = make_original()
    sizes = {key: value for key, value in model.config.vision.items() if key != "model_type"}
    config = blip2_config(use_qformer_text_input=True)
    config.vision_config = Blip2VisionConfig(**sizes)
    config.qformer_config.encoder_hidden_size = sizes["hidden_size"]
    other = random(Blip2ForImageTextRetrieval(config))
    other.save_pretrained(tmp_path / "blip2")
    path = save_original(model, "blip2_pretrained.pth", key="model", change=without_tower)
    config, weights, _ = load_any(path, str(words), str(tmp_path / "blip2"))
    assert config.vision == model.config.vision
    name = "encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(weights[f"vision.encoder.{name}"], other.vision_model.state_dict()[name])
    assert torch.equal(weights["ln_vision.weight"], model.ln_vision.weight)


def test_the_folders_own_tokenizer_is_used_if_it_is_the_q_formers(retrieval, bert, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "TOKENIZER", str(bert))
    retrieval.save_pretrained(tmp_path)
    own = PreTrainedTokenizerFast.from_pretrained(bert, truncation_side="left")
    own.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["<image>"]})
    own.save_pretrained(tmp_path)
    _, _, tokenizer = load_any(tmp_path)
    assert len(tokenizer) == NUM_WORDS + 2
    assert tokenizer.truncation_side == "right", "LAVIS cuts texts at their end"


def test_a_folder_with_the_tokenizer_of_a_language_model_gets_berts(retrieval, bert, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "TOKENIZER", str(bert))
    retrieval.save_pretrained(tmp_path)
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), bos_token="<s>").save_pretrained(
        tmp_path
    )
    assert len(load_any(tmp_path)[2]) == NUM_WORDS + 1
    (tmp_path / "tokenizer.json").write_text("{}")
    assert len(load_any(tmp_path)[2]) == NUM_WORDS + 1


BAD_FOLDERS = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in"),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 9),
        "is missing or damaged",
    ),
    "an index that is none": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
        "is not an index of weight shards",
    ),
    "heads that do not fit": (
        lambda folder: change_config(folder, "qformer_config", num_attention_heads=5),
        "a width of 32 cannot be split into 5 attention heads",
    ),
    "an unknown Q-Former": (
        lambda folder: change_config(folder, "qformer_config", hidden_act="relu"),
        "a Q-Former with relu is not one of BLIP-2",
    ),
    "a config that is none": (
        lambda folder: change_config(folder, "vision_config", hidden_size="wide"),
        "is not the config of a BLIP-2 model",
    ),
}


def change_config(folder, part, **values):
    config = json.loads((folder / "config.json").read_text())
    config[part].update(values)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_a_bad_folder_is_one_clear_sentence(retrieval, bert, tmp_path, kind):
    spoil, sentence = BAD_FOLDERS[kind]
    retrieval.save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=sentence) as raised:
        load_any(tmp_path, str(bert))
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_of_another_architecture_is_one_clear_sentence(bert):
    with pytest.raises(UserError, match=r"is a model of transformers of type bert, but a retrieval model is needed"):
        load_any(bert, str(bert))


@pytest.mark.parametrize("size", ["1GB", "30KB"])
def test_half_precision_is_read_where_there_is_nothing_else(bert, tmp_path, caplog, size):
    original = random(Blip2ForImageTextRetrieval(blip2_config())).half()
    original.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    half = load(tmp_path, bert)
    assert "weights of the variant fp16 only: they are taken" in caplog.text
    assert torch.equal(half.query_tokens, original.query_tokens.float())
    caplog.clear()
    original.float().save_pretrained(tmp_path)
    load(tmp_path, bert)
    assert "variant" not in caplog.text


def test_shards_of_a_wrapped_model_are_read(bert, tmp_path):
    original = random(Blip2ForConditionalGeneration(blip2_config()))
    original.save_pretrained(tmp_path, max_shard_size="30KB")
    plain = load(tmp_path, bert)
    index = tmp_path / "model.safetensors.index.json"
    files = json.loads(index.read_text())["weight_map"]
    for file in set(files.values()):
        save_file({f"module._orig_mod.{n}": t for n, t in load_file(tmp_path / file).items()}, tmp_path / file)
    index.write_text(json.dumps({"weight_map": {f"module._orig_mod.{name}": file for name, file in files.items()}}))
    for file in {file for name, file in files.items() if name.startswith("language_")} - {
        file for name, file in files.items() if not name.startswith("language_")
    }:
        (tmp_path / file).unlink()  # not even read
    for left, right in zip(load(tmp_path, bert).parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right)
