"""The demo's page in a real browser, over a real index and tiny models of the real classes."""

import logging
import sys

import pytest
import torch
from demo_shop import NASTY, Shop, draw, open_shop, served
from PIL import Image

from unifashion.apps.demo.service import Loaded, Service
from unifashion.apps.demo.settings import DemoSettings
from unifashion.apps.demo.tryon_person import torso_mask
from unifashion.llm.captioner import Captioner
from unifashion.tryon.api import TryOn
from unifashion.tryon.tiny import tiny_pipeline

FIELD, BUSY = "#uf-words input", "body.uf-busy"
SETTLED = """new Promise((done) => {
  let last = "", same = 0;
  const look = () => {
    const now = `${scrollY} ${document.body.scrollHeight}`;
    same = now === last ? same + 1 : 0;
    last = now;
    if (same > 3) done(true); else setTimeout(look, 30);
  };
  look();
})"""
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_model) -> Shop:
    return open_shop(tmp_path_factory.mktemp("shop"), make_model())


@pytest.fixture(scope="module")
def tryon() -> TryOn:
    torch.manual_seed(0)
    return TryOn(tiny_pipeline(["red shirt"], image_size=(48, 36)))


@pytest.fixture(scope="module")
def address(browser, shop, tryon):
    settings = DemoSettings(max_upload_bytes=300_000)
    with served(Service(Loaded(shop, Captioner(shop.model)), settings, tryon)) as url:
        yield url


@pytest.fixture
def open_page(browser, address):
    """Open the page, and see at its end that nothing broke and nothing was asked of another machine."""
    opened = []

    def go(**size):
        manager = browser.page(address, **size)
        page = manager.__enter__()
        opened.append((manager, page))
        parts = (FIELD, ".uf-card", "#uf-options", "#uf-tryon")  # Gradio puts them there one after the other
        ready(page, " && ".join(f"document.querySelector({part!r})" for part in parts))
        return page

    yield go
    try:
        for _, page in opened:
            assert page.errors == []
            assert page.left_loopback() == []
            assert page.run("window.cracked") is None
    finally:
        for manager, _ in opened:
            manager.__exit__(*sys.exc_info())


def ids(page) -> list[str]:
    return page.run("[...document.querySelectorAll('#uf-results .uf-card')].map(card => card.dataset.id)")


def ready(page, condition: str):
    """Wait until a condition holds, nothing is asked of the server, and nothing moves."""
    page.wait_for(f"({condition}) && !document.querySelector('{BUSY}')")
    page.run(SETTLED)


def each_once(hits) -> list[str]:
    best: dict[str, str] = {}
    for hit in hits:
        best.setdefault(hit.metadata["id"], hit.id)
    return list(best.values())


def refer(page, card: int):
    page.click("#uf-results .uf-card", card)
    ready(page, "document.querySelector('.uf-reference h2')")


def open_options(page):
    page.click("#uf-options button")
    page.wait_for("document.querySelector('#uf-filter :is(input, textarea)')?.getBoundingClientRect().height > 10")


def ask(page, words: str, steps: int):
    page.type(FIELD, words)
    page.press("Enter")
    ready(page, f"document.querySelectorAll('.uf-trail li').length === {steps} && document.querySelector('.uf-score')")


def pictures_are_there(page) -> bool:
    page.wait_for(
        "[...document.querySelectorAll('.uf-card img')].slice(0, 4).every(image => image.complete && image.naturalWidth > 50)"
    )
    return page.run("document.querySelectorAll('.uf-missing').length") == 0


def test_words_find_what_the_retriever_finds_as_cards_with_picture_title_price_and_category(open_page, shop):
    page = open_page()
    assert "25 product photos" in page.text(".uf-header")
    ask(page, "a red dress", 1)
    expected = each_once(shop.search("a red dress", k=25))[:12]
    assert ids(page) == expected
    assert pictures_are_there(page)
    first = shop.index.get(expected[0])
    card = page.text("#uf-results .uf-card")
    assert first.metadata["category"] in card and f"{first.metadata['price']:.2f}" in card
    assert page.sideways() == 0


