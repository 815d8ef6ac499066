"""The demo's parts by themselves: the history, the gate, the steps of the page, the settings, the socket."""

import socket
import threading
from html.parser import HTMLParser

import pytest
from demo_shop import NASTY, Product, Shop, Writer
from PIL import Image

from unifashion.cli import main
from unifashion.errors import UserError
from unifashion.serving.demo import cards, steps
from unifashion.serving.demo.gate import Gate
from unifashion.serving.demo.refusals import Busy
from unifashion.serving.demo.server import listen
from unifashion.serving.demo.service import Service
from unifashion.serving.demo.settings import DemoSettings
from unifashion.serving.demo.turns import History, Reference, Turn
from unifashion.serving.demo.uploads import to_address, to_jpeg


@pytest.fixture
def service(tmp_path) -> Service:
    return Service(Shop(tmp_path), DemoSettings(max_turns=3), Writer())


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


def test_the_product_that_a_search_starts_from_is_not_among_its_hits_and_as_many_are_shown(service):
    clicked = steps.refer(service, History(), "dress/0").history
    assert "dress/0" not in [hit.id for hit in search(service, clicked, "red dress").turn.hits]
    assert len(search(service, clicked, "red dress").turn.hits) == len(search(service, History(), "red").turn.hits) == 4


def test_of_too_long_a_history_the_beginning_is_forgotten(service):
    history = History()
    for text in ("a", "b", "c", "d"):
        history = search(service, history, text)
    assert [turn.text for turn in history.turns] == ["b", "c", "d"] and history.shown == 2


@pytest.mark.parametrize("number", ("7", "-1", "x", None, [1], "²"))
def test_going_back_to_what_is_not_there_changes_nothing(service, number):
    history = search(service, History(), "red")
    assert steps.back(history, number).history == history


def test_an_upload_is_the_reference_and_reaches_the_model_as_pixels(tmp_path):
    shop = Shop(tmp_path)
    service = Service(shop)
    photo = to_address(to_jpeg(Image.new("RGB", (3000, 1500), "#3366cc"), 3000))
    history = steps.upload(service, History(), photo).history
    search(service, history, "longer")
    seen = shop.asked[-1]["images"][0]
    assert (
        seen.size == (1024, 512)
        and max(abs(a - b) for a, b in zip(seen.getpixel((9, 9)), (51, 102, 204), strict=True)) < 4
    )


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
    hostile = Product(NASTY, tmp_path / "x.png", {"title": NASTY, NASTY: NASTY, "list": [NASTY]}, 0.5)
    reference = Reference(NASTY, item_id=NASTY, caption=NASTY)
    turn = Turn(NASTY, reference, (hostile,))
    for page in (
        cards.results(turn),
        cards.reference_card(reference, hostile, True),
        cards.trail(History((turn, turn), 0)),
        cards.note("failed", NASTY),
        cards.welcome([NASTY]),
    ):
        seen = Tags(page)
        assert "script" not in seen.tags
        assert not {name for name in seen.attributes if name.startswith("on")}
        if "img" in seen.tags:
            assert 'src="x' not in page and "src=x" not in page.replace("src=x onerror", "")


def test_a_card_shows_title_price_and_what_else_is_known():
    card = cards.results(
        Turn("", None, (Product("1", None, {"text": "A dress", "price": 49.9, "stock": 3, "size": ""}, 0.25),))
    )
    for words in ("A dress", "49.90 · 3", "0.250", "api/items/1/image"):
        assert words in card
    assert "Nothing found" in cards.results(Turn("x", None, ())) and "filter" in cards.results(
        Turn("x", None, (), "a < 1")
    )


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
