"""The demo: a page to search a catalogue by words, by photo and by photo + change, and a JSON API beside it.

    unifashion demo runs/index                                        # http://127.0.0.1:7860, this machine only
    unifashion demo runs/index --host 0.0.0.0 --password "$SECRET" --caption-model runs/pretrain --tryon-model runs/tryon

    /            the page (page.py: what happens; cards.py, turns.py: what is shown)
    /api/docs    the JSON API (api.py), with examples; it needs no network

Both speak to one ``Service`` (service.py), which lets few requests at the model at once and answers "busy" to the rest.
What comes from outside is checked at three places: guard.py (addresses, body sizes, headers), access.py (the password) and
uploads.py (pictures).
"""

from unifashion.apps.demo.service import Service
from unifashion.apps.demo.settings import DemoSettings

__all__ = ["DemoSettings", "Service"]
