"""What keeps files of the hub away: each thing has its own sentence, at every door."""

import errno
from types import SimpleNamespace

import pytest
from huggingface_hub import errors
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from unifashion.convert import load_any
from unifashion.errors import UserError
from unifashion.models import hub
from unifashion.models.pretrained import resolve
from unifashion.models.tokenizer import load_tokenizer
from unifashion.models.weight_files import load_foreign


def answer(kind, status):
    return kind("no", response=SimpleNamespace(status_code=status, headers={}, request=None))


def after(cause):
    """The error of a library that hides the hub's own behind it."""
    error = OSError("We couldn't connect")
    error.__cause__ = cause
    return error


def not_found(url):
    """The hub's answer for a file that a repository does not have, as its client raises it."""
    error = answer(errors.RemoteEntryNotFoundError, 404)
    error.args = (f"404 Client Error.\n\nEntry Not Found for url: {url}.",)
    error.__cause__ = type("HTTPStatusError", (Exception,), {"__module__": "httpx2"})("404 Not Found")
    return error


FAULTS = {
    "no file": (
        not_found("https://hub/owner/name/resolve/0a1b/vae/config.json"),
        r"its repository has no vae/config\.json; .*/owner/name/tree/main shows what it has, name another$",
    ),
    "no file, says a library": (
        after(not_found("https://hub/owner/name/resolve/main/unet/model.bin")),
        r"its repository has no unet/model\.bin; ",
    ),
    "no weights": (
        OSError("owner/name does not appear to have a file named pytorch_model.bin or model.safetensors."),
        r"its repository has no pytorch_model\.bin or model\.safetensors; ",
    ),
    "no config": (
        OSError(
            "owner/name does not appear to have a file named config.json. Checkout 'https://hub' for available files."
        ),
        r"its repository has no config\.json; ",
    ),
    "gated": (answer(errors.GatedRepoError, 403), "gated: accept the terms at .*/owner/name, then log in"),
    "hidden": (after(answer(errors.GatedRepoError, 403)), "gated: accept the terms"),
    "no repository": (
        answer(errors.RepositoryNotFoundError, 401),
        "no such repository, or a private one; check the spelling",
    ),
    "no name": (errors.HFValidationError("bad"), "it is no name of a repository"),
    "no network": (after(errors.LocalEntryNotFoundError("no")), "the hub cannot be reached; check the network"),
    "broken off": (ConnectionError("reset"), "the hub cannot be reached; check the network"),
    "busy": (answer(errors.HfHubHTTPError, 503), "answered with status 503; try again later"),
    "old login": (answer(errors.HfHubHTTPError, 401), "answered with status 401; log in"),
    "full disk": (OSError(errno.ENOSPC, "No space left"), "the disk is full; make room in .*HF_HOME"),
    "damaged": (OSError("Consistency check failed: 3 bytes"), "its download is damaged; run the same command again"),
}
DOORS = {
    "model": lambda: resolve("owner/name"),
    "part": lambda: load_foreign(CLIPTextModel, "owner/name", subfolder="text_encoder"),
    "tokenizer": lambda: load_tokenizer("owner/name"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_has_its_sentence_at_every_door(monkeypatch, kind, door):
    error, sentence = FAULTS[kind]

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=f"no model at 'owner/name': .*{sentence}"):
        DOORS[door]()


@pytest.mark.parametrize("door", DOORS)
def test_a_hub_that_must_not_be_asked_is_named(monkeypatch, door):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="while HF_HUB_OFFLINE is set; unset it, or run 'hf download owner/name' once"):
        DOORS[door]()


def test_a_file_that_the_cache_lacks_is_not_missing_at_a_hub_that_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = hub.fault(OSError("a/b does not appear to have a file named model.safetensors."), "a/b")
    assert "unset it, or run 'hf download a/b' once" in said


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A hub with one repository, whose files are those of a folder."""
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def test_a_repository_without_config_or_weights_is_told_by_its_name(repository, make_model):
    with pytest.raises(UserError, match=r"no model at 'owner/name': its repository has no config\.json; "):
        load_any("owner/name")
    make_model().save_pretrained(repository)
    assert load_any("owner/name")[0].model_name == "blip2_cir_cls"
    (repository / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model at 'owner/name': its repository has no model\.safetensors; "):
        load_any("owner/name")
    (repository / "config.json").write_text('{"model_type": "blip-2"}')
    with pytest.raises(UserError, match="no weights in owner/name: expected"):
        load_any("owner/name")


def test_a_tokenizer_without_its_files_is_refused_not_made_up(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"has no words: its files \(tokenizer\.json, vocab\.txt, \.\.\.\) are missing"):
        load_tokenizer(str(tmp_path))


def test_an_error_of_another_kind_is_not_the_hubs():
    assert hub.fault(OSError("no file named config.json"), "a/b") is None
    assert hub.fault(ValueError("vae/config.json is not JSON"), "a/b") is None


def small_model():
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )


def test_a_part_of_half_precision_is_taken_where_it_is_alone(tmp_path, caplog):
    small_model().save_pretrained(tmp_path, variant="fp16")
    load_foreign(CLIPTextModel, tmp_path)
    assert "weights of the variant fp16 only: they are taken" in caplog.text


def test_weights_that_a_library_would_draw_at_random_are_refused(tmp_path):
    small_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack .* parameters of CLIPTextModel .*without wrappers"):
        load_foreign(CLIPTextModel, tmp_path)
