"""The fitting room of the page: a photo of a person, the product that was clicked, and what the try-on model draws of both.

A try-on model reads two maps beside the photo: what of the person is painted over, and the surface of the body. Those who have
them add them; otherwise persons.py makes do.
"""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from unifashion.apps.demo import html as cards
from unifashion.apps.demo import steps
from unifashion.apps.demo.errors import Refusal
from unifashion.apps.demo.service import Service
from unifashion.apps.demo.turns import History
from unifashion.apps.demo.uploads import to_address, to_jpeg
from unifashion.data.images import load_image

PICTURES = {"person": "Photo of a person", "mask": "Mask (optional)", "pose": "Body map (optional)"}
ADVICE = (
    "Upload a photo of one person from the front. Without a mask and a body map (DensePose) of that photo, the middle from neck "
    "to hips is simply drawn anew; with them the result follows the body."
)
SIDE, QUALITY = 960, 95


def add_fitting_room(service: Service, part: Callable[[str, str], gr.HTML], history: gr.State) -> gr.HTML:
    """Add the room to the page that is being built, and return the part whose ``refused`` event somebody must show."""
    chosen = gr.State({})
    with gr.Accordion("Try it on", open=False, elem_id="uf-fitting"):
        gr.HTML(f'<p class="uf-ask">{ADVICE}</p>', apply_default_css=False)
        pickers = part(_pickers({}), "uf-pickers")
        go = gr.Button("Draw the person in this product", elem_id="uf-dress")
        result = gr.HTML("", elem_id="uf-dressed", apply_default_css=False, min_height=80)

    def choose(pictures: dict[str, bytes], event: gr.EventData) -> list[Any]:
        data = event._data if isinstance(event._data, dict) else {}

        def take() -> dict[str, bytes]:
            name, picture = data.get("name"), data.get("picture")
            if name not in PICTURES or not isinstance(picture, str):
                raise Refusal("The page sent something else than a picture; load it again.")
            return {**pictures, name: to_jpeg(service.upload(picture), SIDE, QUALITY)}

        kept, failed = steps.guarded(take)
        kept = kept if kept is not None else pictures
        return [kept, _pickers(kept), cards.note("failed", failed)]

    def dress(
        pictures: dict[str, bytes],
        past: History,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        def draw() -> Image.Image:
            if past.reference is None or past.reference.item_id is None:
                raise Refusal("Click a product first.")
            if "person" not in pictures:
                raise Refusal("Add a photo of a person first.")
            decoded = {name: load_image(jpeg) for name, jpeg in pictures.items()}
            person = decoded.pop("person")
            told = lambda step, of: progress((step, of), desc="Drawing", unit="steps")  # noqa: E731
            return service.try_on(person, past.reference.item_id, decoded, told)

        drawn, failed = steps.guarded(draw)
        if drawn is None:
            return cards.note("failed", failed)
        address = to_address(to_jpeg(drawn, SIDE, QUALITY))
        title = past.reference.title if past.reference else ""
        return f'<figure class="uf-drawn"><img src="{address}" alt="{escape(f"The person in: {title}")}"></figure>'

    pickers.upload(choose, [chosen], [chosen, pickers, result], show_progress="hidden", api_visibility="private")
    go.click(dress, [chosen, history], result, show_progress="full", concurrency_id="model", api_visibility="private")
    return pickers


def _pickers(pictures: Mapping[str, bytes]) -> str:
    parts = []
    for name, words in PICTURES.items():
        shown = f'<img src="{to_address(pictures[name])}" alt="">' if name in pictures else ""
        parts.append(f"<div>{shown}{cards.picker(words, name)}</div>")
    return f'<div class="uf-pickers">{"".join(parts)}</div>'
