"""The demo's parts by themselves: the history, the limiter, the actions of the page, the settings, the socket."""

import base64
import io
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
from demo_shop import COLOURS, NASTY, Shop, draw, open_shop
from PIL import Image

from unifashion.apps.demo import actions
from unifashion.apps.demo.concurrency import MOST_AT_ONCE, ModelThread
from unifashion.apps.demo.errors import Busy
from unifashion.apps.demo.history import Found, History, Reference, Step
from unifashion.apps.demo.html import STYLE, product_address, render
from unifashion.apps.demo.server import listen
from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.uploads import to_address, to_jpeg
from unifashion.cli import main
from unifashion.data.images import ImageError, load_image
from unifashion.errors import UserError
from unifashion.llm.captioner import Captioner
from unifashion.search import Hit


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


@pytest.fixture(scope="module")
def service(shop) -> Service:
    return Service(Loaded(shop, Captioner(shop.model)), DemoSettings(max_steps=3))


def search(service: Service, history: History, text: str) -> History:
    return actions.search(service, history, text, 4, "", False).history


def found(service: Service, history: History) -> list[Hit]:
    return actions.hits_of(service, history.current)


def test_a_search_goes_from_words_to_a_product_to_what_should_change_and_back(service):
    one = search(service, History(), "red dress")
    clicked = actions.refer(service, one, "shirt/5").history
    two = search(service, clicked, "in green")
    three = search(service, two, "shorter")
    assert [step.text for step in three.steps] == ["red dress", "in green", "shorter"]
    assert [step.reference and step.reference.item_id for step in three.steps] == [None, "shirt/5", "shirt/5"]
    again = actions.back(three, "0").history
    assert again.current == one.current and again.reference is None and len(again.steps) == 3
    other = search(service, again, "blue coat")
    assert [step.text for step in other.steps] == ["red dress", "blue coat"]


def test_a_product_comes_once_and_the_one_that_a_search_starts_from_does_not_come(service, shop):
    pink = Image.open(shop.index.get("coat/23").image)
    both = [hit.id for hit in shop.search(images=[pink], k=25) if hit.metadata["id"] == "coat/23"]
    assert sorted(both) == ["coat/23", "coat/23#2"]
    for item_id in both:
        clicked = actions.refer(service, History(), item_id).history
        hits = found(service, actions.search(service, clicked, "", 24, "", False).history)
        assert len(hits) == 23 and "coat/23" not in {hit.metadata["id"] for hit in hits}
    uploaded = actions.upload(service, History(), to_address(to_jpeg(pink, 320))).history
    hits = found(service, actions.search(service, uploaded, "", 25, "", False).history)
    assert len(hits) == 24 and sum(hit.metadata["id"] == "coat/23" for hit in hits) == 1


def test_what_is_shown_first_comes_from_all_over_the_catalogue(service):
    shown = service.some_items(6)
    assert {item.metadata["colour"] for item in shown} == set(COLOURS)
    assert len(service.some_items(100)) == 24


def test_words_that_the_model_does_not_know_are_remarked_on(service):
    done = actions.search(service, History(), "красное платье", 4, "", False)
    assert len(done.history.current.hits) == 4 and "knows none of the words" in done.message and not done.failed
    assert actions.search(service, History(), "a red dress", 4, "", False).message == ""


def test_of_too_long_a_history_the_beginning_is_forgotten(service):
    history = History()
    for text in ("a", "b", "c", "d"):
        history = search(service, history, text)
    assert [step.text for step in history.steps] == ["b", "c", "d"] and history.shown == 2


@pytest.mark.parametrize("index", ("7", "-1", "x", None, [1], "²"))
def test_going_back_to_what_is_not_there_changes_nothing(service, index):
    history = search(service, History(), "red")
    assert actions.back(history, index).history == history


