"""The page, in Gradio: parts that html.py draws, wired to the actions of actions.py.

Every event of a part reaches a handler with the data of the element that was clicked. Events are private: they belong to the
page, programs use the JSON API. The history lives on the server, so no page can write to it.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from unifashion.apps.demo import actions
from unifashion.apps.demo.actions import Result
from unifashion.apps.demo.history import FORGET, History
from unifashion.apps.demo.html import SCRIPT, STYLE, render
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.tryon_tab import add_tryon, event_data

EXAMPLES = ("red floral dress", "blue striped shirt", "long black coat")
NUM_SHOWN = 10  # products on the page before the first search
ASK_WORDS, ASK_CHANGE = "Describe it in words", "What should change?"
# Events that may wait, and that run at once: enough that searches find others to be answered with, and that a click that needs no
# model, such as a step back, is not stuck behind other people's searches.
QUEUE, THREADS = 64, 24
BUSY = "(...given) => { document.body.classList.add('uf-busy'); return given; }"
DONE = "() => { document.body.classList.remove('uf-busy'); }"
# Own styles, system fonts, nothing from or to the network, and none of Gradio's extras.
MOUNT_OPTIONS: dict[str, Any] = {
    "theme": gr.themes.Base(
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ),
    "css": STYLE,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "mcp_server": False,
    "ssr_mode": False,
    "pwa": False,
    "show_error": False,
    "allowed_paths": [],
}


def build_page(service: Service) -> gr.Blocks:
    """Return the page as Gradio blocks."""
    about = service.about()

    def part(value: str, name: str) -> gr.HTML:
        limit = service.settings.max_upload_bytes
        return gr.HTML(value, js_on_load=SCRIPT, elem_id=name, apply_default_css=False, limit=limit)

    with gr.Blocks(title="UniFashion", analytics_enabled=False, fill_width=True) as page:
        history = gr.State(History(), time_to_live=FORGET)
        gr.HTML(render("header", num_items=about["items"]), apply_default_css=False)
        with gr.Row(elem_id="uf-bar"):
            words = gr.Textbox(
                "",
                label="What you are looking for",
                placeholder=ASK_WORDS,
                show_label=False,
                container=False,
                elem_id="uf-words",
                max_lines=1,
            )
            picker = part(render("picker"), "uf-picker")
            go = gr.Button("Search", variant="primary", elem_id="uf-go")
        with gr.Accordion("Filter and options", open=False, elem_id="uf-options"):
            options = _options(service, about["fields"])
        note = gr.HTML("", elem_id="uf-note", apply_default_css=False)
        reference = part("", "uf-reference")
        tryon = add_tryon(service, part, history) if about["tryon"] else None
        trail = part("", "uf-trail")
        gr.HTML(render("pending"), apply_default_css=False, elem_id="uf-pending")
        results = part(_welcome(service), "uf-results")
        outputs = [history, words, note, reference, trail, results]

        def wire(event: Callable[..., Any], handler: Callable[..., Any], inputs: list[Any], slow: bool) -> None:
            options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "outputs": outputs}
            if not slow:
                event(handler, inputs=inputs, queue=False, **options)
                return
            # One concurrency_id for all slow events, or Gradio would grant each kind of event THREADS of its own.
            event(handler, inputs=inputs, js=BUSY, concurrency_limit=THREADS, concurrency_id="model", **options).then(
                None, js=DONE, api_visibility="private"
            )

        handlers = _Handlers(service)
        for event in (words.submit, go.click):
            wire(event, handlers.search, [history, words, *options], slow=True)
        for clickable in (reference, trail, results):
            wire(clickable.click, handlers.click, [history, words, *options], slow=True)
        wire(picker.upload, handlers.upload, [history, words], slow=True)
        for rejecting in filter(None, (picker, tryon)):
            wire(rejecting.rejected, handlers.rejected, [history, words], slow=False)
    page.queue(max_size=QUEUE, default_concurrency_limit=THREADS, api_open=False)
    page.state_session_capacity = service.settings.max_sessions
    return page


def _options(service: Service, fields: dict[str, str]) -> list[Any]:
    number = next((name for name, kind in fields.items() if kind == "number"), None)
    text = next((name for name, kind in fields.items() if kind == "text"), None)
    parts = ([f"{number} < 50"] if number else []) + ([f"{text} == 'dress'"] if text else [])
    known = ", ".join(f"{_as_words(name)} ({kind})" for name, kind in fields.items()) or "this catalogue has none"
    condition = gr.Textbox(
        "",
        label="Filter",
        info=f"Fields: {known}",
        placeholder=" and ".join(parts),
        elem_id="uf-filter",
        visible=bool(fields),
    )
    with gr.Row():
        count = gr.Slider(4, min(48, service.settings.max_results), 12, step=4, label="Results")
        rerank = gr.Checkbox(False, label=f"Re-rank the first {actions.RERANK} with the matching head (slower)")
    return [count, condition, rerank]


def _as_words(text: str) -> str:
    """Return a text that is shown as it is where Gradio reads Markdown and HTML: its signs as numbers."""
    return re.sub(r"[^\w ]", lambda sign: f"&#{ord(sign[0])};", text)


def _welcome(service: Service) -> str:
    return render("welcome", examples=EXAMPLES, items=service.some_items(NUM_SHOWN))


def _printable(text: Any) -> str:
    """Return what a browser sent as a text that can be sent back; a request written by hand may hold anything."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""


