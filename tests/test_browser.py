"""The browser of the tests sees, clicks, types, uploads and reports on a page."""

from pathlib import Path

import pytest

PAGE = """<!doctype html><meta name=viewport content="width=device-width"><title>t</title>
<body style="margin:0"><input id=words><input id=file type=file><button onclick="out.textContent = words.value +
file.files[0].name + innerWidth">go</button><p id=out></p><button id=far style="margin-top:3000px"
onclick="throw new Error('broken button')">far</button>"""


@pytest.fixture
def address(tmp_path) -> str:
    (tmp_path / "page.html").write_text(PAGE)
    return (tmp_path / "page.html").as_uri()


@pytest.mark.parametrize("width", (390, 1280))
def test_a_page_is_filled_in_clicked_and_read(browser, address, width):
    with browser.page(address, width=width) as page:
        page.type("#words", "red dress ")
        page.upload("#file", Path(__file__))
        page.click("button")
        assert page.wait_for("out.textContent") == f"red dress test_browser.py{width}"
        assert page.sideways() == 0 and page.errors == []


def test_errors_of_scripts_and_requests_to_other_machines_are_reported(browser, address):
    with browser.page(address) as page:
        page.click("#far")
        page.wait_for("fetch('https://fonts.example.com/a.css').then(() => false, () => true)")
        assert any("broken button" in error for error in page.errors)
        assert page.left_loopback() == ["https://fonts.example.com/a.css"]


def test_what_never_comes_true_is_an_error_and_a_picture_can_be_kept(browser, address, tmp_path):
    with browser.page(address, width=390, height=600) as page:
        with pytest.raises(AssertionError, match="not within"):
            page.wait_for("false", seconds=0.2)
        page.screenshot(tmp_path / "window.png", whole=False)
        assert (tmp_path / "window.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "box, pixels", [("overflow: hidden", 210), ("overflow: auto", 0)], ids=["cut off", "in a box that scrolls"]
)
def test_what_sticks_out_of_the_window_is_measured(browser, tmp_path, box, pixels):
    page_file = tmp_path / "wide.html"
    page_file.write_text(
        f"<!doctype html><body style='margin:0'><div style='{box}; width:390px'><p style='width:600px'>wide</p></div></body>"
    )
    with browser.page(page_file.as_uri(), width=700) as page:
        assert page.sideways() == 0
    with browser.page(page_file.as_uri(), width=700) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=390, height=600, deviceScaleFactor=1, mobile=False)
        assert page.sideways() == pixels