def test_an_upload_is_the_reference_and_reaches_the_model_as_pixels(service, shop):
    photo = to_address(to_jpeg(Image.new("RGB", (3000, 1500), "#3366cc"), 3000))
    history = actions.upload(service, History(), photo).history
    search(service, history, "longer")
    seen = shop.asked["images"][0]
    assert seen.size == (640, 320)
    assert max(abs(a - b) for a, b in zip(seen.getpixel((9, 9)), (51, 102, 204), strict=True)) < 4


@pytest.mark.parametrize("name", ["white strokes on a layer", "black strokes on a layer", "0 and 1"])
def test_a_mask_is_kept_as_black_and_white_in_whatever_form_it_comes(service, name):
    box = (10, 20, 40, 60)
    mask = Image.new("L" if name == "0 and 1" else "LA", (60, 80))
    mask.paste({"white": (255, 255), "black": (0, 255)}.get(name.partition(" ")[0], 1), box)
    file = io.BytesIO()
    mask.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    kept = load_image(service.uploads.get(actions.keep_upload(service, text, 960, 95, "keep")))
    assert kept.getpixel((25, 40)) == (255, 255, 255) and kept.getpixel((3, 3)) == (0, 0, 0)
    with pytest.raises(ImageError, match="a picture in colours, not a mask"):
        actions.keep_upload(service, to_address(to_jpeg(draw("blue", "coat"), 320)), 960, 95, "keep")


def test_products_and_uploads_are_described(service, shop):
    words = Captioner(shop.model).caption([shop.index.get("coat/7").image])[0].strip()
    clicked = actions.refer(service, History(), "coat/7").history
    assert actions.describe(service, clicked).history.reference.caption == words
    photo = to_address(to_jpeg(draw("blue", "coat"), 320))
    assert actions.describe(service, actions.upload(service, History(), photo).history).history.reference.caption


def test_what_fails_leaves_the_history_and_says_why(service):
    history = search(service, History(), "red")
    for action in (
        lambda: actions.refer(service, history, "gone"),
        lambda: actions.refer(service, history, {"$ne": 1}),
        lambda: actions.upload(service, history, "data:image/svg+xml;base64,PHN2Zy8+"),
        lambda: actions.search(service, history.refer(None), "  ", 4, "", False),
        lambda: actions.search(service, history, "red\ud800", 4, "", False),
        lambda: actions.search(service, history, None, 4, "", False),
        lambda: actions.search(service, history, "red", 4, ["price"], False),
        lambda: actions.search(service, history, "red", float("nan"), "", False),
        lambda: actions.search(service, history, "red", {}, "", False),
        lambda: actions.describe(service, history),
        lambda: 1 / 0,
    ):
        result = actions.attempt(history, action)
        assert result.failed and result.history == history and result.message.endswith((".", "!"))


