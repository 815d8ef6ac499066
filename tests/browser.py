"""A real headless browser for tests: Debian's chromium, driven over a pipe; needs no package and opens no port.

def test_the_page_greets(browser):
    with browser.page("http://127.0.0.1:7860", width=390) as page:
        page.wait_for("document.querySelector('h1')")
        page.click("button.search")
        assert "hello" in page.text()
        assert page.left_loopback() == [] and page.errors == []

``browser`` skips the test where chromium is absent (``apt-get install chromium``; ``$CHROMIUM`` names another one). One process
serves all tests of a session; every page has cookies of its own. Names other than loopback do not resolve, so nothing leaves
the machine; ``left_loopback`` returns what was tried. The commands are those of the Chrome DevTools Protocol.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
NOT_RESOLVED = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WAIT = 30.0  # seconds for an answer of the browser, and for ``wait_for``


STICKS_OUT = """Math.round(Math.max(0, document.documentElement.scrollWidth - innerWidth,
  ...[...document.body.querySelectorAll("*")].map((e) => {
    const r = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (r.width < 2 || r.height < 2 || r.right <= 0 || style.visibility === "hidden" || style.position === "fixed") return 0;
    for (let box = e.parentElement; box; box = box.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return 0;
    return Math.max(r.right - innerWidth, -r.left);
  })))"""


class Browser:
    """One chromium process; ``page`` opens a window in it."""

    def __init__(self, program: str, profile: Path) -> None:
        command_in, self._write = os.pipe()
        self._read, answer_out = os.pipe()
        redirect = f'exec "$0" "$@" 3<&{command_in} 4>&{answer_out}'
        flags = [*FLAGS, NOT_RESOLVED, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, program, *flags],
            pass_fds=(command_in, answer_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answer_out)
        self._buffer = b""
        self._last_id = 0
        self._pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its result; events that arrive meanwhile go to their pages."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        end = time.monotonic() + WAIT
        while (answer := self._next(end)) is not None:
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
        raise TimeoutError(f"chromium did not answer {method} within {WAIT:.0f} seconds")

    def _next(self, end: float) -> dict[str, Any] | None:
        """Return the next answer, or None at ``end``; an event is handed to its page on the way."""
        while time.monotonic() < end:
            head, separator, rest = self._buffer.partition(b"\0")
            if separator:
                self._buffer = rest
                message: dict[str, Any] = json.loads(head)
                if "id" in message:
                    return message
                page = self._pages.get(message.get("sessionId", ""))
                if page is not None:
                    page.take(message["method"], message["params"])
            elif select.select([self._read], [], [], 0.2)[0]:
                part = os.read(self._read, 1 << 20)
                assert part, "chromium ended"
                self._buffer += part
        return None

    @contextlib.contextmanager
    def page(self, url: str, width: int = 1280, height: int = 900) -> Iterator["Page"]:
        """Open a page, below 600 pixels of width as on a phone (touch, twice the pixels), and close it at the end."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        try:
            phone = width < 600
            for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
                page.call(f"{domain}.enable")
            page.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=2 if phone else 1,
                mobile=phone,
            )
            page.call("Emulation.setTouchEmulationEnabled", enabled=phone)
            page.go(url)
            yield page
        finally:
            del self._pages[session]
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)


class Page:
    """One window. ``requests`` are the addresses it asked for, ``errors`` what its scripts threw or logged as errors."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol to this page."""
        return self._browser.call(method, self._session, **params)

    def take(self, event: str, params: dict[str, Any]) -> None:
        """Keep what an event says about requests and errors."""
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif event == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(" ".join(str(word.get("value", word.get("description"))) for word in params["args"]))

    def left_loopback(self) -> list[str]:
        """Return the addresses it asked for that are not on this machine (files, data and blob: addresses are)."""
        asked = [url for url in self.requests if urlsplit(url).scheme in ("http", "https", "ws", "wss", "ftp")]
        return [url for url in asked if urlsplit(url).hostname not in LOOPBACK]

    def go(self, url: str) -> None:
        """Load an address and wait until the document is complete."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise AssertionError(f"{script}: {details.get('exception', {}).get('description', details['text'])}")
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = WAIT) -> Any:
        """Return the value of a JavaScript expression as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(f"Promise.resolve({condition}).then((x) => x instanceof Node ? true : x)")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:.0f} seconds: {condition}; the page says: {self.text()[:500]}")

    def text(self, selector: str = "body") -> str:
        """Return the visible text of the first element that matches."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str, index: int = 0) -> None:
        """Click the middle of a matching element with the mouse, as a person would: what covers it gets the click."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        self.wait_for(element)
        x, y = self.run(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field, replace what it holds, and write ``text`` into it."""
        self.click(selector)
        self.run(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press and release a key: Enter, Tab, Escape, ArrowRight..."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else "", **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def upload(self, selector: str, *files: Path) -> None:
        """Choose files in an ``<input type=file>``."""
        field = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        assert "objectId" in field, f"no {selector} on the page"
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=field["objectId"])

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """Write a PNG of the whole page, or of the window."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def sideways(self) -> int:
        """Return by how many pixels something visible sticks out of the window at the right or left (0 = nothing does).

        What lies in a box of its own that scrolls sideways, such as a wide table, is left out, and so is what lies entirely left
        of the window, where nobody can scroll.
        """
        return int(self.run(STICKS_OUT))


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Browser]:
    """Start chromium once for all tests; skip where there is none."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no chromium on this machine (apt-get install chromium, or $CHROMIUM)")
    running = Browser(program, tmp_path_factory.mktemp("chromium"))
    try:
        yield running
    finally:
        running.close()
