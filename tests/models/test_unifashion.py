import json

import pytest
import torch

from unifashion.encoders.unifashion import UniFashion
from unifashion.errors import UserError
from unifashion.models.losses import best_query_scores
from unifashion.models.tokenizer import train_wordpiece


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["blip2_cir_cls", "blip2_cir_rerank"])
def test_every_pass_keeps_its_shape_at_every_batch_size(make_model, name, rows):
    model = make_model(name).eval()
    image = model.read_images(torch.randn(rows, 3, 32, 32))
    ids, mask = model.tokenize(["a red dress", "a blue shirt with stripes", "dots"][:rows])
    queries, logits = model.caption_pass(image, ids, mask)
    features = model.project_queries(queries)
    fused, fused_image = model.fused_features(image, ids, mask)
    assert model.image_features(image).shape == features.shape == fused_image.shape == (rows, 4, 12)
    assert model.text_features(ids, mask).shape == fused.shape == (rows, 12)
    assert model.match_logits(image, ids, mask).shape == (rows, 2)
    assert logits.shape == (*ids.shape, len(model.tokenizer))


def test_features_have_unit_length(make_model):
    model = make_model().eval()
    features = model.image_features(model.read_images(torch.randn(2, 3, 32, 32)))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 4))


def test_padding_other_texts_changes_no_score(make_model):
    model = make_model().eval()
    image = model.image_features(model.read_images(torch.randn(2, 3, 32, 32)))
    alone = best_query_scores(image, model.text_features(*model.tokenize(["a red dress"])))
    beside = best_query_scores(
        image, model.text_features(*model.tokenize(["a red dress", "a green floral top is longer"]))
    )
    torch.testing.assert_close(alone[:, 0], beside[:, 0])


def test_a_frozen_tower_gets_no_gradient_and_stays_in_evaluation_mode(make_model):
    model = make_model()
    model.vision.freeze()
    model.train()
    model.image_features(model.read_images(torch.randn(2, 3, 32, 32))).sum().backward()
    assert not any(module.training for module in model.vision.modules())
    assert all(parameter.grad is None for parameter in model.vision.parameters())
    assert model.ln_vision.weight.grad is not None


def test_temperature_is_kept_in_its_range(make_model):
    model = make_model()
    for value, kept in [(-1.0, 0.001), (3.0, 0.5), (0.07, 0.07)]:
        model.temperature.data.fill_(value)
        model.clamp_temperature()
        assert model.temperature.item() == pytest.approx(kept)


def test_saving_and_loading_gives_the_same_bits(make_model, tmp_path):
    model = make_model("blip2_cir_rerank").eval()
    model.save_pretrained(tmp_path / "run" / "best")
    loaded = UniFashion.from_pretrained(tmp_path / "run")
    assert loaded.config == model.config
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best"]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "not the config of a UniFashion model"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
            "is a model of transformers of type bert, but a retrieval model is needed",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "is missing or damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model in"),
        (lambda folder: _widen(folder), "do not fit their config"),
    ],
)
def test_a_spoilt_model_folder_is_one_sentence(make_model, tmp_path, spoil, sentence):
    make_model().save_pretrained(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=sentence):
        UniFashion.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_the_last_model_of_a_run_never_stands_in_for_a_damaged_best(make_model, tmp_path, name):
    for kept in ("best", "last"):
        make_model().save_pretrained(tmp_path / kept)
    (tmp_path / "best" / name).unlink()
    with pytest.raises(
        UserError, match=r"no model in .*best: expected config.json and model.safetensors there; restore"
    ):
        UniFashion.from_pretrained(tmp_path)


def _widen(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "embed_dim": 20}))


def test_an_absent_model_is_one_sentence():
    with pytest.raises(UserError, match="no model at"):
        UniFashion.from_pretrained("no/such/model/here")


def test_the_same_texts_give_the_same_vocabulary():
    texts = ["a red dress", "a blue dress, with dots", "a blue shirt"]
    first, second = train_wordpiece(texts), train_wordpiece(list(texts))
    assert first.get_vocab() == second.get_vocab()
    assert first.decode(first("a blue dress with zips").input_ids, skip_special_tokens=True) == "a blue dress with zips"
    assert "[UNK]" not in first.convert_ids_to_tokens(first("zebra & co 12").input_ids)
