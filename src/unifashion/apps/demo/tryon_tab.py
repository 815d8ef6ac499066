"""The try-on part of the page: a photo of a person, the product that was clicked, and the person drawn in it.

A try-on model reads two maps besides the photo: the region to paint over, and the surface of the body. Visitors who have them
add them; otherwise tryon_person.py substitutes them.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr

from unifashion.apps.demo.actions import address_of, keep_upload
from unifashion.apps.demo.errors import RequestError, explain
from unifashion.apps.demo.history import FORGET, History, Reference
from unifashion.apps.demo.html import render
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.uploads import to_jpeg
from unifashion.data.images import load_image

LABELS = {"person": "Photo of a person", "mask": "Mask (optional)", "pose": "Body map (optional)"}
MAPS = {"mask": "keep", "pose": "densepose"}  # their names in tryon/maps.py
SIDE, QUALITY, SHOWN_SIDE = 960, 95, 480


def add_tryon(service: Service, part: Callable[[str, str], gr.HTML], history: gr.State) -> gr.HTML:
    """Add try-on to the page that is being built; return the part whose ``rejected`` event the caller must show."""
    chosen = gr.State({}, time_to_live=FORGET)
    with gr.Accordion("Try it on", open=False, elem_id="uf-tryon"):
        gr.HTML(render("tryon_advice"), apply_default_css=False)
        pickers = part(render("tryon_pickers", labels=LABELS, pictures={}), "uf-pickers")
        go = gr.Button("Draw the person in this product", elem_id="uf-tryon-go")
        result = gr.HTML("", elem_id="uf-tryon-result", apply_default_css=False, min_height=80)

    def address(kept: str) -> str:
        return address_of(service, Reference("", upload=kept), SHOWN_SIDE)

    def choose(pictures: dict[str, str], event: gr.EventData) -> list[Any]:
        message = ""
        try:
            name = event_data(event).get("name")
            if name not in LABELS:
                raise RequestError("The page sent something other than a picture; reload it.")
            kept = keep_upload(service, event_data(event).get("picture"), SIDE, QUALITY, MAPS.get(name))
            pictures = {**pictures, name: kept}
        except Exception as error:
            message = explain(error, "a picture for try-on")[1]
        return [
            pictures,
            render("tryon_pickers", labels=LABELS, pictures={name: address(kept) for name, kept in pictures.items()}),
            render("note", message=message, failed=True),
        ]

    def draw(
        pictures: dict[str, str],
        past: History,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it there)
    ) -> str:
        try:
            reference = past.reference
            if reference is None or reference.item_id is None:
                raise RequestError("Click a product first.")
            if "person" not in pictures:
                raise RequestError("Add a photo of a person first.")
            maps = {name: load_image(service.uploads.get(kept)) for name, kept in pictures.items()}
            person = maps.pop("person")
            on_step = lambda step, num_steps: progress((step, num_steps), desc="Drawing", unit="steps")  # noqa: E731
            drawn = service.try_on(person, reference.item_id, maps, on_step)
            return render("tryon_result", jpeg=to_jpeg(drawn, SIDE, QUALITY), title=reference.title)
        except Exception as error:
            return render("note", message=explain(error, "try-on")[1], failed=True)

    pickers.upload(choose, [chosen], [chosen, pickers, result], show_progress="hidden", api_visibility="private")
    go.click(draw, [chosen, history], result, show_progress="full", concurrency_id="model", api_visibility="private")
    return pickers


def event_data(event: gr.EventData) -> dict[str, Any]:
    """Return what page.js sent with an event; a request written by hand may hold anything."""
    return event._data if isinstance(event._data, dict) else {}