class _Handlers:
    """What Gradio calls; each returns the values of ``outputs``."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._address_of = partial(actions.address_of, service)

    def search(self, history: History, words: str, k: float, condition: str, rerank: bool) -> list[Any]:
        action = lambda: actions.search(self._service, history, words, k, condition, rerank)  # noqa: E731
        return self._show(actions.attempt(history, action), words)

    def click(
        self, history: History, words: str, k: float, condition: str, rerank: bool, event: gr.EventData
    ) -> list[Any]:
        data = event_data(event)
        clicked = data.get("uf")
        if clicked == "example":
            return self.search(history, _printable(data.get("words"))[:200], k, condition, rerank)
        if clicked == "similar":
            return self.search(history, "", k, condition, rerank)
        known: dict[Any, Callable[[], Result]] = {
            "refer": lambda: actions.refer(self._service, history, data.get("id")),
            "back": lambda: actions.back(history, data.get("index")),
            "describe": lambda: actions.describe(self._service, history),
            "clear": lambda: Result(history.refer(None)),
        }
        result = actions.attempt(history, known.get(clicked, lambda: Result(history)))
        if clicked == "back" and result.history.current is not None:
            words = result.history.current.text
        return self._show(result, "" if clicked == "refer" else words)

    def upload(self, history: History, words: str, event: gr.EventData) -> list[Any]:
        picture = event_data(event).get("picture")
        return self._show(actions.attempt(history, lambda: actions.upload(self._service, history, picture)), words)

    def rejected(self, history: History, words: str, event: gr.EventData) -> list[Any]:
        message = _printable(event_data(event).get("message"))[:300]
        return self._show(Result(history, message, failed=True), words)

    def _show(self, result: Result, words: str) -> list[Any]:
        history, reference = result.history, result.history.reference
        step, captions = history.current, self._service.about()["captions"]
        item = actions.product_in_index(self._service, reference)
        return [
            history,
            gr.update(value=_printable(words), placeholder=ASK_WORDS if reference is None else ASK_CHANGE),
            render("note", message=result.message, failed=result.failed),
            render("reference", reference=reference, item=item, captions=captions, address_of=self._address_of),
            render("trail", history=history, address_of=self._address_of),
            _welcome(self._service)
            if step is None
            else render("results", step=step, hits=actions.hits_of(self._service, step)),
        ]
