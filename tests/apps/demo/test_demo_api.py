"""The JSON API: what it answers, and which errors. Requests go through all of the middleware."""

import base64
import io
import json
import logging
import re
from html import unescape

import pytest
from demo_shop import NASTY, Shop, draw, open_shop
from PIL import Image
from starlette.testclient import TestClient

from unifashion.apps.demo.errors import Busy
from unifashion.apps.demo.html import render
from unifashion.apps.demo.server import build_app
from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.llm.captioner import Captioner


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


@pytest.fixture(scope="module")
def client(shop) -> TestClient:
    settings = DemoSettings(max_upload_bytes=200_000, max_upload_pixels=1_000_000)
    return TestClient(
        build_app(Service(Loaded(shop, Captioner(shop.model)), settings)),
        raise_server_exceptions=False,
        base_url="http://localhost",
    )


def encoded(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def error_of(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return answer.json()["error"]


def test_words_find_products_with_scores_metadata_and_picture_addresses(client, shop):
    answer = client.post("/api/search", json={"text": "red dress", "k": 3}).json()
    expected = shop.search("red dress", k=3)
    assert answer["remarks"] == []
    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == [(hit.id, hit.score) for hit in expected]
    assert answer["hits"][0]["metadata"] == expected[0].metadata
    picture = client.get(answer["hits"][0]["image"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (240, 320)


def test_what_the_model_cannot_read_is_remarked(client):
    answer = client.post("/api/search", json={"text": "красное платье", "k": 1}).json()
    assert len(answer["hits"]) == 1 and "knows none of the words" in answer["remarks"][0]


def test_filter_rerank_and_picture_reach_the_retriever(client, shop):
    sent = Image.new("RGB", (30, 40), "red")
    asked = {"text": " is longer ", "image": encoded(sent), "filter": "price < 30", "rerank": 7, "k": 3}
    hits = client.post("/api/search", json=asked).json()["hits"]
    got = shop.asked
    assert (got["text"], got["k"], got["filter"], got["rerank"]) == ("is longer", 3, "price < 30", 7)
    assert got["images"][0].tobytes() == sent.tobytes()
    assert sorted(hit["id"] for hit in hits) == ["dress/0", "shirt/1"]


def test_a_product_is_searched_by_its_id_and_a_data_address_is_a_picture_too(client, shop):
    hits = client.post("/api/search", json={"image_id": "skirt/2", "k": 1}).json()["hits"]
    assert shop.asked["images"][0].tobytes() == Image.open(shop.index.get("skirt/2").image).tobytes()
    assert hits == client.post("/api/search", json={"image": encoded(draw("red", "skirt")), "k": 1}).json()["hits"]
    client.post("/api/search", json={"image": "data:image/png;base64," + encoded(Image.new("RGB", (5, 6)))})
    assert shop.asked["images"][0].size == (5, 6) and shop.asked["text"] is None


def test_large_pictures_reach_the_model_smaller(client, shop):
    client.post("/api/search", json={"image": encoded(Image.new("1", (1200, 600)))})
    assert shop.asked["images"][0].size == (960, 480)


def test_an_item_and_the_health_are_returned(client):
    item = client.get("/api/items/dress%2F0").json()
    assert item == {
        "id": "dress/0",
        "image": "/api/items/dress%2F0/image",
        "metadata": {"id": "dress/0", "text": NASTY, "price": 20.0, "category": "dress", "colour": "red"},
    }
    health = client.get("/api/health").json()
    assert (health["status"], health["items"], health["captions"], health["tryon"]) == ("ok", 25, True, False)
    assert health["fields"]["price"] == "number"


def test_pictures_are_described(client, shop):
    words = Captioner(shop.model).caption([shop.index.get("coat/7").image])[0].strip()
    assert client.post("/api/caption", json={"image_id": "coat/7"}).json() == {"caption": words}
    sent = {"image": encoded(draw("blue", "coat"))}
    assert client.post("/api/caption", json=sent).json() == {"caption": words}
    assert "Nothing to describe" in error_of(client.post("/api/caption", json={}), 400)
    assert "text: " in error_of(client.post("/api/caption", json={"image_id": "coat/7", "text": "x"}), 400)


@pytest.mark.parametrize(
    "asked, status, words",
    [
        ({}, 400, "Nothing to search for"),
        ({"text": "   "}, 400, "Nothing to search for"),
        ({"text": "x", "k": 0}, 400, "k = 0"),
        ({"text": "x", "k": 101}, 400, "1 to 100"),
        ({"text": "x", "k": "many"}, 400, "k: "),
        ({"text": "x", "rerank": -1}, 400, "rerank = -1"),
        ({"text": "x", "path": "/etc/passwd"}, 400, "path: "),
        ({"text": "!!! ***"}, 400, "there are no words"),
        ({"text": "x" * 2001}, 413, "2000 is the limit"),
        ({"text": "red", "filter": "size > 3"}, 400, "no item has a field 'size'"),
        ({"image_id": "nothing"}, 404, "No product has the id 'nothing'"),
        ({"image_id": "../../etc/passwd"}, 404, "No product"),
        ({"image_id": "coat/3", "image": "aGk="}, 400, "not both"),
        ({"image": "aGk="}, 400, "not a picture"),
        ({"image": "%%%"}, 400, "not valid base64"),
        ({"image": ""}, 400, "The picture is empty"),
    ],
)
def test_what_cannot_be_used_is_answered_by_a_sentence(client, asked, status, words):
    assert words in error_of(client.post("/api/search", json=asked), status)


def test_a_body_that_is_not_json_is_reported(client):
    assert "see /api/docs" in error_of(
        client.post("/api/search", content=b"{", headers={"Content-Type": "application/json"}), 400
    )
    assert "no GET /api/search" in error_of(client.get("/api/search"), 405)
    assert "no POST /api/nothing" in error_of(client.post("/api/nothing"), 404)


@pytest.mark.parametrize("side", (1, 481, 5000))
def test_pictures_come_in_a_few_sizes_only(client, side):
    assert "240, 480, 960" in error_of(client.get(f"/api/items/coat%2F3/image?side={side}"), 400)
    assert client.get("/api/items/coat%2F3/image?side=240").status_code == 200


def test_vector_pictures_and_postscript_are_rejected(client):
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    for data in (svg, eps.getvalue()):
        assert "not a picture in a supported format" in error_of(
            client.post("/api/search", json={"image": base64.b64encode(data).decode()}), 400
        )


def test_pictures_of_too_many_bytes_or_pixels_are_rejected_before_they_are_decoded(client, monkeypatch):
    wide = encoded(Image.new("1", (1001, 1000)))
    assert "more than 1 million pixels" in error_of(client.post("/api/search", json={"image": wide}), 413)
    noise = encoded(Image.effect_noise((600, 600), 90))
    assert len(noise) * 3 / 4 > 200_000
    assert "larger than" in error_of(client.post("/api/search", json={"image": noise}), 413)
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert "pixels" in error_of(client.post("/api/search", json={"image": bomb}), 413)


def test_a_damaged_picture_is_reported(client):
    data = base64.b64decode(encoded(Image.effect_noise((60, 60), 90).convert("RGB"), "JPEG"))[:-700]
    assert "damaged" in error_of(client.post("/api/search", json={"image": base64.b64encode(data).decode()}), 400)


def test_a_body_above_the_limit_is_cut_whether_it_names_its_length_or_not(client):
    limit = 200_000 * 4 // 3 + 2**20

    def parts():
        for _ in range(limit // 2**16 + 2):
            yield b" " * 2**16

    json_type = {"Content-Type": "application/json"}
    assert "were sent" in error_of(client.post("/api/search", content=b" " * (limit + 1), headers=json_type), 413)
    assert "were sent" in error_of(client.post("/api/search", content=parts(), headers=json_type), 413)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:22/",
        "/gradio_api/upload",
        "/gradio_api/vibe-code/",
        "/gradio_api/call/search",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/docs",
        "/custom_component/a/b/c/d",
    ],
)
def test_what_the_page_does_not_need_of_gradio_is_closed(client, path):
    for method in ("GET", "POST"):
        assert "nothing at" in error_of(client.request(method, path), 404)


@pytest.mark.parametrize(
    "path", ["/static/../../../etc/passwd", "/assets/%2e%2e/%2e%2e/config", "/api/items/%2e%2e%2f%2e%2e%2fx/image"]
)
def test_no_path_climbs_out_of_what_is_served(client, path):
    assert client.get(path).status_code in (403, 404)


def test_a_product_whose_picture_is_gone_is_not_found_and_its_path_is_not_shown(client, shop):
    lost = shop.index.get("coat/23")
    lost.image.rename(lost.image.with_suffix(".away"))
    try:
        words = error_of(client.get("/api/items/coat%2F23/image"), 404)
    finally:
        lost.image.with_suffix(".away").rename(lost.image)
    assert "no such file" in words and str(lost.image.parent) not in words


def test_busy_says_when_to_come_back_and_a_bug_does_not_show_its_details(client, shop, caplog):
    try:
        shop.broken = Busy("Too many people are searching right now; try again in a few seconds.")
        answer = client.post("/api/search", json={"text": "x"})
        assert "try again" in error_of(answer, 503) and answer.headers["retry-after"] == "5"
        shop.broken = RuntimeError("secret /home/someone")
        with caplog.at_level(logging.ERROR):
            assert "secret" not in error_of(client.post("/api/search", json={"text": "x"}), 500)
        assert "secret" in caplog.text
    finally:
        shop.broken = None


def test_every_answer_forbids_browsers_to_load_nothing_from_elsewhere(client):
    for path in ("/", "/api/health", "/api/docs", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_documentation_names_every_route_and_needs_neither_script_nor_network(client):
    page = client.get("/api/docs").text
    for path, methods in client.get("/api/openapi.json").json()["paths"].items():
        assert path in page
        assert {"400", "401", "404", "413", "503"} >= {
            code for operation in methods.values() for code in operation["responses"]
        } - {"200", "422"}
    assert "<script" not in page and "https://" not in page and " src=" not in page
    assert "id of a product in the index, for its picture" in page and "image_id" in page


def test_the_documentation_shows_requests_that_work_and_the_errors_of_each_route(client):
    page = unescape(client.get("/api/docs").text)
    models = client.get("/api/openapi.json").json()["components"]["schemas"]
    example = models["SearchRequest"]["examples"][0]
    assert client.post("/api/search", json=example).status_code == 200
    assert (
        f"curl -s http://localhost/api/search -H 'Content-Type: application/json' \\\n     -d '{json.dumps(example)}'"
        in page
    )
    assert json.dumps(models["SearchAnswer"]["examples"][0]) in page
    section = page.partition("/api/items/{item_id}</code>")[2].partition("</section>")[0]
    assert re.findall("<code>(\\d+)</code>", section) == ["401", "404"] and "{id, image, metadata}" in section


def test_the_address_that_a_reader_came_by_is_only_text_in_the_documentation(client):
    page = render("docs", schema=client.get("/api/openapi.json").json(), errors={}, address="http://<script>")
    assert "<script" not in page and "curl -s http://&lt;script&gt;/api/search" in page


@pytest.fixture(scope="module")
def protected(shop) -> TestClient:
    settings = DemoSettings(password="naïve secret")
    return TestClient(build_app(Service(Loaded(shop), settings)), follow_redirects=False, base_url="http://localhost")


def test_programs_send_the_password_with_every_request(protected):
    assert "password" in error_of(protected.get("/api/health"), 401)
    assert "password" in error_of(protected.get("/api/health", headers={"Authorization": "Bearer wrong"}), 401)
    right = "Bearer naïve secret".encode()
    assert protected.get("/api/health", headers={"Authorization": right}).status_code == 200


def test_people_are_asked_for_the_password_once(protected):
    shown = protected.get("/", headers={"Accept": "text/html"})
    assert (shown.status_code, shown.headers["location"]) == (303, "/login")
    assert "Password" in protected.get("/login").text
    assert "not the password" in protected.post("/login", data={"password": "wrong"}).text
    entered = protected.post("/login", data={"password": "naïve secret"})
    assert entered.status_code == 303 and "HttpOnly" in entered.headers["set-cookie"]
    assert protected.get("/api/health").status_code == 200
    protected.cookies.clear()
    assert protected.get("/api/health", headers={"Cookie": "unifashion=" + "0" * 64}).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/info", "/api/docs", "/assets/index.js", "/api/items/a/image"]
)
def test_nothing_is_served_without_the_password(protected, path):
    assert protected.get(path).status_code == 401
    assert protected.post("/gradio_api/queue/join", json={}).status_code == 401
