"""A server instead of a model, with everything that servers do."""

import logging
import random
import socket
import time

import pytest
from chat_server import ChatServer
from PIL import Image

from unifashion.apps.fashioniq_captions import endpoint as endpoint_module
from unifashion.apps.fashioniq_captions.backend import Refusal, Reply
from unifashion.apps.fashioniq_captions.endpoint import EndpointBackend
from unifashion.apps.fashioniq_captions.run import run_captioning
from unifashion.apps.fashioniq_captions.settings import CaptionerSettings, PhotoSettings
from unifashion.errors import UserError

RED = Image.new("RGB", (30, 40), "red")
QUESTION = ("Describe.",)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.005)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "*")


def backend(server, **changes) -> EndpointBackend:
    return EndpointBackend(CaptionerSettings(**{"model": "parrot", "endpoint": server.url, "timeout": 5.0} | changes))


def ask(server, image=RED, dialogue=QUESTION, **changes):
    return backend(server, **changes).answer([image], [dialogue])[0]


def test_a_request_has_the_form_of_the_protocol():
    with ChatServer() as server:
        assert ask(server, dialogue=("One?", "Two.", "Three?"), max_new_tokens=7) == Reply(
            "The dress is 30 wide.", True
        )
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("parrot", 7, 0)
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, 408, "drop", "half", "nonsense", "null"])
def test_what_may_pass_is_tried_again(fault):
    with ChatServer(faults=[fault, fault]) as server:
        assert ask(server) == Reply("The dress is 30 wide.", True)
    assert len(server.bodies) == 3


def test_a_slow_answer_is_given_up_and_asked_for_again():
    with ChatServer(faults=["slow"]) as server:
        assert ask(server, timeout=0.3) == Reply("The dress is 30 wide.", True)
    assert len(server.bodies) == 2


def test_the_server_says_how_long_to_wait():
    with ChatServer(faults=[429], retry_after="0.6") as server:
        start = time.monotonic()
        ask(server)
        assert 0.6 <= time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("fault", "num_requests", "reason"),
    [(400, 1, "the server says 400"), (422, 1, "422"), (500, 3, "500"), ("null", 3, "no text"), ("drop", 3, "")],
)
def test_what_does_not_pass_leaves_out_the_photo(fault, num_requests, reason):
    with ChatServer(always={30: fault}) as server:
        answer = ask(server, retries=2)
    assert isinstance(answer, Refusal) and reason in answer.reason and len(server.bodies) == num_requests


def test_an_answer_that_was_cut_is_unfinished():
    with ChatServer(faults=["length"]) as server:
        assert ask(server) == Reply("The dress is red. It has", False)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [(401, r"rejects the key in \$OPENAI_API_KEY"), (404, "path or model"), (307, "redirects")],
)
def test_what_no_photo_would_survive_stops_at_once(fault, sentence):
    with ChatServer(faults=[fault]) as server, pytest.raises(UserError, match=sentence):
        ask(server)
    assert len(server.bodies) == 1


def test_the_key_reaches_the_server_and_nothing_else(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-word")
    caplog.set_level(logging.DEBUG)
    with ChatServer(faults=[503], always={31: 400}) as server:
        refused = ask(server, Image.new("RGB", (31, 40)))
        ask(server)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-word"
    assert "***" in refused.reason and "secret" not in refused.reason + caplog.text
    assert "not encrypted" in caplog.text


def test_a_large_photo_travels_small():
    with ChatServer() as server:
        assert ask(server, Image.new("RGB", (3000, 1500))).text == f"The dress is {endpoint_module.MAX_SIDE} wide."


def test_a_server_that_is_down_or_serves_something_else_is_known_before_the_first_photo():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached .* start the server, then run the same command again"):
        EndpointBackend(CaptionerSettings(endpoint=f"http://127.0.0.1:{port}", retries=1))
    with (
        ChatServer(models=("parrots",)) as server,
        pytest.raises(UserError, match="serves parrots, not --model parrot"),
    ):
        backend(server)
    with ChatServer(models=()) as server:  # no list of models
        assert isinstance(ask(server), Reply)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("localhost:8000", "not a URL"),
        ("ftp://x/v1", "not a URL"),
        ("http://me:pw@x/v1", "environment variable OPENAI_API_KEY"),
    ],
)
def test_a_bad_url_is_one_sentence(url, sentence):
    with pytest.raises(UserError, match=sentence):
        EndpointBackend(CaptionerSettings(endpoint=url))


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions"])
def test_the_url_may_end_as_people_write_it(ending):
    with ChatServer() as server:
        server.url += ending
        assert isinstance(ask(server), Reply)


def test_a_run_asks_for_every_photo_once_and_no_more_than_allowed_at_a_time(fashioniq):
    photos = PhotoSettings(data_root=str(fashioniq))
    with ChatServer(delay=0.1) as server:
        run_captioning(photos, CaptionerSettings(model="parrot", endpoint=server.url, concurrency=3))
    assert len(server.bodies) == 9 and server.most_running == 3


def test_a_server_that_goes_away_stops_the_run_which_goes_on_later(fashioniq):
    photos = PhotoSettings(data_root=str(fashioniq))
    with ChatServer() as server:
        asked = CaptionerSettings(model="parrot", endpoint=server.url, concurrency=1, retries=0)
        post, server.post = (
            server.post,
            lambda handler: post(handler) if len(server.widths) < 4 else leave(server, handler),
        )
        with pytest.raises(UserError, match=r"cannot be reached|goes on where it stood|in a row"):
            run_captioning(photos, asked)
    with ChatServer() as other:
        paths = run_captioning(photos, CaptionerSettings(model="parrot", endpoint=other.url))
    assert len(server.widths) == 4 and len(other.widths) == 5 and len(paths) == 3


def leave(server, handler):
    server.server.socket.close()
    handler.connection.close()
