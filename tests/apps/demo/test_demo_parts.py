"""The demo's parts by themselves: the history, the gate, the steps of the page, the settings, the socket."""

import socket
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from demo_shop import COLOURS, NASTY, Shop, draw, open_shop
from PIL import Image

from unifashion.apps.demo import html as cards
from unifashion.apps.demo import steps
from unifashion.apps.demo.concurrency import Gate
from unifashion.apps.demo.errors import Busy
from unifashion.apps.demo.server import listen
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.turns import History, Reference, Turn
from unifashion.apps.demo.uploads import to_address, to_jpeg
from unifashion.cli import main
from unifashion.errors import UserError
from unifashion.llm.captioner import Captioner
from unifashion.search import Hit


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


@pytest.fixture(scope="module")
def service(shop) -> Service:
    return Service(shop, DemoSettings(max_turns=3), Captioner(shop.model))


def search(service: Service, history: History, text: str) -> History:
    return steps.search(service, history, text, 4, "", False).history


def test_a_search_goes_from_words_to_a_product_to_what_should_change_and_back(service):
    one = search(service, History(), "red dress")
    clicked = steps.refer(service, one, "shirt/5").history
    two = search(service, clicked, "in green")
    three = search(service, two, "shorter")
    assert [turn.text for turn in three.turns] == ["red dress", "in green", "shorter"]
    assert [turn.reference and turn.reference.item_id for turn in three.turns] == [None, "shirt/5", "shirt/5"]
    again = steps.back(three, "0").history
    assert again.turn == one.turn and again.reference is None and len(again.turns) == 3
    other = search(service, again, "blue coat")
    assert [turn.text for turn in other.turns] == ["red dress", "blue coat"]


def test_a_product_comes_once_and_the_one_that_a_search_starts_from_does_not_come(service, shop):
    pink = Image.open(shop.index.get("coat/23").image)
    both = [hit.id for hit in shop.search(images=[pink], k=25) if hit.metadata["id"] == "coat/23"]
    assert sorted(both) == ["coat/23", "coat/23#2"]
    for item_id in both:
        clicked = steps.refer(service, History(), item_id).history
        found = steps.search(service, clicked, "", 24, "", False).history.turn.hits
        assert len(found) == 23 and "coat/23" not in {hit.metadata["id"] for hit in found}
    uploaded = steps.upload(service, History(), to_address(to_jpeg(pink, 320))).history
    found = steps.search(service, uploaded, "", 25, "", False).history.turn.hits
    assert len(found) == 24 and sum(hit.metadata["id"] == "coat/23" for hit in found) == 1


def test_what_is_shown_first_comes_from_all_over_the_catalogue(service):
    shown = service.some_items(6)
    assert {item.metadata["colour"] for item in shown} == set(COLOURS)
    assert len(service.some_items(100)) == 24


def test_words_that_the_model_does_not_know_are_remarked(service):
    done = steps.search(service, History(), "красное платье", 4, "", False)
    assert len(done.history.turn.hits) == 4 and "knows none of the words" in done.words and not done.failed
    assert steps.search(service, History(), "a red dress", 4, "", False).words == ""


def test_of_too_long_a_history_the_beginning_is_forgotten(service):
    history = History()
    for text in ("a", "b", "c", "d"):
        history = search(service, history, text)
    assert [turn.text for turn in history.turns] == ["b", "c", "d"] and history.shown == 2


@pytest.mark.parametrize("number", ("7", "-1", "x", None, [1], "²"))
def test_going_back_to_what_is_not_there_changes_nothing(service, number):
    history = search(service, History(), "red")
    assert steps.back(history, number).history == history


def test_an_upload_is_the_reference_and_reaches_the_model_as_pixels(service, shop):
    photo = to_address(to_jpeg(Image.new("RGB", (3000, 1500), "#3366cc"), 3000))
    history = steps.upload(service, History(), photo).history
    search(service, history, "longer")
    seen = shop.asked["images"][0]
    assert seen.size == (640, 320)
    assert max(abs(a - b) for a, b in zip(seen.getpixel((9, 9)), (51, 102, 204), strict=True)) < 4


def test_products_and_uploads_are_described(service, shop):
    words = Captioner(shop.model).caption([shop.index.get("coat/7").image])[0].strip()
    clicked = steps.refer(service, History(), "coat/7").history
    assert steps.describe(service, clicked).history.reference.caption == words
    photo = to_address(to_jpeg(draw("blue", "coat"), 320))
    assert steps.describe(service, steps.upload(service, History(), photo).history).history.reference.caption


def test_what_fails_leaves_the_history_and_says_why(service):
    history = search(service, History(), "red")
    for step in (
        lambda: steps.refer(service, history, "gone"),
        lambda: steps.refer(service, history, {"$ne": 1}),
        lambda: steps.upload(service, history, "data:image/svg+xml;base64,PHN2Zy8+"),
        lambda: steps.search(service, history.refer(None), "  ", 4, "", False),
        lambda: steps.describe(service, history),
        lambda: 1 / 0,
    ):
        result = steps.attempt(history, step)
        assert result.failed and result.history == history and result.words.endswith((".", "!"))


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
    turn = Turn(NASTY, reference, (hostile,))
    for page in (
        cards.results(turn),
        cards.reference_card(reference, hostile, True),
        cards.trail(History((turn, turn), 0)),
        cards.note("failed", NASTY),
        cards.welcome([NASTY], [hostile]),
    ):
        seen = Tags(page)
        assert "script" not in seen.tags
        assert not {name for name in seen.attributes if name.startswith("on")}
        if "img" in seen.tags:
            assert 'src="x' not in page and "src=x" not in page.replace("src=x onerror", "")


def test_a_card_shows_title_price_and_what_else_is_known():
    facts = {"id": "1", "text": "A dress", "stock": 3, "price": 49.9, "weight": 0.125, "size": ""}
    card = cards.results(Turn("", None, (Hit("1", 0.25, Path(), facts),)))
    for words in ("A dress", "<b>49.90</b>3 · 0.125<", "0.250", "api/items/1/image"):
        assert words in card
    assert "Nothing found" in cards.results(Turn("x", None, ()))
    assert "filter" in cards.results(Turn("x", None, (), "a < 1"))


def test_the_gate_lets_few_in_some_wait_and_sends_the_rest_away():
    gate, inside, leave = Gate(1, 1, patience=20), threading.Event(), threading.Event()
    order: list[str] = []

    def first():
        with gate.enter():
            inside.set()
            leave.wait(20)
            order.append("first")

    def second():
        with gate.enter():
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait(20)
    threads[1].start()
    while gate._places._value:
        pass
    with pytest.raises(Busy, match="Too many"), gate.enter():
        pass
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    with gate.enter():
        pass


def test_who_waits_too_long_is_told_and_leaves_no_trace():
    gate = Gate(1, 1, patience=0.01)
    with gate.enter(), pytest.raises(Busy, match="did not begin"), gate.enter():
        pass
    with gate.enter():
        pass


def test_a_port_that_is_taken_and_a_host_that_is_not_here_are_told_in_one_sentence(capsys):
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


def test_it_listens_on_this_machine_alone_unless_told_otherwise():
    with listen(DemoSettings().host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("values", ({"port": 70_000}, {"port": -1}, {"password": " "}))
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(UserError, match=f"--{next(iter(values))}"):
        DemoSettings(**values)
