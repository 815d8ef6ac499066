"""What strangers may send: names, addresses, too many or too slow requests, and texts that are none."""

import base64
import http.client
import io
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from demo_shop import Shop, open_shop, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from unifashion.apps.demo.connections import client_key
from unifashion.apps.demo.server import build_app
from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.errors import UserError
from unifashion.search.index import Index


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


@pytest.fixture(scope="module")
def client(shop) -> TestClient:
    return client_of(shop)


def client_of(shop: Shop, **limits) -> TestClient:
    app = build_app(Service(Loaded(shop), DemoSettings(**limits)))
    return TestClient(app, raise_server_exceptions=False, base_url="http://localhost")


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    answer = b""
    while part := connection.recv(65_536):
        answer += part
    return answer


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits, host, status",
    [
        ({}, "localhost:7860", 200),
        ({}, "127.0.0.1", 200),
        ({}, "LOCALHOST.", 200),
        ({}, "[::1]:7860", 200),
        ({}, "evil.example.com", 421),
        ({}, "localhost.evil.example.com", 421),
        ({}, "192.168.0.7", 421),
        ({}, "[broken", 421),
        ({}, "", 421),
        ({"allow_host": ("shop.example.com",)}, "shop.example.com", 200),
        ({"host": "0.0.0.0"}, "192.168.0.7:7860", 200),
        ({"host": "0.0.0.0"}, socket.gethostname(), 200),
        ({"host": "0.0.0.0"}, "evil.example.com", 421),
    ],
)
def test_only_known_names_are_answered(shop, limits, host, status):
    client = client_of(shop, **limits)
    for path in ("/api/health", "/"):
        assert client.get(path, headers={"Host": host}).status_code == status
    assert status == 200 or "--allow-host" in client.get("/api/health", headers={"Host": host}).json()["error"]


def test_pages_of_other_sites_may_not_act(client):
    search = {"text": "red"}
    for origin in ("http://evil.example.com", "http://localhost:3000", "null", "https://localhost.evil.com"):
        for path in ("/api/search", "/gradio_api/queue/join", "/gradio_api/run/predict"):
            assert client.post(path, json=search, headers={"Origin": origin}).status_code == 403
        answer = client.get("/api/health", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
    assert client.post("/api/search", json=search, headers={"Origin": "http://localhost"}).status_code == 200


def test_who_a_client_is_is_believed_of_a_named_proxy_alone(shop):
    forwarded = {"X-Forwarded-Host": "evil.example.com", "X-Forwarded-Proto": "https"}
    page = client_of(shop).get("/", headers=forwarded)
    assert page.status_code == 200 and "evil.example.com" not in page.text
    named = client_of(shop, proxy="10.0.0.1", allow_host=("shop.example.com",))
    assert named.get("/", headers=forwarded).status_code == 421
    assert "shop.example.com" in named.get("/", headers={**forwarded, "X-Forwarded-Host": "shop.example.com"}).text


def test_it_can_be_served_at_a_path_of_a_proxy(shop):
    limits = DemoSettings(proxy="127.0.0.1", root_path="/fashion", password="secret")
    with served(Service(Loaded(shop), limits)) as address:
        ask = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        ask.request("GET", "/", headers={"Accept": "text/html"})
        answer = ask.getresponse()
        answer.read()
        assert answer.status == 303 and answer.getheader("location") == "/fashion/login"
        ask.request("GET", "/api/docs", headers={"Authorization": "Bearer secret"})
        assert b"/fashion/api/search" in ask.getresponse().read()


@pytest.mark.parametrize(
    "values", [{"proxy": "nginx"}, {"root_path": "fashion/"}, {"per_client": 0}, {"allow_host": ("http://a",)}]
)
def test_settings_that_cannot_be_are_named(values):
    flag = "--" + next(iter(values)).replace("_", "-")
    with pytest.raises(UserError, match=flag):
        DemoSettings(**values)


def test_a_watcher_needs_no_password_and_learns_nothing(shop):
    client = client_of(shop, password="secret")
    assert client.get("/health", headers={"Host": "any"}).json() == {"status": "ok"}


def test_requests_are_logged_where_that_is_asked_for(shop, caplog):
    with caplog.at_level(logging.INFO, "unifashion"):
        client_of(shop).get("/api/health")
        assert not caplog.records
        client_of(shop, access_log=True).get("/api/items/a%0Ab")
    (line,) = caplog.messages
    assert line.startswith("testclient GET /api/items/a%0Ab 404 ")


# Too many, too slow ---------------------------------------------------------------------------------------------------


def test_an_address_has_so_many_requests_at_once_and_is_told_when_to_come_back(shop):
    shop.delay = 0.5
    try:
        with served(Service(Loaded(shop), DemoSettings(per_client=2))) as address, ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: search(address), range(4)))
            shop.delay = 0.0
            after = search(address)
    finally:
        shop.delay = 0.0
    assert sorted(status for status, _, _ in answers) == [200, 200, 429, 429] and after[0] == 200
    refused = next(one for one in answers if one[0] == 429)
    assert refused[1] == "5" and "your address" in refused[2]["error"]