def test_a_search_goes_on_from_a_result_and_back_in_its_history(open_page, shop):
    page = open_page()
    ask(page, "blue shirt", 1)
    first = ids(page)
    refer(page, 2)
    assert shop.index.get(first[2]).metadata["text"] == page.text(".uf-reference h2")
    assert page.run(f"document.querySelector('{FIELD}').placeholder") == "What should change?"
    ask(page, "is longer", 2)
    second = ids(page)
    assert shop.asked["text"] == "is longer" and len(shop.asked["images"]) == 1
    assert first[2] not in second and second != first
    page.click("#uf-results .uf-card", 0)
    ready(page, f"document.querySelector('.uf-reference h2').innerText !== {page.text('.uf-reference h2')!r}")
    ask(page, "has dots", 3)
    page.click(".uf-trail button", 1)
    ready(page, "document.querySelector('.uf-trail [aria-current]').dataset.index === '1'")
    assert ids(page) == second
    assert page.run(f"document.querySelector('{FIELD}').value") == "is longer"
    page.click(".uf-trail button", 0)
    ready(page, "document.querySelector('.uf-trail [aria-current]').dataset.index === '0'")
    assert ids(page) == first and not page.text("#uf-reference").strip()
    ask(page, "green top", 2)
    assert [words for words in page.text(".uf-trail").split("\n") if words.strip("› ")] == ["blue shirt", "green top"]


def test_a_photo_is_searched_described_and_changed_by_words(open_page, shop, tmp_path):
    photo = tmp_path / "photo.jpg"
    draw("green", "coat").save(photo)
    page = open_page()
    page.upload("#uf-picker input", photo)
    ready(page, "document.querySelector('.uf-reference img')?.complete")
    assert "your photo" in page.text(".uf-reference")
    page.click("[data-uf=similar]")
    ready(page, "document.querySelector('.uf-score')")
    assert ids(page) == each_once(shop.search(images=shop.asked["images"], k=25))[:12]
    page.click("[data-uf=describe]")
    ready(page, "document.querySelector('.uf-said')")
    assert page.text(".uf-said").strip("“”")
    ask(page, "in red", 2)
    assert shop.asked["text"] == "in red" and shop.asked["images"][0].size == (240, 320)
    page.click("[data-uf=clear]")
    ready(page, "!document.querySelector('.uf-reference')")


def test_filters_and_options_reach_the_search_and_nothing_found_is_said(open_page, shop):
    page = open_page()
    open_options(page)
    assert "price (number)" in page.text("#uf-options")
    field = "#uf-filter :is(input, textarea)"
    page.type(field, "price < 30")
    ask(page, "red", 1)
    assert sorted(ids(page)) == ["dress/0", "shirt/1"]
    page.type(field, "price < 1")
    page.type(FIELD, "blue")
    page.press("Enter")
    ready(page, "document.querySelector('#uf-results').innerText.includes('Nothing found')")
    page.type(field, "size < 1")
    page.type(FIELD, "blue")
    page.press("Enter")
    ready(page, "document.querySelector('.uf-failed')")
    assert "no item has a field 'size'" in page.text("#uf-note")
    assert "Nothing found" in page.text("#uf-results"), "what was there stays"


def test_what_goes_wrong_is_said_in_a_sentence_and_the_page_goes_on(open_page, shop, tmp_path, caplog):
    page = open_page()
    page.click("#uf-go")
    ready(page, "document.querySelector('.uf-failed')?.innerText.includes('Nothing to search for')")
    big, text = tmp_path / "big.png", tmp_path / "notes.jpg"
    Image.effect_noise((700, 700), 90).save(big)
    text.write_text("no picture")
    page.upload("#uf-picker input", big)
    page.wait_for("document.querySelector('.uf-failed')?.innerText.includes('larger than')")
    page.upload("#uf-picker input", text)
    ready(page, "document.querySelector('.uf-failed')?.innerText.includes('not a picture')")
    shop.broken = RuntimeError("secret")
    try:
        with caplog.at_level(logging.CRITICAL):
            page.type(FIELD, "blue")
            page.press("Enter")
            ready(page, "document.querySelector('.uf-failed')?.innerText.includes('Something went wrong')")
    finally:
        shop.broken = None
    assert "secret" not in page.text()
    page.type(FIELD, "платье")
    page.press("Enter")
    ready(page, "document.querySelector('.uf-score')")
    assert "knows none of the words" in page.text("#uf-note")
    ask(page, "blue", 2)
    assert page.text("#uf-note").strip() == ""


