"""The page, in Gradio: parts that are drawn by cards.py, wired to the steps of steps.py.

Every event of a part reaches ``_on_click`` and its like with the data of the element that was clicked. Events are private: they
belong to the page, programs use the JSON API. The history lives on the server, so no page can put anything into it.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr

from unifashion.apps.demo import html as cards
from unifashion.apps.demo import steps
from unifashion.apps.demo.docs import style
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.steps import Result
from unifashion.apps.demo.tryon_tab import add_fitting_room
from unifashion.apps.demo.turns import History

EXAMPLES = ("red floral dress", "blue striped shirt", "long black coat")
NUM_SHOWN = 10  # products on the page before anything was asked
ASK_WORDS, ASK_CHANGE = "Describe it in words", "What should change?"
FORGET = 6 * 3600  # seconds after which a history is forgotten
QUEUE, THREADS = 64, 8  # events that may wait, and that are worked on (the gate lets fewer at the model)
BUSY = "(...given) => { document.body.classList.add('uf-busy'); return given; }"
DONE = "() => { document.body.classList.remove('uf-busy'); }"
PENDING = (
    '<div class="uf-pending" role="status"><p>Searching…</p><p class="uf-slow">Still at work: others may be searching too, or '
    "the catalogue is large.</p></div>"
)


def build_page(service: Service) -> gr.Blocks:
    """Return the page as Gradio blocks."""
    about, script = service.about(), files("unifashion.apps.demo").joinpath("page.js").read_text(encoding="utf-8")

    def part(value: str, name: str) -> gr.HTML:
        limit = service.settings.max_upload_bytes
        return gr.HTML(value, js_on_load=script, elem_id=name, apply_default_css=False, limit=limit)

    with gr.Blocks(title="UniFashion", analytics_enabled=False, fill_width=True) as page:
        history = gr.State(History(), time_to_live=FORGET)
        gr.HTML(cards.header(about), apply_default_css=False)
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
            picker = part(cards.picker("Add a photo", "search"), "uf-picker")
            go = gr.Button("Search", variant="primary", elem_id="uf-go")
        with gr.Accordion("Filter and options", open=False, elem_id="uf-options"):
            options = _options(service, about["fields"])
        note = gr.HTML("", elem_id="uf-note", apply_default_css=False)
        reference = part("", "uf-reference")
        fitting = add_fitting_room(service, part, history) if about["tryon"] else None
        trail = part("", "uf-trail")
        gr.HTML(PENDING, apply_default_css=False, elem_id="uf-pending")
        found = part(cards.welcome(EXAMPLES, service.some_items(NUM_SHOWN)), "uf-results")
        outputs = [history, words, note, reference, trail, found]

        def wire(event: Callable[..., Any], handler: Callable[..., Any], inputs: list[Any], slow: bool) -> None:
            options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "outputs": outputs}
            if not slow:
                event(handler, inputs=inputs, queue=False, **options)
                return
            event(handler, inputs=inputs, js=BUSY, concurrency_limit=THREADS, concurrency_id="model", **options).then(
                None, js=DONE, api_visibility="private"
            )

        handlers = _Handlers(service)
        for event in (words.submit, go.click):
            wire(event, handlers.search, [history, words, *options], slow=True)
        for clickable in (reference, trail, found):
            wire(clickable.click, handlers.click, [history, words, *options], slow=True)
        wire(picker.upload, handlers.upload, [history, words], slow=True)
        wire(picker.refused, handlers.refused, [history, words], slow=False)
        if fitting is not None:
            wire(fitting.refused, handlers.refused, [history, words], slow=False)
    page.queue(max_size=QUEUE, default_concurrency_limit=THREADS, api_open=False)
    page.state_session_capacity = service.settings.max_sessions
    return page


def mount_options() -> dict[str, Any]:
    """Return what ``gr.mount_gradio_app`` needs: own styles, system fonts, nothing from or to the network."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    return {
        "theme": gr.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        "css": style(),
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "mcp_server": False,
        "ssr_mode": False,
        "pwa": False,
        "show_error": False,
        "allowed_paths": [],
    }


def _options(service: Service, fields: dict[str, str]) -> list[Any]:
    number = next((name for name, kind in fields.items() if kind == "number"), None)
    text = next((name for name, kind in fields.items() if kind == "text"), None)
    parts = ([f"{number} < 50"] if number else []) + ([f"{text} == 'dress'"] if text else [])
    known = ", ".join(f"{name} ({kind})" for name, kind in fields.items()) or "this catalogue has none"
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
        rerank = gr.Checkbox(False, label=f"Order the first {steps.RERANK} anew with the matching head (slower)")
    return [count, condition, rerank]


class _Handlers:
    """What Gradio calls; each returns the values of ``outputs``."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def search(self, history: History, words: str, k: float, condition: str, rerank: bool) -> list[Any]:
        asked = lambda: steps.search(self._service, history, words, int(k), condition, rerank)  # noqa: E731
        return self._show(steps.attempt(history, asked), words)

    def click(
        self, history: History, words: str, k: float, condition: str, rerank: bool, event: gr.EventData
    ) -> list[Any]:
        data: dict[str, Any] = event._data if isinstance(event._data, dict) else {}
        action = data.get("uf")
        if action == "example":
            return self.search(history, str(data.get("words", ""))[:200], k, condition, rerank)
        if action == "similar":
            return self.search(history, "", k, condition, rerank)
        actions: dict[Any, Callable[[], Result]] = {
            "refer": lambda: steps.refer(self._service, history, data.get("id")),
            "back": lambda: steps.back(history, data.get("number")),
            "describe": lambda: steps.describe(self._service, history),
            "clear": lambda: Result(history.refer(None)),
        }
        done = steps.attempt(history, actions.get(action, lambda: Result(history)))
        if action == "back" and done.history.turn is not None:
            words = done.history.turn.text
        return self._show(done, "" if action == "refer" else words)

    def upload(self, history: History, words: str, event: gr.EventData) -> list[Any]:
        picture = event._data.get("picture") if isinstance(event._data, dict) else None
        done = steps.attempt(history, lambda: steps.upload(self._service, history, picture))
        return self._show(done, words)

    def refused(self, history: History, words: str, event: gr.EventData) -> list[Any]:
        said = event._data.get("words") if isinstance(event._data, dict) else None
        return self._show(Result(history, str(said)[:300], failed=True), words)

    def _show(self, result: Result, words: str) -> list[Any]:
        history, turn = result.history, result.history.turn
        reference = history.reference
        item = steps.known(self._service, reference)
        return [
            history,
            gr.update(value=words, placeholder=ASK_WORDS if reference is None else ASK_CHANGE),
            cards.note("failed" if result.failed else "plain", result.words),
            cards.reference_card(reference, item, self._service.about()["captions"]),
            cards.trail(history),
            cards.welcome(EXAMPLES, self._service.some_items(NUM_SHOWN)) if turn is None else cards.results(turn),
        ]