def search(address: str) -> tuple[int, str | None, dict]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("POST", "/api/search", json.dumps({"text": "red"}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    status, wait, body = answer.status, answer.getheader("retry-after"), json.loads(answer.read())
    connection.close()
    return status, wait, body


def test_connections_that_say_nothing_keep_nobody_out_and_are_closed(shop):
    limits = DemoSettings(per_client=2, header_seconds=1.0)
    with served(Service(Loaded(shop), limits)) as address:
        silent = [connect(address) for _ in range(4)]
        with connect(address) as fifth:
            assert fifth.recv(100).startswith(b"HTTP/1.1 429 ")
        started = time.monotonic()
        answers = list(map(read_all, silent))
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
        assert time.monotonic() - started < 5
        assert search(address)[0] == 200
        for connection in silent:
            connection.close()


def test_headers_that_come_a_byte_at_a_time_are_not_waited_for(shop):
    with served(Service(Loaded(shop), DemoSettings(header_seconds=0.7))) as address, connect(address) as slow:
        slow.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200 ")
        started = time.monotonic()
        try:
            while time.monotonic() - started < 10:  # the second request of a connection, byte by byte
                slow.sendall(b"G")
                time.sleep(0.05)
        except OSError:
            pass
        assert time.monotonic() - started < 5


def test_a_body_that_does_not_come_is_not_waited_for(shop):
    with served(Service(Loaded(shop), DemoSettings(body_seconds=0.5))) as address, connect(address) as slow:
        head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
        slow.sendall(head.encode())
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_bodies_of_all_clients_together_are_bounded(shop, monkeypatch):
    monkeypatch.setattr("unifashion.apps.demo.middleware.BODIES", 1)
    limits = DemoSettings(max_upload_bytes=1000, body_seconds=5.0)  # 1 MiB and a little for everything else
    with served(Service(Loaded(shop), limits)) as address, connect(address) as first, connect(address) as second:
        head = "POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
        first.sendall(head.encode() + b" " * 600_000)
        time.sleep(0.5)
        second.sendall(head.encode() + b" " * 600_000)
        assert second.recv(65_536).startswith(b"HTTP/1.1 503 ")


def test_one_household_is_one_client():
    assert client_key("2001:db8:1:2:3::4") == client_key("2001:db8:1:2::9") != client_key("2001:db8:1:3::9")
    assert client_key("::ffff:10.0.0.1") == "10.0.0.1" == client_key("10.0.0.1") != client_key("10.0.0.2")
    assert client_key("testclient") == "testclient"


# Texts that are none --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=20)  # also NUL and halves of pairs
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["text", "image_id", "image", "filter", "k", "rerank"])
QUICK = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(body=st.dictionaries(FIELDS | TEXTS, VALUES, max_size=4) | VALUES)
def test_no_body_is_a_bug_of_the_server(client, body):
    content = json.dumps(body)
    for path in ("/api/search", "/api/caption"):
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 400, 404, 413), (answer.status_code, content)
        answer.json()