def test_while_it_searches_the_page_says_so(open_page, shop):
    page = open_page()
    assert "Searching" not in page.text()
    shop.delay = 1.0
    try:
        page.type(FIELD, "blue")
        page.press("Enter")
        page.wait_for(f"document.querySelector('{BUSY}')")
        assert "Searching" in page.text()
        ready(page, "document.querySelector('.uf-score')")
    finally:
        shop.delay = 0.0
    assert "Searching" not in page.text()


def test_a_product_is_tried_on(open_page, tmp_path):
    photo = tmp_path / "person.jpg"
    Image.new("RGB", (300, 400), "#ccaa99").save(photo)
    mask = tmp_path / "mask.png"
    torso_mask(300, 400).save(mask)
    page = open_page()
    assert page.run("getComputedStyle(document.querySelector('#uf-tryon')).display") == "none"
    refer(page, 3)
    page.click("#uf-tryon button")
    page.click("#uf-tryon-go")
    page.wait_for("document.querySelector('#uf-tryon-result').innerText.includes('Add a photo of a person')")
    page.upload("[data-uf-file=person]", photo)
    page.wait_for("document.querySelectorAll('.uf-pickers img').length === 1")
    page.upload("[data-uf-file=mask]", mask)
    page.wait_for("document.querySelectorAll('.uf-pickers img').length === 2")
    page.click("#uf-tryon-go")
    page.wait_for("document.querySelector('.uf-drawn img')?.naturalWidth === 300", seconds=60)


def test_a_name_that_attacks_the_page_is_only_text(open_page):
    page = open_page()
    page.run("[...document.querySelectorAll('.uf-card')].find(card => card.dataset.id === 'dress/0').click()")
    ready(page, "document.querySelector('.uf-reference h2')")
    assert page.text(".uf-reference h2") == NASTY
    page.type(FIELD, "<img src=x onerror=cracked=1> red")
    page.press("Enter")
    ready(page, "document.querySelector('.uf-trail li')")
    assert "<img src=x" in page.text(".uf-trail")


def test_a_phone_shows_everything_without_scrolling_sideways(open_page):
    page = open_page(**PHONE)
    assert page.sideways() == 0
    page.click(".uf-examples button")
    ready(page, "document.querySelector('.uf-score')")
    refer(page, 1)
    ask(page, "in blue and with a really very long wish that does not fit into any field of a phone", 2)
    assert pictures_are_there(page)
    open_options(page)
    page.click("#uf-tryon button")
    page.wait_for("document.querySelector('#uf-tryon-go')?.getBoundingClientRect().height > 10")
    assert page.sideways() == 0
    page.go(f"{page.run('location.origin')}/api/docs")
    assert page.sideways() == 0


def test_a_password_is_asked_for_before_anything_is_shown(browser, shop):
    with (
        served(Service(Loaded(shop), DemoSettings(password="naïve secret"))) as url,
        browser.page(url, **PHONE) as page,
    ):
        assert "needs a password" in page.text() and "product" not in page.text()
        page.type("input[type=password]", "wrong")
        page.press("Enter")
        page.wait_for("document.querySelector('.uf-failed')?.innerText.includes('not the password')")
        page.type("input[type=password]", "naïve secret")
        page.press("Enter")
        page.wait_for(f"document.querySelector('{FIELD}')")
        ask(page, "red", 1)
        assert pictures_are_there(page) and page.sideways() == 0
