"""A server instead of a model, with everything that servers do."""

import json
import logging
import random
import re
import socket
import time
from dataclasses import replace

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


def message(**parts) -> dict:
    return {"choices": [{"message": parts, "finish_reason": "stop"}]}


ANSWERS = {
    "parts": (
        message(content=[{"type": "text", "text": "A red "}, {"type": "text", "text": "dress."}]),
        "A red dress.",
    ),
    "thoughts apart": (message(content="A dress.", reasoning_content="It is red."), "A dress."),
    "thoughts alone": (
        message(content=None, reasoning_content="It is red."),
        "thoughts alone; a higher --max-new-tokens",
    ),
    "a refusal apart": (message(content=None, refusal="I can't help."), "the model refused: I can't help."),
    "an error under the status 200": (
        {"error": {"message": "bad photo", "code": 400}},
        "the server says 400 .*bad photo",
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_is_read_in_every_form(case):
    said, expected = ANSWERS[case]
    with ChatServer(faults=[said]) as server:
        answer = ask(server)
    assert re.search(expected, answer.text if isinstance(answer, Reply) else answer.reason)
    assert isinstance(answer, Reply) == ("A " in expected) and len(server.bodies) == 1


def test_an_error_under_the_status_200_that_may_pass_is_tried_again():
    limited, empty = {"error": {"message": "Rate limit exceeded", "code": 429}}, {"error": "overloaded"}
    with ChatServer(faults=[limited, empty]) as server:
        assert isinstance(ask(server), Reply) and len(server.bodies) == 3
    with ChatServer(always={30: limited}) as server:
        assert "Rate limit exceeded" in ask(server, retries=1).reason
    with ChatServer(faults=[{"error": {"code": 401}}]) as server, pytest.raises(UserError, match="rejects the key"):
        ask(server)


LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)


def test_a_server_that_takes_other_parameters_is_asked_as_it_wants(caplog):
    with ChatServer(refuses={"max_tokens": LIMIT, "temperature": TEMPERATURE}) as server:
        one = backend(server, max_new_tokens=7)
        assert all(isinstance(reply, Reply) for reply in one.answer([RED] * 3, [QUESTION] * 3))
    assert len(server.bodies) == 2 + 3 and server.bodies[-1]["max_completion_tokens"] == 7
    assert not {"max_tokens", "temperature"} & server.bodies[-1].keys()
    assert caplog.text.count("takes no temperature of 0") == 1


def test_a_temperature_that_was_asked_for_is_sent_or_refused_aloud():
    with ChatServer() as server:
        ask(server, temperature=0.5)
    assert server.bodies[0]["temperature"] == 0.5
    with (
        ChatServer(refuses={"temperature": TEMPERATURE}) as server,
        pytest.raises(UserError, match=r"--temperature 0\.5: "),
    ):
        ask(server, temperature=0.5)


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.0}, {"concurrency": 2}, {"retries": 1}, {"endpoint": "http://x/v1", "batch_size": 2}],
)
def test_a_setting_of_the_other_kind_of_model_is_an_error(changes):
    with pytest.raises(UserError, match=r"has no effect with(out)? --endpoint"):
        CaptionerSettings(**changes)


def test_a_model_may_be_called_by_the_end_of_its_path():
    with ChatServer(models=("/models/parrot", "/models/other.gguf")) as server:
        ask(server)
        ask(server, model="other")
        with pytest.raises(UserError, match="serves /models/parrot"):
            ask(server, model="third")
    assert [body["model"] for body in server.bodies] == ["/models/parrot", "/models/other.gguf"]


@pytest.mark.parametrize("answers", [True, False])
def test_a_proxy_that_swallows_requests_is_named(monkeypatch, answers):
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ChatServer(models=("other",), always={30: 503}) as proxy:
        proxy.models = ()  # "not found", as of a host that the proxy does not know
        port = proxy.server.server_port if answers else 9
        monkeypatch.setenv("HTTP_PROXY" if answers else "http_proxy", f"http://me:secret@127.0.0.1:{port}")
        with pytest.raises(UserError, match=r"proxy of \$\w+ .* set NO_PROXY=localhost") as caught:
            proxy.post = lambda handler: proxy.reply(handler, 403, {"error": "no"})
            EndpointBackend(CaptionerSettings(endpoint="http://localhost:8/v1", retries=0)).answer([RED], [QUESTION])
    assert "secret" not in str(caught.value) and ("HTTP_PROXY" if answers else "http_proxy") in str(caught.value)


def test_thoughts_and_wrappers_go_and_refusals_leave_out_their_photos(fashioniq):
    said = {
        30: message(content="<think>Red? Yes.</think>The dress is red."),
        31: message(content='```json\n{"caption": "The dress is blue."}\n```'),
        32: message(content="I'm sorry, but I can't help with identifying people in images."),
    }
    photos = PhotoSettings(data_root=str(fashioniq), max_missing=30)
    with ChatServer(always=said) as server:
        asked = CaptionerSettings(model="parrot", endpoint=server.url, concurrency=1)
        with pytest.raises(UserError, match="--max-missing"):
            run_captioning(replace(photos, max_missing=1), asked)
        paths = run_captioning(photos, asked)
        assert server.widths.count(32) == 0 and len(server.bodies) > 9  # the refused ones were asked for again
    captions = {row["image"]: row["caption"] for path in paths for row in json.loads(path.read_text())}
    assert captions["D0"] == "The dress is red." and captions["D1"] == "The dress is blue." and "D2" not in captions
    assert "the model refused: I'm sorry" in (paths[0].parent / "left_out.train.csv").read_text()
    with pytest.raises(UserError, match="temperature"), ChatServer() as server:
        run_captioning(photos, replace(asked, endpoint=server.url, temperature=0.7))


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