@QUICK
@given(content=st.binary(max_size=40))
def test_no_bytes_are_a_bug_of_the_server(client, content):
    answer = client.post("/api/search", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize("name", ("text", "image_id", "image", "filter"))
@pytest.mark.parametrize("part", ("\ud800", "\x00", "\udcff"))
def test_what_is_no_text_is_refused_by_a_sentence(client, name, part):
    content = json.dumps({"text": "red", name: f"a{part}"})
    answer = client.post("/api/search", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize("path", ("%00", "%ff", "a%00b", "%ed%a0%80", "%0d%0aX-Evil:%201", "%c0%ae%c0%ae%2f"))
def test_addresses_that_are_no_text_are_not_found(client, path):
    for address in (f"/api/items/{path}", f"/api/items/{path}/image", f"/static/{path}", f"/assets/{path}", f"/{path}"):
        answer = client.get(address)
        assert answer.status_code in (400, 403, 404), address
        assert "x-evil" not in answer.headers


def test_the_events_of_the_page_may_hold_anything(client, caplog):
    texts = ("\ud800", "\x00", "x" * 5000)
    for odd in (*texts, None, {"uf": "refer", "id": "\ud800"}, {"uf": ["refer"]}, {"uf": "back", "index": "9"}, [1]):
        for data in ([None, odd, 4, odd, False], [None, "red", odd, "", odd], odd):
            for index in range(10):
                fields = {"data": data, "fn_index": index, "session_hash": "s", "event_data": odd}
                content = json.dumps(fields)
                client.post("/gradio_api/run/predict", content=content, headers={"Content-Type": "application/json"})
    ours = [record for record in caplog.records if record.name.startswith("unifashion")]
    assert ours == []


# What is kept, and what is shown --------------------------------------------------------------------------------------


def test_names_of_columns_are_only_text_on_the_page(shop, monkeypatch):
    name = "<img src=x onerror=alert(1)>[a](javascript:alert(2))</script><script>alert(3)</script>"
    monkeypatch.setattr(Index, "fields", property(lambda index: {name: "text"}))
    client = client_of(shop)
    assert "alert(3)</script>" not in client.get("/").text
    parts = [part["props"] for part in client.get("/config").json()["components"]]
    (said,) = [part["info"] for part in parts if str(part.get("info", "")).startswith("Fields")]
    assert "&#60;img src&#61;x onerror&#61;alert&#40;1&#41;&#62;&#91;a&#93;" in said and not set("<>[]()*`$") & set(
        said.replace(" (text)", "")
    )
    elsewhere = [
        key for part in parts for key, value in part.items() if isinstance(value, str) and "<img src=x" in value
    ]
    assert elsewhere == ["placeholder"], "an attribute, which holds text"


def test_a_history_holds_little(shop):
    from unifashion.apps.demo import actions
    from unifashion.apps.demo.history import History

    service = Service(Loaded(shop), DemoSettings(max_kept_bytes=1_000_000))
    history = History()
    for red in range(12):
        file = io.BytesIO()
        noise = Image.effect_noise((900, 900), 60).convert("RGB")
        Image.blend(noise, Image.new("RGB", (900, 900), (red * 20, 9, 9)), 0.5).save(file, "JPEG")
        history = actions.upload(service, history, base64.b64encode(file.getvalue()).decode()).history
        history = actions.search(service, history, "in blue", 24, "", False).history
    assert len(repr(history)) < 12 * 2500
    assert service.uploads._num_bytes <= 1_000_000
    assert actions.address_of(service, history.reference, 240).startswith("data:image/jpeg")
    gone = actions.back(history, "0").history
    assert actions.address_of(service, gone.reference, 240) == ""
    result = actions.attempt(gone, lambda: actions.search(service, gone, "in red", 4, "", False))
    assert result.failed and "no longer kept" in result.message