class Tags(HTMLParser):
    """Collects the tags and handlers that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_names_metadata_ids_and_words_are_text_wherever_they_are_shown(tmp_path):
    hostile = Hit(NASTY, 0.5, tmp_path / "x.png", {"title": NASTY, "price": NASTY, NASTY: NASTY})
    reference = Reference(NASTY, item_id=NASTY, caption=NASTY)
    step = Step(NASTY, reference, (Found(NASTY, 0.5),))
    address = {"address_of": lambda reference, side: product_address(reference.item_id, side)}
    for page in (
        render("results", step=step, hits=[hostile]),
        render("reference", reference=reference, item=hostile, captions=True, **address),
        render("trail", history=History((step, step), 0), **address),
        render("note", message=NASTY, failed=True),
        render("welcome", examples=[NASTY], items=[hostile]),
        render("tryon_result", jpeg=b"", title=NASTY),
        render("login", message=NASTY, failed=True),
    ):
        seen = Tags(page)
        assert "script" not in seen.tags
        assert not {name for name in seen.attributes if name.startswith("on")}
        if "img" in seen.tags:
            assert 'src="x' not in page and "src=x" not in page.replace("src=x onerror", "")


def test_a_card_shows_title_price_and_what_else_is_known():
    metadata = {"id": "1", "text": "A dress", "stock": 3, "price": 49.9, "weight": 0.125, "size": ""}
    card = render("results", step=Step("", None, ()), hits=[Hit("1", 0.25, Path(), metadata)])
    for words in ("A dress", "<b>49.90</b>3 · 0.125<", "0.250", "api/items/1/image"):
        assert words in card
    assert "Nothing found" in render("results", step=Step("x", None, ()), hits=[])
    assert "filter" in render("results", step=Step("x", None, (), "a < 1"), hits=[])


def test_try_on_is_offered_for_products_and_not_for_uploads():
    product, photo = (
        Hit("1", 0.25, Path(), {"text": "A dress", "price": 49.9}),
        Reference("Your photo", upload="0"),
    )
    address = {"address_of": lambda reference, side: "a.jpg"}
    assert "dl:not(:empty)" in STYLE, "what shows the try-on part; a line break would count as content"
    assert "<dl></dl>" in render("reference", reference=photo, item=None, captions=True, **address)
    page = render("reference", reference=Reference("A dress", item_id="1"), item=product, captions=True, **address)
    assert "<dl><dt>price</dt><dd>49.90</dd></dl>" in page


def test_questions_that_wait_together_are_answered_together_and_what_is_too_much_is_sent_away():
    busy, leave = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def answer_all(questions):
        batches.append(list(questions))
        return [ValueError(str(n)) if n == 3 else 10 * n for n in questions]

    def occupy():
        busy.set()
        assert leave.wait(20)

    models = ModelThread(answer_all, waiting=MOST_AT_ONCE + 2, patience=20)
    with ThreadPoolExecutor(MOST_AT_ONCE + 3) as pool:
        first = pool.submit(models.run, occupy)
        assert busy.wait(20)
        answers = [pool.submit(models.ask, n) for n in range(MOST_AT_ONCE + 2)]
        while len(models._asked) < MOST_AT_ONCE + 2:
            time.sleep(0.001)
        with pytest.raises(Busy, match="Too many"):
            models.ask(99)
        leave.set()
        assert first.result(20) is None
        with pytest.raises(ValueError, match="3"):
            answers[3].result(20)
        assert [one.result(20) for n, one in enumerate(answers) if n != 3] == [
            10 * n for n in range(MOST_AT_ONCE + 2) if n != 3
        ]
    assert sorted(map(len, batches)) == [2, MOST_AT_ONCE]
    assert models.ask(1) == 10


def test_a_wait_that_is_too_long_ends_in_busy_and_what_has_begun_is_waited_for():
    leave = threading.Event()
    models = ModelThread(lambda questions: [1 for _ in questions], waiting=1, patience=0.05)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(models.run, lambda: leave.wait(20))
        while models._places._value == 2:
            time.sleep(0.001)
        with pytest.raises(Busy, match="did not start"):
            models.ask(1)
        leave.set()
        assert long.result(20)
    assert models.ask(1) == 1


def test_a_bug_reaches_those_who_asked_and_the_thread_goes_on():
    models = ModelThread(lambda questions: [1 // question for question in questions], waiting=1, patience=20)
    with pytest.raises(ZeroDivisionError):
        models.ask(0)
    assert models.ask(1) == 1


def test_a_port_that_is_taken_and_a_host_of_another_machine_are_reported_in_one_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} on 127.0.0.1 cannot be used"):
            listen("127.0.0.1", port)
        with pytest.raises(SystemExit) as left:
            main(["demo", "no-such-index", "--port", str(port)])
        assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="--host"):
        listen("no such name", 0)


def test_it_listens_on_this_machine_alone_unless_set_otherwise():
    with listen(DemoSettings().host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("values", ({"port": 70_000}, {"port": -1}, {"password": " "}))
def test_settings_that_make_no_sense_are_rejected(values):
    with pytest.raises(UserError, match=f"--{next(iter(values))}"):
        DemoSettings(**values)
